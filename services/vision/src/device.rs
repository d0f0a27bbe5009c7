//! The device's thread: takes whatever tiles wait, as many as fit a forward pass, and runs the tower over them.

mod batch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tessera_anyres::Plan;
use tessera_api::{Error, ErrorKind, Result};
use tessera_model::VisionModel;
use tessera_tensor::HostTensor;
use tokio::sync::{mpsc, oneshot};

use batch::Batcher;

/// What the device is asked to do.
enum Job {
    Encode(EncodeJob),
    Project { features: HostTensor, plan: Plan, reply: oneshot::Sender<Result<HostTensor>> },
}

/// An image of which some tiles are encoded.
struct EncodeJob {
    /// `[tiles, 3, side, side]`.
    pixels: HostTensor,
    plan: Plan,
    sent: Instant,
    reply: oneshot::Sender<Result<Features>>,
}

/// What comes back for an image.
#[derive(Debug)]
pub(crate) struct Features {
    /// `[feature rows, channels]`.
    pub(crate) rows: HostTensor,
    /// Waiting for the device.
    pub(crate) queue: Duration,
    /// From the first forward pass with a tile of this image to the end of the last.
    pub(crate) forward: Duration,
}

/// The way to the device; the thread ends when the last one is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    jobs: mpsc::Sender<Job>,
    /// Microseconds in forward passes so far.
    busy: Arc<AtomicU64>,
}

impl Device {
    /// Starts the thread. `tiles`: how many share a forward pass; `waiting`: how many jobs may wait.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(model: VisionModel, tiles: usize, waiting: usize) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, inbox) = mpsc::channel(waiting);
        let busy = Arc::new(AtomicU64::new(0));
        let spent = Arc::clone(&busy);
        let thread = std::thread::Builder::new().name("device".into());
        let thread = thread.spawn(move || run(&model, tiles, inbox, &spent))?;
        Ok((Self { jobs, busy }, thread))
    }

    /// What was spent in forward passes so far.
    pub(crate) fn busy(&self) -> Duration {
        Duration::from_micros(self.busy.load(Ordering::Relaxed))
    }

    /// Encodes the tiles of one image.
    ///
    /// # Errors
    /// `Internal` when the model fails, `Unavailable` when the thread is gone.
    pub(crate) async fn encode(&self, pixels: HostTensor, plan: Plan) -> Result<Features> {
        let (reply, done) = oneshot::channel();
        self.ask(Job::Encode(EncodeJob { pixels, plan, sent: Instant::now(), reply }), done).await
    }

    /// Turns features into the rows that the language model sees.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(crate) async fn project(&self, features: HostTensor, plan: Plan) -> Result<HostTensor> {
        let (reply, done) = oneshot::channel();
        self.ask(Job::Project { features, plan, reply }, done).await
    }

    async fn ask<T>(&self, job: Job, done: oneshot::Receiver<Result<T>>) -> Result<T> {
        let gone = || Error::new(ErrorKind::Unavailable, "DEVICE_STOPPED", "the device's thread has stopped");
        self.jobs.send(job).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

/// The thread: one forward pass after the other while there are tiles, asleep while there are none.
fn run(model: &VisionModel, tiles: usize, mut inbox: mpsc::Receiver<Job>, busy: &AtomicU64) {
    let mut batcher = Batcher::new(tiles);
    loop {
        let next = if batcher.is_empty() { inbox.blocking_recv() } else { inbox.try_recv().ok() };
        match next {
            Some(Job::Encode(job)) => batcher.push(job),
            Some(Job::Project { features, plan, reply }) => {
                let rows = model.project(&features, &plan).map_err(|error| failed(&error));
                // The one who asked may have left.
                let _ = reply.send(rows);
                continue;
            }
            None if batcher.is_empty() => return,
            None => {}
        }
        if batcher.is_full() || inbox.is_empty() {
            let began = Instant::now();
            batcher.run(
                |pixels| model.encode(pixels).map_err(|error| failed(&error)),
                |rows, plan| model.pack(rows, plan).map_err(|error| failed(&error)),
            );
            busy.fetch_add(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// The model failed on input that we made: a bug or a broken machine. Logged here, once.
fn failed(error: &tessera_model::ModelError) -> Error {
    tracing::error!(%error, "the vision model failed");
    Error::new(ErrorKind::Internal, "MODEL_FAILED", error.to_string())
}
