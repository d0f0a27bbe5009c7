//! The worker put together: settings → engine → server → drain.

use tessera_api::language::Description;
use tessera_checkpoint::{Checkpoint, CheckpointError};
use tessera_model::{LanguageModel, LoadOptions, ModelError, Progress};
use tessera_rpc::{Server, ServerError, Service, Tasks};

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
        Ok::<_, BuildError>((checkpoint, model))
    });
    let (checkpoint, model) = loading.await.map_err(|_| BuildError::Interrupted)??;

    let limits = limits(&settings, &model)?;
    let description = Description {
        max_positions: limits.max_positions.min(limits.blocks * BLOCK_POSITIONS),
        vocabulary: limits.vocabulary,
        image_token_id: checkpoint.model.image_token_id,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let geometry = checkpoint.geometry();
    // Stores may send f32 whatever this worker computes in.
    let row_bytes = checkpoint.model.feature_channels() * size_of::<f32>();
    let features = Features::new(&settings.features, geometry.clone(), row_bytes, tasks.clone());
    let (handle, engine) = EngineHandle::start(CandleRunner::new(model, geometry), limits)?;
    let handler = Handler { engine: handle, features, description, draining: tasks.draining().clone() };
    let server = Server::new(settings.server)?.with(handler.into_service());
    tracing::info!(blocks = limits.blocks, model = %settings.model.display(), "language worker is ready");
    Ok(Service::new(server, tasks, Some(engine)))
}

fn limits(settings: &Settings, model: &LanguageModel) -> Result<Limits, BuildError> {
    let bytes = settings.engine.kv_cache.as_usize();
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
