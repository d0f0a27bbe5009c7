//! The language engine: one thread that owns the device, and the handle that requests reach it by.
//!
//! Four nouns: [`Sequence`] is the state of one generation, [`Scheduler`] decides which rows the next step computes,
//! [`Blocks`] accounts for the KV cache, and a [`ModelRunner`] turns rows into logits. A step is
//! schedule → run → sample → publish.

mod answers;
mod beams;
mod blocks;
mod branch;
mod chain;
mod core;
mod guide;
mod listener;
mod load;
mod runner;
mod sampler;
mod scheduler;
mod sequence;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tessera_api::language::{Event, GenerateRequest};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::ImageFeatures;
use tessera_rpc::Deadline;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::constraint::{MaskPool, Matcher};

pub use blocks::{BLOCK_POSITIONS, BlockId, Blocks};
pub use chain::{BlockHash, Run};
pub use core::{Engine, Limits};
pub use load::{Counters, Meter};
pub use runner::{CandleRunner, ModelRunner, RunError, Scores, Slice};
pub use sampler::Mask;
pub use scheduler::{Scheduler, Wanted};
pub use sequence::{Pull, Sequence, SequenceId};

/// How long the engine waits before it looks again for callers that went away while nothing can be computed.
const IDLE_LOOK: Duration = Duration::from_millis(50);
/// Sequences ask to be tried again after this when the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Threads that find out which tokens fit a form.
const MASK_THREADS: NonZeroUsize = NonZeroUsize::MIN;

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
        features: Result<Arc<ImageFeatures>>,
    },
    /// Every sequence ends, for other workers to go on with.
    HandOver,
}

/// The way to the engine; cheap to clone. The engine ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    admission: Arc<Semaphore>,
    next_id: Arc<AtomicU64>,
    limits: Limits,
    counters: watch::Receiver<Counters>,
    masks: Arc<MaskPool>,
}

/// The events of one sequence; dropping them ends it within a step.
pub type Events = mpsc::Receiver<Result<Event>>;

/// The way to the engine of features that it asked for. It does not keep the engine alive.
#[derive(Clone, Debug)]
pub struct Arrivals {
    commands: mpsc::WeakSender<Command>,
}

impl Arrivals {
    /// Gives a sequence the features of one of its images, or the reason why there are none.
    pub async fn give(&self, id: SequenceId, index: usize, features: Result<Arc<ImageFeatures>>) {
        if let Some(commands) = self.commands.upgrade()
            && commands.send(Command::Image { id, index, features }).await.is_err()
        {
            tracing::debug!("features came after the engine had stopped");
        }
    }
}

/// The way to the engine of a worker that shuts down. It does not keep the engine alive.
#[derive(Clone, Debug)]
pub(crate) struct HandOver {
    commands: mpsc::WeakSender<Command>,
}

impl HandOver {
    /// Ends every sequence behind the tokens that were told, for other workers to go on with.
    pub(crate) async fn all(&self) {
        if let Some(commands) = self.commands.upgrade()
            && commands.send(Command::HandOver).await.is_err()
        {
            tracing::debug!("there was nothing to hand over");
        }
    }
}

impl EngineHandle {
    /// Starts the engine's thread over a runner. `pulls` makes what is told which features are needed; it runs on the
    /// engine's thread, in the context of the caller's runtime, and must not wait.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start<R, P>(
        runner: R,
        limits: Limits,
        pulls: impl FnOnce(Arrivals) -> P,
    ) -> std::io::Result<(Self, JoinHandle<()>)>
    where
        R: ModelRunner + Send + 'static,
        P: FnMut(Pull) + Send + 'static,
    {
        let capacity = limits.running + limits.waiting;
        let (commands, inbox) = mpsc::channel(capacity);
        let runtime = tokio::runtime::Handle::current();
        let arrivals = Arrivals { commands: commands.downgrade() };
        let engine = Engine::new(runner, limits, Box::new(pulls(arrivals)));
        let (published, counters) = watch::channel(engine.counters());
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || run(engine, inbox, &published, &runtime))?;
        let masks = Arc::new(MaskPool::start(MASK_THREADS, NonZeroUsize::MIN.saturating_add(limits.running))?);
        let admission = Arc::new(Semaphore::new(capacity));
        Ok((Self { commands, admission, next_id: Arc::default(), limits, counters, masks }, thread))
    }

    /// Admits a sequence, or says at once why not. `form`: what its answers must be, by where those that go on stand in it.
    ///
    /// # Errors
    /// `Invalid` for one that can never fit, `Exhausted` when the queue is full, `Unavailable` when the engine is gone.
    pub(crate) async fn admit(
        &self,
        request: GenerateRequest,
        form: Vec<Matcher>,
        deadline: Deadline,
    ) -> Result<Events> {
        self.limits.check(&request)?;
        let permit = self.admission.clone().try_acquire_owned().map_err(|_| {
            let limit = self.limits.running + self.limits.waiting;
            let message = format!("{limit} sequences are running or waiting already");
            Error::exhausted("QUEUE_FULL", message, RETRY_AFTER).with("limit", limit)
        })?;
        let id = SequenceId(self.next_id.fetch_add(1, Ordering::Relaxed));
        // Room for every event of the sequence: a slow reader never makes the engine wait.
        let (sender, events) = mpsc::channel(Sequence::most_events(&request));
        let mut sequence = Sequence::new(id, request, deadline, sender, permit);
        if !form.is_empty() {
            sequence.hold_to(&self.masks, form);
        }
        let gone = |_| Error::new(ErrorKind::Unavailable, "ENGINE_STOPPED", "the language engine has stopped");
        self.commands.send(Command::Start(Box::new(sequence))).await.map_err(gone)?;
        Ok(events)
    }

    /// The way to end what the engine has while the worker shuts down.
    pub(crate) fn hand_over(&self) -> HandOver {
        HandOver { commands: self.commands.downgrade() }
    }

    /// Starts to measure how busy the engine is.
    pub fn meter(&self) -> Meter {
        Meter::new(self.counters.clone())
    }
}

/// The engine's thread: take commands, step, and sleep when there is nothing to compute.
fn run<R: ModelRunner>(
    mut engine: Engine<R>,
    mut inbox: mpsc::Receiver<Command>,
    published: &watch::Sender<Counters>,
    runtime: &tokio::runtime::Handle,
) {
    // Features are asked for from this thread.
    let _context = runtime.enter();
    let mut computed = true;
    loop {
        if !computed {
            let next = runtime.block_on(async {
                if engine.is_empty() {
                    Some(inbox.recv().await)
                } else {
                    tokio::time::timeout(IDLE_LOOK, inbox.recv()).await.ok()
                }
            });
            match next {
                Some(Some(command)) => engine.take(command),
                Some(None) if engine.is_empty() => return,
                // Nobody can send any more, but those who were admitted are served.
                Some(None) => runtime.block_on(tokio::time::sleep(IDLE_LOOK)),
                None => {}
            }
        }
        while let Ok(command) = inbox.try_recv() {
            engine.take(command);
        }
        computed = engine.step();
        published.send_replace(engine.counters());
    }
}
