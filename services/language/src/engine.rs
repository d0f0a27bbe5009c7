//! The language engine: one thread that owns the device, and the handle that requests reach it by.
//!
//! Four nouns: [`Sequence`] is the state of one generation, [`Scheduler`] decides which rows the next step computes,
//! [`Blocks`] accounts for the KV cache, and a [`ModelRunner`] turns rows into logits. A step is
//! schedule → run → sample → publish.

mod blocks;
mod core;
mod load;
mod runner;
mod sampler;
mod scheduler;
mod sequence;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tessera_api::language::{Event, GenerateRequest};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::Artifact;
use tessera_rpc::Deadline;
use tokio::sync::{Semaphore, mpsc, watch};

pub use blocks::{BLOCK_POSITIONS, Blocks};
pub use core::{Engine, Limits};
pub use load::{Counters, Meter};
pub use runner::{CandleRunner, Input, ModelRunner, RunError, Slice};
pub use scheduler::Scheduler;
pub use sequence::{Sequence, SequenceId};

/// How long the engine waits before it looks again for callers that went away while nothing can be computed.
const IDLE_LOOK: Duration = Duration::from_millis(50);
/// Sequences ask to be tried again after this when the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What the engine's thread is told.
#[derive(Debug)]
pub enum Command {
    /// A sequence that was admitted.
    Start(Box<Sequence>),
    /// The features of an image of a sequence, or why there are none.
    Image {
        /// Whose.
        id: SequenceId,
        /// Which of its images.
        index: usize,
        /// As pulled and verified.
        features: Result<Arc<Artifact>>,
    },
}

/// The way to the engine; cheap to clone. The engine ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    admission: Arc<Semaphore>,
    next_id: Arc<AtomicU64>,
    limits: Limits,
    counters: watch::Receiver<Counters>,
}

/// A sequence that was admitted: its events, and the means to give it its images.
#[derive(Debug)]
pub struct Admitted {
    /// Who it is.
    pub id: SequenceId,
    /// What comes back; dropping it ends the sequence within a step.
    pub events: mpsc::Receiver<Result<Event>>,
    /// Tells when nobody listens any more.
    pub listener: mpsc::WeakSender<Result<Event>>,
}

impl EngineHandle {
    /// Starts the engine's thread over a runner.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start<R>(runner: R, limits: Limits) -> std::io::Result<(Self, JoinHandle<()>)>
    where
        R: ModelRunner + Send + 'static,
    {
        let capacity = limits.running + limits.waiting;
        let (commands, inbox) = mpsc::channel(capacity);
        let runtime = tokio::runtime::Handle::current();
        let engine = Engine::new(runner, limits);
        let (published, counters) = watch::channel(engine.counters());
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || run(engine, inbox, &published, &runtime))?;
        let admission = Arc::new(Semaphore::new(capacity));
        Ok((Self { commands, admission, next_id: Arc::default(), limits, counters }, thread))
    }

    /// Admits a sequence, or says at once why not.
    ///
    /// # Errors
    /// `Invalid` for one that can never fit, `Exhausted` when the queue is full, `Unavailable` when the engine is gone.
    pub async fn admit(&self, request: GenerateRequest, deadline: Deadline) -> Result<Admitted> {
        self.limits.check(&request)?;
        let permit = self.admission.clone().try_acquire_owned().map_err(|_| {
            let limit = self.limits.running + self.limits.waiting;
            let message = format!("{limit} sequences are running or waiting already");
            Error::exhausted("QUEUE_FULL", message, RETRY_AFTER).with("limit", limit)
        })?;
        let id = SequenceId(self.next_id.fetch_add(1, Ordering::Relaxed));
        // Room for every event of the sequence: a slow reader never makes the engine wait.
        let (sender, events) = mpsc::channel(request.max_new_tokens.get() + 2);
        let listener = sender.downgrade();
        let sequence = Sequence::new(id, request, deadline, sender, permit);
        self.send(Command::Start(Box::new(sequence))).await?;
        Ok(Admitted { id, events, listener })
    }

    /// Gives a sequence the features of one of its images, or the reason why there are none.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn give_image(&self, id: SequenceId, index: usize, features: Result<Arc<Artifact>>) -> Result<()> {
        self.send(Command::Image { id, index, features }).await
    }

    /// Starts to measure how busy the engine is.
    pub fn meter(&self) -> Meter {
        Meter::new(self.counters.clone())
    }

    async fn send(&self, command: Command) -> Result<()> {
        let gone = |_| Error::new(ErrorKind::Unavailable, "ENGINE_STOPPED", "the language engine has stopped");
        self.commands.send(command).await.map_err(gone)
    }
}

/// The engine's thread: take commands, step, and sleep when there is nothing to compute.
fn run<R: ModelRunner>(
    mut engine: Engine<R>,
    mut inbox: mpsc::Receiver<Command>,
    published: &watch::Sender<Counters>,
    runtime: &tokio::runtime::Handle,
) {
    loop {
        let mut open = true;
        if !engine.has_work() {
            let idle = engine.is_empty();
            let next = runtime.block_on(async {
                if idle { Some(inbox.recv().await) } else { tokio::time::timeout(IDLE_LOOK, inbox.recv()).await.ok() }
            });
            match next {
                Some(Some(command)) => engine.take(command),
                Some(None) => open = false,
                None => {}
            }
        }
        while let Ok(command) = inbox.try_recv() {
            engine.take(command);
        }
        if !open && engine.is_empty() {
            return;
        }
        engine.step();
        published.send_replace(engine.counters());
    }
}
