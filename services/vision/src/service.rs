//! The worker put together: settings → model → encoder → server → drain.

use tessera_checkpoint::{Checkpoint, CheckpointError};
use tessera_embedding::EncoderFingerprint;
use tessera_image::{ImageSettings, PREPROCESSING_REVISION, Preprocessor};
use tessera_model::{LoadOptions, ModelError, Progress, VisionModel};
use tessera_rpc::{FileError, Server, ServerError, ServerTls, Service, Tasks};
use tessera_store::{RemoteError, Store, StoreError};
use tessera_tensor::DType;

use crate::device::Device;
use crate::encoder::{Encoder, Parts};
use crate::grpc;
use crate::settings::Settings;
use crate::stored::Stored;
use crate::tiers;

/// Why the worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The checkpoint's configuration is wrong.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights could not be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The store cannot hold a single large image.
    #[error("store.memory is {bytes} bytes, the features of the largest image take {image}: give it more")]
    StoreTooSmall {
        /// What was given.
        bytes: u64,
        /// What an image takes.
        image: u64,
    },
    /// An image could never be admitted.
    #[error("batch.waiting_tiles is {tiles}, the largest image has {image} tiles: give it more")]
    QueueTooSmall {
        /// What was given.
        tiles: usize,
        /// What an image takes.
        image: usize,
    },
    /// An image could never be decoded.
    #[error(
        "batch.decoded is {bytes} bytes, the largest image that image.max_pixels lets pass may take {image}: give it more, \
         or let smaller images pass"
    )]
    DecodedTooSmall {
        /// What was given.
        bytes: u64,
        /// What an image takes.
        image: u64,
    },
    /// The folder of the store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings of the shared store name no server.
    #[error("store.shared: {0}")]
    Shared(#[from] RemoteError),
    /// Certificates or keys are missing or wrong.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The server could not be put together.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The system gave no thread.
    #[error("the device's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// Loading ended in a panic.
    #[error("loading the model was broken off")]
    Interrupted,
}

/// Loads the tower. `progress` is told how far loading is.
///
/// # Errors
/// [`BuildError`] says what is missing or wrong.
pub async fn build(settings: Settings, progress: impl Fn(Progress) + Send + 'static) -> Result<Service, BuildError> {
    let (path, device, compute) = (settings.model.clone(), settings.device.clone(), settings.compute);
    let tasks = Tasks::default();
    // What is wrong with these is said before anything is loaded.
    let tls = ServerTls::start(&settings.tls, &tasks)?;
    let loading = tasks.spawn_blocking(move || {
        let checkpoint = Checkpoint::open(&path)?;
        let device = tessera_model::resolve(&device)?;
        let compute = compute.on(&device);
        let options = LoadOptions { device: &device, compute, progress: &progress, ..LoadOptions::default() };
        let model = VisionModel::load(&checkpoint, &options)?;
        Ok::<_, BuildError>((checkpoint, model, compute))
    });
    let (checkpoint, model, compute) = loading.await.map_err(|_| BuildError::Interrupted)??;
    check_bounds(&settings, &checkpoint, compute)?;

    let fingerprint = fingerprint(&model, &checkpoint, &settings.image);
    let geometry = checkpoint.geometry();
    let preprocessor = Preprocessor::new(&checkpoint.processor.image, geometry.clone(), settings.image.resizer);
    check_decoding(&settings, &preprocessor)?;
    let (store, background) = Store::open(tiers::options(&settings.store)?).await?;
    let stop = tasks.stop().clone();
    tasks.spawn(background.run(async move { stop.cancelled().await }));
    let (tiles, taken) = (settings.batch.tiles.unwrap_or_else(|| model.usual_tiles()), model.device_name());
    let (device, thread) = Device::start(model, tiles, settings.batch.waiting_tiles)?;
    let encoder = Encoder::new(Parts {
        fingerprint,
        geometry,
        store,
        device,
        image: settings.image,
        preprocessor,
        batch: settings.batch.clone(),
        rows: settings.store.rows,
        tasks: tasks.clone(),
    });
    let vision = grpc::Handler { encoder: encoder.clone(), draining: tasks.draining().clone() };
    let stored = Stored { encoder, columns: checkpoint.model.feature_channels(), tasks: tasks.clone() };
    let max_bytes = settings.image.max_file.as_usize();
    let server = Server::new(settings.server)
        .secure(tls)
        .with(vision.into_service(max_bytes))
        .with(grpc::store::Handler { stored, max_bytes }.into_service());
    let model = settings.model.display();
    tracing::info!(%fingerprint, tiles, device = taken, %compute, %model, "vision worker is ready");
    Ok(Service::new(server, tasks, Some(thread)))
}

/// A store or queue that cannot take one image would refuse or lose it for ever.
fn check_bounds(settings: &Settings, checkpoint: &Checkpoint, compute: DType) -> Result<(), BuildError> {
    let geometry = checkpoint.geometry();
    let bytes = settings.store.memory.as_u64();
    let row = checkpoint.model.feature_channels() * compute.size_bytes();
    let image = (geometry.max_image_tokens() * row) as u64;
    if bytes < image {
        return Err(BuildError::StoreTooSmall { bytes, image });
    }
    let (tiles, image) = (settings.batch.waiting_tiles, geometry.max_tiles());
    if tiles < image {
        return Err(BuildError::QueueTooSmall { tiles, image });
    }
    Ok(())
}

/// An image that needs more memory than all of them may take would wait for ever.
fn check_decoding(settings: &Settings, preprocessor: &Preprocessor) -> Result<(), BuildError> {
    let (limits, bytes) = (settings.image.limits(), settings.batch.decoded.as_u64());
    let image = limits.decoding_bytes().saturating_add(preprocessor.most_bytes(limits.pixels, limits.side));
    if bytes < image { Err(BuildError::DecodedTooSmall { bytes, image }) } else { Ok(()) }
}

/// Everything that decides the features of a file.
fn fingerprint(model: &VisionModel, checkpoint: &Checkpoint, image: &ImageSettings) -> EncoderFingerprint {
    let processor = checkpoint.processor.image.canonical_json();
    let settings = format!("{:?} {:?}", image.source, image.resizer);
    let revision = PREPROCESSING_REVISION.to_le_bytes();
    EncoderFingerprint::of(&[&model.fingerprint(), processor.as_bytes(), settings.as_bytes(), &revision])
}
