//! Work that blocks or computes, away from the threads that serve.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Does work on the pool for it. Work that began is done to its end, even if nobody waits for it any more.
///
/// `None` when the runtime is shutting down, or the work panicked.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    Handle::current().spawn_blocking(work).await.ok()
}

/// As [`blocking`], for a bounded number at a time.
pub(crate) async fn blocking_in_turn<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let place = places.clone().acquire_owned().await.ok()?;
    // The place is the work's, not the caller's, who may leave.
    let work = move || {
        let _place = place;
        work()
    };
    blocking(work).await
}
