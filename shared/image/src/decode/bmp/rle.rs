//! The run-length codes of BMP, with the reference's treatment of what they leave open.

use tessera_anyres::ImageSize;

/// Returns one index a pixel, in stored order; nothing when the codes end before the image is full.
pub(super) fn expand(data: &[u8], size: ImageSize, bits: usize) -> Option<Vec<u8>> {
    let width = size.width as usize;
    let length = width * size.height as usize;
    let mut indices = Vec::new();
    let mut codes = data.chunks_exact(2);
    let mut column = 0;
    while indices.len() < length {
        let &[count, value] = codes.next()? else { return None };
        let values = if bits == 4 { [value >> 4, value & 15] } else { [value; 2] };
        match (count, value) {
            (0, 0) => {
                indices.resize(indices.len().next_multiple_of(width), 0);
                column = 0;
            }
            (0, 1) => return None,
            (0, 2) => {
                let &[right, up] = codes.next()? else { return None };
                let skipped = usize::from(right) + usize::from(up) * width;
                indices.resize(length.min(indices.len() + skipped), 0);
                column = indices.len() % width;
            }
            (0, count) => {
                let taken = usize::from(count).min(length - indices.len());
                for pixel in (0..taken).step_by(if bits == 4 { 4 } else { 2 }) {
                    // Two bytes, padded to a pair.
                    let &[first, second] = codes.next()? else { return None };
                    let quad = [first >> 4, first & 15, second >> 4, second & 15];
                    let pair = [first, second];
                    let values: &[u8] = if bits == 4 { &quad } else { &pair };
                    indices.extend_from_slice(&values[..values.len().min(taken - pixel)]);
                }
                column += usize::from(count);
            }
            (count, _) => {
                // What is too much for a row is dropped.
                let taken = usize::from(count).min(width.saturating_sub(column));
                indices.extend((0..taken).map(|pixel| values[pixel % 2]));
                column += taken;
            }
        }
    }
    indices.truncate(length);
    Some(indices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_literals_line_ends_and_jumps_are_expanded() {
        let size = ImageSize::new(3, 4);
        let codes = [2, 7, 0, 0, 0, 3, 1, 2, 3, 0, 0, 2, 1, 0, 4, 9];
        assert_eq!(expand(&codes, size, 8), Some(vec![7, 7, 0, 0, 1, 2, 3, 0, 9, 9, 9, 9]));
        assert_eq!(expand(&codes[..14], size, 8), None);
        let codes = [4, 0x12, 0, 0, 0, 3, 0x34, 0x50, 1, 0x60, 0, 0, 9, 0x70];
        assert_eq!(expand(&codes, size, 4), Some(vec![1, 2, 1, 2, 3, 4, 5, 6, 7, 0, 7, 0]));
    }
}
