//! Masks computed while the device computes scores.

use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use super::matcher::{MatchError, Matcher};
use crate::engine::Mask;

type Computed = (Matcher, Result<Mask, MatchError>);

/// A matcher whose mask is wanted, and where to put it.
struct Job {
    matcher: Matcher,
    answer: Arc<Answer>,
}

/// Room for one mask. Waiting for it is allowed on every thread, those of a runtime included.
#[derive(Debug, Default)]
struct Answer {
    computed: Mutex<Option<Computed>>,
    ready: Condvar,
}

/// Some threads that compute masks. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct MaskPool {
    /// `None` only while the pool is dropped.
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// A mask that is being computed.
#[derive(Debug)]
pub(crate) struct PendingMask(Pending);

#[derive(Debug)]
enum Pending {
    Elsewhere(Arc<Answer>),
    /// The pool had no room: whoever takes the mask computes it.
    Here(Box<Matcher>),
}

impl MaskPool {
    /// Starts threads; at most `waiting` matchers wait for one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(threads: NonZeroUsize, waiting: NonZeroUsize) -> std::io::Result<Self> {
        let (jobs, inbox) = channel(waiting.get());
        let inbox = Arc::new(Mutex::new(inbox));
        let mut pool = Self { jobs: Some(jobs), threads: Vec::with_capacity(threads.get()) };
        for number in 0..threads.get() {
            let inbox = Arc::clone(&inbox);
            let thread = std::thread::Builder::new().name(format!("mask-{number}"));
            pool.threads.push(thread.spawn(move || run(&inbox))?);
        }
        Ok(pool)
    }

    /// Begins to compute a matcher's mask. Never waits: without room in the pool, [`PendingMask::take`] computes it.
    pub(crate) fn begin(&self, matcher: Matcher) -> PendingMask {
        let answer = Arc::<Answer>::default();
        let job = Job { matcher, answer: Arc::clone(&answer) };
        let refused = match &self.jobs {
            None => job,
            Some(jobs) => match jobs.try_send(job) {
                Ok(()) => return PendingMask(Pending::Elsewhere(answer)),
                Err(TrySendError::Full(job) | TrySendError::Closed(job)) => job,
            },
        };
        PendingMask(Pending::Here(Box::new(refused.matcher)))
    }
}

impl Drop for MaskPool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that computes masks panicked");
            }
        }
    }
}

impl PendingMask {
    /// Returns the matcher and its mask; waits only if the mask is not ready.
    pub(crate) fn take(self) -> (Matcher, Result<Mask, MatchError>) {
        match self.0 {
            Pending::Elsewhere(answer) => answer.wait(),
            Pending::Here(mut matcher) => {
                let mask = matcher.mask();
                (*matcher, mask)
            }
        }
    }
}

impl Answer {
    fn put(&self, computed: Computed) {
        *self.computed.lock().unwrap_or_else(PoisonError::into_inner) = Some(computed);
        self.ready.notify_one();
    }

    /// Waits: a pool answers every matcher that it took, even while it ends.
    fn wait(&self) -> Computed {
        let mut computed = self.computed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(computed) = computed.take() {
                return computed;
            }
            computed = self.ready.wait(computed).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A thread of the pool: until there are no jobs and nobody who could send one.
fn run(inbox: &Mutex<Receiver<Job>>) {
    loop {
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(Job { mut matcher, answer }) = job else { return };
        let mask = matcher.mask();
        answer.put((matcher, mask));
    }
}
