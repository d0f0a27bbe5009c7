//! The store of a vision worker: a byte-budgeted memory tier, single flight per key, and waiting for a key to come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::watch;

use crate::{Artifact, ImageKey};

/// Bounds of a [`Store`].
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Payload bytes kept in memory; the least recently used go first.
    pub memory_bytes: u64,
    /// Keys that may be in flight or waited for at once.
    pub open_keys: usize,
}

/// Why an encoding failed, for those who joined it: reason and message of the error that its leader got.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EncodeFailed {
    /// Stable reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Why waiting for a key ended without features.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// Nobody stored it in time.
    #[error("image {0} is not stored and was not stored in time")]
    NotFound(ImageKey),
    /// It was being encoded, and that failed.
    #[error("image {0} could not be encoded: {1}")]
    Failed(ImageKey, EncodeFailed),
    /// Too many keys are open already.
    #[error("{0} keys are being encoded or waited for already, the limit is {1}")]
    Busy(usize, usize),
}

/// What became of a key in flight.
#[derive(Clone, Debug)]
enum Outcome {
    Pending,
    Stored(Arc<Artifact>),
    Failed(EncodeFailed),
}

/// A key that somebody encodes, waits for, or both.
#[derive(Debug)]
struct Open {
    outcome: watch::Sender<Outcome>,
    /// True while a [`Lead`] exists.
    led: bool,
}

/// Features by image key.
#[derive(Clone, Debug)]
pub struct Store {
    stored: Cache<ImageKey, Arc<Artifact>>,
    open: Arc<Mutex<HashMap<ImageKey, Open>>>,
    open_limit: usize,
}

/// Answer to [`Store::begin`].
#[derive(Debug)]
pub enum Begin {
    /// Stored already.
    Stored(Arc<Artifact>),
    /// Nobody encodes it: the caller must, and tell through the [`Lead`].
    Lead(Lead),
    /// Somebody encodes it: [`Joined::outcome`] waits for them.
    Join(Joined),
}

/// The duty to encode one key. Dropping it unfinished tells everybody who waits that it failed.
#[derive(Debug)]
pub struct Lead {
    store: Store,
    key: ImageKey,
    finished: bool,
}

/// A place behind somebody else's encoding.
#[derive(Debug)]
pub struct Joined {
    store: Store,
    key: ImageKey,
    outcome: watch::Receiver<Outcome>,
}

impl Store {
    /// Makes an empty store.
    pub fn new(options: StoreOptions) -> Self {
        let weigh = |_: &ImageKey, artifact: &Arc<Artifact>| u32::try_from(artifact.bytes()).unwrap_or(u32::MAX);
        // Least recently used, not frequency based: a new entry must be readable right after it was announced.
        let stored = Cache::builder()
            .max_capacity(options.memory_bytes)
            .weigher(weigh)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { stored, open: Arc::default(), open_limit: options.open_keys }
    }

    /// Returns the features of a key that is stored.
    pub fn get(&self, key: &ImageKey) -> Option<Arc<Artifact>> {
        self.stored.get(key)
    }

    /// Payload bytes in memory now.
    pub fn memory_bytes(&self) -> u64 {
        self.stored.run_pending_tasks();
        self.stored.weighted_size()
    }

    /// Starts to encode a key, unless it is stored or somebody does so already.
    ///
    /// # Errors
    /// [`WaitError::Busy`] when too many keys are open.
    pub fn begin(&self, key: ImageKey) -> Result<Begin, WaitError> {
        let mut open = self.lock();
        if let Some(artifact) = self.stored.get(&key) {
            return Ok(Begin::Stored(artifact));
        }
        let entry = self.entry(&mut open, key)?;
        if entry.led {
            return Ok(Begin::Join(Joined { store: self.clone(), key, outcome: entry.outcome.subscribe() }));
        }
        entry.led = true;
        Ok(Begin::Lead(Lead { store: self.clone(), key, finished: false }))
    }

    /// Waits until a key is stored, for at most `patience`; the key may be unknown so far.
    ///
    /// # Errors
    /// [`WaitError`] when it does not come, its encoding failed, or too many keys are open.
    pub async fn wait(&self, key: ImageKey, patience: Duration) -> Result<Arc<Artifact>, WaitError> {
        if let Some(artifact) = self.stored.get(&key) {
            return Ok(artifact);
        }
        let joined = {
            let mut open = self.lock();
            if let Some(artifact) = self.stored.get(&key) {
                return Ok(artifact);
            }
            if patience.is_zero() && !open.contains_key(&key) {
                return Err(WaitError::NotFound(key));
            }
            let outcome = self.entry(&mut open, key)?.outcome.subscribe();
            Joined { store: self.clone(), key, outcome }
        };
        match tokio::time::timeout(patience, joined.outcome()).await {
            Ok(outcome) => outcome.map_err(|failed| WaitError::Failed(key, failed)),
            Err(_) => Err(WaitError::NotFound(key)),
        }
    }

    fn entry<'a>(&self, open: &'a mut HashMap<ImageKey, Open>, key: ImageKey) -> Result<&'a mut Open, WaitError> {
        if !open.contains_key(&key) && open.len() >= self.open_limit {
            return Err(WaitError::Busy(open.len(), self.open_limit));
        }
        Ok(open.entry(key).or_insert_with(|| Open { outcome: watch::channel(Outcome::Pending).0, led: false }))
    }

    /// The map is only ever changed by whole operations, so a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, HashMap<ImageKey, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    /// Stores the features and tells everybody who waits: first stored, then announced.
    pub fn store(mut self, artifact: Artifact) -> Arc<Artifact> {
        let artifact = Arc::new(artifact);
        let mut open = self.store.lock();
        self.store.stored.insert(self.key, artifact.clone());
        if let Some(entry) = open.remove(&self.key) {
            entry.outcome.send_replace(Outcome::Stored(artifact.clone()));
        }
        drop(open);
        self.finished = true;
        artifact
    }

    /// Tells everybody who waits that it failed; the next caller may try again.
    pub fn fail(mut self, why: EncodeFailed) {
        self.finish_failed(why);
    }

    fn finish_failed(&mut self, why: EncodeFailed) {
        self.finished = true;
        if let Some(entry) = self.store.lock().remove(&self.key) {
            entry.outcome.send_replace(Outcome::Failed(why));
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.finished {
            self.finish_failed(EncodeFailed {
                reason: "ENCODE_ABANDONED",
                message: "the encoding was given up before it was done".into(),
            });
        }
    }
}

impl Joined {
    /// Waits for the one who encodes.
    ///
    /// # Errors
    /// [`EncodeFailed`] with the leader's reason.
    pub async fn outcome(mut self) -> Result<Arc<Artifact>, EncodeFailed> {
        let outcome = self.outcome.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await;
        match outcome.as_deref() {
            Ok(Outcome::Stored(artifact)) => Ok(artifact.clone()),
            Ok(Outcome::Failed(why)) => Err(why.clone()),
            Ok(Outcome::Pending) | Err(_) => {
                Err(EncodeFailed { reason: "ENCODE_ABANDONED", message: "the encoding ended without an outcome".into() })
            }
        }
    }
}

impl Drop for Joined {
    /// The last one to stop waiting for a key that nobody encodes closes it.
    fn drop(&mut self) {
        let mut open = self.store.lock();
        let only_mine = open.get(&self.key).is_some_and(|entry| !entry.led && entry.outcome.receiver_count() <= 1);
        if only_mine {
            open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
