//! The orientation tag in a block of EXIF, in a TIFF directory or in XMP.
//!
//! A block that cannot be read has no orientation: such metadata is common, and no reason to refuse a picture.

use crate::orientation::Orientation;
use crate::read::{self, Order};

const ORIENTATION: u16 = 0x0112;
/// More entries than any camera writes; bounds the walk through a directory that lies about its length.
const MAX_ENTRIES: u64 = 4096;

/// A TIFF directory.
pub(crate) struct Directory<'a> {
    bytes: &'a [u8],
    order: Order,
    big: bool,
    first: usize,
    count: usize,
}

/// An entry of a directory.
pub(crate) struct Entry {
    pub(crate) tag: u16,
    /// Number of values.
    pub(crate) count: u64,
    /// Where the entry begins.
    at: usize,
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

    /// Returns the value of `tag` if it is one whole number.
    pub(crate) fn number(&self, tag: u16) -> Option<u32> {
        let Entry { at, count, .. } = self.last(tag)?;
        let value = at + self.value_offset();
        if count != 1 {
            return None;
        }
        match read::u16(self.bytes, at + 2, self.order)? {
            3 => read::u16(self.bytes, value, self.order).map(u32::from),
            4 => read::u32(self.bytes, value, self.order),
            16 => read::u64(self.bytes, value, self.order).and_then(|value| value.try_into().ok()),
            _ => None,
        }
    }

    /// Returns where the value of `tag` stands, if it fits its entry.
    pub(crate) fn value_at(&self, tag: u16) -> Option<usize> {
        Some(self.last(tag)?.at + self.value_offset())
    }

    /// Returns the entries that are whole, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let length = if self.big { 20 } else { 12 };
        (0..self.count.min(MAX_ENTRIES as usize)).map_while(move |index| {
            let at = self.first.checked_add(index * length)?;
            read::slice(self.bytes, at, length)?;
            let count = if self.big {
                read::u64(self.bytes, at + 4, self.order)?
            } else {
                read::u32(self.bytes, at + 4, self.order)?.into()
            };
            Some(Entry { tag: read::u16(self.bytes, at, self.order)?, count, at })
        })
    }

    /// Returns the last entry of `tag`, which wins, as in the reference.
    fn last(&self, tag: u16) -> Option<Entry> {
        self.entries().filter(|entry| entry.tag == tag).last()
    }

    /// Where the value stands in an entry.
    fn value_offset(&self) -> usize {
        if self.big { 12 } else { 8 }
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
        for block in
            [&b""[..], b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03", b"garbage garbage"]
        {
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
