//! The orientation tag in a block of EXIF, in a TIFF directory or in XMP.
//!
//! A block that cannot be read has no orientation: such metadata is common, and no reason to refuse a picture.

use crate::orientation::Orientation;
use crate::read::{self, Order};

const ORIENTATION: u16 = 0x0112;
/// More entries than any camera writes; bounds the walk through a directory that lies about its length.
const MAX_ENTRIES: u64 = 4096;

/// A value of a TIFF directory that is one unsigned number.
pub(crate) struct Directory<'a> {
    bytes: &'a [u8],
    order: Order,
    big: bool,
    first: usize,
    count: usize,
}

/// Returns the orientation in an EXIF block (with or without its `Exif\0\0`), if it names one.
pub(crate) fn orientation(mut block: &[u8]) -> Option<Orientation> {
    while let Some(rest) = block.strip_prefix(b"Exif\0\0") {
        block = rest;
    }
    Directory::open(block)?.orientation()
}

/// Returns the orientation in an XMP packet, if it names one. The reference looks here when EXIF has none.
pub(crate) fn orientation_in_xmp(packet: &[u8]) -> Option<Orientation> {
    let mut rest = packet;
    while let Some(at) = read::find(rest, b"tiff:Orientation") {
        rest = &rest[at + b"tiff:Orientation".len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some(digit) = value.and_then(<[u8]>::first).filter(|byte| byte.is_ascii_digit()) {
            return Some(Orientation::from_tag(u32::from(digit - b'0')));
        }
    }
    None
}

impl<'a> Directory<'a> {
    /// Returns the first directory of a TIFF file, or of an EXIF block (which is one).
    pub(crate) fn open(bytes: &'a [u8]) -> Option<Self> {
        let order = match bytes.get(..2)? {
            b"II" => Order::Little,
            b"MM" => Order::Big,
            _ => return None,
        };
        match read::u16(bytes, 2, order)? {
            42 => {
                let at = read::u32(bytes, 4, order)? as usize;
                let count = u64::from(read::u16(bytes, at, order)?);
                Some(Self { bytes, order, big: false, first: at + 2, count: count as usize })
            }
            43 => {
                let at = usize::try_from(read::u64(bytes, 8, order)?).ok()?;
                let count = read::u64(bytes, at, order)?.min(MAX_ENTRIES);
                Some(Self { bytes, order, big: true, first: at.checked_add(8)?, count: count as usize })
            }
            _ => None,
        }
    }

    /// Returns the value of `tag` if it is one whole number that stands in the directory itself.
    pub(crate) fn number(&self, tag: u16) -> Option<u32> {
        let (entry_length, value_at) = if self.big { (20, 12) } else { (12, 8) };
        let mut found = None;
        for index in 0..self.count.min(MAX_ENTRIES as usize) {
            let at = self.first.checked_add(index * entry_length)?;
            let Some(name) = read::u16(self.bytes, at, self.order) else { break };
            if name != tag {
                continue;
            }
            let count = if self.big {
                read::u64(self.bytes, at + 4, self.order)?
            } else {
                u64::from(read::u32(self.bytes, at + 4, self.order)?)
            };
            let value = match read::u16(self.bytes, at + 2, self.order)? {
                3 => read::u16(self.bytes, at + value_at, self.order).map(u32::from),
                4 => read::u32(self.bytes, at + value_at, self.order),
                16 => read::u64(self.bytes, at + value_at, self.order).and_then(|value| value.try_into().ok()),
                _ => None,
            };
            // A later entry of the same tag wins, as in the reference.
            found = value.filter(|_| count == 1);
        }
        found
    }

    /// Returns the orientation that the directory names.
    pub(crate) fn orientation(&self) -> Option<Orientation> {
        self.number(ORIENTATION).map(Orientation::from_tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_byte_orders_are_read() {
        let little = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0";
        assert_eq!(orientation(little), Some(Orientation::from_tag(6)));
        assert_eq!(orientation(big), Some(Orientation::from_tag(8)));
    }

    #[test]
    fn what_is_no_exif_names_nothing() {
        for block in [&b""[..], b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03", b"garbage garbage"] {
            assert_eq!(orientation(block), None);
        }
    }

    #[test]
    fn xmp_names_it_in_two_ways() {
        assert_eq!(orientation_in_xmp(b"<a tiff:Orientation=\"3\"/>"), Some(Orientation::from_tag(3)));
        assert_eq!(orientation_in_xmp(b"<tiff:Orientation>5</tiff:Orientation>"), Some(Orientation::from_tag(5)));
        assert_eq!(orientation_in_xmp(b"<tiff:Orientation/>"), None);
    }
}
