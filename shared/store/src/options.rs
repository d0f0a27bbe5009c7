//! What a store is opened with, and why that may fail.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Remote;

/// Bounds and tiers of a [`Store`](crate::Store).
#[derive(Clone)]
pub struct StoreOptions {
    /// Bytes kept in memory; the least recently used go first.
    pub memory_bytes: u64,
    /// Keys that may be in flight or waited for at once.
    pub open_keys: usize,
    /// What survives a restart.
    pub disk: Option<DiskOptions>,
    /// What all workers share.
    pub remote: Option<Arc<dyn Remote>>,
    /// Bytes of artifacts that may wait to be written to the shared tier.
    pub pending_bytes: u64,
}

/// The disk tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Where the files are. One process at a time may have it.
    pub folder: PathBuf,
    /// Bytes kept there, each file rounded up to 4 KiB; the least recently used that nobody leased go first.
    pub bytes: u64,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the folder.
    #[error("store folder {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be used.
    #[error("store folder {} cannot be used: {source}", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
