//! The load reports of the language workers: one open stream each, opened again when it ends.

use std::sync::Arc;
use std::time::Duration;

use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::{Deadline, Tasks};

use super::Upstream;

/// Time between two reports of a worker.
const INTERVAL: Duration = Duration::from_millis(200);
/// A worker that says nothing for so long is lost.
const SILENCE: Duration = Duration::from_secs(5);
/// Waited for before a worker is asked again, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

impl Upstream {
    /// Follows the load of every language worker until the gateway takes no more work.
    pub(crate) fn watch(self: &Arc<Self>, tasks: &Tasks) {
        for worker in 0..self.language.len() {
            let (upstream, draining) = (Arc::clone(self), tasks.draining().clone());
            tasks.spawn(async move {
                draining.run_until_cancelled(upstream.watch_worker(worker)).await;
            });
        }
    }

    async fn watch_worker(&self, worker: usize) {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = self.follow(worker, &mut pause).await;
            if error.kind == ErrorKind::Unsupported {
                self.balance.silence(worker);
            } else if self.balance.lose(worker) {
                tracing::warn!(worker = self.language[worker].url, %error, "language worker makes no reports any more");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads reports for as long as they come; returns why no more do.
    async fn follow(&self, worker: usize, pause: &mut Duration) -> Error {
        let mut client = LanguageWorkerClient::new(self.language[worker].channel.clone());
        let interval_milliseconds = u64::try_from(INTERVAL.as_millis()).unwrap_or(0);
        let opening = async { Ok(client.load(proto::LoadRequest { interval_milliseconds }).await?.into_inner()) };
        let mut reports = match soon(opening).await {
            Ok(reports) => reports,
            Err(error) => return error,
        };
        loop {
            match soon(async { Ok(reports.message().await?) }).await {
                Ok(Some(report)) => {
                    *pause = FIRST_PAUSE;
                    if self.balance.report(worker, report.into()) {
                        tracing::info!(worker = self.language[worker].url, "language worker makes reports again");
                    }
                }
                Ok(None) => return Error::new(ErrorKind::Unavailable, "STREAM_BROKEN", "it ended its reports"),
                Err(error) => return error,
            }
        }
    }
}

/// Waits for what must come soon.
async fn soon<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    Deadline::default().within(SILENCE).bound("a load report was awaited", future).await
}
