//! The worker put together: settings → engine → server → drain.

use std::sync::Arc;

use tessera_api::language::Description;
use tessera_checkpoint::{Checkpoint, CheckpointError};
use tessera_config::MemoryBudget;
use tessera_model::{LanguageModel, LoadOptions, ModelError, Progress};
use tessera_rpc::{Server, ServerError, Service, Tasks};

use crate::constraint::{Forms, Grammars};
use crate::engine::{BLOCK_POSITIONS, CandleRunner, EngineHandle, Limits};
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
    #[error("engine.kv_cache is {bytes} bytes, one block of {BLOCK_POSITIONS} positions takes {block}: give it more")]
    KvCache {
        /// What was given.
        bytes: usize,
        /// What a block takes.
        block: usize,
    },
    /// The system does not tell how much memory is free.
    #[error("engine.kv_cache is a share of free memory, which the system does not tell: {0}; give a size")]
    Memory(String),
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
    let (path, compute) = (settings.model.clone(), settings.compute);
    let tasks = Tasks::default();
    let loading = tasks.spawn_blocking(move || {
        let checkpoint = Checkpoint::open(&path)?;
        let model = LanguageModel::load(&checkpoint, &LoadOptions { compute, progress: &progress })?;
        let grammars = Grammars::open(&checkpoint, model.config().vocab_size);
        Ok::<_, BuildError>((checkpoint, model, grammars))
    });
    let (checkpoint, model, grammars) = loading.await.map_err(|_| BuildError::Interrupted)??;

    let limits = limits(&settings, &model)?;
    let description = Description {
        max_positions: limits.max_positions.min(limits.blocks * BLOCK_POSITIONS),
        vocabulary: limits.vocabulary,
        image_token_id: checkpoint.model.image_token_id,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let geometry = checkpoint.geometry();
    let columns = checkpoint.model.feature_channels();
    let features = Features::new(&settings.features, geometry.clone(), columns, tasks.clone());
    let runner = CandleRunner::new(Arc::new(model), geometry, limits.blocks)?;
    let puller = features.clone();
    let pulls = |arrivals| move |pull| puller.pull(pull, &arrivals);
    let (handle, engine) = EngineHandle::start(runner, limits, pulls)?;
    let forms = Forms::new(grammars, tasks.clone());
    let handler = Handler { engine: handle, features, forms, description, draining: tasks.draining().clone() };
    let server = Server::new(settings.server)?.with(handler.into_service());
    tracing::info!(blocks = limits.blocks, model = %settings.model.display(), "language worker is ready");
    Ok(Service::new(server, tasks, Some(engine)))
}

/// Bytes that this process may still take: what the machine has, or its container.
fn free_memory() -> Result<u64, BuildError> {
    let mut system = sysinfo::System::new().map_err(|error| BuildError::Memory(error.to_string()))?;
    system.refresh_memory();
    let container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Ok(system.available_memory().min(container))
}

fn limits(settings: &Settings, model: &LanguageModel) -> Result<Limits, BuildError> {
    let budget = match settings.engine.kv_cache {
        MemoryBudget::Bytes(size) => size.as_u64(),
        share @ MemoryBudget::Share(_) => share.of(free_memory()?),
    };
    let bytes = usize::try_from(budget).unwrap_or(usize::MAX);
    let block = model.kv_bytes_per_position() * BLOCK_POSITIONS;
    if bytes < block {
        return Err(BuildError::KvCache { bytes, block });
    }
    Ok(Limits {
        max_positions: model.config().max_positions,
        vocabulary: model.config().vocab_size,
        blocks: bytes / block,
        running: settings.engine.running,
        waiting: settings.engine.waiting,
        step_rows: settings.engine.step_rows,
    })
}
