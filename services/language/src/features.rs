//! Pulls the features that sequences need, a bounded number at a time, each image once for all who wait for it.

mod allowed;

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tessera_anyres::Geometry;
use tessera_api::language::ImageReference;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{ImageFeatures, ImageKey};
use tessera_rpc::client::Channels;
use tessera_rpc::{ClientTls, Deadline, Tasks};
use tokio::sync::Semaphore;

use crate::engine::{Arrivals, Pull};
use crate::grpc::store;
use crate::settings::FeatureSettings;

pub use allowed::{ParseStorePatternError, StorePattern};

/// How long the transfer of an image may take once its store has it.
const TRANSFER: Duration = Duration::from_secs(30);

/// Fetches features and gives them to the engine.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    channels: Channels,
    /// Where features may come from; empty: from wherever a caller says.
    allowed: Arc<[StorePattern]>,
    permits: Arc<Semaphore>,
    wait: Duration,
    /// How the model cuts images.
    geometry: Geometry,
    /// Numbers in a row of features.
    columns: usize,
    /// The last ones, for sequences that ask about the same image. By store too: what one of them says of an image is
    /// nobody's word but its own.
    recent: Cache<(ImageKey, String), Arc<ImageFeatures>>,
    tasks: Tasks,
}

impl Features {
    /// Makes a fetcher for images cut by `geometry`, whose feature rows have so many `columns`. Stores are asked by way of
    /// `tls`.
    pub(crate) fn new(
        settings: &FeatureSettings,
        tls: ClientTls,
        geometry: Geometry,
        columns: usize,
        tasks: Tasks,
    ) -> Self {
        Self {
            channels: Channels::new(settings.stores, tls),
            allowed: settings.allowed_stores.clone().into(),
            permits: Arc::new(Semaphore::new(settings.fetches)),
            wait: settings.wait,
            geometry,
            columns,
            recent: Cache::builder()
                .max_capacity(settings.cache.as_u64())
                .weigher(|_, artifact: &Arc<ImageFeatures>| u32::try_from(artifact.bytes()).unwrap_or(u32::MAX))
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            tasks,
        }
    }

    /// Checks that every image fills as many positions as an image of its size has tokens here, and comes from where it may.
    ///
    /// # Errors
    /// `Precondition`: who made the prompt and this worker do not run the same model. `Denied`: the store is none that
    /// features may be pulled from.
    pub(crate) fn check(&self, images: &[ImageReference]) -> Result<()> {
        for ImageReference { key, positions, image_size, store, .. } in images {
            // A gateway that knows of no store names none; that is found out where it is looked for.
            let is_allowed = self.allowed.is_empty() || store.is_empty();
            if !is_allowed && !self.allowed.iter().any(|pattern| pattern.allows(store)) {
                let message = format!(
                    "features are not pulled from {store:?}: `features.allowed_stores` of this worker does not list it"
                );
                return Err(Error::new(ErrorKind::Denied, "STORE_NOT_ALLOWED", message).with("store", store));
            }
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

    /// Starts to fetch features for the engine. A fetch ends when nobody listens any more.
    pub(crate) fn pull(&self, pull: Pull, arrivals: &Arrivals) {
        let (this, arrivals) = (self.clone(), arrivals.clone());
        let Pull { id, index, image, deadline, listener } = pull;
        self.tasks.spawn(async move {
            let Some(listener) = listener.upgrade() else { return };
            tokio::select! {
                biased;
                () = listener.closed() => {}
                features = this.fetch(&image, deadline) => arrivals.give(id, index, features).await,
            }
        });
    }

    /// The features of an image. Whoever asks while they are being fetched waits for the same fetch; should the one who
    /// began it leave, the next one begins again.
    async fn fetch(&self, image: &ImageReference, deadline: Deadline) -> Result<Arc<ImageFeatures>> {
        let fetching = async {
            let place = (image.key, image.store.clone());
            let fetched = self.recent.try_get_with(place, self.fetch_from_store(image)).await;
            fetched.map_err(|error| Error::clone(&error))
        };
        let features = deadline.bound("waiting for the features of an image", fetching).await?;
        store::check_size(image, features.image_size)?;
        Ok(features)
    }

    async fn fetch_from_store(&self, image: &ImageReference) -> Result<Arc<ImageFeatures>> {
        let Ok(_permit) = self.permits.acquire().await else { return Err(Error::draining()) };
        let channel = self.channels.get(&image.store)?;
        // Not the deadline of the one who asked first: others may wait longer.
        let deadline = Deadline::default().within(self.wait + TRANSFER);
        let shape = (self.geometry.plan(image.image_size).feature_rows(), self.columns);
        let wait = if image.is_stored { Duration::ZERO } else { self.wait };
        let fetched = store::fetch(channel, image, shape, wait, deadline).await;
        fetched.map(Arc::new).map_err(|error| unreachable(&image.store, error))
    }
}

/// Names the store in the error of one that could not be reached, shuts down, takes too long, or is none. Other errors that
/// the store itself gave pass unchanged.
fn unreachable(store: &str, error: Error) -> Error {
    let (kind, what) = match error.reason.as_ref() {
        "UNREACHABLE" => (error.kind, "cannot be reached"),
        // The deadline is that of the transfer.
        "DEADLINE_EXCEEDED" => (ErrorKind::Unavailable, "takes too long"),
        "DRAINING" => (ErrorKind::Unavailable, "shuts down"),
        "METHOD_UNKNOWN" => (error.kind, "serves no embeddings"),
        _ => return error,
    };
    let reason = if kind == ErrorKind::Unavailable { "UNREACHABLE".into() } else { error.reason };
    let message = format!("store {store} {what}: {}", error.message);
    Error { kind, reason, message: message.trim_end_matches(": ").to_owned(), ..error }.with("store", store)
}
