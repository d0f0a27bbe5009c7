//! The tier on the disk: one file an artifact, within a budget that holds at every moment.
//!
//! A folder holds `ab/<key>.safetensors` for every key that begins with `ab`, `ab/.<key>.tmp` while it is being written, and
//! `lock`, which the process that has the folder holds. The time of a file is that of its last use, in whole seconds, or the
//! end of its lease and half a second: whoever copies a folder with its times copies the leases. There is no list
//! beside the files that could say something else than they do.
//!
//! Everything here blocks, and runs on the pool for blocking work. Who changes the file of a key holds the key's lock, so that
//! file and index agree; who needs room holds no such lock yet.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tessera_embedding::{Artifact, ArtifactHeader, ImageKey, TenantId};
use tracing::{info, warn};

use crate::figures::{Counts, TierFigures, Trouble};
use crate::index::{Entry, Index, Stay};
use crate::options::{DiskOptions, StoreError};

use file::{Place, ReadError, taken};
use mark::Mark;

mod file;
mod leases;
mod mark;
mod room;
mod scan;

pub(crate) use leases::HoldError;

/// Keys share so many locks.
const LOCKS: usize = 256;

/// Artifacts in files.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    index: Mutex<Index<Mark>>,
    /// Told whenever bytes that were set aside are free, or kept.
    settled: Condvar,
    /// Held by the one who makes room.
    turn: Mutex<()>,
    /// By the first byte of the key.
    locks: Vec<Mutex<()>>,
    /// Those that were used long after what their files say.
    stale: Mutex<BTreeSet<ImageKey>>,
    counts: Counts,
    writing: Trouble,
    reading: Trouble,
    _lock: File,
}

/// Why an artifact was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("there is no room for {0} bytes")]
    Room(u64),
    #[error("it was deleted meanwhile")]
    Unwanted,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why an artifact was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    Absent,
    Corrupt,
    Failed,
}

impl Disk {
    /// Takes a folder, and finds out what is in it.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be used, or another process has it.
    pub(crate) fn open(options: &DiskOptions, now: SystemTime) -> Result<Self, StoreError> {
        let scan::Scan { mut index, lock, leftovers, foreign } = scan::scan(options, now)?;
        let broken = index.break_leases();
        let disk = Self {
            folder: options.folder.clone(),
            index: Mutex::new(index),
            settled: Condvar::new(),
            turn: Mutex::new(()),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            stale: Mutex::default(),
            counts: Counts::default(),
            writing: Trouble::default(),
            reading: Trouble::default(),
            _lock: lock,
        };
        // The budget may be smaller than it was.
        let room = disk.reserve(0, now).map(drop);
        if let Err(error) = room {
            return Err(StoreError::Folder { path: disk.folder, source: io::Error::other(error) });
        }
        let TierFigures { artifacts, bytes, evictions, .. } = disk.figures();
        let folder = disk.folder.display();
        info!(%folder, artifacts, bytes, evictions, leftovers, "disk tier opened");
        if broken + foreign > 0 {
            warn!(%folder, foreign, broken_leases = broken, "the folder holds what does not belong or does not fit");
        }
        Ok(disk)
    }

    /// Writes the artifact of a key, unless it is not wanted any more when its turn comes.
    pub(crate) fn write(
        &self,
        key: &ImageKey,
        artifact: &Artifact,
        now: SystemTime,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), WriteError> {
        let written = self.try_write(key, artifact, now, wanted);
        match &written {
            Ok(()) => {
                self.counts.writes.add(1);
                if self.writing.ends() {
                    info!(folder = %self.folder.display(), "the disk tier can be written again");
                }
            }
            Err(WriteError::Room(_)) => self.counts.refused_writes.add(1),
            Err(WriteError::Unwanted) => {}
            Err(WriteError::Io(error)) => {
                self.counts.failed_writes.add(1);
                if self.writing.begins() {
                    warn!(folder = %self.folder.display(), %error, "the disk tier cannot be written, going on without");
                }
            }
        }
        written
    }

    fn try_write(
        &self,
        key: &ImageKey,
        artifact: &Artifact,
        now: SystemTime,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), WriteError> {
        let file = artifact.to_file(key);
        let reserved = self.reserve(taken(file.len()), now)?;
        let _key = self.lock_key(key);
        if !wanted() {
            return Err(WriteError::Unwanted);
        }
        let place = Place::of(&self.folder, key);
        let leased_until = self.lock().get(key).and_then(|entry| entry.leased_until);
        let mark = Mark::of(now, leased_until);
        if let Err(error) = place.write(&file, mark.time()) {
            if !place.is_clean() {
                reserved.write_off();
            }
            return Err(error.into());
        }
        reserved.keep(key, |bytes| Entry::new(bytes, Some(artifact.provenance.tenant), now, mark));
        Ok(place.sync()?)
    }

    /// Reads the artifact of a key, which counts as a use. What fails its checks is deleted.
    pub(crate) fn read(&self, key: &ImageKey, now: SystemTime) -> Option<Artifact> {
        let found = self.examine(key, now, Place::read).ok();
        match &found {
            Some(artifact) => {
                self.counts.hits.add(1);
                self.touch(key, now);
                self.learn(key, artifact.provenance.tenant);
            }
            None => self.counts.misses.add(1),
        }
        found
    }

    /// Reads an artifact only to check it: the length of its payload, if it passes.
    pub(crate) fn check(&self, key: &ImageKey, now: SystemTime) -> Result<u64, Miss> {
        self.examine(key, now, Place::read).map(|artifact| artifact.bytes() as u64)
    }

    /// Reads what an artifact says of itself.
    pub(crate) fn header(&self, key: &ImageKey, now: SystemTime) -> Option<ArtifactHeader> {
        let header = self.examine(key, now, Place::read_header).ok()?;
        self.learn(key, header.provenance.tenant);
        Some(header)
    }

    fn examine<T>(
        &self,
        key: &ImageKey,
        now: SystemTime,
        read: impl FnOnce(&Place, &ImageKey) -> Result<T, ReadError>,
    ) -> Result<T, Miss> {
        let stay = self.lock().stay(key).ok_or(Miss::Absent)?;
        let error = match read(&Place::of(&self.folder, key), key) {
            Ok(found) => {
                self.reading.ends();
                return Ok(found);
            }
            Err(error) => error,
        };
        match error {
            // It was evicted just now, or somebody deleted the file; either way it is not here.
            ReadError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                self.discard(&stay, now);
                Err(Miss::Absent)
            }
            ReadError::Corrupt(error) if self.discard(&stay, now) => {
                self.counts.corrupt.add(1);
                warn!(%key, %error, "deleted a corrupt artifact from the disk tier");
                Err(Miss::Corrupt)
            }
            // Evicted just now, or it cannot be deleted, which is in the log.
            ReadError::Corrupt(_) => Err(Miss::Absent),
            ReadError::Io(error) => {
                self.counts.failed_reads.add(1);
                if self.reading.begins() {
                    warn!(%key, %error, "the disk tier cannot be read, going on without");
                }
                Err(Miss::Failed)
            }
        }
    }

    /// Deletes the file of a key, so that a power cut does not bring it back; tells whether there was one.
    pub(crate) fn remove(&self, key: &ImageKey, now: SystemTime) -> bool {
        let _key = self.lock_key(key);
        let mut index = self.lock();
        index.release(key, now);
        let Some(stay) = index.stay(key) else { return false };
        drop(index);
        let deleted = self.unlink(&stay, now).and_then(|deleted| {
            Place::of(&self.folder, key).sync()?;
            Ok(deleted)
        });
        deleted.unwrap_or_else(|error| {
            warn!(%key, %error, "an artifact cannot be deleted from the disk tier");
            false
        })
    }

    /// Deletes a file that fails its checks, unless another one is there by now.
    fn discard(&self, stay: &Stay, now: SystemTime) -> bool {
        let _key = self.lock_key(&stay.key);
        let mut index = self.lock();
        if index.stay(&stay.key).as_ref() == Some(stay) {
            index.release(&stay.key, now);
        }
        drop(index);
        self.unlink(stay, now).unwrap_or_else(|error| {
            warn!(key = %stay.key, %error, "a corrupt artifact cannot be deleted from the disk tier");
            false
        })
    }

    /// What is known about a key without looking at its file.
    pub(crate) fn peek(&self, key: &ImageKey) -> Option<Entry<Mark>> {
        self.lock().get(key).cloned()
    }

    /// Notes that the shared tier has an artifact.
    pub(crate) fn note_remote(&self, key: &ImageKey) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.remote = true;
        }
    }

    /// Counts a read of a key that is known not to be here.
    pub(crate) fn count_miss(&self) {
        self.counts.misses.add(1);
    }

    fn learn(&self, key: &ImageKey, tenant: TenantId) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.tenant = Some(tenant);
        }
    }

    pub(crate) fn figures(&self) -> TierFigures {
        self.lock().gauges(self.counts.figures())
    }

    /// The index is only ever changed by whole operations, so a panic elsewhere leaves it usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Index<Mark>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else changes the file of this key while it is held.
    fn lock_key(&self, key: &ImageKey) -> MutexGuard<'_, ()> {
        let lock = &self.locks[usize::from(key.as_bytes()[0]) % LOCKS];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
