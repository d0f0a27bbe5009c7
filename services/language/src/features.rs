//! Pulls the features that sequences need, a bounded number at a time.

use std::sync::Arc;
use std::time::Duration;

use tessera_api::language::ImageReference;
use tessera_api::{Error, Result};
use tessera_embedding::Artifact;
use tessera_rpc::client::Channels;
use tessera_rpc::{Deadline, Tasks};
use tokio::sync::Semaphore;

use crate::engine::{Admitted, EngineHandle};
use crate::grpc::store;
use crate::settings::FeatureSettings;

/// Fetches features and gives them to the engine.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    channels: Channels,
    permits: Arc<Semaphore>,
    wait: Duration,
    max_bytes: usize,
    tasks: Tasks,
}

impl Features {
    /// Makes a fetcher; `max_bytes` is what the features of the largest image take.
    pub(crate) fn new(settings: &FeatureSettings, max_bytes: usize, tasks: Tasks) -> Self {
        Self {
            channels: Channels::new(settings.stores),
            permits: Arc::new(Semaphore::new(settings.fetches)),
            wait: settings.wait,
            max_bytes,
            tasks,
        }
    }

    /// Starts to fetch every image of a sequence that was admitted. A fetch ends when nobody listens any more.
    pub(crate) fn pull(
        &self,
        engine: &EngineHandle,
        admitted: &Admitted,
        images: Vec<ImageReference>,
        deadline: Deadline,
    ) {
        for (index, image) in images.into_iter().enumerate() {
            let (this, engine, id, listener) = (self.clone(), engine.clone(), admitted.id, admitted.listener.clone());
            self.tasks.spawn(async move {
                let Some(listener) = listener.upgrade() else { return };
                tokio::select! {
                    biased;
                    () = listener.closed() => {}
                    features = this.fetch(&image, deadline) => {
                        if let Err(error) = engine.give_image(id, index, features).await {
                            tracing::debug!(%error, "features came after the engine had stopped");
                        }
                    }
                }
            });
        }
    }

    async fn fetch(&self, image: &ImageReference, deadline: Deadline) -> Result<Arc<Artifact>> {
        let fetching = async {
            let Ok(_permit) = self.permits.acquire().await else { return Err(Error::draining()) };
            let channel = self.channels.get(&image.store)?;
            store::fetch(channel, image, self.wait, self.max_bytes, deadline).await
        };
        deadline.bound("waiting for the features of an image", fetching).await.map(Arc::new)
    }
}
