//! The two pools: who is in them, which worker gets what, and the calls.
//!
//! `discovery` says which workers are listed, `pool` observes them (`wire` asks, `health` decides how long one is left
//! out), `vision` and `language` give out the work (`rendezvous`, `places`, `balance`, `prefix`), and make a call again
//! where that helps (`retry`, `hedge`); `store` looks for what is stored, `fetch` reads it. `room` says how much the pools can take
//! (`capacity`), `snapshot` how they are.

mod balance;
mod capacity;
mod discovery;
mod fetch;
mod figures;
mod health;
mod hedge;
mod language;
mod member;
mod places;
mod pool;
mod prefix;
mod recent;
mod rendezvous;
mod retry;
mod room;
pub(crate) mod settings;
pub(crate) mod snapshot;
mod store;
mod vision;
mod wire;

use std::sync::Arc;

use tessera_api::language::GenerateRequest;
use tessera_api::vision::{EncodeRequest, Encoded};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{DecoderFingerprint, EncoderFingerprint, ImageKey};
use tessera_rpc::{ClientTls, Deadline, Tasks};
use tonic::Status;

pub(crate) use discovery::Entry;
use discovery::{Discovery, System};
use language::{Events, LanguagePool};
pub(crate) use room::Room;
use vision::VisionPool;
use wire::Wire;

use crate::settings::Settings;

/// Both pools.
#[derive(Debug)]
pub(crate) struct Upstream {
    vision: Arc<VisionPool>,
    languages: Arc<LanguagePool>,
}

impl Upstream {
    /// Makes the pools of these settings, and observes their workers, which are called by way of `tls`, until the gateway
    /// takes no more work. `image_token_id` is that of the gateway's own checkpoint.
    ///
    /// # Errors
    /// Names the entry that stands for no worker.
    pub(crate) fn start(settings: &Settings, image_token_id: u32, tls: ClientTls, tasks: &Tasks) -> Result<Self> {
        let Settings { discovery, health, retry, encode, .. } = settings.clone();
        let entries = |key: &'static str, listed: &[String]| {
            let entry = |text: &String| text.parse::<Entry>().map_err(|error| listed_wrong(key, &error));
            let entries = listed.iter().map(entry).collect::<Result<Vec<Entry>>>()?;
            Ok::<_, Error>(Discovery::new(key, entries, discovery.members, System::default()))
        };
        let (visions, languages) = (entries("vision", &settings.vision)?, entries("language", &settings.language)?);
        let vision = Arc::new(VisionPool::new(health.clone(), retry.clone(), encode, tls.clone()));
        let language = Arc::new(LanguagePool::new(health, retry, Arc::clone(&vision), tls));
        let wire = Arc::new(Wire { image_token_id });
        vision.pool.start(visions, discovery.refresh, &wire, tasks);
        language.pool.start(languages, discovery.refresh, &wire, tasks);
        Ok(Self { vision, languages: language })
    }

    /// Returns what the vision pool encodes with.
    ///
    /// # Errors
    /// `Unavailable` when no vision worker can be had.
    pub(crate) async fn fingerprint(&self, deadline: Deadline) -> Result<EncoderFingerprint> {
        self.vision.pool.members(deadline).await?;
        self.vision.pool.model().ok_or_else(|| nobody("vision"))
    }

    /// What decides the scores of the language pool's workers, once one of them said so.
    pub(crate) fn decoder(&self) -> Option<DecoderFingerprint> {
        self.languages.pool.model()
    }

    /// Returns the longest sequence that every worker of the language pool takes.
    ///
    /// # Errors
    /// `Unavailable` when no language worker can be had, `Precondition` when all run another model than this gateway.
    pub(crate) async fn context(&self, deadline: Deadline) -> Result<usize> {
        self.languages.pool.members(deadline).await?;
        let descriptions = self.languages.pool.descriptions();
        descriptions.iter().map(|description| description.max_positions).min().ok_or_else(|| nobody("language"))
    }

    /// Returns the URL of the vision worker that has, or will have, an image: the one that it is, or is about to be,
    /// given to. A sequence that names it is told anew should that change. Empty when there is no vision worker.
    pub(crate) fn store_of(&self, key: &ImageKey) -> String {
        self.vision.store_of(key).map(|url| url.to_string()).unwrap_or_default()
    }

    /// Whether a vision worker of the pool cannot be asked now for what it may have.
    pub(crate) fn lacks_a_vision_worker(&self) -> bool {
        self.vision.pool.listed().len() > self.vision.pool.available().len()
    }

    /// Makes sure that an image is encoded, by the worker that it belongs to or by another one.
    ///
    /// # Errors
    /// The worker's.
    pub(crate) async fn encode(&self, request: EncodeRequest, deadline: Deadline) -> Result<Encoded> {
        self.vision.encode(request, deadline).await
    }

    /// Starts a sequence on the language worker that has to compute least before it.
    ///
    /// # Errors
    /// The worker's.
    pub(crate) async fn generate(&self, request: GenerateRequest, deadline: Deadline) -> Result<Events> {
        self.languages.generate(request, deadline).await
    }
}

/// The error of a call. What the transport itself says of a connection that broke, in whatever words, is that the
/// worker cannot be reached; of a call that took too long, that it did.
fn failure(status: Status) -> Error {
    let is_broken = std::error::Error::source(&status).is_some();
    let error = Error::from(status);
    if is_broken && !matches!(error.kind, ErrorKind::Deadline | ErrorKind::Invalid) {
        return Error::new(ErrorKind::Unavailable, "UNREACHABLE", error.message);
    }
    error
}

fn listed_wrong(key: &'static str, error: &impl ToString) -> Error {
    Error::field("URL_INVALID", key, error.to_string())
}

fn nobody(pool: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "POOL_EMPTY", format!("there is no {pool} worker"))
}

#[cfg(test)]
mod tests;
