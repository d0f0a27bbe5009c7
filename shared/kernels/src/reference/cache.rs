//! Keys and values on their way into the pages, and copies of blocks.

use crate::{CopyShape, Element, NONE, RopeShape};

/// Cosines and sines of every position.
#[derive(Clone, Copy, Debug)]
pub struct Angles<'a> {
    /// `[max_positions, head_dim / 2]`
    pub cos: &'a [f32],
    /// `[max_positions, head_dim / 2]`
    pub sin: &'a [f32],
}

/// What [`rope_cache`] takes.
#[derive(Debug)]
pub struct RopeCache<'a, T> {
    /// `[rows, (heads + 2 * kv_heads) * head_dim]`: queries, keys and values of each row.
    pub qkv: &'a mut [T],
    /// `[blocks, 32, kv_heads, head_dim]`: a layer's pages.
    pub keys: &'a mut [T],
    /// `[blocks, 32, kv_heads, head_dim]`
    pub values: &'a mut [T],
    /// Nothing where the model does not rotate.
    pub angles: Option<Angles<'a>>,
    /// `[rows]`
    pub positions: &'a [u32],
    /// `[rows]`: `block * 32 + place`; [`NONE`] for a row that is padding, of which nothing is read or written.
    pub slots: &'a [u32],
    /// The extents.
    pub shape: RopeShape,
}

/// Rotates the queries where they stand, and writes rotated keys, and values, to their slots; the keys in `qkv` stay as
/// they are. Halves layout (Su et al. 2021; `apply_rotary_pos_emb` of the reference), rounded once.
pub fn rope_cache<T: Element>(input: RopeCache<'_, T>) {
    let RopeCache { qkv, keys, values, angles, positions, slots, shape } = input;
    let RopeShape { heads, kv_heads, head_dim, .. } = shape;
    let width = kv_heads * head_dim;
    let rows = qkv.chunks_exact_mut(shape.row_width()).zip(positions).zip(slots);
    for ((row, position), slot) in rows.filter(|(_, slot)| **slot != NONE) {
        let place = *slot as usize * width..(*slot as usize + 1) * width;
        let (queries, rest) = row.split_at_mut(heads * head_dim);
        keys[place.clone()].copy_from_slice(&rest[..width]);
        values[place.clone()].copy_from_slice(&rest[width..]);
        let Some(Angles { cos, sin }) = angles else { continue };
        let half = head_dim / 2;
        let angles = *position as usize * half..(*position as usize + 1) * half;
        for head in queries.chunks_exact_mut(head_dim).chain(keys[place].chunks_exact_mut(head_dim)) {
            let (left, right) = head.split_at_mut(half);
            let angles = cos[angles.clone()].iter().zip(&sin[angles.clone()]);
            for ((left, right), (cos, sin)) in left.iter_mut().zip(right).zip(angles) {
                let (x, y) = (left.to_f32(), right.to_f32());
                *left = T::from_f32(x * cos - y * sin);
                *right = T::from_f32(x * sin + y * cos);
            }
        }
    }
}

/// Copies blocks, keys and values, in all layers. No block is written by two pairs, or by one and read by another.
///
/// pool: `[layers, 2, blocks, block_len]`; pairs: from and to
pub fn copy_blocks<T: Element>(pool: &mut [T], pairs: &[[u32; 2]], shape: CopyShape) {
    let CopyShape { blocks, block_len, .. } = shape;
    for pages in pool.chunks_exact_mut(blocks * block_len) {
        for [from, to] in pairs.iter().map(|pair| pair.map(|block| block as usize * block_len)) {
            pages.copy_within(from..from + block_len, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: RopeShape = RopeShape { rows: 2, heads: 1, kv_heads: 1, head_dim: 2 };

    #[test]
    fn queries_turn_in_place_and_keys_on_their_way() {
        // a quarter turn at position 1: (x, y) becomes (-y, x)
        let angles = Some(Angles { cos: &[1.0, 0.0], sin: &[0.0, 1.0] });
        let mut qkv = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (mut keys, mut values) = ([0.0; 64], [0.0; 64]);
        let (positions, slots) = (&[1, 0], &[3, NONE]);
        let (keys_in, values_in) = (&mut keys, &mut values);
        rope_cache(RopeCache {
            qkv: &mut qkv,
            keys: keys_in,
            values: values_in,
            angles,
            positions,
            slots,
            shape: SHAPE,
        });
        assert_eq!(qkv, [-2.0, 1.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!((keys[6..8].to_vec(), values[6..8].to_vec()), (vec![-4.0, 3.0], vec![5.0, 6.0]));
        assert_eq!(keys.iter().chain(&values).filter(|x| **x != 0.0).count(), 4, "padding writes nothing");
    }

    #[test]
    fn without_angles_nothing_turns() {
        let mut qkv = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (mut keys, mut values) = ([0.0; 64], [0.0; 64]);
        let shape = RopeShape { rows: 1, ..SHAPE };
        let (keys_in, values_in) = (&mut keys, &mut values);
        let (positions, slots) = (&[9], &[31]);
        rope_cache(RopeCache {
            qkv: &mut qkv,
            keys: keys_in,
            values: values_in,
            angles: None,
            positions,
            slots,
            shape,
        });
        assert_eq!(qkv[..2], [1.0, 2.0]);
        assert_eq!((&keys[62..], &values[62..]), (&[3.0, 4.0][..], &[5.0, 6.0][..]));
    }

    #[test]
    fn blocks_are_copied_in_all_layers_keys_and_values() {
        let mut pool: Vec<f32> = (0u8..24).map(f32::from).collect();
        let shape = CopyShape { pairs: 1, layers: 2, blocks: 3, block_len: 2 };
        copy_blocks(&mut pool, &[[0, 2]], shape);
        for pages in pool.chunks(6) {
            assert_eq!(pages[4..], pages[..2]);
        }
        assert_eq!(pool[2..4], [2.0, 3.0]);
    }
}
