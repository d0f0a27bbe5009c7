//! A guard in front of a server: bounds how long and how many operations run, and stops asking a server that is away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tessera_embedding::ImageKey;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Remote, RemoteError};

/// Bounds of a [`Breaker`].
#[derive(Clone, Copy, Debug)]
pub struct BreakerOptions {
    /// How long an operation may take, the wait for a place included.
    pub timeout: Duration,
    /// Places: how many operations may run at once.
    pub operations: usize,
    /// How many failures in a row open it.
    pub failures: u32,
    /// How long it stays open first; twice as long after every probe that fails.
    pub backoff: Duration,
    /// How long it stays open at most.
    pub backoff_limit: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            operations: 16,
            failures: 5,
            backoff: Duration::from_secs(1),
            backoff_limit: Duration::from_mins(1),
        }
    }
}

/// What a [`Breaker`] lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing, until its time is over.
    Open,
    /// One operation, whose outcome decides; or the next one will be that.
    Probing,
}

/// What a [`Breaker`] saw so far. Every operation that ended is counted once under hits, misses, done, refused, failures
/// or rejected; one that its caller gave up is counted nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerStatus {
    /// What it lets through now.
    pub state: BreakerState,
    /// Artifacts that were read.
    pub hits: u64,
    /// Keys that were not there.
    pub misses: u64,
    /// Artifacts that were written, keys that were deleted or were not there to be.
    pub done: u64,
    /// Answers of a server that is well: full, still counting, an artifact that is too large, a foreign value.
    pub refused: u64,
    /// Operations that failed or took too long.
    pub failures: u64,
    /// Operations that were not begun: the breaker was open, or no place came free.
    pub rejected: u64,
    /// How often it opened.
    pub opened: u64,
}

/// A [`Remote`] that fails fast. It opens after several failures in a row, and closes by itself: when its time is over, one
/// operation goes through as a probe, and what becomes of it decides.
pub struct Breaker {
    remote: Arc<dyn Remote>,
    options: BreakerOptions,
    places: Semaphore,
    phase: Mutex<Phase>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed { failures: u32 },
    Open { until: Instant, backoff: Duration },
    Probing { backoff: Duration },
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
    failures: AtomicU64,
    rejected: AtomicU64,
    opened: AtomicU64,
}

/// An operation that was let through. A probe that is dropped undecided lets the next one probe.
struct Pass<'a> {
    breaker: &'a Breaker,
    probes: bool,
}

impl Breaker {
    /// Guards a server.
    pub fn new(remote: Arc<dyn Remote>, options: BreakerOptions) -> Self {
        Self {
            remote,
            options,
            places: Semaphore::new(options.operations),
            phase: Mutex::new(Phase::Closed { failures: 0 }),
            counts: Counts::default(),
        }
    }

    /// What it lets through now, and what it saw so far.
    pub fn status(&self) -> BreakerStatus {
        let state = match *self.phase() {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { until, .. } if Instant::now() < until => BreakerState::Open,
            Phase::Open { .. } | Phase::Probing { .. } => BreakerState::Probing,
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BreakerStatus {
            state,
            hits: count(&self.counts.hits),
            misses: count(&self.counts.misses),
            done: count(&self.counts.done),
            refused: count(&self.counts.refused),
            failures: count(&self.counts.failures),
            rejected: count(&self.counts.rejected),
            opened: count(&self.counts.opened),
        }
    }

    /// Runs an operation if it may run, for as long as it may; counts it unless it succeeds.
    async fn run<T>(&self, operation: BoxFuture<'_, Result<T, RemoteError>>) -> Result<T, RemoteError> {
        let outcome = self.guarded(operation).await;
        let counter = match &outcome {
            Ok(_) => return outcome,
            Err(RemoteError::Open(_) | RemoteError::Busy(_)) => &self.counts.rejected,
            Err(error) if error.is_failure() => &self.counts.failures,
            Err(_) => &self.counts.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    async fn guarded<T>(&self, operation: BoxFuture<'_, Result<T, RemoteError>>) -> Result<T, RemoteError> {
        self.phase().look()?;
        let timeout = self.options.timeout;
        let (busy, deadline) = (RemoteError::Busy(self.options.operations), Instant::now() + timeout);
        let Ok(Ok(_place)) = timeout_at(deadline, self.places.acquire()).await else { return Err(busy) };
        let pass = self.pass()?;
        let begun = Instant::now();
        match timeout_at(deadline, operation).await {
            Ok(outcome) => {
                pass.settle(outcome.as_ref().err());
                outcome
            }
            // One that spent most of its time waiting for a place says nothing about the server.
            Err(_) if deadline - begun < timeout / 2 => Err(busy),
            Err(_) => {
                let slow = RemoteError::Slow(timeout);
                pass.settle(Some(&slow));
                Err(slow)
            }
        }
    }

    /// Lets an operation through, as the probe if one is due.
    fn pass(&self) -> Result<Pass<'_>, RemoteError> {
        let mut phase = self.phase();
        phase.look()?;
        let probes = if let Phase::Open { backoff, .. } = *phase {
            *phase = Phase::Probing { backoff };
            true
        } else {
            false
        };
        Ok(Pass { breaker: self, probes })
    }

    /// The phase is only ever replaced as a whole, so a panic elsewhere leaves it usable.
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, backoff: Duration) -> Phase {
        Phase::Open { until: Instant::now() + backoff, backoff }
    }
}

impl Phase {
    /// Turns an operation away that may not begin now.
    fn look(&self) -> Result<(), RemoteError> {
        match *self {
            Self::Open { until, .. } if Instant::now() < until => Err(RemoteError::Open(until - Instant::now())),
            Self::Probing { .. } => Err(RemoteError::Open(Duration::ZERO)),
            Self::Closed { .. } | Self::Open { .. } => Ok(()),
        }
    }
}

impl Pass<'_> {
    /// Draws the conclusion from an operation's end.
    fn settle(mut self, error: Option<&RemoteError>) {
        let probes = std::mem::take(&mut self.probes);
        let failed = error.filter(|error| error.is_failure());
        let options = &self.breaker.options;
        let mut phase = self.breaker.phase();
        match (*phase, failed) {
            (Phase::Probing { .. }, None) if probes => {
                *phase = Phase::Closed { failures: 0 };
                drop(phase);
                tracing::info!("shared store is back");
            }
            (Phase::Probing { backoff }, Some(error)) if probes => {
                *phase = self.breaker.open((backoff * 2).min(options.backoff_limit));
                tracing::debug!(%error, "shared store is still away");
            }
            (Phase::Closed { .. }, None) => *phase = Phase::Closed { failures: 0 },
            (Phase::Closed { failures }, Some(_)) if failures + 1 < options.failures => {
                *phase = Phase::Closed { failures: failures + 1 };
            }
            (Phase::Closed { failures }, Some(error)) => {
                *phase = self.breaker.open(options.backoff);
                drop(phase);
                self.breaker.counts.opened.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(failures = failures + 1, %error, "shared store is away, going on without it");
            }
            // It was begun before the breaker opened: the probe decides, not this one.
            (Phase::Open { .. } | Phase::Probing { .. }, _) => {}
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probes {
            let mut phase = self.breaker.phase();
            if let Phase::Probing { backoff } = *phase {
                *phase = Phase::Open { until: Instant::now(), backoff };
            }
        }
    }
}

impl Remote for Breaker {
    fn get<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<Option<Bytes>, RemoteError>> {
        async move {
            let artifact = self.run(self.remote.get(key)).await?;
            let counter = if artifact.is_some() { &self.counts.hits } else { &self.counts.misses };
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(artifact)
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a ImageKey, artifact: Bytes) -> BoxFuture<'a, Result<(), RemoteError>> {
        async move {
            self.run(self.remote.put(key, artifact)).await?;
            self.counts.done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<bool, RemoteError>> {
        async move {
            let was_there = self.run(self.remote.delete(key)).await?;
            self.counts.done.fetch_add(1, Ordering::Relaxed);
            Ok(was_there)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
