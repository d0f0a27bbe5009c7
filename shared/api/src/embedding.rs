//! Domain types of `EmbeddingStore`.

mod owner;
mod upload;
mod wire;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tessera_anyres::ImageSize;
use tessera_embedding::{EncoderFingerprint, ImageKey, Salt};
use tessera_tensor::{DType, HostTensor};

pub use owner::{owner, set_owner};
pub use upload::{chunks, read_upload, upload_parts};
pub(crate) use wire::optional_representation;
pub use wire::{key_bytes, keys, lease_ends, lease_response};

/// Keys that one request may name.
pub const MAX_KEYS: usize = 1024;

/// What the rows of a payload are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Representation {
    /// Tower output, packed, before the projector.
    Features,
    /// The rows that the language model sees.
    Projected,
}

/// A checked request for one stored image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Whose rows.
    pub key: ImageKey,
    /// Which rows.
    pub representation: Representation,
    /// How long to wait for a key that is not stored yet.
    pub wait: Duration,
    /// Bytes of the payload to leave out at its beginning.
    pub offset: u64,
}

/// What a payload is, told in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchHeader {
    /// Size of the image.
    pub image_size: ImageSize,
    /// Element type.
    pub dtype: DType,
    /// Which rows.
    pub representation: Representation,
    /// Number of rows.
    pub rows: usize,
    /// Elements in a row.
    pub columns: usize,
    /// BLAKE3 of the payload.
    pub checksum: [u8; 32],
}

/// A key, and what is stored under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// As it was asked for.
    pub key: ImageKey,
    /// Nothing where it is not stored.
    pub stored: Option<StoredImage>,
}

/// What is stored under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Size of the image.
    pub image_size: ImageSize,
    /// Prompt positions that it fills.
    pub image_tokens: usize,
    /// Element type of its rows.
    pub dtype: DType,
    /// Number of rows.
    pub rows: usize,
    /// Elements in a row.
    pub columns: usize,
    /// What it takes in the store.
    pub bytes: u64,
    /// Where it is.
    pub tiers: Tiers,
    /// Uploaded by a client, not encoded from an image.
    pub uploaded: bool,
    /// When it was made.
    pub created: SystemTime,
    /// Until when it is promised to stay.
    pub leased_until: Option<SystemTime>,
    /// What encoded it.
    pub encoder: EncoderFingerprint,
}

/// The places where an artifact is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiers {
    /// In a worker's memory.
    pub memory: bool,
    /// On a worker's disk.
    pub disk: bool,
    /// In the store that all workers share.
    pub shared: bool,
}

/// Features that a client made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The size of the image that they stand for.
    pub image_size: ImageSize,
    /// `[rows, columns]`.
    pub features: HostTensor,
    /// Part of their key.
    pub tenant_salt: Salt,
}

/// What an upload is, told in front of its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PutHeader {
    pub(crate) image_size: ImageSize,
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) tenant_salt: Salt,
}

/// An upload that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Its handle.
    pub key: ImageKey,
    /// Prompt positions that it fills.
    pub image_tokens: usize,
    /// True when the same was stored before.
    pub stored_before: bool,
    /// True when a restart does not lose it.
    pub durable: bool,
}

/// A checked request to keep keys for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Which.
    pub keys: Vec<ImageKey>,
    /// From now on.
    pub period: Duration,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteRequest {
    /// These.
    Keys(Vec<ImageKey>),
    /// Whatever is stored of an image file.
    Image(Bytes),
    /// Everything of one tenant.
    Tenant {
        /// What its keys are made with.
        salt: Salt,
    },
}

impl FetchHeader {
    /// Length of the payload in bytes; `None` where that overflows.
    pub fn payload_bytes(&self) -> Option<usize> {
        payload_bytes(self.rows, self.columns, self.dtype)
    }
}

impl PutHeader {
    /// Length of the payload in bytes; `None` where that overflows.
    pub(crate) fn payload_bytes(&self) -> Option<usize> {
        payload_bytes(self.rows, self.columns, self.dtype)
    }
}

fn payload_bytes(rows: usize, columns: usize, dtype: DType) -> Option<usize> {
    rows.checked_mul(columns)?.checked_mul(dtype.size_bytes())
}
