//! BMP: the header, as the decoder itself reads it.

use super::Header;
use crate::decode::bmp::BmpHeader;
use crate::{ImageError, Orientation};

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let header = BmpHeader::read(bytes)?;
    Ok(Header { stored: header.size, orientation: Orientation::default() })
}
