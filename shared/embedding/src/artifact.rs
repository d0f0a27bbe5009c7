//! What is kept under an image key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tessera_anyres::ImageSize;
use tessera_tensor::{DType, HostTensor};

use crate::{EightBit, EncoderFingerprint, ImageKey, TenantId};

pub(crate) mod format;

/// Memory that an artifact takes besides its payload, with its place in a cache; the header of the file that it was read
/// from stays in memory with the payload.
const OVERHEAD_BYTES: u64 = 2048;

/// An artifact that is not what it says, or no artifact.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArtifactError {
    /// Bytes of the payload were changed.
    #[error("payload of {bytes} bytes does not match its checksum")]
    Checksum {
        /// Length of the payload.
        bytes: usize,
    },
    /// What the header says was changed.
    #[error("the header does not match its seal")]
    Seal,
    /// It is whole, but another image's.
    #[error("holds image {found}, expected {expected}")]
    Key {
        /// Whose it is.
        found: ImageKey,
        /// Whose it should be.
        expected: ImageKey,
    },
    /// Shape and number of bytes do not fit one another.
    #[error("{0}")]
    Shape(String),
    /// It is no file of the format.
    #[error("not a stored artifact: {0}")]
    Format(String),
    /// A later program wrote it.
    #[error("format version {0:?} is not known, this program reads version \"1\"")]
    Version(String),
}

/// The features of one image, with the image's size, where they come from, and a checksum of the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Size of the image: with the encoder's geometry it gives the layout of the rows.
    pub image_size: ImageSize,
    /// Features, packed.
    pub rows: Rows,
    /// Who made them, for whom and when.
    pub provenance: Provenance,
    /// BLAKE3 of the payload.
    pub checksum: [u8; 32],
}

/// Rows of features: `[feature rows, channels]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// As the tower gave them.
    Plain(HostTensor),
    /// Rounded to eight bits a number.
    Eight(EightBit),
}

/// Where an artifact comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The encoder that the rows are to be read as the output of.
    pub encoder: EncoderFingerprint,
    /// Whose it is: a tenant's artifacts can be deleted together.
    pub tenant: TenantId,
    /// How it came here.
    pub origin: Origin,
    /// When, in whole seconds.
    pub created: SystemTime,
    /// The grid that was chosen for the image, in pixels.
    pub grid: ImageSize,
}

/// How an artifact came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A vision worker made it from the image.
    Encoded,
    /// A client sent it.
    Uploaded,
}

impl Artifact {
    /// Seals features that were just computed.
    pub fn seal(image_size: ImageSize, rows: impl Into<Rows>, provenance: Provenance) -> Self {
        let rows = rows.into();
        let provenance = Provenance { created: whole_seconds(provenance.created), ..provenance };
        Self { image_size, checksum: rows.checksum(), rows, provenance }
    }

    /// Opens features that came from elsewhere.
    ///
    /// # Errors
    /// [`ArtifactError::Checksum`] when the payload is not the one that was sealed.
    pub fn open(
        image_size: ImageSize,
        rows: impl Into<Rows>,
        provenance: Provenance,
        checksum: [u8; 32],
    ) -> Result<Self, ArtifactError> {
        let sealed = Self::seal(image_size, rows, provenance);
        if sealed.checksum != checksum {
            return Err(ArtifactError::Checksum { bytes: sealed.bytes() });
        }
        Ok(sealed)
    }

    /// Returns it with its rows in eight bits a number. Rows with a number that is not finite stay as they are.
    #[must_use]
    pub fn quantize(self) -> Self {
        let Rows::Plain(tensor) = &self.rows else { return self };
        match EightBit::of(tensor, self.rows.shape()) {
            Some(rows) => Self::seal(self.image_size, rows, self.provenance),
            None => self,
        }
    }

    /// Whether the payload is still the one that was sealed.
    pub fn is_intact(&self) -> bool {
        self.rows.checksum() == self.checksum
    }

    /// Length of the payload in bytes.
    pub fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// Bytes of memory that it takes, with everything around the payload.
    pub fn occupied_bytes(&self) -> u64 {
        self.bytes() as u64 + OVERHEAD_BYTES
    }
}

impl Rows {
    /// The rows as a tensor, in the element type that they were computed in. Cheap for plain ones.
    pub fn to_tensor(&self) -> HostTensor {
        match self {
            Self::Plain(tensor) => tensor.clone(),
            Self::Eight(eight) => eight.to_tensor(),
        }
    }

    /// Length of the payload in bytes.
    pub fn bytes(&self) -> usize {
        self.payload().iter().map(Bytes::len).sum()
    }

    /// Rows and channels. Whatever axes a row has, an image has one row per feature.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Plain(tensor) => match tensor.shape() {
                [] => (1, 1),
                [rows, row @ ..] => (*rows, row.iter().product()),
            },
            Self::Eight(eight) => eight.shape(),
        }
    }

    /// The element type that [`Rows::to_tensor`] gives.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Plain(tensor) => tensor.dtype(),
            Self::Eight(eight) => eight.dtype(),
        }
    }

    /// The bytes that are stored, sent and summed, in that order; nothing is copied. The second part is empty for plain
    /// rows, and the scales for those of eight bits.
    pub fn payload(&self) -> [Bytes; 2] {
        match self {
            Self::Plain(tensor) => [tensor.data().clone(), Bytes::new()],
            Self::Eight(eight) => [eight.values().clone(), eight.scales().clone()],
        }
    }

    /// BLAKE3 of the payload.
    fn checksum(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for part in self.payload() {
            hasher.update(&part);
        }
        *hasher.finalize().as_bytes()
    }
}

impl From<HostTensor> for Rows {
    fn from(tensor: HostTensor) -> Self {
        Self::Plain(tensor)
    }
}

impl From<EightBit> for Rows {
    fn from(eight: EightBit) -> Self {
        Self::Eight(eight)
    }
}

impl Provenance {
    /// The provenance of something that is made now.
    pub fn now(encoder: EncoderFingerprint, tenant: TenantId, origin: Origin, grid: ImageSize) -> Self {
        Self { encoder, tenant, origin, created: whole_seconds(SystemTime::now()), grid }
    }
}

impl Origin {
    /// The word for it in files and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoded => "encoded",
            Self::Uploaded => "uploaded",
        }
    }
}

/// Cuts a time to whole seconds; none is before 1970.
fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(time))
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
