//! The device's thread: takes whatever tiles wait, as many as fit a forward pass, and runs the tower over them.

mod batch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tessera_anyres::Plan;
use tessera_api::{Error, ErrorKind, Result};
use tessera_model::{ModelError, Pass, VisionModel};
use tessera_tensor::HostTensor;
use tokio::sync::{mpsc, oneshot};

use batch::{Batch, Batcher, Shares};

/// What computes: the model, or a fake in tests. It logs what fails.
trait Tower {
    /// A forward pass on the device.
    type Pass;

    /// How many passes to have on the device at once.
    fn passes_at_once(&self) -> usize;

    /// Puts a pass over the tiles of some images, each `[tiles, 3, side, side]`, on the device.
    fn start(&self, pixels: &[HostTensor]) -> Result<Self::Pass>;

    /// Waits for the rows of a pass, `[tiles * patches, channels]`.
    fn finish(&self, pass: Self::Pass) -> Result<HostTensor>;

    /// Picks the features of an image from all of its rows.
    fn pack(&self, encoded: &HostTensor, plan: &Plan) -> Result<HostTensor>;

    /// Turns features into the rows that the language model sees.
    fn project(&self, features: &HostTensor, plan: &Plan) -> Result<HostTensor>;
}

/// What the device is asked to do.
enum Job {
    Encode(EncodeJob),
    Project(ProjectJob),
}

/// Features that become the rows that the language model sees.
struct ProjectJob {
    features: HostTensor,
    plan: Plan,
    reply: oneshot::Sender<Result<HostTensor>>,
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
    /// From when the first forward pass with a tile of this image was put on the device to the end of the last.
    pub(crate) forward: Duration,
}

/// The way to the device; the thread ends when the last one is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    jobs: mpsc::Sender<Job>,
    /// Microseconds in which there was a forward pass so far.
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

    /// How long there was a forward pass on the device so far.
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
        self.ask(Job::Project(ProjectJob { features, plan, reply }), done).await
    }

    async fn ask<T>(&self, job: Job, done: oneshot::Receiver<Result<T>>) -> Result<T> {
        let gone = || Error::new(ErrorKind::Unavailable, "DEVICE_STOPPED", "the device's thread has stopped");
        self.jobs.send(job).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

/// The thread: forward passes while there are tiles, asleep while there are none. While a pass is on the device the next
/// one is put behind it, if the device is worth that, and while its rows are waited for, jobs wait too. Whatever came is taken
/// in before a pass, so that what nobody waits for any more is let go of with the next one. Projections go first, but no pass
/// that is full waits for more than one.
fn run<T: Tower>(tower: &T, tiles: usize, mut inbox: mpsc::Receiver<Job>, busy: &AtomicU64) {
    let (mut batcher, mut projections) = (Batcher::new(tiles), VecDeque::new());
    let mut passes = Passes { tower, on_device: VecDeque::new(), counted: Instant::now(), busy };
    loop {
        let is_idle = batcher.waiting() == 0 && passes.on_device.is_empty() && projections.is_empty();
        let has_room = projections.len() < inbox.max_capacity();
        let next = if is_idle { inbox.blocking_recv() } else { has_room.then(|| inbox.try_recv().ok()).flatten() };
        match next {
            Some(Job::Encode(job)) => {
                batcher.push(job);
                continue;
            }
            Some(Job::Project(job)) => {
                projections.push_back(job);
                continue;
            }
            None if is_idle => return,
            None => {}
        }
        if batcher.is_full() || projections.is_empty() {
            if batcher.waiting() > 0 && passes.on_device.len() < tower.passes_at_once() {
                passes.start(&mut batcher);
            } else {
                passes.finish_first(&mut batcher);
            }
        }
        if let Some(ProjectJob { features, plan, reply }) = projections.pop_front()
            && !reply.is_closed()
        {
            // The one who asked may leave meanwhile.
            let _ = reply.send(tower.project(&features, &plan));
        }
    }
}

/// The passes that are on the device, and the time that there was one.
struct Passes<'a, T: Tower> {
    tower: &'a T,
    /// Oldest first.
    on_device: VecDeque<(T::Pass, Shares)>,
    /// Until when the time is counted.
    counted: Instant,
    busy: &'a AtomicU64,
}

impl<T: Tower> Passes<'_, T> {
    /// Puts the next tiles on the device.
    fn start(&mut self, batcher: &mut Batcher) {
        let Batch { pixels, shares } = match batcher.take() {
            Ok(batch) => batch,
            Err(error) => return batcher.fail(&error),
        };
        if shares.is_empty() {
            return;
        }
        if self.on_device.is_empty() {
            self.counted = Instant::now();
        }
        match self.tower.start(&pixels) {
            Ok(pass) => self.on_device.push_back((pass, shares)),
            Err(error) => {
                self.count();
                batcher.finish(&shares, Err(error), |rows, plan| self.tower.pack(rows, plan));
            }
        }
    }

    /// Waits for the oldest pass, if there is one, and answers the images that it completes.
    fn finish_first(&mut self, batcher: &mut Batcher) {
        let Some((pass, shares)) = self.on_device.pop_front() else { return };
        batcher.finish(&shares, self.tower.finish(pass), |rows, plan| self.tower.pack(rows, plan));
        self.count();
    }

    fn count(&mut self) {
        let now = Instant::now();
        let spent = u64::try_from(now.duration_since(self.counted).as_micros()).unwrap_or(u64::MAX);
        self.busy.fetch_add(spent, Ordering::Relaxed);
        self.counted = now;
    }
}

impl Tower for VisionModel {
    type Pass = Pass;

    fn passes_at_once(&self) -> usize {
        self.passes_at_once()
    }

    fn start(&self, pixels: &[HostTensor]) -> Result<Pass> {
        self.start(pixels).map_err(|error| failed(&error))
    }

    fn finish(&self, pass: Pass) -> Result<HostTensor> {
        pass.finish().map_err(|error| failed(&error))
    }

    fn pack(&self, encoded: &HostTensor, plan: &Plan) -> Result<HostTensor> {
        self.pack(encoded, plan).map_err(|error| failed(&error))
    }

    fn project(&self, features: &HostTensor, plan: &Plan) -> Result<HostTensor> {
        self.project(features, plan).map_err(|error| failed(&error))
    }
}

/// The model failed on input that we made: a bug or a broken machine. Logged here, once.
fn failed(error: &ModelError) -> Error {
    tracing::error!(%error, "the vision model failed");
    Error::new(ErrorKind::Internal, "MODEL_FAILED", error.to_string())
}

#[cfg(test)]
mod tests;
