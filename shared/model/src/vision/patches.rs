//! Tiles cut in patches: the patch convolution has stride and kernel equal, so it is a matrix product.

/// Returns the patches of tiles, row-major, each with its pixels in the order of the convolution's kernel.
///
/// pixels: `[tiles, channels, side, side]`; result: `[tiles * patches, channels * patch * patch]`. Pixels to the right
/// and at the bottom that fill no patch are left out, as a convolution does.
pub(super) fn unfold(pixels: &[f32], channels: usize, side: usize, patch: usize) -> Vec<f32> {
    let per_side = side / patch;
    let tile_size = channels * side * side;
    let mut patches = Vec::with_capacity(pixels.len());
    for tile in pixels.chunks_exact(tile_size) {
        for (row, column) in (0..per_side).flat_map(|row| (0..per_side).map(move |column| (row, column))) {
            for (channel, line) in (0..channels).flat_map(|channel| (0..patch).map(move |line| (channel, line))) {
                let start = (channel * side + row * patch + line) * side + column * patch;
                patches.extend_from_slice(&tile[start..start + patch]);
            }
        }
    }
    patches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_row_major_and_their_pixels_in_kernel_order() {
        let pixels: Vec<f32> = (0u8..64).map(f32::from).collect();
        let patches = unfold(&pixels, 2, 4, 2);
        assert_eq!(patches.len(), 64);
        assert_eq!(patches[..8], [0.0, 1.0, 4.0, 5.0, 16.0, 17.0, 20.0, 21.0]);
        assert_eq!(patches[8..12], [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(patches[16..20], [8.0, 9.0, 12.0, 13.0]);
        assert_eq!(patches[32..36], [32.0, 33.0, 36.0, 37.0], "the second tile");
    }

    #[test]
    fn pixels_that_fill_no_patch_are_left_out() {
        let pixels: Vec<f32> = (0u8..25).map(f32::from).collect();
        assert_eq!(unfold(&pixels, 1, 5, 2)[12..], [12.0, 13.0, 17.0, 18.0]);
    }
}
