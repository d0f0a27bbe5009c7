//! The only way to start a task: every task is waited for when the service stops.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one service and the signal that ends them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    draining: CancellationToken,
}

impl Tasks {
    /// Runs a future as a task.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn(future)
    }

    /// Runs computing code on the pool for blocking work.
    pub fn spawn_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.tracker.spawn_blocking(work)
    }

    /// The stop signal.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The signal that the service takes no more work: streams that would never end by themselves end then.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Gives the stop signal and waits for every task, for at most `patience`; returns false when some did not end.
    pub async fn finish(&self, patience: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait()).await.is_ok()
    }
}

/// Waits for the signal that asks a program to end: Ctrl-C or SIGTERM.
///
/// # Errors
/// When the system does not let signals be handled.
pub async fn interrupted() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = tokio::signal::ctrl_c() => done,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn finishing_waits_for_tasks_and_tells_of_those_that_hang() {
        let tasks = Tasks::default();
        let stop = tasks.stop().clone();
        tasks.spawn(async move { stop.cancelled().await });
        assert!(tasks.finish(Duration::from_secs(1)).await);

        let tasks = Tasks::default();
        tasks.spawn(std::future::pending::<()>());
        assert!(!tasks.finish(Duration::from_secs(1)).await);
    }
}
