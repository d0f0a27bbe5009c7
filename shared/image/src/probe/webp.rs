//! WebP: the first chunk's size, and the metadata chunks of the extended form.

use tessera_anyres::ImageSize;

use super::Header;
use crate::read::{self, Order};
use crate::{Format, ImageError, Orientation, exif};

const MAX_CHUNKS: usize = 1 << 16;

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let truncated = || ImageError::Truncated { format: Format::WebP };
    let length = read::u32(bytes, 4, Order::Little).ok_or_else(truncated)? as usize;
    if length > bytes.len() - 8 {
        return Err(truncated());
    }
    match read::slice(bytes, 12, 4).ok_or_else(truncated)? {
        b"VP8 " => {
            if read::slice(bytes, 23, 3).ok_or_else(truncated)? != b"\x9d\x01\x2a" {
                return Err(ImageError::corrupt(Format::WebP, "its frame has no start code"));
            }
            let width = read::u16(bytes, 26, Order::Little).ok_or_else(truncated)? & 0x3fff;
            let height = read::u16(bytes, 28, Order::Little).ok_or_else(truncated)? & 0x3fff;
            Ok(Header { stored: ImageSize::new(height.into(), width.into()), orientation: Orientation::default() })
        }
        b"VP8L" => {
            if *bytes.get(20).ok_or_else(truncated)? != 0x2f {
                return Err(ImageError::corrupt(Format::WebP, "its lossless frame has no signature"));
            }
            let bits = read::u32(bytes, 21, Order::Little).ok_or_else(truncated)?;
            let stored = ImageSize::new(1 + (bits >> 14 & 0x3fff), 1 + (bits & 0x3fff));
            Ok(Header { stored, orientation: Orientation::default() })
        }
        b"VP8X" => {
            let width = 1 + read::u24_le(bytes, 24).ok_or_else(truncated)?;
            let height = 1 + read::u24_le(bytes, 27).ok_or_else(truncated)?;
            Ok(Header { stored: ImageSize::new(height, width), orientation: orientation(bytes) })
        }
        _ => Err(ImageError::corrupt(Format::WebP, "its first chunk is no image")),
    }
}

fn orientation(bytes: &[u8]) -> Orientation {
    let (mut exif_orientation, mut xmp_orientation) = (None, None);
    let mut at = 12;
    for _ in 0..MAX_CHUNKS {
        let Some(length) = read::u32(bytes, at + 4, Order::Little) else { break };
        let length = length as usize;
        let Some(data) = read::slice(bytes, at + 8, length) else { break };
        match &bytes[at..at + 4] {
            b"EXIF" if exif_orientation.is_none() => exif_orientation = exif::orientation(data),
            b"XMP " if xmp_orientation.is_none() => xmp_orientation = exif::orientation_in_xmp(data),
            _ => {}
        }
        at += 8 + length + length % 2;
    }
    exif_orientation.or(xmp_orientation).unwrap_or_default()
}
