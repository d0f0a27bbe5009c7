//! How many sequences a scripted worker has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts a sequence until its stream is let go.
pub(crate) struct Held(Arc<AtomicUsize>);

impl Held {
    /// One more of these.
    pub(crate) fn of(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
