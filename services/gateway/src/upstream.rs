//! The two pools: which worker gets what, and the calls.

mod balance;
mod store;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use tessera_api::language::{self, Event, GenerateRequest};
use tessera_api::proto::language::v1 as language_proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::proto::vision::v1 as vision_proto;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::vision::{self, EncodeRequest, Encoded};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{EncoderFingerprint, ImageKey};
use tessera_rpc::{Deadline, client};
use tokio::sync::RwLock;
use tonic::transport::Channel;

use balance::{Balance, Placed};

/// Largest event of a sequence: log-probabilities of a long prompt.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// Workers by URL. Channels connect when they are first used.
#[derive(Debug)]
pub(crate) struct Upstream {
    vision: Vec<Worker>,
    language: Vec<Worker>,
    /// Which language worker gets the next sequence.
    balance: Arc<Balance>,
    /// What the vision pool said it encodes with; asked for again after a worker disagreed.
    fingerprint: RwLock<Option<EncoderFingerprint>>,
    /// Longest sequence that the language pool said it takes.
    context: RwLock<Option<usize>>,
    image_token_id: u32,
    /// Part of every key.
    salt: Bytes,
}

#[derive(Debug)]
struct Worker {
    url: String,
    channel: Channel,
}

/// The events of one sequence.
#[derive(Debug)]
pub(crate) struct Events {
    url: String,
    stream: tonic::Streaming<language_proto::GenerateResponse>,
    /// Counts the sequence while it lasts.
    _placed: Placed,
}

impl Upstream {
    /// Makes the pools of these URLs, for keys with this salt.
    ///
    /// # Errors
    /// Names the URL that is none.
    pub(crate) fn new(vision: &[String], language: &[String], image_token_id: u32, salt: Bytes) -> Result<Self> {
        let workers = |urls: &[String]| {
            let worker = |url: &String| Ok(Worker { url: url.clone(), channel: client::channel(url)? });
            urls.iter().map(worker).collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            vision: workers(vision)?,
            language: workers(language)?,
            balance: Arc::new(Balance::new(language.len())),
            fingerprint: RwLock::new(None),
            context: RwLock::new(None),
            image_token_id,
            salt,
        })
    }

    /// Returns what the vision pool encodes with: the answer of the first worker that gives one.
    ///
    /// # Errors
    /// `Unavailable` when no vision worker answers.
    pub(crate) async fn fingerprint(&self, deadline: Deadline) -> Result<EncoderFingerprint> {
        if let Some(known) = *self.fingerprint.read().await {
            return Ok(known);
        }
        let mut last = no_worker("vision");
        for worker in &self.vision {
            let mut client = VisionWorkerClient::new(worker.channel.clone());
            let asking = async { Ok(client.describe(deadline.request(vision_proto::DescribeRequest {})).await?) };
            match deadline.bound("asking the vision pool which model it runs", asking).await {
                Ok(response) => {
                    let description = vision::Description::try_from(response.into_inner())?;
                    *self.fingerprint.write().await = Some(description.fingerprint);
                    return Ok(description.fingerprint);
                }
                Err(error) => last = unreachable("vision", &worker.url, error),
            }
        }
        Err(last)
    }

    /// Returns the longest sequence that the language pool takes.
    ///
    /// # Errors
    /// `Unavailable` when no language worker answers, `Precondition` when one runs another model.
    pub(crate) async fn context(&self, deadline: Deadline) -> Result<usize> {
        if let Some(known) = *self.context.read().await {
            return Ok(known);
        }
        let mut last = no_worker("language");
        for worker in &self.language {
            let mut client = LanguageWorkerClient::new(worker.channel.clone());
            let asking = async { Ok(client.describe(deadline.request(language_proto::DescribeRequest {})).await?) };
            match deadline.bound("asking the language pool which model it runs", asking).await {
                Ok(response) => {
                    let description = language::Description::from(response.into_inner());
                    let (theirs, ours) = (description.image_token_id, self.image_token_id);
                    if theirs != ours {
                        let message =
                            format!("{} runs another model: its image token is {theirs}, ours {ours}", worker.url);
                        return Err(Error::new(ErrorKind::Precondition, "MODEL_MISMATCH", message));
                    }
                    *self.context.write().await = Some(description.max_positions);
                    return Ok(description.max_positions);
                }
                Err(error) => last = unreachable("language", &worker.url, error),
            }
        }
        Err(last)
    }

    /// Returns the URL of the vision worker for a key: rendezvous hashing, so that caches do not overlap and a worker
    /// that is lost moves only its share.
    pub(crate) fn store_of(&self, key: &ImageKey) -> &str {
        &self.vision[self.vision_index(key)].url
    }

    fn vision_index(&self, key: &ImageKey) -> usize {
        let weight = |worker: &Worker| {
            let fingerprint = EncoderFingerprint::of(&[worker.url.as_bytes(), key.as_bytes()]);
            *fingerprint.as_bytes()
        };
        (0..self.vision.len()).max_by_key(|&index| weight(&self.vision[index])).unwrap_or(0)
    }

    /// Makes sure that an image is encoded by the worker of its key.
    ///
    /// # Errors
    /// The worker's.
    pub(crate) async fn encode(&self, image: Bytes, key: ImageKey, deadline: Deadline) -> Result<Encoded> {
        let worker = &self.vision[self.vision_index(&key)];
        let request = EncodeRequest { image, key, tenant_salt: self.salt.clone() };
        let mut client = VisionWorkerClient::new(worker.channel.clone());
        match client.encode(deadline.request(request.into())).await {
            Ok(response) => Encoded::try_from(response.into_inner()),
            Err(status) => {
                let error = Error::from(status);
                if error.reason == "KEY_MISMATCH" {
                    *self.fingerprint.write().await = None;
                }
                Err(unreachable("vision", &worker.url, error))
            }
        }
    }

    /// Starts a sequence on the language worker with the least expected wait.
    ///
    /// # Errors
    /// The worker's.
    pub(crate) async fn generate(&self, request: GenerateRequest, deadline: Deadline) -> Result<Events> {
        let placed = self.balance.place();
        let worker = &self.language[placed.worker];
        let mut client = LanguageWorkerClient::new(worker.channel.clone()).max_decoding_message_size(MAX_EVENT_BYTES);
        match client.generate(deadline.request(request.into())).await {
            Ok(response) => Ok(Events { url: worker.url.clone(), stream: response.into_inner(), _placed: placed }),
            Err(status) => {
                let error = unreachable("language", &worker.url, status.into());
                if error.reason == "UNREACHABLE" {
                    // Until it reports again.
                    self.balance.lose(placed.worker);
                }
                Err(error)
            }
        }
    }
}

impl Events {
    /// Returns the next event; the last one is the last sample's `Finished`.
    ///
    /// # Errors
    /// The worker's, and `Unavailable` when the stream ends too early.
    pub(crate) async fn next(&mut self) -> Result<Event> {
        match self.stream.message().await {
            Ok(Some(response)) => Event::try_from(response),
            Ok(None) => {
                let message = format!("language worker {} ended the stream too early", self.url);
                Err(Error::new(ErrorKind::Unavailable, "STREAM_BROKEN", message))
            }
            Err(status) => Err(unreachable("language", &self.url, status.into())),
        }
    }
}

fn no_worker(pool: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "POOL_EMPTY", format!("there is no {pool} worker"))
}

/// Names the worker in the error of one that could not be reached, and logs it: nobody else will. Errors that the worker
/// itself gave pass unchanged.
fn unreachable(pool: &'static str, url: &str, error: Error) -> Error {
    if error.reason != "UNREACHABLE" {
        return error;
    }
    tracing::warn!(pool, worker = url, %error, "worker is unreachable");
    Error { message: format!("{pool} worker {url} cannot be reached: {}", error.message), ..error }.with("worker", url)
}
