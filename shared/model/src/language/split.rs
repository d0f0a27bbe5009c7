//! Which layers are on which device.

use std::ops::Range;

/// Deals layers out to devices, each its next ones, so that all hold about as many bytes: the first device also holds
/// `first` bytes, the last one `last`. Every device gets a layer if there are enough.
pub(super) fn split(layers: usize, layer: u64, first: u64, last: u64, devices: usize) -> Vec<Range<usize>> {
    let devices = devices.clamp(1, layers.max(1));
    let total = first + layer * layers as u64 + last;
    let mut ranges = Vec::with_capacity(devices);
    let mut start = 0;
    for device in 1..=devices {
        // What all devices up to this one should hold, in layers, to the nearest.
        let bytes = (u128::from(total) * device as u128 / devices as u128) as u64;
        let wanted = (bytes.saturating_sub(first) + layer / 2).checked_div(layer).unwrap_or(0) as usize;
        let end = if device == devices { layers } else { wanted.clamp(start + 1, layers - (devices - device)) };
        ranges.push(start..end);
        start = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_hold_about_as_many_bytes() {
        assert_eq!(split(32, 100, 0, 0, 1).as_slice(), std::slice::from_ref(&(0..32)));
        assert_eq!(split(32, 100, 0, 0, 2), [0..16, 16..32]);
        assert_eq!(split(32, 100, 400, 400, 2), [0..16, 16..32]);
        assert_eq!(split(32, 100, 400, 0, 2), [0..14, 14..32]);
        assert_eq!(split(10, 100, 0, 200, 4), [0..3, 3..6, 6..9, 9..10]);
    }

    #[test]
    fn every_device_gets_a_layer_while_there_are_enough() {
        assert_eq!(split(3, 1, 1000, 1000, 3), [0..1, 1..2, 2..3]);
        assert_eq!(split(2, 100, 0, 0, 5), [0..1, 1..2]);
        for devices in 1..9 {
            for (first, last) in [(0, 0), (700, 0), (0, 700), (90, 4000)] {
                let ranges = split(13, 70, first, last, devices);
                assert_eq!((ranges.len(), ranges[0].start, ranges[devices - 1].end), (devices, 0, 13));
                assert!(ranges.iter().all(|range| !range.is_empty()));
                assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            }
        }
    }
}
