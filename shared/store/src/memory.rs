//! The tier in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tessera_embedding::{Artifact, ImageKey};

use crate::figures::{Counts, TierFigures};
use crate::index::{Entry, Index};

/// Artifacts in memory, within a budget of bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    index: Mutex<Index<Arc<Artifact>>>,
    counts: Counts,
}

impl Memory {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { index: Mutex::new(Index::new(bytes)), counts: Counts::default() }
    }

    /// The artifact of a key, which counts as a use.
    pub(crate) fn get(&self, key: &ImageKey, now: SystemTime) -> Option<Arc<Artifact>> {
        let found = {
            let mut index = self.lock();
            index.touch(key, now);
            index.get(key).map(|entry| entry.value.clone())
        };
        if found.is_some() {
            self.counts.hits.add(1)
        } else {
            self.counts.misses.add(1)
        }
        found
    }

    /// What is known about a key; no use.
    pub(crate) fn peek(&self, key: &ImageKey) -> Option<Entry<Arc<Artifact>>> {
        self.lock().get(key).cloned()
    }

    /// Keeps an artifact, if it fits and `wanted` still says so.
    pub(crate) fn insert(
        &self,
        key: &ImageKey,
        artifact: &Arc<Artifact>,
        now: SystemTime,
        wanted: impl FnOnce() -> bool,
    ) {
        let bytes = artifact.occupied_bytes();
        // What goes is freed after the lock.
        let mut gone = Vec::new();
        let mut index = self.lock();
        if !wanted() {
            return;
        }
        if !index.could_hold(bytes, now) {
            drop(index);
            self.counts.refused_writes.add(1);
            return;
        }
        while !index.has_room(bytes) {
            // There is always one: leases alone leave enough room.
            let Some(victim) = index.victim(now) else { return };
            gone.extend(index.remove(&victim.key));
        }
        self.counts.evictions.add(gone.len() as u64);
        index.insert(*key, Entry::new(bytes, Some(artifact.provenance.tenant), now, artifact.clone()));
        drop(index);
        self.counts.writes.add(1);
    }

    pub(crate) fn remove(&self, key: &ImageKey) -> bool {
        let removed = self.lock().remove(key);
        removed.is_some()
    }

    /// Removes an artifact that fails its checks.
    pub(crate) fn discard(&self, key: &ImageKey) {
        if self.remove(key) {
            self.counts.corrupt.add(1);
        }
    }

    pub(crate) fn figures(&self) -> TierFigures {
        self.lock().gauges(self.counts.figures())
    }

    /// The index is only ever changed by whole operations, so a panic elsewhere leaves it usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Index<Arc<Artifact>>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
