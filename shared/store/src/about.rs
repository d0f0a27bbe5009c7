//! What a store tells about the artifacts that it keeps.

use std::time::SystemTime;

use tessera_anyres::ImageSize;
use tessera_embedding::{ArtifactHeader, ImageKey, Provenance, TenantId};
use tessera_tensor::DType;

/// How well an artifact is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// On this machine's disk: it survives a restart and a power cut. Where there is no disk tier: in the shared tier, which
    /// survives a restart of this process.
    Durably,
    /// Only as long as the process runs: there is no disk tier, or it could not be written.
    InMemory,
}

/// What is known about a stored artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Whose features.
    pub key: ImageKey,
    /// Size of the image.
    pub image_size: ImageSize,
    /// Rows and channels.
    pub shape: (usize, usize),
    /// The element type that the rows were computed in.
    pub dtype: DType,
    /// Whether they are kept in eight bits a number.
    pub eight_bit: bool,
    /// Bytes of the payload.
    pub bytes: u64,
    /// Whether it is in memory.
    pub memory: bool,
    /// Whether it is on the disk.
    pub disk: bool,
    /// Whether this process has seen it in the shared tier since it started.
    pub remote: bool,
    /// Where it comes from.
    pub provenance: Provenance,
    /// Until when it is leased.
    pub leased_until: Option<SystemTime>,
}

/// An artifact in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Whose features.
    pub key: ImageKey,
    /// Bytes that it takes of the tier's budget.
    pub bytes: u64,
    /// Whose it is; not known of a file that nobody has read since the start.
    pub tenant: Option<TenantId>,
    /// When it was used last.
    pub last_use: SystemTime,
    /// Until when it is leased.
    pub leased_until: Option<SystemTime>,
}

/// What came of a look at everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Artifacts read.
    pub checked: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Artifacts that failed their checks and were deleted.
    pub corrupt: u64,
}

/// Why an artifact was not leased.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// It is in no tier.
    #[error("image {0} is not stored")]
    NotFound(ImageKey),
    /// Leases may take half of the budget.
    #[error("{leased} bytes are leased already, this would be over the limit of {limit}")]
    Full {
        /// Bytes under a lease.
        leased: u64,
        /// Bytes that may be.
        limit: u64,
    },
    /// The disk did not take it, so that no promise can be made.
    #[error("image {0} cannot be kept on the disk")]
    NotKept(ImageKey),
}

impl Stat {
    pub(crate) fn of(header: &ArtifactHeader) -> Self {
        Self {
            key: header.key,
            image_size: header.image_size,
            shape: header.shape,
            dtype: header.dtype,
            eight_bit: header.eight_bit,
            bytes: header.payload_bytes(),
            memory: false,
            disk: false,
            remote: false,
            provenance: header.provenance,
            leased_until: None,
        }
    }
}
