//! Pulls the features that sequences need, a bounded number at a time.

use std::sync::Arc;
use std::time::Duration;

use tessera_anyres::Geometry;
use tessera_api::language::ImageReference;
use tessera_api::{Error, ErrorKind, Result};
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
    /// How the model cuts images.
    geometry: Geometry,
    /// What the features of the largest image take.
    max_bytes: usize,
    tasks: Tasks,
}

impl Features {
    /// Makes a fetcher for images cut by `geometry`, whose feature rows take at most `row_bytes`.
    pub(crate) fn new(settings: &FeatureSettings, geometry: Geometry, row_bytes: usize, tasks: Tasks) -> Self {
        let max_bytes = geometry.max_image_tokens() * row_bytes;
        Self {
            channels: Channels::new(settings.stores),
            permits: Arc::new(Semaphore::new(settings.fetches)),
            wait: settings.wait,
            geometry,
            max_bytes,
            tasks,
        }
    }

    /// Checks that every image fills as many positions as an image of its size has tokens here.
    ///
    /// # Errors
    /// `Precondition`: who made the prompt and this worker do not run the same model.
    pub(crate) fn check(&self, images: &[ImageReference]) -> Result<()> {
        for ImageReference { key, positions, image_size, .. } in images {
            let (found, expected) = (positions.len(), self.geometry.plan(*image_size).image_tokens());
            if found != expected {
                let message = format!(
                    "image {key} of {image_size} fills {found} positions, this model gives it {expected}: \
                     gateway and worker do not run the same model"
                );
                return Err(Error::new(ErrorKind::Precondition, "MODEL_MISMATCH", message));
            }
        }
        Ok(())
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
            let fetched = store::fetch(channel, image, self.wait, self.max_bytes, deadline).await;
            fetched.map_err(|error| unreachable(&image.store, error))
        };
        deadline.bound("waiting for the features of an image", fetching).await.map(Arc::new)
    }
}

/// Names the store in the error of one that could not be reached, or is none. Errors that the store itself gave pass
/// unchanged.
fn unreachable(store: &str, error: Error) -> Error {
    let what = match error.reason.as_ref() {
        "UNREACHABLE" => "cannot be reached",
        "METHOD_UNKNOWN" => "serves no embeddings",
        _ => return error,
    };
    let message = format!("store {store} {what}: {}", error.message);
    Error { message: message.trim_end_matches(": ").to_owned(), ..error }.with("store", store)
}
