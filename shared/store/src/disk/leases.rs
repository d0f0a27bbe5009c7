//! Leases and last uses, which the times of the files tell after a restart.

use std::io;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use tessera_embedding::ImageKey;

use super::Disk;
use super::file::Place;
use super::mark::Mark;
use crate::index::{Entry, Refused};

/// The time of a file is set anew when the last use is this much later.
const MARK_AFTER: Duration = Duration::from_secs(10 * 60);

/// Why an artifact was not leased.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    #[error("refused")]
    Refused(Refused),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Disk {
    /// Keeps the file of a key until a time at least.
    pub(crate) fn lease(&self, key: &ImageKey, until: SystemTime, now: SystemTime) -> Result<SystemTime, HoldError> {
        let _key = self.lock_key(key);
        let mut index = self.lock();
        let before = index.get(key).and_then(|entry| entry.leased_until);
        let until = index.lease(key, until, now).map_err(HoldError::Refused)?;
        drop(index);
        let mark = Mark::of(now, Some(until));
        let place = Place::of(&self.folder, key);
        if let Err(error) = place.mark_durably(mark.time()) {
            // What was promised before still holds, as far as the disk lets it.
            let mut index = self.lock();
            index.release(key, now);
            if let Some(before) = before {
                // Its bytes were free a moment ago.
                let _ = index.lease(key, before, now);
            }
            drop(index);
            let _ = place.mark_durably(Mark::of(now, before).time());
            return Err(error.into());
        }
        if let Some(entry) = self.lock().get_mut(key) {
            entry.value = mark;
        }
        Ok(until)
    }

    /// Ends a lease; tells whether there was one.
    pub(crate) fn release(&self, key: &ImageKey, now: SystemTime) -> io::Result<bool> {
        let _key = self.lock_key(key);
        if !self.lock().release(key, now) {
            return Ok(false);
        }
        // Durably: or the lease is back after a power cut.
        let mark = Mark::of(now, None);
        Place::of(&self.folder, key).mark_durably(mark.time())?;
        if let Some(entry) = self.lock().get_mut(key) {
            entry.value = mark;
        }
        Ok(true)
    }

    /// Notes that an artifact was used.
    pub(crate) fn touch(&self, key: &ImageKey, now: SystemTime) {
        let mut index = self.lock();
        index.touch(key, now);
        let stale = index.get(key).is_some_and(is_stale);
        drop(index);
        if stale {
            self.stale.lock().unwrap_or_else(PoisonError::into_inner).insert(*key);
        }
    }

    /// Writes down when artifacts were used last, where what is written down is much older.
    pub(crate) fn mark_stale(&self) {
        let stale = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        for key in stale {
            let _key = self.lock_key(&key);
            let mark =
                self.lock().get(&key).filter(|entry| is_stale(entry)).map(|entry| Mark::of(entry.last_use, None));
            // A file without it goes a little earlier than it should; that is no trouble worth a line in the log.
            if let Some(mark) = mark
                && Place::of(&self.folder, &key).mark(mark.time()).is_ok()
                && let Some(entry) = self.lock().get_mut(&key)
            {
                entry.value = mark;
            }
        }
    }
}

/// Whether the file says of a last use that is long over.
fn is_stale(entry: &Entry<Mark>) -> bool {
    entry.leased_until.is_none() && entry.value.time() + MARK_AFTER <= entry.last_use
}
