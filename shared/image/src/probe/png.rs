//! PNG: the header chunk, and metadata chunks wherever they stand.

use tessera_anyres::ImageSize;

use super::Header;
use crate::read::{self, Order};
use crate::{Format, ImageError, exif};

/// More chunks than any encoder writes: one for each 8 KiB of the longest file.
const MAX_CHUNKS: usize = 1 << 16;

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let truncated = || ImageError::Truncated { format: Format::Png };
    if read::slice(bytes, 12, 4).ok_or_else(truncated)? != b"IHDR" {
        return Err(ImageError::corrupt(Format::Png, "it does not begin with a header chunk"));
    }
    let width = read::u32(bytes, 16, Order::Big).ok_or_else(truncated)?;
    let height = read::u32(bytes, 20, Order::Big).ok_or_else(truncated)?;
    let (mut exif_orientation, mut xmp_orientation) = (None, None);
    let mut at = 8;
    for _ in 0..MAX_CHUNKS {
        let Some(length) = read::u32(bytes, at, Order::Big) else { break };
        let Some(name) = read::slice(bytes, at + 4, 4) else { break };
        // A chunk that is cut off is for the decoder to complain about.
        let Some(data) = read::slice(bytes, at + 8, length as usize) else { break };
        match name {
            b"eXIf" => exif_orientation = exif::orientation(data),
            b"iTXt" => {
                // keyword, two flags (0: not compressed), two more texts, then the packet itself
                if let Some(packet) = data.strip_prefix(b"XML:com.adobe.xmp\0\0") {
                    xmp_orientation = exif::orientation_in_xmp(packet);
                }
            }
            b"IEND" => break,
            _ => {}
        }
        at += 12 + length as usize;
    }
    let orientation = exif_orientation.or(xmp_orientation).unwrap_or_default();
    Ok(Header { stored: ImageSize::new(height, width), orientation })
}
