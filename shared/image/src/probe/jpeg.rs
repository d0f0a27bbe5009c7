//! JPEG: the segments up to the first scan, and the number of scans.

use tessera_anyres::ImageSize;

use super::Header;
use crate::read::{self, Order};
use crate::{Format, ImageError, exif};

/// More scans than any encoder writes. A progressive image of a thousand empty scans is small and takes minutes.
const MAX_SCANS: usize = 256;

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let truncated = || ImageError::Truncated { format: Format::Jpeg };
    let mut at = 2;
    let mut size = None;
    let mut exif_block: Vec<u8> = Vec::new();
    let mut xmp = None;
    let mut scans = 0;
    loop {
        let marker = match next_marker(bytes, &mut at) {
            Some(0x01 | 0xd0..=0xd8) => continue,
            Some(0xd9) | None if scans > 0 => break,
            Some(0xd9) => return Err(ImageError::corrupt(Format::Jpeg, "it ends before its first scan")),
            Some(marker) => marker,
            None => return Err(truncated()),
        };
        let Some(segment) = segment(bytes, at)? else {
            // Behind the first scan it is for the decoder to complain about what is missing.
            if scans > 0 {
                break;
            }
            return Err(truncated());
        };
        at += 2 + segment.len();
        match marker {
            0xda => scans += 1,
            _ if scans > 0 => {}
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => size = Some(frame_size(marker, segment)?),
            0xe1 if segment.starts_with(b"Exif\0\0") => exif_block.extend_from_slice(&segment[6..]),
            0xe1 if xmp.is_none() => xmp = segment.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0"),
            _ => {}
        }
    }
    let stored = size.ok_or_else(|| ImageError::corrupt(Format::Jpeg, "its first scan comes before its frame"))?;
    if scans > MAX_SCANS {
        return Err(ImageError::unsupported(Format::Jpeg, format!("{scans} scans, the limit is {MAX_SCANS}")));
    }
    let orientation =
        exif::orientation(&exif_block).or_else(|| xmp.and_then(exif::orientation_in_xmp)).unwrap_or_default();
    Ok(Header { stored, orientation })
}

/// Returns what the segment that begins with its length at `at` holds; nothing when it is cut off.
fn segment(bytes: &[u8], at: usize) -> Result<Option<&[u8]>, ImageError> {
    match read::u16(bytes, at, Order::Big) {
        Some(length @ 0..2) => Err(ImageError::corrupt(
            Format::Jpeg,
            format!("a segment is {length} bytes long, its length alone has two"),
        )),
        Some(length) => Ok(read::slice(bytes, at + 2, usize::from(length) - 2)),
        None => Ok(None),
    }
}

/// Returns the next marker's code and moves behind it; garbage in front of it and fill bytes are skipped.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let found = *at + bytes.get(*at..)?.iter().position(|&byte| byte == 0xff)?;
        *at = found + 1 + bytes.get(found + 1..)?.iter().position(|&byte| byte != 0xff)?;
        let code = bytes[*at];
        *at += 1;
        if code != 0 {
            return Some(code);
        }
    }
}

fn frame_size(marker: u8, segment: &[u8]) -> Result<ImageSize, ImageError> {
    let cut = || ImageError::corrupt(Format::Jpeg, "its frame header is too short");
    let unsupported = |detail: String| Err(ImageError::unsupported(Format::Jpeg, detail));
    let [precision, .., components] = *segment.get(..6).ok_or_else(cut)? else { return Err(cut()) };
    if !matches!(marker, 0xc0..=0xc2) {
        return unsupported(format!("frame type {}", marker - 0xc0));
    }
    if precision != 8 {
        return unsupported(format!("{precision} bits a sample"));
    }
    if !matches!(components, 1 | 3 | 4) {
        return unsupported(format!("{components} components"));
    }
    let height = read::u16(segment, 1, Order::Big).ok_or_else(cut)?;
    let width = read::u16(segment, 3, Order::Big).ok_or_else(cut)?;
    Ok(ImageSize::new(height.into(), width.into()))
}
