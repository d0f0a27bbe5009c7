//! From an image file to stored features: key, store, admission, decode, tiles, tower, store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tessera_anyres::{Geometry, Plan, Shape};
use tessera_api::vision::{EncodeRequest, EncodeTimings, Encoded, Load, Room};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{Artifact, EncoderFingerprint, ImageKey, Origin, Provenance, TenantId};
use tessera_image::{ImageError, ImageSettings, Preprocessor};
use tessera_rpc::{Deadline, Tasks};
use tessera_store::{Begin, Kept, Lead, Store, TierFigures};
use tessera_tensor::HostTensor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

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
    preprocessing: Arc<Semaphore>,
    /// Memory of images that are decoded: a permit for each KiB.
    decoded: Arc<Semaphore>,
    tasks: Tasks,
}

/// One image that is being encoded.
struct Work {
    image: Bytes,
    tenant: TenantId,
    shape: Shape,
    examined: Examined,
    /// For the caller that began it.
    timings: Arc<Mutex<EncodeTimings>>,
    /// Its places in the queue.
    _admission: OwnedSemaphorePermit,
}

/// What the header of an image says.
#[derive(Clone, Copy, Debug)]
struct Examined {
    plan: Plan,
    /// The most memory that decoding and cutting it takes, in KiB.
    memory: u32,
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
            preprocessing: Arc::new(Semaphore::new(batch.preprocess)),
            decoded: Arc::new(Semaphore::new(kib(batch.decoded.as_u64()) as usize)),
            tasks,
        })
    }

    /// How busy the worker is, and how full.
    pub(crate) fn load(&self) -> Load {
        let figures = self.store.figures();
        let room = |tier: TierFigures| Room { bytes: tier.bytes, most: tier.budget_bytes };
        Load {
            tiles: self.waiting_limit - self.waiting.available_permits(),
            most_tiles: self.waiting_limit,
            busy: self.device.busy(),
            memory: room(figures.memory),
            disk: figures.disk.map(room).unwrap_or_default(),
        }
    }

    /// Makes sure that the features of an image are stored.
    ///
    /// # Errors
    /// `Invalid` for an image that cannot be used, `Precondition` for a key of another encoder, `Exhausted` when too
    /// much waits.
    pub(crate) async fn encode(self: &Arc<Self>, request: EncodeRequest, deadline: Deadline) -> Result<Encoded> {
        let key = request.key;
        let examined = deadline.bound("the header of an image was being read", self.examine(&request)).await?;
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
                let admission = match self.admit(&examined.plan) {
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
                    shape: request.shape,
                    examined,
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
            image_tokens: examined.plan.image_tokens(),
            stored_before,
            durable,
            timings,
        })
    }

    /// Checks key and headers on the pool for blocking work: hashing a large file takes milliseconds.
    async fn examine(self: &Arc<Self>, request: &EncodeRequest) -> Result<Examined> {
        let (this, image, key) = (Arc::clone(self), request.image.clone(), request.key);
        let (salt, shape) = (request.tenant_salt.clone(), request.shape);
        self.compute(move || {
            let own = ImageKey::of_shape(shape, &salt, &this.fingerprint, &image);
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
            let size = probe.size_for(this.image.source);
            let cutting = this.preprocessor.most_bytes(size.pixels(), size.height.max(size.width));
            let memory = kib(probe.decoding_bytes(image.len()).saturating_add(cutting));
            Ok(Examined { plan: this.geometry.plan_of(size, shape), memory })
        })
        .await
    }

    /// Runs computing code on the pool for blocking work. Code that panics fails its own request and nothing else.
    async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        AbortOnDropHandle::new(self.tasks.spawn_blocking(work)).await.unwrap_or_else(|ended| {
            Err(if ended.is_panic() {
                Error::new(ErrorKind::Internal, "DECODER_FAILED", "the image decoder failed")
            } else {
                Error::draining()
            })
        })
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
            let (pixels, preprocess) = self.preprocess(&work).await?;
            let features = self.device.encode(pixels, work.examined.plan).await?;
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
        let plan = work.examined.plan;
        let provenance = Provenance::now(self.fingerprint, work.tenant, Origin::Encoded, plan.grid);
        let (image_size, format) = (plan.image, self.rows);
        let sealing = self.tasks.spawn_blocking(move || {
            let artifact = Artifact::seal(image_size, rows, provenance);
            if format == RowFormat::Int8 { artifact.quantize() } else { artifact }
        });
        sealing.await.map_err(|_| Error::draining())
    }

    /// Decodes, resizes, cuts and normalises on the pool for blocking work: a bounded number of images at a time, and no
    /// more of them than their memory is granted. What nobody waits for any more does not begin; what began keeps its place
    /// and its memory until it is done, whoever left.
    async fn preprocess(self: &Arc<Self>, work: &Work) -> Result<(HostTensor, Duration)> {
        let Ok(permit) = Arc::clone(&self.preprocessing).acquire_owned().await else { return Err(Error::draining()) };
        let Ok(memory) = Arc::clone(&self.decoded).acquire_many_owned(work.examined.memory).await else {
            return Err(Error::draining());
        };
        let (this, image, shape) = (Arc::clone(self), work.image.clone(), work.shape);
        self.compute(move || {
            let _held = (permit, memory);
            let began = Instant::now();
            let tiles = this.tiles(&image, shape).map_err(|error| unusable(&error))?;
            Ok((tiles, began.elapsed()))
        })
        .await
    }

    /// The tiles of an image file.
    fn tiles(&self, file: &[u8], shape: Shape) -> Result<HostTensor, ImageError> {
        let decoded = tessera_image::decode(file, &self.image.decode())?;
        let image = match shape {
            Shape::Own => decoded,
            Shape::Constant => self.preprocessor.frame(&decoded)?,
        };
        Ok(self.preprocessor.run(&image)?.pixels)
    }
}

/// Whole KiB, and one more where there is a rest.
fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

/// The error of an image that cannot be used.
fn unusable(error: &ImageError) -> Error {
    Error::field(error.reason(), "image", error.to_string())
}

#[cfg(test)]
mod tests;
