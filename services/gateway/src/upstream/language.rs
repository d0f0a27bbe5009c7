//! The language pool: sequences, and their first events.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use tessera_api::language::{Description, Event, GenerateRequest, Load};
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{DecoderFingerprint, ImageKey};
use tessera_rpc::{ClientTls, Deadline};
use tokio::sync::watch;
use tonic::Streaming;

use super::balance::{Placed, Sequences, Work, place};
use super::member::{Kind, Member, Silence};
use super::pool::Pool;
use super::retry::{ATTEMPTS, Budget, Turn, is_worth_a_retry};
use super::settings::{HealthSettings, RetrySettings};
use super::vision::{Held, VisionPool};
use crate::defaults::random;

/// Largest event of a sequence: log-probabilities of a long prompt.
const MAX_EVENT_BYTES: usize = 64 << 20;
/// A sequence whose features did not come waits for so long for them to be on the way elsewhere.
const MOVING: Duration = Duration::from_secs(2);
/// A sequence begins anew because its images went elsewhere no more often than this.
const RESTARTS: usize = 4;

/// Language workers.
#[derive(Debug)]
pub(super) struct Language;

/// The language pool.
#[derive(Debug)]
pub(super) struct LanguagePool {
    pub(super) pool: Arc<Pool<Language>>,
    vision: Arc<VisionPool>,
    budget: Budget,
    /// What beginnings of prompts are hashed with.
    state: RandomState,
}

/// The events of one sequence.
#[derive(Debug)]
pub(crate) struct Events {
    languages: Arc<LanguagePool>,
    running: Running,
    /// Until the first event.
    opening: Option<Opening>,
}

/// A sequence that a worker has.
#[derive(Debug)]
struct Running {
    stream: Streaming<proto::GenerateResponse>,
    silence: Silence,
    /// Counts the sequence while it lasts.
    placed: Placed,
}

/// A sequence of which nothing came yet: it can begin anew elsewhere, and nobody sees it.
#[derive(Debug)]
struct Opening {
    languages: Arc<LanguagePool>,
    request: GenerateRequest,
    deadline: Deadline,
    /// Workers that did not do it.
    tried: Vec<Arc<Member<Language>>>,
    restarts: usize,
    /// Tells of images that go elsewhere.
    moves: watch::Receiver<()>,
    /// Its images.
    held: Held,
}

impl Kind for Language {
    const POOL: &'static str = "language";
    type Description = Description;
    type Model = DecoderFingerprint;
    type Notes = Sequences;
    type Load = Load;

    fn model(description: &Description) -> DecoderFingerprint {
        description.fingerprint
    }

    fn version(description: &Description) -> &str {
        &description.version
    }

    fn load(notes: &Sequences) -> Option<Load> {
        notes.load()
    }
}

impl LanguagePool {
    /// Makes a pool of nobody, whose images are encoded by `vision`, and whose workers will be called by way of `tls`.
    pub(super) fn new(health: HealthSettings, retry: RetrySettings, vision: Arc<VisionPool>, tls: ClientTls) -> Self {
        Self { pool: Pool::new(health, tls), vision, budget: Budget::new(retry), state: RandomState::new() }
    }

    /// Starts a sequence on the worker that has to compute least before it.
    ///
    /// # Errors
    /// The worker's, where no other one is there or may be asked.
    pub(super) async fn generate(self: &Arc<Self>, request: GenerateRequest, deadline: Deadline) -> Result<Events> {
        self.budget.count();
        let languages = Arc::clone(self);
        let moves = self.vision.places.moves();
        let held = self.vision.hold(request.images.iter().map(|image| image.key).collect());
        let mut opening = Opening { languages, request, deadline, tried: Vec::new(), restarts: 0, moves, held };
        let running = opening.begin().await?;
        Ok(Events { languages: Arc::clone(self), running, opening: Some(opening) })
    }
}

impl Events {
    /// The worker's URL.
    pub(crate) fn worker(&self) -> &str {
        &self.running.placed.in_flight.0.url
    }

    /// Takes note of why the worker did not go on, where it can be reached nevertheless: until it was asked again what it is,
    /// others are given work.
    pub(crate) fn lose(&self, error: &Error) {
        if matches!(error.reason.as_ref(), "HANDED_OVER" | "STREAM_BROKEN") || error.kind == ErrorKind::Internal {
            self.languages.pool.failed(&self.running.placed.in_flight.0, error);
        }
    }

    /// Returns the next event; the last one is the last sample's `Finished`. Before the first one, a sequence that
    /// fails for a reason that another worker may not have begins anew there.
    ///
    /// # Errors
    /// The worker's, and `Unavailable` when the stream ends too early.
    pub(crate) async fn next(&mut self) -> Result<Event> {
        while let Some(opening) = &mut self.opening {
            let outcome = tokio::select! {
                biased;
                event = self.running.next(&self.languages.pool) => event,
                () = opening.moved(), if opening.restarts < RESTARTS => {
                    opening.restarts += 1;
                    self.running = opening.begin().await?;
                    continue;
                }
            };
            match outcome {
                Ok(event) => {
                    self.opening = None;
                    return Ok(event);
                }
                Err(error) => {
                    opening.survive(&self.running.placed.in_flight.0, error).await?;
                    self.running = opening.begin().await?;
                }
            }
        }
        self.running.next(&self.languages.pool).await
    }
}

impl Running {
    async fn next(&mut self, pool: &Pool<Language>) -> Result<Event> {
        let member = &self.placed.in_flight.0;
        match pool.hear(member, self.silence.unless(self.stream.message()).await)? {
            Some(response) => Event::try_from(response),
            None => {
                let message = format!("language worker {} ended the stream too early", member.url);
                Err(Error::new(ErrorKind::Unavailable, "STREAM_BROKEN", message))
            }
        }
    }
}

impl Opening {
    /// Gives the sequence to a worker, and to another one when that one does not take it.
    async fn begin(&mut self) -> Result<Running> {
        loop {
            self.moves.borrow_and_update();
            for image in &mut self.request.images {
                if let Some(store) = self.languages.vision.last_store_of(&image.key) {
                    image.store = store.to_string();
                }
            }
            let pool = &self.languages.pool;
            let members = pool.members(self.deadline).await?;
            let mut untried: Vec<_> = members.iter().filter(|member| !self.was_tried(member)).cloned().collect();
            if untried.is_empty() {
                untried = members.to_vec();
            }
            let work = Work::of(&self.request, &self.languages.state);
            let Some(placed) = place(&untried, &work, random()) else { return Err(nobody()) };
            let member = Arc::clone(&placed.in_flight.0);
            let client = LanguageWorkerClient::new(member.channel.clone());
            let mut client = client.max_decoding_message_size(MAX_EVENT_BYTES);
            let mut silence = member.silence();
            let started = silence.unless(client.generate(self.deadline.request(self.request.clone().into()))).await;
            match pool.hear(&member, started) {
                Ok(response) => return Ok(Running { stream: response.into_inner(), silence, placed }),
                Err(error) => self.retry(&member, error)?,
            }
        }
    }

    /// Decides whether the sequence may begin anew although this worker failed it.
    ///
    /// # Errors
    /// The worker's own, if it may not.
    async fn survive(&mut self, member: &Arc<Member<Language>>, error: Error) -> Result<()> {
        if self.request.images.is_empty() || !may_be_of_features(&error) || self.restarts == RESTARTS {
            return self.retry(member, error);
        }
        self.restarts += 1;
        let vision = &self.languages.vision;
        if self.request.images.iter().any(|image| vision.is_under_way(&image.key)) {
            // Where a vision worker is lost, whoever fetches from it may see that before we do.
            let moved = tokio::time::timeout(MOVING, self.moved()).await;
            return if moved.is_ok() { Ok(()) } else { self.retry(member, error) };
        }
        match self.held.encode_again(self.deadline).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => self.retry(member, error),
        }
    }

    /// Passes if another worker may be asked.
    fn retry(&mut self, member: &Arc<Member<Language>>, error: Error) -> Result<()> {
        self.tried.push(Arc::clone(member));
        let pool = &self.languages.pool;
        let is_another_there = || pool.available().iter().any(|member| !self.was_tried(member));
        if is_worth_a_retry(&error) && self.tried.len() < ATTEMPTS && is_another_there() && self.languages.budget.take()
        {
            pool.figures.count(Turn::Retry);
            return Ok(());
        }
        Err(error)
    }

    fn was_tried(&self, member: &Arc<Member<Language>>) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(tried, member))
    }

    /// Waits until an image of the sequence is elsewhere than its worker was told.
    async fn moved(&mut self) {
        loop {
            let vision = &self.languages.vision;
            let is_elsewhere =
                |key: &ImageKey, store: &str| vision.places.of(key).is_some_and(|place| *place != *store);
            if self.request.images.iter().any(|image| is_elsewhere(&image.key, &image.store)) {
                return;
            }
            if self.moves.changed().await.is_err() {
                // The pool is gone, and nothing moves any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Whether a language worker failed because features did not come to it.
fn may_be_of_features(error: &Error) -> bool {
    let is_of_a_store = error.metadata.iter().any(|(name, _)| name == "store");
    is_of_a_store
        || matches!(error.kind, ErrorKind::NotFound | ErrorKind::Internal | ErrorKind::Corrupt | ErrorKind::Cancelled)
}

fn nobody() -> Error {
    Error::new(ErrorKind::Unavailable, "POOL_EMPTY", "there is no language worker")
}
