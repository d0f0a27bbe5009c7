//! Finding out at the start what is there, from names, lengths and times alone.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::file::{Name, name, taken};
use super::mark::Mark;
use crate::index::{Entry, Index};
use crate::options::{DiskOptions, StoreError};

/// Held by the process that has the folder.
const LOCK: &str = "lock";

/// What a folder holds.
pub(super) struct Scan {
    /// The artifacts; they may take more than the budget, which somebody may have made smaller.
    pub(super) index: Index<Mark>,
    /// Keeps others out as long as it is open; a process that is killed lets go, too.
    pub(super) lock: File,
    /// Unfinished files that were removed.
    pub(super) leftovers: u64,
    /// Files of somebody else, which stay.
    pub(super) foreign: u64,
}

/// Takes a folder and looks through it, making it where it is not there.
pub(super) fn scan(options: &DiskOptions, now: SystemTime) -> Result<Scan, StoreError> {
    let folder = &options.folder;
    fs::create_dir_all(folder).map_err(|error| unusable(folder, error))?;
    let lock = take(folder)?;
    let mut scan = Scan { index: Index::new(options.bytes), lock, leftovers: 0, foreign: 0 };
    let mut found = Vec::new();
    for byte in 0..=u8::MAX {
        let part = format!("{byte:02x}");
        let path = folder.join(&part);
        scan.look_through(&path, &part, &mut found).map_err(|error| unusable(&path, error))?;
    }
    // In the order of their times, so that equal ones keep some order, too.
    found.sort_unstable_by_key(|(key, _, modified)| (*modified, *key));
    for (key, bytes, modified) in found {
        let mark = Mark::read(modified);
        let mut entry = Entry::new(bytes, None, mark.last_use(now), mark);
        entry.leased_until = mark.leased_until(now);
        scan.index.insert(key, entry);
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| unusable(folder, error))?;
    Ok(scan)
}

impl Scan {
    fn look_through(
        &mut self,
        path: &Path,
        part: &str,
        found: &mut Vec<(tessera_embedding::ImageKey, u64, SystemTime)>,
    ) -> io::Result<()> {
        match fs::create_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            match entry.file_name().to_str().map_or(Name::Foreign, |file| name(part, file)) {
                Name::Leftover => {
                    fs::remove_file(entry.path())?;
                    self.leftovers += 1;
                }
                Name::Artifact(key) if metadata.is_file() => {
                    found.push((key, taken(metadata.len()), metadata.modified()?));
                }
                Name::Artifact(_) | Name::Foreign => self.foreign += 1,
            }
        }
        Ok(())
    }
}

/// Keeps other processes out of the folder.
fn take(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let lock = File::options().write(true).create(true).truncate(false).open(&path);
    let lock = lock.map_err(|error| unusable(&path, error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(unusable(&path, error)),
    }
}

fn unusable(path: &Path, source: io::Error) -> StoreError {
    StoreError::Folder { path: PathBuf::from(path), source }
}
