//! Making room, so that the budget holds at every moment: bytes are set aside before anything is written, and are free again
//! only when the file is gone.

use std::fs;
use std::io;
use std::sync::PoisonError;
use std::time::SystemTime;

use tessera_embedding::ImageKey;

use super::file::Place;
use super::mark::Mark;
use super::{Disk, WriteError};
use crate::index::{Entry, Stay};

/// Bytes that are set aside, until they are kept or given back.
pub(super) struct Reserved<'a> {
    disk: &'a Disk,
    bytes: u64,
}

impl Disk {
    /// Sets bytes aside. For that it deletes what was not used for longest, if it must, and waits for others to have
    /// written what they set bytes aside for, if that helps.
    pub(super) fn reserve(&self, bytes: u64, now: SystemTime) -> Result<Reserved<'_>, WriteError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = self.lock();
        loop {
            if !index.could_hold(bytes, now) {
                return Err(WriteError::Room(bytes));
            }
            if index.reserve(bytes) {
                return Ok(Reserved { disk: self, bytes });
            }
            if let Some(victim) = index.victim(now) {
                drop(index);
                let _key = self.lock_key(&victim.key);
                if self.unlink(&victim, now)? {
                    self.counts.evictions.add(1);
                }
                index = self.lock();
            } else if index.has_reservations() {
                index = self.settled.wait(index).unwrap_or_else(PoisonError::into_inner);
            } else {
                return Err(WriteError::Room(bytes));
            }
        }
    }

    /// Removes a file whose key the caller has locked. Its room is free when it is gone.
    pub(super) fn unlink(&self, stay: &Stay, now: SystemTime) -> io::Result<bool> {
        let Some(bytes) = self.lock().detach(stay, now) else { return Ok(false) };
        let reserved = Reserved { disk: self, bytes };
        match fs::remove_file(Place::of(&self.folder, &stay.key).file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // It is still there, as far as anybody knows, and takes its room until the next start looks.
                reserved.write_off();
                Err(error)
            }
            _ => Ok(true),
        }
    }
}

impl Reserved<'_> {
    /// Makes an entry of the bytes.
    pub(super) fn keep(mut self, key: &ImageKey, entry: impl FnOnce(u64) -> Entry<Mark>) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut index = self.disk.lock();
        index.unreserve(bytes);
        index.insert(*key, entry(bytes));
    }

    /// Gives the bytes up: what they were for cannot be removed.
    pub(super) fn write_off(mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.disk.lock().write_off(bytes);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.disk.lock().unreserve(self.bytes);
        self.disk.settled.notify_all();
    }
}
