//! The tier that all workers share, with what its server is not trusted with: time, and truth.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tessera_embedding::{Artifact, ImageKey};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::blocking::blocking;
use crate::figures::{Counts, TierFigures, Trouble};
use crate::{Remote, RemoteError};

/// A server that takes longer to answer is taken for one that does not.
const PATIENCE: Duration = Duration::from_secs(10);

/// The shared tier.
pub(crate) struct SharedTier {
    server: Arc<dyn Remote>,
    pub(crate) counts: Counts,
    trouble: Trouble,
}

impl SharedTier {
    pub(crate) fn new(server: Arc<dyn Remote>) -> Self {
        Self { server, counts: Counts::default(), trouble: Trouble::default() }
    }

    /// The artifact of a key. What fails its checks is deleted.
    pub(crate) async fn get(&self, key: &ImageKey) -> Option<Artifact> {
        let bytes = match self.answer(self.server.get(key)).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.counts.misses.add(1);
                return None;
            }
            Err(error) => {
                self.counts.failed_reads.add(1);
                self.fails("get", &error);
                return None;
            }
        };
        let wanted = *key;
        match blocking(move || Artifact::from_bytes(&bytes, &wanted)).await? {
            Ok(artifact) => {
                self.counts.hits.add(1);
                Some(artifact)
            }
            Err(error) => {
                self.counts.corrupt.add(1);
                self.counts.misses.add(1);
                warn!(%key, %error, "deleted a corrupt artifact from the shared tier");
                self.delete(key).await;
                None
            }
        }
    }

    /// Writes an artifact; tells whether it is there now.
    pub(crate) async fn put(&self, key: &ImageKey, artifact: Arc<Artifact>) -> bool {
        let wanted = *key;
        let Some(bytes) = blocking(move || artifact.to_bytes(&wanted)).await else { return false };
        let written = self.answer(self.server.put(key, bytes)).await;
        match &written {
            Ok(()) => self.counts.writes.add(1),
            Err(error) => {
                self.counts.failed_writes.add(1);
                self.fails("put", error);
            }
        }
        written.is_ok()
    }

    /// Deletes an artifact; tells whether it was there.
    pub(crate) async fn delete(&self, key: &ImageKey) -> bool {
        self.answer(self.server.delete(key)).await.unwrap_or_else(|error| {
            // Each one: somebody has to delete what was to be gone.
            warn!(%key, %error, "an artifact cannot be deleted from the shared tier");
            false
        })
    }

    pub(crate) fn figures(&self) -> TierFigures {
        self.counts.figures()
    }

    /// An answer, if it comes in time.
    async fn answer<T>(&self, asked: BoxFuture<'_, Result<T, RemoteError>>) -> Result<T, RemoteError> {
        let late = |_| RemoteError::Slow(PATIENCE);
        let answer = timeout(PATIENCE, asked).await.map_err(late)??;
        if self.trouble.ends() {
            info!("the shared tier answers again");
        }
        Ok(answer)
    }

    /// A server that is down is one line in the log, not one a request.
    fn fails(&self, what: &'static str, error: &RemoteError) {
        if self.trouble.begins() {
            warn!(what, %error, "the shared tier fails, going on without");
        }
    }
}

impl fmt::Debug for SharedTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTier").field("counts", &self.counts).finish_non_exhaustive()
    }
}
