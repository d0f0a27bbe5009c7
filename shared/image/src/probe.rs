//! What the headers say, without decoding.

mod bmp;
mod gif;
mod jpeg;
mod png;
mod tiff;
mod webp;

use std::fmt;

use tessera_anyres::ImageSize;

use crate::decode::{isolated, most_bytes};
use crate::{ImageError, Orientation, Source};

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG: baseline and progressive.
    Jpeg,
    /// PNG; of an animation, its default image.
    Png,
    /// WebP; of an animation, the first frame.
    WebP,
    /// GIF, the first frame.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF and BigTIFF, the first page.
    Tiff,
}

/// What is refused before anything is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest file, in bytes.
    pub bytes: usize,
    /// The most pixels: height times width.
    pub pixels: u64,
    /// The longest side, in pixels.
    pub side: u32,
}

/// What the headers of an image say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The format, by its first bytes and not by any name.
    pub format: Format,
    /// The size of the image from a file: upright, that is, with its orientation applied.
    pub size: ImageSize,
    /// The size as stored.
    pub stored: ImageSize,
    /// The orientation that the metadata names.
    pub orientation: Orientation,
}

/// What a format's header reader finds.
#[derive(Clone, Copy, Debug)]
struct Header {
    stored: ImageSize,
    orientation: Orientation,
}

impl Default for Limits {
    /// 64 MiB, 8192 x 8192 pixels, 32768 pixels a side.
    fn default() -> Self {
        Self { bytes: 64 << 20, pixels: 8192 * 8192, side: 1 << 15 }
    }
}

impl Limits {
    /// Returns the most bytes that decoding holds at once for any image that these limits let pass.
    #[must_use]
    pub fn decoding_bytes(&self) -> u64 {
        most_bytes(None, self.pixels, self.bytes)
    }
}

impl Probe {
    /// Returns the most bytes that decoding the image holds at once, the image included, from a file of `file` bytes.
    #[must_use]
    pub fn decoding_bytes(&self, file: usize) -> u64 {
        most_bytes(Some(self.format), self.stored.pixels(), file)
    }

    /// Returns the size that decoding gives for `source`: an opened image is not turned upright, unless its format
    /// does that by itself.
    #[must_use]
    pub fn size_for(&self, source: Source) -> ImageSize {
        if self.is_upright_for(source) { self.size } else { self.stored }
    }

    /// Whether decoding turns the image upright for `source`.
    #[must_use]
    pub fn is_upright_for(&self, source: Source) -> bool {
        turns_upright(self.format, source)
    }
}

impl Format {
    /// Returns the format that a file of these first bytes has, of which twelve are enough; nothing for what is no image.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Format); 9] = [
            (b"\xff\xd8\xff", Format::Jpeg),
            (b"\x89PNG\r\n\x1a\n", Format::Png),
            (b"GIF87a", Format::Gif),
            (b"GIF89a", Format::Gif),
            (b"BM", Format::Bmp),
            (b"II*\0", Format::Tiff),
            (b"MM\0*", Format::Tiff),
            (b"II+\0", Format::Tiff),
            (b"MM\0+", Format::Tiff),
        ];
        if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            return Some(Self::WebP);
        }
        MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|&(_, format)| format)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        })
    }
}

/// Returns what the headers of the image in `bytes` say. Decodes nothing and allocates nothing that grows with the file.
///
/// # Errors
/// When the file is empty, too long, of no known format, when its headers are cut off or contradict the format, and
/// when the image is larger than `limits` allow.
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Probe, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if bytes.len() > limits.bytes {
        return Err(ImageError::TooManyBytes { bytes: bytes.len(), limit: limits.bytes });
    }
    let format = Format::of(bytes).ok_or(ImageError::UnknownFormat)?;
    let header = isolated(format, || match format {
        Format::Jpeg => jpeg::header(bytes),
        Format::Png => png::header(bytes),
        Format::WebP => webp::header(bytes),
        Format::Gif => gif::header(bytes),
        Format::Bmp => bmp::header(bytes),
        Format::Tiff => tiff::header(bytes),
    })?;
    let Header { stored, orientation } = header;
    if stored.pixels() == 0 {
        return Err(ImageError::corrupt(format, format!("size is {stored}")));
    }
    if stored.height.max(stored.width) > limits.side {
        return Err(ImageError::SideTooLong { size: stored, limit: limits.side });
    }
    if stored.pixels() > limits.pixels {
        return Err(ImageError::TooManyPixels { size: stored, limit: limits.pixels });
    }
    Ok(Probe { format, size: orientation.upright(stored), stored, orientation })
}

/// Whether an image of `format` that comes from `source` is turned upright. The reference's TIFF reader always does.
pub(crate) fn turns_upright(format: Format, source: Source) -> bool {
    source == Source::File || format == Format::Tiff
}
