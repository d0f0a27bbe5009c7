//! Attention: full within a tile, causal over a sequence's own keys and values, which stand in blocks of a pool.

use candle_core::Tensor;
use tessera_checkpoint::TextConfig;

use crate::{
    ModelError,
    cpu::{self, Pages, Reach},
    device::Device,
};

pub use crate::cpu::BLOCK_POSITIONS;
pub(crate) use crate::cpu::Span;

/// Keys and values of all sequences: a fixed number of blocks of [`BLOCK_POSITIONS`] positions, for all layers.
///
/// Its memory is reserved when it is made. Which sequence a block belongs to is for the caller to know, who names the
/// blocks of a sequence in the table of every [`Chunk`](crate::Chunk).
pub struct KvPool {
    layers: Vec<Pages>,
    blocks: usize,
    device: Device,
}

impl KvPool {
    pub(crate) fn new(config: &TextConfig, blocks: usize, device: &Device) -> Self {
        let layer = |_| Pages::new(blocks, config.kv_heads, config.head_dim, device.compute());
        Self { layers: (0..config.layers).map(layer).collect(), blocks, device: device.clone() }
    }

    /// Returns the number of blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Copies the keys and values of block `from` to block `to`, in all layers.
    ///
    /// # Errors
    /// If there is no such block.
    pub fn copy(&mut self, from: u32, to: u32) -> Result<(), ModelError> {
        let blocks = self.blocks;
        if let Some(&block) = [from, to].iter().find(|&&block| block as usize >= blocks) {
            return Err(ModelError::Block { block, blocks });
        }
        self.layers.iter_mut().for_each(|pages| pages.copy(from as usize, to as usize));
        Ok(())
    }

    /// Tells whether this is a pool for such a decoder.
    pub(crate) fn fits(&self, config: &TextConfig, device: &Device) -> bool {
        let shape = |pages: &Pages| (pages.kv_heads(), pages.head_dim()) == (config.kv_heads, config.head_dim);
        self.layers.len() == config.layers && self.layers.iter().all(shape) && self.device.compute() == device.compute()
    }

    /// Writes one layer's keys and values of the rows to the blocks of their sequences and lets the rows' queries attend
    /// to everything up to themselves, or to the last `window` positions of that.
    ///
    /// qkv: `[rows, (heads + 2 * kv_heads) * head_dim]`; result: `[rows, heads * head_dim]`
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        qkv: &Tensor,
        heads: usize,
        spans: &[Span<'_>],
        window: Option<usize>,
    ) -> Result<Tensor, ModelError> {
        let (rows, width) = qkv.dims2()?;
        let pages = &mut self.layers[layer];
        let (queries, keys) = (heads * pages.head_dim(), pages.kv_heads() * pages.head_dim());
        let attended = self.device.read(qkv, |qkv| {
            for Span { table, start, rows } in spans {
                for (position, row) in (*start..).zip(rows.clone()) {
                    let (keys, values) = qkv[row * width + queries..(row + 1) * width].split_at(keys);
                    pages.write(table, position, keys, values);
                }
            }
            cpu::attend(pages, qkv, width, heads, spans, Reach::Causal { window })
        })?;
        self.device.tensor(attended, &[rows, queries])
    }
}

/// Attention of every row of a tile to every other of it.
///
/// qkv: `[tiles * positions, 3 * heads * head_dim]`; result: `[tiles * positions, heads * head_dim]`
pub(crate) fn attend_all(device: &Device, qkv: &Tensor, positions: usize, heads: usize) -> Result<Tensor, ModelError> {
    let (rows, width) = qkv.dims2()?;
    let (tiles, channels) = (rows / positions, width / 3);
    let attended = device.read(qkv, |qkv| {
        let blocks_a_tile = positions.div_ceil(BLOCK_POSITIONS);
        let mut pages = Pages::new(tiles * blocks_a_tile, heads, channels / heads, device.compute());
        let blocks: Vec<u32> = (0..(tiles * blocks_a_tile) as u32).collect();
        let spans: Vec<Span<'_>> = blocks
            .chunks(blocks_a_tile)
            .enumerate()
            .map(|(tile, table)| Span { table, start: 0, rows: tile * positions..(tile + 1) * positions })
            .collect();
        for Span { table, rows, .. } in &spans {
            for (position, row) in rows.clone().enumerate() {
                let (keys, values) = qkv[row * width + channels..(row + 1) * width].split_at(channels);
                pages.write(table, position, keys, values);
            }
        }
        cpu::attend(&pages, qkv, width, heads, &spans, Reach::All(positions))
    })?;
    device.tensor(attended, &[rows, channels])
}
