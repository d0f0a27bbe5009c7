//! From file to RGB, in the arithmetic of the reference's decoder.
//!
//! The reference opens images with Pillow, so a pixel here is what Pillow makes of it: each format's module reads the
//! samples as stored and turns them into colour by Pillow's rules, which [`Decoded`] and `colour` hold in one place.

pub(crate) mod bmp;
mod colour;
mod gif;
mod jpeg;
mod png;
mod tiff;
mod webp;

use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tessera_anyres::ImageSize;

use crate::probe::turns_upright;
use crate::{Format, ImageError, Limits, Probe, RgbImage, probe};

/// How an image is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// What is refused.
    pub limits: Limits,
    /// Which of the reference's two ways is followed.
    pub source: Source,
}

/// The reference treats an image that it opens itself and one that it is handed differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A path, an address, or bytes: turned upright, and transparency is dropped (hidden colours show).
    #[default]
    File,
    /// An image opened by the caller (`Image.open`): left as stored, and laid over white where it is transparent.
    Opened,
}

/// Pixels as stored, before orientation.
struct Decoded {
    /// `height * width * 3` bytes.
    rgb: Vec<u8>,
    /// `height * width` bytes, 255 is opaque; absent when every pixel is.
    alpha: Option<Vec<u8>>,
}

/// Decodes the image in `bytes`. Its size is that of [`probe`] for the same source.
///
/// # Errors
/// Those of [`probe`]; and when the file is truncated, corrupt, of an unsupported kind, or asks for more memory than an
/// image of its size needs.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    let probe = probe(bytes, &options.limits)?;
    isolated(probe.format, || {
        let Decoded { mut rgb, alpha } = decode_stored(bytes, &probe)?;
        if let (Source::Opened, Some(alpha)) = (options.source, alpha) {
            colour::lay_over_white(&mut rgb, &alpha);
        }
        finish(&probe, options.source, rgb)
    })
}

/// Reads a file that may be hostile. The codecs are other people's: one that panics must not take its caller down, and
/// nothing that it has touched outlives it.
pub(crate) fn isolated<T>(format: Format, read: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(ImageError::corrupt(format, "its decoder panicked")))
}

/// Decodes the pixels as stored.
fn decode_stored(bytes: &[u8], probe: &Probe) -> Result<Decoded, ImageError> {
    let size = probe.stored;
    match probe.format {
        Format::Jpeg => jpeg::decode(bytes, size),
        Format::Png => png::decode(bytes, size),
        Format::WebP => webp::decode(bytes, size),
        Format::Gif => gif::decode(bytes, size),
        Format::Bmp => bmp::decode(bytes),
        Format::Tiff => tiff::decode(bytes, size),
    }
}

fn finish(probe: &Probe, source: Source, rgb: Vec<u8>) -> Result<RgbImage, ImageError> {
    let rgb = if turns_upright(probe.format, source) { probe.orientation.apply(probe.stored, rgb) } else { rgb };
    RgbImage::new(probe.size_for(source), rgb)
}

/// Returns one sample a byte, from samples of `bits` bits; the first is in the high bits, rows begin at whole bytes.
fn unpack(samples: &[u8], size: ImageSize, bits: usize) -> Vec<u8> {
    if bits == 8 {
        return samples.to_vec();
    }
    let width = size.width as usize;
    let mask = (1_u8 << bits) - 1;
    let mut unpacked = Vec::with_capacity(width * size.height as usize);
    for row in samples.chunks_exact((width * bits).div_ceil(8)) {
        unpacked.extend((0..width).map(|x| row[x * bits / 8] >> (8 - bits - x * bits % 8) & mask));
    }
    unpacked
}

/// The memory, in bytes, that a codec may take for an image of `size`: 16-bit RGBA, and room for its tables.
fn budget(size: ImageSize) -> usize {
    usize::try_from(size.pixels().saturating_mul(8)).unwrap_or(usize::MAX).saturating_add(TABLES)
}

/// Bytes of a codec's tables and buffers, whatever the size of the image.
const TABLES: usize = 4 << 20;
/// Bytes of a pixel, at most, in all that is held of an image at once: what the codec works on (16-bit RGBA: 8), its
/// result, and that in other colours and turned.
const BYTES_PER_PIXEL: u64 = 24;
/// A lossy WebP names the length of a part of itself in 24 bits, and the codec makes room for one such part before it
/// finds out that the file is shorter.
const WEBP_PART: u64 = 1 << 24;

/// The most bytes that [`decode`] holds at once for an image of so many pixels in a file of so many bytes.
pub(crate) fn most_bytes(format: Option<Format>, pixels: u64, file: usize) -> u64 {
    let part = if format.is_none_or(|format| format == Format::WebP) { WEBP_PART } else { 0 };
    // A file may be copied once.
    pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(file as u64 + 2 * TABLES as u64 + part)
}

/// Fails when the codec found another size than the header reader: the two would disagree on the token count.
fn check_size(format: Format, found: (u32, u32), expected: ImageSize) -> Result<(), ImageError> {
    let found = ImageSize::new(found.1, found.0);
    if found == expected {
        return Ok(());
    }
    Err(ImageError::corrupt(format, format!("its header says {expected} and its frame {found}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_panics_is_an_error_of_its_file() {
        let broken = || -> Result<(), ImageError> { panic!("index out of bounds") };
        let error = isolated(Format::Gif, broken).unwrap_err();
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            ("IMAGE_CORRUPT", "GIF image is corrupt: its decoder panicked")
        );
        assert_eq!(isolated(Format::Gif, || Ok(7)), Ok(7));
    }
}
