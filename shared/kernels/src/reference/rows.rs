//! Rows of tokens and tiles.

use crate::{Element, UnfoldShape};

/// What [`embed_tiles`] puts together.
#[derive(Clone, Copy, Debug)]
pub struct EmbedTiles<'a, T> {
    /// `[tiles, patches, width]`
    pub patches: &'a [T],
    /// `[width]`: added to every patch.
    pub bias: Option<&'a [T]>,
    /// `[width]`: stands in front of a tile's patches.
    pub class: Option<&'a [T]>,
    /// `[positions, width]`, one position more than patches if there is a class: added to every row.
    pub table: &'a [T],
    /// The width of a row.
    pub width: usize,
}

/// Copies rows from anywhere: the kernel is given their addresses.
///
/// out: `[rows, width]`; sources: `[rows]` of `[width]`
pub fn gather<T: Element>(out: &mut [T], sources: &[&[T]], width: usize) {
    assert_eq!(out.len(), sources.len() * width, "a source for each row");
    for (out, source) in out.chunks_exact_mut(width).zip(sources) {
        out.copy_from_slice(&source[..width]);
    }
}

/// Writes the patches of tiles, row-major, each with its pixels in the order of the convolution's kernel. Pixels to the
/// right and at the bottom that fill no patch are left out, as a convolution does.
///
/// out: `[tiles * patches, channels * patch * patch]`; pixels: `[tiles, channels, side, side]`
pub fn unfold<T: Element>(out: &mut [T], pixels: &[f32], shape: UnfoldShape) {
    let UnfoldShape { tiles, channels, side, patch } = shape;
    let per_side = shape.per_side();
    assert_eq!(out.len(), shape.rows() * shape.width(), "all patches");
    let mut lines = out.chunks_exact_mut(patch);
    for tile in 0..tiles {
        for (row, column) in (0..per_side).flat_map(|row| (0..per_side).map(move |column| (row, column))) {
            for (channel, line) in (0..channels).flat_map(|channel| (0..patch).map(move |line| (channel, line))) {
                let start = ((tile * channels + channel) * side + row * patch + line) * side + column * patch;
                let Some(out) = lines.next() else { return };
                out.iter_mut().zip(&pixels[start..start + patch]).for_each(|(out, x)| *out = T::from_f32(*x));
            }
        }
    }
}

/// Writes the rows that a vision tower begins with: the class, if there is one, in front of the patches, each with its
/// bias, and to every row its position's. Rounded once.
///
/// out: `[tiles, positions, width]`
pub fn embed_tiles<T: Element>(out: &mut [T], input: EmbedTiles<'_, T>) {
    let EmbedTiles { patches, bias, class, table, width } = input;
    let positions = table.len() / width;
    let front = usize::from(class.is_some());
    for (tile, out) in out.chunks_exact_mut(positions * width).enumerate() {
        for (position, out) in out.chunks_exact_mut(width).enumerate() {
            for (column, out) in out.iter_mut().enumerate() {
                let content = match class.filter(|_| position == 0) {
                    Some(class) => class[column].to_f32(),
                    None => {
                        let patch = tile * (positions - front) + position - front;
                        let bias = bias.map_or(0.0, |bias| bias[column].to_f32());
                        patches[patch * width + column].to_f32() + bias
                    }
                };
                *out = T::from_f32(content + table[position * width + column].to_f32());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn rows_come_from_where_they_are() {
        let (first, second) = ([1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]);
        let mut out = [0.0; 4];
        gather(&mut out, &[&second[1..], &first[..2]], 2);
        assert_eq!(out, [5.0, 6.0, 1.0, 2.0]);
    }

    #[test]
    fn patches_are_row_major_and_their_pixels_in_kernel_order() {
        let pixels: Vec<f32> = (0u8..64).map(f32::from).collect();
        let mut patches = [f16::ZERO; 64];
        unfold(&mut patches, &pixels, UnfoldShape { tiles: 2, channels: 2, side: 4, patch: 2 });
        let found = patches.map(f16::to_f32);
        assert_eq!(found[..8], [0.0, 1.0, 4.0, 5.0, 16.0, 17.0, 20.0, 21.0]);
        assert_eq!(found[8..12], [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(found[32..36], [32.0, 33.0, 36.0, 37.0], "the second tile");
    }

    #[test]
    fn pixels_that_fill_no_patch_are_left_out() {
        let pixels: Vec<f32> = (0u8..25).map(f32::from).collect();
        let mut patches = [0.0f32; 16];
        unfold(&mut patches, &pixels, UnfoldShape { tiles: 1, channels: 1, side: 5, patch: 2 });
        assert_eq!(patches[12..], [12.0, 13.0, 17.0, 18.0]);
    }

    #[test]
    fn the_class_stands_in_front_without_the_bias() {
        let (mut out, table) = ([0.0f32; 6], [0.1, 0.2, 0.3]);
        let input = EmbedTiles {
            patches: &[1.0, 2.0, 3.0, 4.0],
            bias: Some(&[10.0]),
            class: Some(&[7.0]),
            table: &table,
            width: 1,
        };
        embed_tiles(&mut out, input);
        assert_eq!(out, [7.1, 11.2, 12.3, 7.1, 13.2, 14.3]);
        let (mut out, table) = ([0.0f32; 4], [0.1, 0.2]);
        embed_tiles(&mut out, EmbedTiles { bias: None, class: None, table: &table, ..input });
        assert_eq!(out, [1.1, 2.2, 3.1, 4.2]);
    }
}
