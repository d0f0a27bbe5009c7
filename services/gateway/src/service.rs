//! The gateway put together: settings → prompt → pools → server → drain.

use std::sync::Arc;

use tessera_checkpoint::{Checkpoint, CheckpointError};
use tessera_prompt::PromptError;
use tessera_rpc::{Server, ServerError, Service, Tasks};
use tokio::sync::Semaphore;

use crate::encode::Encodes;
use crate::grpc::{Handler, store};
use crate::prepare::Preparer;
use crate::settings::Settings;
use crate::tenant::Tenants;
use crate::upstream::Upstream;

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The checkpoint's configuration is wrong.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Tokenizer or chat template are wrong.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An entry of the lists of workers is none.
    #[error(transparent)]
    Upstream(#[from] tessera_api::Error),
    /// The server could not be put together.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Reading the checkpoint ended in a panic.
    #[error("reading the checkpoint was broken off")]
    Interrupted,
}

/// Reads tokenizer and chat template, and starts to observe the pools. Workers may come later.
///
/// # Errors
/// [`BuildError`] says what is missing or wrong.
pub async fn build(settings: Settings) -> Result<Service, BuildError> {
    let tasks = Tasks::default();
    let reading = settings.clone();
    let reading = tasks.spawn_blocking(move || {
        let checkpoint = Checkpoint::open(&reading.model)?;
        let preparer = Preparer::open(&checkpoint, &reading)?;
        Ok::<_, BuildError>((checkpoint, preparer))
    });
    let (checkpoint, preparer) = reading.await.map_err(|_| BuildError::Interrupted)??;
    let upstream = Arc::new(Upstream::start(&settings, checkpoint.model.image_token_id, &tasks)?);
    let tenants = Arc::new(Tenants::new(&settings));
    let preparer = Arc::new(preparer);
    let encodes = Encodes {
        preparer: preparer.clone(),
        upstream: upstream.clone(),
        time: settings.limits.time,
        tasks: tasks.clone(),
    };
    let store = store::Handler {
        encodes: encodes.clone(),
        tenants: Arc::clone(&tenants),
        max_bytes: settings.limits.request.as_usize(),
    };
    let handler = Handler {
        tenants,
        preparer,
        upstream,
        encodes,
        admission: Arc::new(Semaphore::new(settings.limits.requests)),
        limits: settings.limits.clone(),
        tasks: tasks.clone(),
    };
    let server = Server::new(settings.server)?.with(handler.into_service()).with(store.into_service());
    tracing::info!(vision = ?settings.vision, language = ?settings.language, "gateway is ready");
    Ok(Service::new(server, tasks, None))
}
