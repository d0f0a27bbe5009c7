//! Attention: full within a tile, causal over a sequence's own keys and values.

use std::ops::Range;

use candle_core::{D, DType, Tensor};
use candle_nn::ops;
use tessera_checkpoint::TextConfig;

use crate::{ModelError, device::Device};

/// The most scores (heads x rows x keys) that are in memory at once: 64 MiB of f32.
const SCORES_AT_ONCE: usize = 1 << 24;
/// The most rows that are computed at once. Rows of one block all see the keys of its last row, so that small blocks
/// compute less in vain.
const ROWS_AT_ONCE: usize = 256;

/// Keys and values of one sequence, for all layers.
///
/// Its memory is reserved when it is made; appending writes in place and never moves what is there.
pub struct KvCache {
    layers: Vec<LayerCache>,
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    capacity: usize,
    device: Device,
}

/// Keys and values of one layer, both `[kv_heads, capacity, head_dim]`.
struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl KvCache {
    pub(crate) fn new(config: &TextConfig, capacity: usize, device: &Device) -> Result<Self, ModelError> {
        let TextConfig { layers, kv_heads, head_dim, .. } = *config;
        let shape = [kv_heads, capacity, head_dim];
        let layer = |_| Ok(LayerCache { keys: device.zeros(&shape)?, values: device.zeros(&shape)? });
        let layers = (0..layers).map(layer).collect::<Result<_, ModelError>>()?;
        Ok(Self { layers, kv_heads, head_dim, len: 0, capacity, device: device.clone() })
    }

    /// Returns the number of positions filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether no position is filled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of positions that there is memory for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the positions from `len` on; does nothing if there are none. The memory is kept.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Tells whether this is a cache for such a decoder.
    pub(crate) fn fits(&self, config: &TextConfig) -> bool {
        (self.layers.len(), self.kv_heads, self.head_dim) == (config.layers, config.kv_heads, config.head_dim)
    }

    /// Counts `rows` more positions, once all layers have appended theirs.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }

    /// Appends one layer's keys and values of the next rows and lets the rows' queries attend to everything up to
    /// themselves, or to the last `window` positions of that.
    ///
    /// queries: `[rows, heads, head_dim]`; keys, values: `[rows, kv_heads, head_dim]`; result: `[rows, heads * head_dim]`
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        window: Option<usize>,
    ) -> Result<Tensor, ModelError> {
        let layer = &self.layers[layer];
        layer.keys.slice_set(&keys.transpose(0, 1)?.contiguous()?, 1, self.len)?;
        layer.values.slice_set(&values.transpose(0, 1)?.contiguous()?, 1, self.len)?;

        let (rows, heads, head_dim) = queries.dims3()?;
        let queries = (queries * scale(head_dim))?;
        let step = (SCORES_AT_ONCE / (heads * (self.len + rows))).clamp(1, ROWS_AT_ONCE);
        let mut outputs = Vec::with_capacity(rows.div_ceil(step));
        for start in (0..rows).step_by(step) {
            let block = start..rows.min(start + step);
            outputs.push(self.attend_block(layer, &queries.narrow(0, start, block.len())?, &block, window)?);
        }
        Ok(if let [output] = outputs.as_slice() { output.clone() } else { Tensor::cat(&outputs, 0)? })
    }

    /// Attention of some of the new rows. The heads that share a key are rows of one matrix product with it.
    ///
    /// queries: `[block, heads, head_dim]`, scaled; result: `[block, heads * head_dim]`
    fn attend_block(
        &self,
        layer: &LayerCache,
        queries: &Tensor,
        block: &Range<usize>,
        window: Option<usize>,
    ) -> Result<Tensor, ModelError> {
        let (rows, heads, head_dim) = queries.dims3()?;
        let (kv_heads, group) = (self.kv_heads, heads / self.kv_heads);
        let positions = self.len + block.start..self.len + block.end;
        let first_key = window.map_or(0, |window| (positions.start + 1).saturating_sub(window));
        let count = positions.end - first_key;
        let keys = layer.keys.narrow(1, first_key, count)?;
        let values = layer.values.narrow(1, first_key, count)?;
        let mask = (rows > 1).then(|| self.mask(&positions, first_key..positions.end, window)).transpose()?;

        let queries = queries.reshape((rows, kv_heads, group, head_dim))?.permute((1, 2, 0, 3))?;
        let queries = queries.reshape((kv_heads, group * rows, head_dim))?;
        let mut scores = queries.matmul(&keys.t()?)?;
        if let Some(mask) = mask {
            let shape = (kv_heads, group, rows, count);
            scores = scores.reshape(shape)?.broadcast_add(&mask)?.reshape((kv_heads, group * rows, count))?;
        }
        let output = softmax(&scores)?.matmul(&values)?.reshape((kv_heads, group, rows, head_dim))?;
        Ok(output.permute((2, 0, 1, 3))?.reshape((rows, heads * head_dim))?)
    }

    /// What is added to the scores, `[positions, keys]`: nothing where a key is seen, minus infinity where it lies ahead
    /// or before the window.
    fn mask(&self, positions: &Range<usize>, keys: Range<usize>, window: Option<usize>) -> Result<Tensor, ModelError> {
        let mut values = Vec::with_capacity(positions.len() * keys.len());
        for position in positions.clone() {
            let oldest = window.map_or(0, |window| (position + 1).saturating_sub(window));
            let seen = |key| oldest <= key && key <= position;
            values.extend(keys.clone().map(|key| if seen(key) { 0.0 } else { f32::NEG_INFINITY }));
        }
        self.device.tensor(values, &[positions.len(), keys.len()])
    }
}

/// Attention of every row to every row.
///
/// queries, keys, values: `[rows, heads, head_dim]`; result: `[rows, heads * head_dim]`
pub(crate) fn attend_all(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor, ModelError> {
    let (rows, heads, head_dim) = queries.dims3()?;
    let queries = (queries.transpose(0, 1)?.contiguous()? * scale(head_dim))?;
    let scores = queries.matmul(&keys.permute((1, 2, 0))?)?;
    let output = softmax(&scores)?.matmul(&values.transpose(0, 1)?.contiguous()?)?;
    Ok(output.transpose(0, 1)?.reshape((rows, heads * head_dim))?)
}

/// The factor of the scores. Applied to the queries, which are fewer.
fn scale(head_dim: usize) -> f64 {
    1.0 / (head_dim as f64).sqrt()
}

/// Softmax over the last axis, in f32 whatever the type of the scores.
fn softmax(scores: &Tensor) -> Result<Tensor, ModelError> {
    debug_assert!(scores.dim(D::Minus1).is_ok_and(|keys| keys > 0), "every row sees at least itself");
    Ok(ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)?.to_dtype(scores.dtype())?)
}
