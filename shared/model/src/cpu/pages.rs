//! Keys and values of one layer in blocks of positions, in the order in which attention reads them.

use std::ops::Range;

use tessera_tensor::DType;

use super::{kernel::VECTORS, lanes, store::Store};

/// Positions in one block.
pub const BLOCK_POSITIONS: usize = 32;

/// Keys and values of one layer: a fixed number of blocks, which belong to whoever has them in a table.
pub(crate) struct Pages {
    kv_heads: usize,
    head_dim: usize,
    /// `[blocks, kv_heads, head_dim, BLOCK_POSITIONS]`: a head's keys in a block are a panel of a matrix product.
    keys: Store,
    /// `[blocks, kv_heads, panels, BLOCK_POSITIONS, width]`: its values are as many panels as make up `head_dim`, the last
    /// one narrower if there is a rest.
    values: Store,
    /// The columns of a panel.
    width: usize,
}

impl Pages {
    /// Returns blocks of zeros.
    pub(crate) fn new(blocks: usize, kv_heads: usize, head_dim: usize, dtype: DType) -> Self {
        let len = blocks * kv_heads * head_dim * BLOCK_POSITIONS;
        let (keys, values) = (Store::zeros(dtype, len), Store::zeros(dtype, len));
        Self { kv_heads, head_dim, keys, values, width: VECTORS * lanes() }
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Copies the keys and values of a block.
    pub(crate) fn copy(&mut self, from: usize, to: usize) {
        let len = self.kv_heads * self.head_dim * BLOCK_POSITIONS;
        self.keys.copy(from * len..(from + 1) * len, to * len);
        self.values.copy(from * len..(from + 1) * len, to * len);
    }

    /// Writes the keys and values of one position.
    ///
    /// keys, values: `[kv_heads, head_dim]`
    pub(crate) fn write(&mut self, table: &[u32], position: usize, keys: &[f32], values: &[f32]) {
        let (block, place) = (table[position / BLOCK_POSITIONS] as usize, position % BLOCK_POSITIONS);
        let heads = keys.chunks_exact(self.head_dim).zip(values.chunks_exact(self.head_dim));
        for (head, (keys, values)) in heads.enumerate() {
            let panel = self.panel(block, head).start;
            self.keys.scatter(panel + place, BLOCK_POSITIONS, keys);
            for (index, values) in values.chunks(self.width).enumerate() {
                let start = index * self.width * BLOCK_POSITIONS + place * values.len();
                self.values.write(panel + start, values);
            }
        }
    }

    /// Returns the keys of a head in a block, `[head_dim, BLOCK_POSITIONS]`.
    #[inline(always)]
    pub(super) fn keys<'a>(&'a self, block: usize, kv_head: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        self.keys.read(self.panel(block, kv_head), scratch)
    }

    /// Returns the columns of a panel of the values of a head in a block, `[BLOCK_POSITIONS, columns]`.
    #[inline(always)]
    pub(super) fn values<'a>(
        &'a self,
        block: usize,
        kv_head: usize,
        columns: &Range<usize>,
        scratch: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let start = self.panel(block, kv_head).start;
        self.values.read(start + columns.start * BLOCK_POSITIONS..start + columns.end * BLOCK_POSITIONS, scratch)
    }

    #[inline(always)]
    fn panel(&self, block: usize, kv_head: usize) -> Range<usize> {
        let len = self.head_dim * BLOCK_POSITIONS;
        let start = (block * self.kv_heads + kv_head) * len;
        start..start + len
    }
}
