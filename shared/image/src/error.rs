//! Why an image is refused.

use tessera_anyres::ImageSize;
use tessera_tensor::TensorError;
use thiserror::Error;

use crate::Format;

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImageError {
    /// There are no bytes.
    #[error("image is empty")]
    Empty,
    /// The file is longer than the limit.
    #[error("image has {bytes} bytes, the limit is {limit}")]
    TooManyBytes {
        /// Length of the file.
        bytes: usize,
        /// The longest file that is read.
        limit: usize,
    },
    /// A side of the image is longer than the limit.
    #[error("image is {size}, the limit of a side is {limit} pixels")]
    SideTooLong {
        /// Size that the header names.
        size: ImageSize,
        /// The longest side that is decoded.
        limit: u32,
    },
    /// The image has more pixels than the limit.
    #[error("image is {size}, which is {} pixels, the limit is {limit}", size.pixels())]
    TooManyPixels {
        /// Size that the header names.
        size: ImageSize,
        /// The most pixels that are decoded.
        limit: u64,
    },
    /// The first bytes are those of no known format.
    #[error("image is none of JPEG, PNG, WebP, GIF, BMP and TIFF")]
    UnknownFormat,
    /// The file ends too early.
    #[error("{format} image is truncated")]
    Truncated {
        /// Format by the first bytes.
        format: Format,
    },
    /// The file contradicts its format, or itself.
    #[error("{format} image is corrupt: {detail}")]
    Corrupt {
        /// Format by the first bytes.
        format: Format,
        /// What is wrong, in the words of whoever found it.
        detail: String,
    },
    /// The file may be valid, and uses a part of its format that is not read.
    #[error("{format} image is of a kind that is not supported: {detail}")]
    Unsupported {
        /// Format by the first bytes.
        format: Format,
        /// What is not supported.
        detail: String,
    },
    /// Decoding asks for more memory than an image of this size has any use for.
    #[error("{format} image asks for more memory than an image of its size needs")]
    Memory {
        /// Format by the first bytes.
        format: Format,
    },
    /// The pixels are not as many as the size says.
    #[error("image of {size} has {bytes} bytes of pixels, it needs three for each pixel and at least one pixel")]
    PixelCount {
        /// Size given.
        size: ImageSize,
        /// Bytes given.
        bytes: usize,
    },
    /// The tiles could not be put into a tensor.
    #[error("tiles do not form a tensor: {0}")]
    Tensor(#[from] TensorError),
}

impl ImageError {
    /// Returns a stable name of what failed, for programs to compare.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "IMAGE_EMPTY",
            Self::TooManyBytes { .. } => "IMAGE_TOO_MANY_BYTES",
            Self::SideTooLong { .. } | Self::TooManyPixels { .. } | Self::Memory { .. } => "IMAGE_TOO_LARGE",
            Self::UnknownFormat => "IMAGE_FORMAT_UNKNOWN",
            Self::Truncated { .. } => "IMAGE_TRUNCATED",
            Self::Corrupt { .. } => "IMAGE_CORRUPT",
            Self::Unsupported { .. } => "IMAGE_UNSUPPORTED",
            Self::PixelCount { .. } => "IMAGE_PIXEL_COUNT",
            Self::Tensor(_) => "IMAGE_TENSOR",
        }
    }

    pub(crate) fn corrupt(format: Format, detail: impl Into<String>) -> Self {
        Self::Corrupt { format, detail: detail.into() }
    }

    pub(crate) fn unsupported(format: Format, detail: impl Into<String>) -> Self {
        Self::Unsupported { format, detail: detail.into() }
    }

    /// What a codec's I/O error means when it reads from memory: the end came too early, or its own complaint.
    pub(crate) fn from_io(format: Format, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Truncated { format },
            std::io::ErrorKind::OutOfMemory => Self::Memory { format },
            _ => Self::corrupt(format, error.to_string()),
        }
    }
}
