//! The worker put together: settings → engine → server → drain.

use std::sync::Arc;
use std::time::Duration;

use tessera_api::language::Description;
use tessera_checkpoint::{Checkpoint, CheckpointError};
use tessera_config::MemoryBudget;
use tessera_embedding::DecoderFingerprint;
use tessera_model::{LanguageModel, LoadOptions, ModelError, Progress};
use tessera_rpc::{ClientTls, FileError, Server, ServerError, ServerTls, Service, Tasks};
use tokio_util::sync::CancellationToken;

use crate::constraint::{Forms, Grammars};
use crate::engine::{BLOCK_POSITIONS, CandleRunner, EngineHandle, HandOver, Limits};
use crate::features::Features;
use crate::grpc::Handler;
use crate::settings::Settings;

/// Why the worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The checkpoint's configuration is wrong.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights could not be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The KV cache holds not a single block.
    #[error(
        "engine.kv_cache is {given}, which has no room for one block of {BLOCK_POSITIONS} positions ({block} bytes): give it more"
    )]
    KvCache {
        /// What was given.
        given: MemoryBudget,
        /// The bytes of a block.
        block: usize,
    },
    /// The system does not tell how much memory is free.
    #[error("engine.kv_cache is a share of free memory, which the system does not tell: {0}; give a size")]
    Memory(String),
    /// Certificates or keys are missing or wrong.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The server could not be put together.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The system gave no thread.
    #[error("the engine's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// Loading ended in a panic.
    #[error("loading the model was broken off")]
    Interrupted,
}

/// Loads the model and starts the engine. `progress` is told how far loading is.
///
/// # Errors
/// [`BuildError`] says what is missing or wrong.
pub async fn build(settings: Settings, progress: impl Fn(Progress) + Send + 'static) -> Result<Service, BuildError> {
    let (path, device, compute) = (settings.model.clone(), settings.device.clone(), settings.compute);
    let tasks = Tasks::default();
    // What is wrong with these is said before anything is loaded.
    let (tls, upstream_tls) =
        (ServerTls::start(&settings.tls, &tasks)?, ClientTls::start(&settings.upstream_tls, &tasks)?);
    let loading = tasks.spawn_blocking(move || {
        let checkpoint = Checkpoint::open(&path)?;
        let device = tessera_model::resolve(&device)?;
        let compute = compute.on(&device);
        let options = LoadOptions { device: &device, compute, progress: &progress, ..LoadOptions::default() };
        let model = LanguageModel::load(&checkpoint, &options)?;
        let grammars = Grammars::open(&checkpoint, model.config().vocab_size);
        Ok::<_, BuildError>((checkpoint, model, grammars, compute))
    });
    let (checkpoint, model, grammars, compute) = loading.await.map_err(|_| BuildError::Interrupted)??;

    let (limits, device) = (limits(&settings, &model)?, model.device_name());
    let description = Description {
        max_positions: limits.max_positions.min(limits.blocks * BLOCK_POSITIONS),
        vocabulary: limits.vocabulary,
        image_token_id: checkpoint.model.image_token_id,
        version: env!("CARGO_PKG_VERSION").into(),
        fingerprint: DecoderFingerprint::of(&[&model.fingerprint()]),
    };
    let geometry = checkpoint.geometry();
    let columns = checkpoint.model.feature_channels();
    let features = Features::new(&settings.features, upstream_tls, geometry.clone(), columns, tasks.clone());
    let runner = CandleRunner::new(Arc::new(model), geometry, limits.blocks)?;
    let puller = features.clone();
    let pulls = |arrivals| move |pull| puller.pull(pull, &arrivals);
    let (handle, engine) = EngineHandle::start(runner, limits, pulls)?;
    let finish = settings.server.drain.mul_f64(settings.drain.finish);
    tasks.spawn(hand_over(handle.hand_over(), finish, tasks.draining().clone(), tasks.stop().clone()));
    let forms = Forms::new(grammars, tasks.clone());
    let handler = Handler { engine: handle, features, forms, description, draining: tasks.draining().clone() };
    let server = Server::new(settings.server).secure(tls).with(handler.into_service());
    let model = settings.model.display();
    tracing::info!(blocks = limits.blocks, device, %compute, %model, "language worker is ready");
    Ok(Service::new(server, tasks, Some(engine)))
}

/// Lets sequences go on for a while once the worker shuts down; other workers then go on with those that are left.
async fn hand_over(engine: HandOver, finish: Duration, draining: CancellationToken, stop: CancellationToken) {
    draining.cancelled().await;
    if stop.run_until_cancelled(tokio::time::sleep(finish)).await.is_some() {
        engine.all().await;
    }
}

/// Bytes that this process may still take: what the machine has, or its container.
fn free_memory() -> Result<u64, BuildError> {
    let mut system = sysinfo::System::new().map_err(|error| BuildError::Memory(error.to_string()))?;
    system.refresh_memory();
    let container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Ok(system.available_memory().min(container))
}

fn limits(settings: &Settings, model: &LanguageModel) -> Result<Limits, BuildError> {
    let (given, block) = (settings.engine.kv_cache, model.kv_bytes_per_position() * BLOCK_POSITIONS);
    let of_bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX) / block;
    let blocks = match given {
        MemoryBudget::Bytes(size) => of_bytes(size.as_u64()),
        // Of what is free where keys and values will be: on the GPUs, if the model is there.
        MemoryBudget::Share(percent) => match model.free_blocks(percent)? {
            Some(blocks) => blocks,
            None => of_bytes(given.of(free_memory()?)),
        },
    };
    if blocks == 0 {
        return Err(BuildError::KvCache { given, block });
    }
    Ok(Limits {
        max_positions: model.config().max_positions,
        vocabulary: model.config().vocab_size,
        blocks,
        running: settings.engine.running,
        waiting: settings.engine.waiting,
        step_rows: settings.engine.step_rows,
    })
}
