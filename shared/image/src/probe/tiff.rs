//! TIFF: width, height and orientation in the first directory.

use tessera_anyres::ImageSize;

use super::Header;
use crate::exif::Directory;
use crate::{Format, ImageError};

const WIDTH: u16 = 0x0100;
const HEIGHT: u16 = 0x0101;

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let directory = Directory::open(bytes).ok_or(ImageError::Truncated { format: Format::Tiff })?;
    let side = |tag, name| {
        directory.number(tag).ok_or_else(|| ImageError::corrupt(Format::Tiff, format!("its directory names no {name}")))
    };
    let stored = ImageSize::new(side(HEIGHT, "height")?, side(WIDTH, "width")?);
    Ok(Header { stored, orientation: directory.orientation().unwrap_or_default() })
}
