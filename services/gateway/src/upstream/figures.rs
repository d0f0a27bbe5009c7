//! What happened in a pool, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::retry::Turn;

/// Counters of one pool, since the gateway started.
#[derive(Debug, Default)]
pub(super) struct Figures {
    ejections: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
}

impl Figures {
    /// Counts a call that is made on a further worker.
    pub(super) fn count(&self, turn: Turn) {
        match turn {
            Turn::First => {}
            Turn::Retry => _ = self.retries.fetch_add(1, Ordering::Relaxed),
            Turn::Hedge => _ = self.hedges.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Counts a worker that is ejected for failed calls.
    pub(super) fn count_ejection(&self) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
    }

    /// Workers that were ejected for failed calls.
    pub(super) fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Calls that were made again because one failed.
    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Calls that were made a second time because the first took long.
    pub(super) fn hedges(&self) -> u64 {
        self.hedges.load(Ordering::Relaxed)
    }
}
