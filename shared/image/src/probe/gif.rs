//! GIF: the screen, and the first frame, which may be larger than the screen.

use tessera_anyres::ImageSize;

use super::Header;
use crate::read::{self, Order};
use crate::{Format, ImageError, Orientation};

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let truncated = || ImageError::Truncated { format: Format::Gif };
    let number = |at| read::u16(bytes, at, Order::Little).map(u32::from).ok_or_else(truncated);
    let (width, height) = (number(6)?, number(8)?);
    let flags = *bytes.get(10).ok_or_else(truncated)?;
    let palette = if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + palette;
    loop {
        match *bytes.get(at).ok_or_else(truncated)? {
            b'!' => {
                at += 2;
                loop {
                    let length = *bytes.get(at).ok_or_else(truncated)? as usize;
                    at += 1 + length;
                    if length == 0 {
                        break;
                    }
                }
            }
            b',' => {
                let (left, top) = (number(at + 1)?, number(at + 3)?);
                let (frame_width, frame_height) = (number(at + 5)?, number(at + 7)?);
                if frame_width == 0 || frame_height == 0 {
                    return Err(ImageError::corrupt(Format::Gif, "its first frame is empty"));
                }
                let stored = ImageSize::new(height.max(top + frame_height), width.max(left + frame_width));
                return Ok(Header { stored, orientation: Orientation::default() });
            }
            b';' => return Err(ImageError::corrupt(Format::Gif, "it has no frame")),
            _ => return Err(ImageError::corrupt(Format::Gif, "a block begins with none of the three signs")),
        }
    }
}
