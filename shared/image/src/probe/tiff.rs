//! TIFF: width, height and orientation in the first directory.

use tessera_anyres::ImageSize;

use super::Header;
use crate::exif::Directory;
use crate::{Format, ImageError};

const WIDTH: u16 = 0x0100;
const HEIGHT: u16 = 0x0101;
const STRIP_OFFSETS: u16 = 273;
const STRIP_BYTE_COUNTS: u16 = 279;
const COLOUR_MAP: u16 = 320;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTE_COUNTS: u16 = 325;
const JPEG_TABLES: u16 = 347;
/// The other tags that the codec reads: one value, or one for each sample.
const OF_A_SAMPLE: [u16; 14] = [WIDTH, HEIGHT, 258, 259, 262, 277, 278, 284, 317, 322, 323, 338, 339, 530];
/// More samples a pixel than any image that is read.
const MAX_SAMPLES: u64 = 16;

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let directory = Directory::open(bytes).ok_or(ImageError::Truncated { format: Format::Tiff })?;
    let side = |tag, name| {
        directory.number(tag).ok_or_else(|| ImageError::corrupt(Format::Tiff, format!("its directory names no {name}")))
    };
    let stored = ImageSize::new(side(HEIGHT, "height")?, side(WIDTH, "width")?);
    for entry in directory.entries() {
        if entry.count > most_values(entry.tag, stored) {
            let detail = format!("tag {} has {} values, more than an image of {stored} needs", entry.tag, entry.count);
            return Err(ImageError::corrupt(Format::Tiff, detail));
        }
    }
    Ok(Header { stored, orientation: directory.orientation().unwrap_or_default() })
}

/// The most values that a tag can have in a valid file: the codec makes room for as many as there are said to be.
/// Tags that it does not read may have any number.
fn most_values(tag: u16, size: ImageSize) -> u64 {
    let ImageSize { height, width } = size;
    match tag {
        STRIP_OFFSETS | STRIP_BYTE_COUNTS => MAX_SAMPLES * u64::from(height),
        // Sides of tiles are multiples of 16.
        TILE_OFFSETS | TILE_BYTE_COUNTS => MAX_SAMPLES * u64::from(height.div_ceil(16)) * u64::from(width.div_ceil(16)),
        COLOUR_MAP => 3 << 16,
        JPEG_TABLES => 1 << 16,
        _ if OF_A_SAMPLE.contains(&tag) => MAX_SAMPLES,
        _ => u64::MAX,
    }
}
