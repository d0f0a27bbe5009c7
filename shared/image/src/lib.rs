//! Images: decode within limits, orientation, exact bicubic, tiles, normalisation.
//!
//! The way of an image through this crate:
//!
//! 1. [`probe`] reads format, size and orientation from the headers alone, and refuses what is too large before a
//!    single pixel is decoded. The size is all that the geometry and the token count need.
//! 2. [`decode`] gives RGB pixels, in the arithmetic of the reference's decoder (Pillow, libjpeg).
//! 3. [`Preprocessor`] resizes, pads, cuts and normalises them into the f32 tiles that the vision tower reads.
//!
//! Every step is meant to be exact: what differs by one level in a pixel differs in every feature after it.

mod decode;
mod error;
mod exif;
mod orientation;
mod preprocess;
mod probe;
mod read;
mod resize;
mod settings;

pub use decode::{DecodeOptions, Source, decode};
pub use error::ImageError;
pub use orientation::Orientation;
pub use preprocess::{PREPROCESSING_REVISION, Preprocessed, Preprocessor};
pub use probe::{Format, Limits, Probe, probe};
pub use resize::Resizer;
pub use settings::ImageSettings;

use tessera_anyres::ImageSize;

/// An image in memory: 8 bits a channel, red, green, blue, row by row from the top left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    size: ImageSize,
    data: Vec<u8>,
}

impl RgbImage {
    /// Returns the image of `size` with these pixels: `height * width * 3` bytes.
    ///
    /// # Errors
    /// [`ImageError::PixelCount`] when there are more or fewer bytes than that, or none.
    pub fn new(size: ImageSize, data: Vec<u8>) -> Result<Self, ImageError> {
        if data.is_empty() || size.pixels().checked_mul(3) != Some(data.len() as u64) {
            return Err(ImageError::PixelCount { size, bytes: data.len() });
        }
        Ok(Self { size, data })
    }

    /// Returns the size in pixels.
    #[must_use]
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// Returns the pixels: `height * width * 3` bytes.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the pixels: `height * width * 3` bytes.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }
}
