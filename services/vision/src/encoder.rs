//! From an image file to stored features: key, store, admission, decode, tiles, tower, store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tessera_anyres::{Geometry, Plan};
use tessera_api::vision::{EncodeRequest, EncodeTimings, Encoded};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{Artifact, EncoderFingerprint, ImageKey, Origin, Provenance, TenantId};
use tessera_image::{ImageError, ImageSettings, Preprocessor};
use tessera_rpc::{Deadline, Tasks};
use tessera_store::{Begin, Kept, Lead, Store};
use tessera_tensor::HostTensor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::device::Device;
use crate::settings::{BatchSettings, RowFormat};

/// Callers ask again after this when too many tiles wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Everything that an encoding needs.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// What turns files into features: part of every key.
    pub(crate) fingerprint: EncoderFingerprint,
    /// How images are cut.
    pub(crate) geometry: Geometry,
    /// Features that are here.
    pub(crate) store: Store<Error>,
    /// The tower.
    pub(crate) device: Device,
    image: ImageSettings,
    preprocessor: Preprocessor,
    /// Tiles that may wait.
    waiting: Arc<Semaphore>,
    waiting_limit: usize,
    rows: RowFormat,
    /// Images that may be decoded at once.
    preprocessing: Semaphore,
    tasks: Tasks,
}

/// One image that is being encoded.
struct Work {
    image: Bytes,
    tenant: TenantId,
    plan: Plan,
    /// For the caller that began it.
    timings: Arc<Mutex<EncodeTimings>>,
    /// Its places in the queue.
    _admission: OwnedSemaphorePermit,
}

/// What an [`Encoder`] is made of.
pub(crate) struct Parts {
    pub(crate) fingerprint: EncoderFingerprint,
    pub(crate) geometry: Geometry,
    pub(crate) store: Store<Error>,
    pub(crate) device: Device,
    pub(crate) image: ImageSettings,
    pub(crate) preprocessor: Preprocessor,
    pub(crate) batch: BatchSettings,
    pub(crate) rows: RowFormat,
    pub(crate) tasks: Tasks,
}

impl Encoder {
    /// Puts an encoder together.
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { fingerprint, geometry, store, device, image, preprocessor, batch, rows, tasks } = parts;
        Arc::new(Self {
            fingerprint,
            geometry,
            store,
            device,
            image,
            preprocessor,
            waiting: Arc::new(Semaphore::new(batch.waiting_tiles)),
            waiting_limit: batch.waiting_tiles,
            rows,
            preprocessing: Semaphore::new(batch.preprocess),
            tasks,
        })
    }

    /// Makes sure that the features of an image are stored.
    ///
    /// # Errors
    /// `Invalid` for an image that cannot be used, `Precondition` for a key of another encoder, `Exhausted` when too
    /// much waits.
    pub(crate) async fn encode(self: &Arc<Self>, request: EncodeRequest, deadline: Deadline) -> Result<Encoded> {
        let key = request.key;
        let plan = deadline.bound("the header of an image was being read", self.examine(&request)).await?;
        let beginning = async { Ok(self.store.begin(&key).await?) };
        let begun = deadline.bound("the store was being asked for an image", beginning).await?;
        let unspent = EncodeTimings::default();
        let (artifact, stored_before, durable, timings) = match begun {
            Begin::Stored(artifact) => (artifact, true, self.store.kept(&key) == Kept::Durably, unspent),
            Begin::Join(joined) => {
                let (artifact, kept) = deadline.bound("an image was being encoded", joined.outcome()).await?;
                (artifact, false, kept == Kept::Durably, unspent)
            }
            Begin::Lead(lead) => {
                let admission = match self.admit(&plan) {
                    Ok(admission) => admission,
                    Err(error) => {
                        lead.fail(error.clone());
                        return Err(error);
                    }
                };
                let timings = Arc::new(Mutex::new(EncodeTimings::default()));
                // A task of its own: others may have joined when the first caller leaves.
                let joined = lead.join();
                let work = Work {
                    image: request.image,
                    tenant: TenantId::of(&request.tenant_salt),
                    plan,
                    timings: Arc::clone(&timings),
                    _admission: admission,
                };
                self.tasks.spawn(Arc::clone(self).lead(lead, work));
                let (artifact, kept) = deadline.bound("the image was being encoded", joined.outcome()).await?;
                let timings = *timings.lock().unwrap_or_else(PoisonError::into_inner);
                (artifact, false, kept == Kept::Durably, timings)
            }
        };
        Ok(Encoded {
            image_size: artifact.image_size,
            image_tokens: plan.image_tokens(),
            stored_before,
            durable,
            timings,
        })
    }

    /// Checks key and headers on the pool for blocking work: hashing a large file takes milliseconds.
    async fn examine(self: &Arc<Self>, request: &EncodeRequest) -> Result<Plan> {
        let (this, image, key) = (Arc::clone(self), request.image.clone(), request.key);
        let salt = request.tenant_salt.clone();
        let examined = self.tasks.spawn_blocking(move || {
            let own = ImageKey::of(&salt, &this.fingerprint, &image);
            if own != key {
                let message = format!(
                    "key {key} is not this encoder's key {own} of the image: \
                     gateway and worker do not run the same model and settings"
                );
                return Err(
                    Error::new(ErrorKind::Precondition, "KEY_MISMATCH", message).with("encoder", this.fingerprint)
                );
            }
            let probe = tessera_image::probe(&image, &this.image.limits()).map_err(|error| unusable(&error))?;
            Ok(this.geometry.plan(probe.size_for(this.image.source)))
        });
        examined.await.map_err(|_| Error::draining())?
    }

    /// Takes a place for every tile of the image, known from its header, before anything is decoded.
    fn admit(&self, plan: &Plan) -> Result<OwnedSemaphorePermit> {
        let tiles = plan.tile_count();
        let permits = u32::try_from(tiles).unwrap_or(u32::MAX);
        self.waiting.clone().try_acquire_many_owned(permits).map_err(|_| {
            let waiting = self.waiting_limit - self.waiting.available_permits();
            let message =
                format!("{waiting} tiles wait already, {tiles} more are over the limit of {}", self.waiting_limit);
            Error::exhausted("QUEUE_FULL", message, RETRY_AFTER).with("limit", self.waiting_limit)
        })
    }

    /// Encodes for everybody who waits for this key.
    async fn lead(self: Arc<Self>, mut lead: Lead<Error>, work: Work) {
        let encoded = async {
            let (pixels, preprocess) = self.preprocess(work.image.clone()).await?;
            let features = self.device.encode(pixels, work.plan).await?;
            let spent = EncodeTimings { preprocess, queue: features.queue, forward: features.forward };
            *work.timings.lock().unwrap_or_else(PoisonError::into_inner) = spent;
            self.seal(&work, features.rows).await
        };
        tokio::select! {
            biased;
            encoded = encoded => match encoded {
                Ok(artifact) => {
                    lead.store(artifact).await;
                }
                Err(error) => lead.fail(error),
            },
            // It keeps no place in any queue.
            () = lead.given_up() => {}
        }
    }

    /// Makes an artifact of rows on the pool for blocking work: checksums of megabytes take milliseconds.
    async fn seal(&self, work: &Work, rows: HostTensor) -> Result<Artifact> {
        let provenance = Provenance::now(self.fingerprint, work.tenant, Origin::Encoded, work.plan.grid);
        let (image_size, format) = (work.plan.image, self.rows);
        let sealing = self.tasks.spawn_blocking(move || {
            let artifact = Artifact::seal(image_size, rows, provenance);
            if format == RowFormat::Int8 { artifact.quantize() } else { artifact }
        });
        sealing.await.map_err(|_| Error::draining())
    }

    /// Decodes, resizes, cuts and normalises on the pool for blocking work, a bounded number of images at a time.
    async fn preprocess(self: &Arc<Self>, image: Bytes) -> Result<(HostTensor, Duration)> {
        let Ok(_permit) = self.preprocessing.acquire().await else { return Err(Error::draining()) };
        let this = Arc::clone(self);
        let preprocessed = self.tasks.spawn_blocking(move || {
            let began = Instant::now();
            let decoded = tessera_image::decode(&image, &this.image.decode()).map_err(|error| unusable(&error))?;
            let tiles = this.preprocessor.run(&decoded).map_err(|error| unusable(&error))?;
            Ok((tiles.pixels, began.elapsed()))
        });
        preprocessed.await.map_err(|_| Error::new(ErrorKind::Internal, "DECODER_FAILED", "the image decoder failed"))?
    }
}

/// The error of an image that cannot be used.
fn unusable(error: &ImageError) -> Error {
    Error::field(error.reason(), "image", error.to_string())
}

#[cfg(test)]
mod tests;
