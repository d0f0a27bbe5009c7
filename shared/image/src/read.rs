//! Numbers at a place in a file; `None` when the file ends before them.

/// The byte order of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

/// Returns the `length` bytes at `at`.
pub(crate) fn slice(bytes: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(length)?)
}

/// Returns the 16-bit number at `at`.
pub(crate) fn u16(bytes: &[u8], at: usize, order: Order) -> Option<u16> {
    let raw = slice(bytes, at, 2)?.try_into().ok()?;
    Some(match order {
        Order::Little => u16::from_le_bytes(raw),
        Order::Big => u16::from_be_bytes(raw),
    })
}

/// Returns the 32-bit number at `at`.
pub(crate) fn u32(bytes: &[u8], at: usize, order: Order) -> Option<u32> {
    let raw = slice(bytes, at, 4)?.try_into().ok()?;
    Some(match order {
        Order::Little => u32::from_le_bytes(raw),
        Order::Big => u32::from_be_bytes(raw),
    })
}

/// Returns the 64-bit number at `at`.
pub(crate) fn u64(bytes: &[u8], at: usize, order: Order) -> Option<u64> {
    let raw = slice(bytes, at, 8)?.try_into().ok()?;
    Some(match order {
        Order::Little => u64::from_le_bytes(raw),
        Order::Big => u64::from_be_bytes(raw),
    })
}

/// Returns the 24-bit little-endian number at `at`.
pub(crate) fn u24_le(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = slice(bytes, at, 3)?;
    Some(u32::from(raw[0]) | u32::from(raw[1]) << 8 | u32::from(raw[2]) << 16)
}

/// Returns where `needle` first stands in `bytes`.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
