//! Single flight: who encodes a key, who waits for it, and what they are told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tessera_embedding::{Abandoned, Artifact, Busy, ImageKey};
use tokio::sync::watch;

use crate::about::Kept;
use crate::store::Store;

/// What became of a key in flight.
#[derive(Clone, Debug)]
enum Outcome<E> {
    Pending,
    /// Readers may have it; it is not yet kept.
    Announced(Arc<Artifact>),
    Stored(Arc<Artifact>, Kept),
    Failed(E),
}

/// A key that somebody encodes, waits for, or both.
#[derive(Debug)]
pub(crate) struct Open<E> {
    outcome: watch::Sender<Outcome<E>>,
    /// True while a [`Lead`] exists.
    led: bool,
}

/// The keys that are open, at most so many.
#[derive(Debug)]
pub(crate) struct OpenKeys<E> {
    keys: Mutex<HashMap<ImageKey, Open<E>>>,
    limit: usize,
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
    state: State,
}

/// How far a [`Lead`] is.
#[derive(Debug)]
enum State {
    Encoding,
    Keeping(Arc<Artifact>),
    Finished,
}

/// A place behind somebody else's encoding.
#[derive(Debug)]
pub struct Joined<E> {
    store: Store<E>,
    key: ImageKey,
    outcome: watch::Receiver<Outcome<E>>,
}

impl<E> OpenKeys<E> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { keys: Mutex::new(HashMap::new()), limit }
    }

    /// The map is only ever changed by whole operations, so a panic elsewhere leaves it usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<ImageKey, Open<E>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a key, a new one if need be.
    pub(crate) fn entry<'a>(
        &self,
        keys: &'a mut HashMap<ImageKey, Open<E>>,
        key: &ImageKey,
    ) -> Result<&'a mut Open<E>, Busy> {
        if !keys.contains_key(key) && keys.len() >= self.limit {
            return Err(Busy { open: keys.len(), limit: self.limit });
        }
        Ok(keys.entry(*key).or_insert_with(|| Open { outcome: watch::channel(Outcome::Pending).0, led: false }))
    }
}

impl<E: Clone + From<Abandoned>> Open<E> {
    pub(crate) fn is_led(&self) -> bool {
        self.led
    }

    /// Makes the caller the one who encodes.
    pub(crate) fn lead(&mut self, store: &Store<E>, key: &ImageKey) -> Lead<E> {
        self.led = true;
        Lead { store: store.clone(), key: *key, state: State::Encoding }
    }

    /// Puts the caller behind whoever encodes, or will.
    pub(crate) fn join(&self, store: &Store<E>, key: &ImageKey) -> Joined<E> {
        Joined { store: store.clone(), key: *key, outcome: self.outcome.subscribe() }
    }

    /// Tells readers that it is there.
    pub(crate) fn announce(&self, artifact: &Arc<Artifact>) {
        self.outcome.send_replace(Outcome::Announced(artifact.clone()));
    }

    /// Tells everybody who waits that it is kept.
    pub(crate) fn finish(self, artifact: Arc<Artifact>, kept: Kept) {
        self.outcome.send_replace(Outcome::Stored(artifact, kept));
    }
}

impl<E: Clone + From<Abandoned>> Lead<E> {
    /// Waits like everybody else: for a caller whose encoding runs as a task of its own.
    pub fn join(&self) -> Joined<E> {
        let open = self.store.open.lock();
        let outcome = match open.get(&self.key) {
            Some(entry) => entry.outcome.subscribe(),
            // Cannot happen while the lead exists; a receiver without a sender reads as abandoned.
            None => watch::channel(Outcome::Pending).1,
        };
        Joined { store: self.store.clone(), key: self.key, outcome }
    }

    /// Waits until nobody waits for it any more, and gives it up: whoever comes then begins anew.
    pub async fn given_up(&mut self) {
        let open = |store: &Store<E>, key| store.open.lock().get(key).map(|entry| entry.outcome.clone());
        while let Some(outcome) = open(&self.store, &self.key) {
            outcome.closed().await;
            let mut open = self.store.open.lock();
            // Somebody may have come just now.
            if open.get(&self.key).is_some_and(|entry| entry.outcome.receiver_count() == 0) {
                open.remove(&self.key);
                self.state = State::Finished;
                return;
            }
        }
    }

    /// Stores the features: first in memory, where those who [`wait`](Store::wait) for them find them at once; then on the
    /// disk, after which those who [joined](Joined::outcome) are told.
    pub async fn store(self, artifact: Artifact) -> Arc<Artifact> {
        self.keep(Arc::new(artifact)).await
    }

    pub(crate) async fn keep(mut self, artifact: Arc<Artifact>) -> Arc<Artifact> {
        self.state = State::Keeping(artifact.clone());
        {
            let open = self.store.open.lock();
            self.store.tiers.put_in_memory(&self.key, &artifact);
            if let Some(entry) = open.get(&self.key) {
                entry.announce(&artifact);
            }
        }
        let kept = self.store.tiers.persist(&self.key, &artifact).await;
        self.finish(Outcome::Stored(artifact.clone(), kept));
        artifact
    }

    /// Tells everybody who waits that it failed; the next caller may try again.
    pub fn fail(mut self, why: E) {
        self.finish(Outcome::Failed(why));
    }

    fn finish(&mut self, outcome: Outcome<E>) {
        self.state = State::Finished;
        if let Some(entry) = self.store.open.lock().remove(&self.key) {
            entry.outcome.send_replace(outcome);
        }
    }
}

impl<E: Clone + From<Abandoned>> Drop for Lead<E> {
    fn drop(&mut self) {
        match &self.state {
            State::Finished => {}
            State::Encoding => self.finish(Outcome::Failed(Abandoned.into())),
            // The disk may have it in a moment; nobody is there to say so.
            State::Keeping(artifact) => self.finish(Outcome::Stored(artifact.clone(), Kept::InMemory)),
        }
    }
}

impl<E: Clone + From<Abandoned>> Joined<E> {
    /// Waits for the one who encodes, until it is known how well the features are kept.
    ///
    /// # Errors
    /// What the encoding failed with.
    pub async fn outcome(mut self) -> Result<(Arc<Artifact>, Kept), E> {
        let over = |outcome: &Outcome<E>| !matches!(outcome, Outcome::Pending | Outcome::Announced(_));
        match self.outcome.wait_for(over).await.as_deref() {
            Ok(Outcome::Stored(artifact, kept)) => Ok((artifact.clone(), *kept)),
            Ok(Outcome::Failed(why)) => Err(why.clone()),
            Ok(Outcome::Pending | Outcome::Announced(_)) | Err(_) => Err(Abandoned.into()),
        }
    }

    /// Waits until the features can be read.
    pub(crate) async fn announced(mut self) -> Result<Arc<Artifact>, E> {
        match self.outcome.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await.as_deref() {
            Ok(Outcome::Announced(artifact) | Outcome::Stored(artifact, _)) => Ok(artifact.clone()),
            Ok(Outcome::Failed(why)) => Err(why.clone()),
            Ok(Outcome::Pending) | Err(_) => Err(Abandoned.into()),
        }
    }
}

impl<E> Drop for Joined<E> {
    /// The last one to stop waiting for a key that nobody encodes closes it.
    fn drop(&mut self) {
        let mut open = self.store.open.lock();
        let only_mine = open.get(&self.key).is_some_and(|entry| !entry.led && entry.outcome.receiver_count() <= 1);
        if only_mine {
            open.remove(&self.key);
        }
    }
}
