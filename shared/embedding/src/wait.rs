//! Why somebody who waits for features gets none. Here, and not with the store, so that whoever speaks of it need not
//! link its tiers.

use crate::ImageKey;

/// An encoding that ended without an outcome: its task was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the encoding was given up before it was done")]
pub struct Abandoned;

/// Too many keys are open already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{open} images are being encoded or waited for already, the limit is {limit}")]
pub struct Busy {
    /// How many.
    pub open: usize,
    /// How many may be.
    pub limit: usize,
}

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
