//! The gateway put together: settings → prompt → pools → server → drain.

use std::sync::Arc;

use tessera_checkpoint::{Checkpoint, CheckpointError};
use tessera_prompt::PromptError;
use tessera_rpc::{ClientTls, FileError, Server, ServerError, ServerTls, Service, Tasks};

use crate::admission::Admission;
use crate::encode::Encodes;
use crate::front::{Front, Served};
use crate::grpc::{Handler, store};
use crate::http;
use crate::inference;
use crate::prepare::Preparer;
use crate::settings::Settings;
use crate::tenant::Tenants;
use crate::upstream::Upstream;
use crate::urls::{Fetcher, UrlRootsError};

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
    /// Certificates, keys or tokens are missing or wrong.
    #[error(transparent)]
    Files(#[from] FileError),
    /// Images by URL can be fetched from nobody.
    #[error(transparent)]
    Urls(#[from] UrlRootsError),
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
    let (tls, upstream_tls) =
        (ServerTls::start(&settings.tls, &tasks)?, ClientTls::start(&settings.upstream_tls, &tasks)?);
    let image_token_id = checkpoint.model.image_token_id;
    let front = Arc::new(assemble(&settings, Arc::new(preparer), image_token_id, upstream_tls, &tasks)?);
    let server = Server::new(settings.server).secure(tls);
    let server =
        server.with(Handler(Arc::clone(&front)).into_service()).with(store::Handler::of(&front).into_service());
    let server = server.with(inference::Handler::new(&front).into_service());
    let server = server.with_http(http::routes(&front, &settings.http));
    tracing::info!(vision = ?settings.vision, language = ?settings.language, "gateway is ready");
    Ok(Service::new(server, tasks, None))
}

/// Makes what stands in front of the pools of these settings, and starts to observe these. `image_token_id` is that of
/// the gateway's own checkpoint.
///
/// # Errors
/// [`BuildError`] names the entry that stands for no worker, and files that cannot be used.
pub(crate) fn assemble(
    settings: &Settings,
    preparer: Arc<Preparer>,
    image_token_id: u32,
    tls: ClientTls,
    tasks: &Tasks,
) -> Result<Front, BuildError> {
    let tenants = Arc::new(Tenants::start(settings, tasks)?);
    let upstream = Arc::new(Upstream::start(settings, image_token_id, tls, tasks)?);
    let pools = Arc::clone(&upstream);
    let admission = Admission::new(settings, move || pools.room());
    tasks.spawn(tasks.stop().clone().run_until_cancelled_owned(Arc::clone(&admission).watch()));
    let encodes = Encodes {
        preparer: preparer.clone(),
        upstream: upstream.clone(),
        admission: Arc::clone(&admission),
        time: settings.limits.time,
        tasks: tasks.clone(),
    };
    Ok(Front {
        tenants,
        preparer,
        upstream,
        encodes,
        urls: Fetcher::start(&settings.urls)?.map(Arc::new),
        admission,
        served: Served::of(settings),
        limits: settings.limits.clone(),
        tasks: tasks.clone(),
    })
}
