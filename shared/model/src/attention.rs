//! Attention: full within a tile, causal over a sequence's own keys and values, which stand in blocks of a pool.

mod dense;
mod rows;

use std::{ops::Range, sync::Arc, time::Duration};

use candle_core::Tensor;
use tessera_checkpoint::TextConfig;

use crate::{
    ModelError,
    cpu::{self, Pages, Reach},
    device::{Device, Phase, Stopwatch, kernels},
    language::{Kept, Programs},
    rope::Rope,
};
use dense::Layer;

pub use crate::cpu::BLOCK_POSITIONS;
pub(crate) use crate::cpu::Span;
pub(crate) use dense::{Prompts, attends_together};
pub(crate) use rows::{DenseRows, Extents, Head, Packed, Room};

/// Keys and values of all sequences: a fixed number of blocks of [`BLOCK_POSITIONS`] positions, for all layers.
///
/// Its memory is reserved when it is made. Which sequence a block belongs to is for the caller to know, who names the
/// blocks of a sequence in the table of every [`Chunk`](crate::Chunk).
pub struct KvPool {
    memory: Memory,
    blocks: usize,
    /// The model that it is for, and no other.
    owner: Arc<()>,
    /// Copies that were ordered and are done before anything else is written or read, in one go.
    copies: Vec<[u32; 2]>,
    /// What was made for decode steps over just this memory.
    pub(crate) programs: Programs,
    /// Of the last step, the scores of which only the largest were told.
    pub(crate) kept: Option<Kept>,
    /// Times the phases of steps, where somebody asks.
    stopwatch: Option<Stopwatch>,
}

/// Where keys and values are.
enum Memory {
    /// A layer after the other, as the CPU's own attention reads them.
    Panels(Vec<Pages>),
    /// A share on every device.
    Dense(Vec<Share>),
}

/// The keys and values of some layers.
struct Share {
    layers: Range<usize>,
    /// `[layers, 2, blocks, 32, kv_heads, head_dim]`
    pool: Tensor,
    device: Device,
}

/// The rows of a step as the layers of one device are told about them.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// For the CPU's own kernels.
    Host {
        spans: &'a [Span<'a>],
        /// The position of each row.
        positions: &'a [u32],
    },
    Dense(&'a DenseRows),
}

impl KvPool {
    /// Makes the pool of a model whose layers are on these devices.
    pub(crate) fn new(
        config: &TextConfig,
        blocks: usize,
        shares: &[(Device, Range<usize>)],
        owner: &Arc<()>,
    ) -> Result<Self, ModelError> {
        let TextConfig { kv_heads, head_dim, .. } = *config;
        let memory = match shares {
            [(device, layers)] if !device.is_dense() => {
                let layer = |_| Pages::new(blocks, kv_heads, head_dim, device.compute());
                Memory::Panels(layers.clone().map(layer).collect())
            }
            _ => {
                let share = |(device, layers): &(Device, Range<usize>)| {
                    let shape = [layers.len(), 2, blocks, BLOCK_POSITIONS, kv_heads, head_dim];
                    let pool = device.zeros("keys and values", &shape)?;
                    Ok(Share { layers: layers.clone(), pool, device: device.clone() })
                };
                Memory::Dense(shares.iter().map(share).collect::<Result<_, ModelError>>()?)
            }
        };
        let (copies, programs) = (Vec::new(), Programs::default());
        Ok(Self { memory, blocks, owner: owner.clone(), copies, programs, kept: None, stopwatch: None })
    }

    /// Returns the number of blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Copies the keys and values of block `from` to block `to`, in all layers.
    ///
    /// # Errors
    /// If there is no such block, or a device fails.
    pub fn copy(&mut self, from: u32, to: u32) -> Result<(), ModelError> {
        let blocks = self.blocks;
        if let Some(&block) = [from, to].iter().find(|&&block| block as usize >= blocks) {
            return Err(ModelError::Block { block, blocks });
        }
        if let Memory::Panels(layers) = &mut self.memory {
            layers.iter_mut().for_each(|pages| pages.copy(from as usize, to as usize));
            return Ok(());
        }
        // All copies of one go happen at once, in no order.
        let meets =
            |[earlier_from, earlier_to]: &[u32; 2]| *earlier_to == from || [*earlier_from, *earlier_to].contains(&to);
        if self.copies.iter().any(meets) {
            self.finish_copies()?;
        }
        if from != to {
            self.copies.push([from, to]);
        }
        Ok(())
    }

    /// Does the copies that were ordered.
    pub(crate) fn finish_copies(&mut self) -> Result<(), ModelError> {
        let copies = std::mem::take(&mut self.copies);
        match &self.memory {
            Memory::Dense(shares) if !copies.is_empty() => {
                shares.iter().try_for_each(|share| kernels::copy_blocks(&share.device, &share.pool, &copies))
            }
            _ => Ok(()),
        }
    }

    /// Runs steps and returns how long each of their phases took, all steps together, beside what the steps gave. A GPU times itself: it is
    /// given every step piece by piece, even if it is recorded, so that a step of few rows takes longer than it would. In the time of a
    /// phase is what the GPU waits for the CPU meanwhile.
    ///
    /// # Errors
    /// Those of the steps.
    pub fn time_phases<T>(
        &mut self,
        steps: impl FnOnce(&mut Self) -> Result<T, ModelError>,
    ) -> Result<(T, Vec<(Phase, Duration)>), ModelError> {
        self.stopwatch = Some(Stopwatch::default());
        let given = steps(self);
        let stopwatch = self.stopwatch.take().unwrap_or_default();
        Ok((given?, stopwatch.times()))
    }

    /// Tells whether phases are timed.
    pub(crate) fn is_timed(&self) -> bool {
        self.stopwatch.is_some()
    }

    /// Notes, where phases are timed, that a phase begins on a device.
    pub(crate) fn enter(&mut self, phase: Phase, device: &Device) -> Result<(), ModelError> {
        self.stopwatch.as_mut().map_or(Ok(()), |stopwatch| stopwatch.note(Some(phase), device))
    }

    /// Notes, where phases are timed, that a device's last one ends.
    pub(crate) fn leave(&mut self, device: &Device) -> Result<(), ModelError> {
        self.stopwatch.as_mut().map_or(Ok(()), |stopwatch| stopwatch.note(None, device))
    }

    /// Adds up, where phases are timed, what was noted of a step.
    pub(crate) fn end_step(&mut self) -> Result<(), ModelError> {
        self.stopwatch.as_mut().map_or(Ok(()), Stopwatch::end_step)
    }

    /// Tells whether this is a pool of the model with this mark.
    pub(crate) fn belongs_to(&self, owner: &Arc<()>) -> bool {
        Arc::ptr_eq(&self.owner, owner)
    }

    /// Turns one layer's queries and keys, writes its keys and values to the blocks of the rows' sequences, and lets the
    /// rows' queries attend to everything up to themselves, or to the last `window` positions of that.
    ///
    /// qkv: `[rows, (heads + 2 * kv_heads) * head_dim]`, which may be changed; result: `[rows, heads * head_dim]`
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        qkv: &Tensor,
        heads: usize,
        rows: Rows<'_>,
        rope: &Rope,
        window: Option<usize>,
    ) -> Result<Tensor, ModelError> {
        match (&mut self.memory, rows) {
            (Memory::Panels(layers), Rows::Host { spans, positions }) => {
                let pages = &mut layers[layer];
                let qkv = rope.turn(qkv, heads + pages.kv_heads(), positions)?;
                attend_panels(rope.device(), pages, &qkv, heads, spans, window)
            }
            (Memory::Dense(shares), Rows::Dense(rows)) => {
                let share = shares.iter().find(|share| share.layers.contains(&layer)).ok_or(ModelError::Pool)?;
                let pages = share.pool.get(layer - share.layers.start)?;
                Layer { device: &share.device, pages }.attend(qkv, heads, rows, rope, window)
            }
            _ => Err(ModelError::Pool),
        }
    }
}

/// qkv: `[rows, (heads + 2 * kv_heads) * head_dim]`, turned; result: `[rows, heads * head_dim]`
fn attend_panels(
    device: &Device,
    pages: &mut Pages,
    qkv: &Tensor,
    heads: usize,
    spans: &[Span<'_>],
    window: Option<usize>,
) -> Result<Tensor, ModelError> {
    let (rows, width) = qkv.dims2()?;
    let (queries, keys) = (heads * pages.head_dim(), pages.kv_heads() * pages.head_dim());
    let attended = device.read(qkv, |qkv| {
        for Span { table, start, rows } in spans {
            for (position, row) in (*start..).zip(rows.clone()) {
                let (keys, values) = qkv[row * width + queries..(row + 1) * width].split_at(keys);
                pages.write(table, position, keys, values);
            }
        }
        cpu::attend(pages, qkv, width, heads, spans, Reach::Causal { window })
    })?;
    device.tensor(attended, &[rows, queries])
}

/// Attention of every row of a tile to every other of it.
///
/// qkv: `[tiles * positions, 3 * heads * head_dim]`; result: `[tiles * positions, heads * head_dim]`
pub(crate) fn attend_all(device: &Device, qkv: &Tensor, positions: usize, heads: usize) -> Result<Tensor, ModelError> {
    if device.is_dense() {
        return dense::attend_all(device, qkv, positions, heads);
    }
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
