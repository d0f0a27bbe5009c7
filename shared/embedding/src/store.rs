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

/// An encoding that ended without an outcome: its task was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the encoding was given up before it was done")]
pub struct Abandoned;

/// Why waiting for a key ended without features.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError<E> {
    /// Nobody stored it in time.
    #[error("image {0} is not stored and was not stored in time")]
    NotFound(ImageKey),
    /// It was being encoded, and that failed.
    #[error("image {0} could not be encoded")]
    Failed(ImageKey, E),
    /// Too many keys are open already.
    #[error(transparent)]
    Busy(#[from] Busy),
}

/// Too many keys are open already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{open} images are being encoded or waited for already, the limit is {limit}")]
pub struct Busy {
    /// How many.
    pub open: usize,
    /// How many may be.
    pub limit: usize,
}

/// What became of a key in flight.
#[derive(Clone, Debug)]
enum Outcome<E> {
    Pending,
    Stored(Arc<Artifact>),
    Failed(E),
}

/// A key that somebody encodes, waits for, or both.
#[derive(Debug)]
struct Open<E> {
    outcome: watch::Sender<Outcome<E>>,
    /// True while a [`Lead`] exists.
    led: bool,
}

/// Features by image key. `E` is what an encoding fails with; everybody who joined it gets the same.
#[derive(Clone, Debug)]
pub struct Store<E> {
    stored: Cache<ImageKey, Arc<Artifact>>,
    open: Arc<Mutex<HashMap<ImageKey, Open<E>>>>,
    open_limit: usize,
}

/// Answer to [`Store::begin`].
#[derive(Debug)]
pub enum Begin<E: Clone + From<Abandoned>> {
    /// Stored already.
    Stored(Arc<Artifact>),
    /// Nobody encodes it: the caller must, and tell through the [`Lead`].
    Lead(Lead<E>),
    /// Somebody encodes it: [`Joined::outcome`] waits for them.
    Join(Joined<E>),
}

/// The duty to encode one key. Dropping it unfinished tells everybody who waits that it failed.
#[derive(Debug)]
pub struct Lead<E: Clone + From<Abandoned>> {
    store: Store<E>,
    key: ImageKey,
    finished: bool,
}

/// A place behind somebody else's encoding.
#[derive(Debug)]
pub struct Joined<E> {
    store: Store<E>,
    key: ImageKey,
    outcome: watch::Receiver<Outcome<E>>,
}

impl<E: Clone + From<Abandoned>> Store<E> {
    /// Makes an empty store.
    pub fn new(options: StoreOptions) -> Self {
        let weigh = |_: &ImageKey, artifact: &Arc<Artifact>| u32::try_from(artifact.bytes()).unwrap_or(u32::MAX);
        // Least recently used, not frequency based: a new entry must be readable right after it was announced.
        let stored = Cache::builder()
            .max_capacity(options.memory_bytes)
            .weigher(weigh)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { stored, open: Arc::new(Mutex::new(HashMap::new())), open_limit: options.open_keys }
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
    /// [`Busy`] when too many keys are open.
    pub fn begin(&self, key: ImageKey) -> Result<Begin<E>, Busy> {
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
    pub async fn wait(&self, key: ImageKey, patience: Duration) -> Result<Arc<Artifact>, WaitError<E>> {
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

    fn entry<'a>(&self, open: &'a mut HashMap<ImageKey, Open<E>>, key: ImageKey) -> Result<&'a mut Open<E>, Busy> {
        if !open.contains_key(&key) && open.len() >= self.open_limit {
            return Err(Busy { open: open.len(), limit: self.open_limit });
        }
        Ok(open.entry(key).or_insert_with(|| Open { outcome: watch::channel(Outcome::Pending).0, led: false }))
    }
}

impl<E> Store<E> {
    /// The map is only ever changed by whole operations, so a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, HashMap<ImageKey, Open<E>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Clone + From<Abandoned>> Lead<E> {
    /// Waits like everybody else: for a caller whose encoding runs as a task of its own.
    pub fn join(&self) -> Joined<E> {
        let open = self.store.lock();
        let outcome = match open.get(&self.key) {
            Some(entry) => entry.outcome.subscribe(),
            // Cannot happen while the lead exists; a receiver without a sender reads as abandoned.
            None => watch::channel(Outcome::Pending).1,
        };
        Joined { store: self.store.clone(), key: self.key, outcome }
    }

    /// True while somebody waits for it.
    pub fn is_wanted(&self) -> bool {
        self.store.lock().get(&self.key).is_some_and(|entry| entry.outcome.receiver_count() > 0)
    }

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
    pub fn fail(mut self, why: E) {
        self.finish_failed(why);
    }

    fn finish_failed(&mut self, why: E) {
        self.finished = true;
        if let Some(entry) = self.store.lock().remove(&self.key) {
            entry.outcome.send_replace(Outcome::Failed(why));
        }
    }
}

impl<E: Clone + From<Abandoned>> Drop for Lead<E> {
    fn drop(&mut self) {
        if !self.finished {
            self.finish_failed(Abandoned.into());
        }
    }
}

impl<E: Clone + From<Abandoned>> Joined<E> {
    /// Waits for the one who encodes.
    ///
    /// # Errors
    /// What the encoding failed with.
    pub async fn outcome(mut self) -> Result<Arc<Artifact>, E> {
        let outcome = self.outcome.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await;
        match outcome.as_deref() {
            Ok(Outcome::Stored(artifact)) => Ok(artifact.clone()),
            Ok(Outcome::Failed(why)) => Err(why.clone()),
            Ok(Outcome::Pending) | Err(_) => Err(Abandoned.into()),
        }
    }
}

impl<E> Drop for Joined<E> {
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
