//! Attention over pages that are candle's tensors.

use std::ops::Range;

use candle_core::{DType as CandleType, Tensor};
use candle_nn::ops::softmax_last_dim;
use tessera_kernels::{AttendShape, RopeShape, splits};
use tessera_tensor::DType;

use super::{DenseRows, Span, rows::Extents};
use crate::{
    ModelError,
    device::{
        Device,
        kernels::{self, Paged},
    },
    rope::Rope,
};

/// Fewer rows attend each for itself: there is more to do in parallel then than in one tile of queries.
const FEWEST_PROMPT_ROWS: usize = 16;
/// Bytes of the parts that rows attend in; more rows than have room go one after the other.
const PART_BYTES: usize = 256 << 20;
/// The widest heads of a tower that the library's kernel is built for.
const WIDEST_TILE_HEAD: usize = 128;
/// The most rows that a kernel takes.
const MOST_ROWS: usize = u16::MAX as usize;

/// A layer's share of a pool.
pub(super) struct Layer<'a> {
    pub(super) device: &'a Device,
    /// `[2, blocks, 32, kv_heads, head_dim]`: keys and values
    pub(super) pages: Tensor,
}

/// What prompts attend with: many rows of few sequences, each causal over all positions of its sequence.
pub(crate) struct Prompts<'a> {
    /// `[rows, heads, head_dim]`, rows of all prompts; only heads are contiguous
    pub(crate) queries: Tensor,
    /// `[2, blocks, 32, kv_heads, head_dim]`
    pub(crate) pages: &'a Tensor,
    /// Their tables and where they begin.
    pub(crate) rows: &'a DenseRows,
}

/// Tells whether the rows of a span attend together. On a GPU that is by a library's kernel, which is made for some shapes
/// only.
pub(crate) fn attends_together(device: &Device, head_dim: usize, window: Option<usize>, span: &Span<'_>) -> bool {
    let made_for = device.compute() != DType::F32 && [64, 128].contains(&head_dim);
    (made_for || device.gpu().is_none()) && window.is_none() && span.rows.len() >= FEWEST_PROMPT_ROWS
}

impl Layer<'_> {
    /// Turns queries and keys, writes keys and values to the rows' slots, and lets the rows attend.
    ///
    /// qkv: `[rows, (heads + 2 * kv_heads) * head_dim]`; result: `[rows, heads * head_dim]`
    pub(super) fn attend(
        &self,
        qkv: &Tensor,
        heads: usize,
        rows: &DenseRows,
        rope: &Rope,
        window: Option<usize>,
    ) -> Result<Tensor, ModelError> {
        let (_, _, _, kv_heads, head_dim) = self.pages.dims5()?;
        let Extents { rows: count, single, prompts, .. } = rows.extents;
        let angles = rope.dense().ok_or(ModelError::Pool)?;
        let shape = RopeShape { rows: count, heads, kv_heads, head_dim };
        kernels::rope_cache(self.device, qkv, &self.pages, angles, (&rows.positions()?, &rows.slots()?), shape)?;
        let mut attended = Vec::new();
        let at_once = rows_at_once(&rows.extents, heads, head_dim);
        for start in (0..single).step_by(at_once) {
            let some = start..single.min(start + at_once);
            attended.push(self.attend_single(qkv, heads, rows, some, window)?);
        }
        if prompts > 0 {
            let queries = qkv.reshape((count, heads + 2 * kv_heads, head_dim))?;
            let queries = queries.narrow(0, single, count - single)?.narrow(1, 0, heads)?;
            let prompts = Prompts { queries, pages: &self.pages, rows };
            attended.push(match self.device.gpu() {
                Some(gpu) => gpu.attend_prompts(&prompts)?,
                None => attend_prompts(self.device, &prompts)?,
            });
        }
        Ok(Tensor::cat(&attended, 0)?)
    }

    /// Lets some of the rows that attend alone attend.
    fn attend_single(
        &self,
        qkv: &Tensor,
        heads: usize,
        rows: &DenseRows,
        some: Range<usize>,
        window: Option<usize>,
    ) -> Result<Tensor, ModelError> {
        let (_, _, _, kv_heads, head_dim) = self.pages.dims5()?;
        let Extents { table_width, splits, .. } = rows.extents;
        let shape = AttendShape { rows: some.len(), heads, kv_heads, head_dim, table_width, splits };
        let (tables, table_of, lengths) = (rows.tables()?, rows.table_of(&some)?, rows.lengths(&some)?);
        let queries = qkv.narrow(0, some.start, some.len())?;
        let (queries, pages, tables) = (&queries, &self.pages, &tables);
        let (table_of, lengths) = (&table_of, &lengths);
        kernels::paged_attend(self.device, &Paged { queries, pages, tables, table_of, lengths, window, shape })
    }
}

/// What a GPU's library computes for prompts, on the CPU: every row alone.
///
/// result: `[rows, heads * head_dim]`
fn attend_prompts(device: &Device, prompts: &Prompts<'_>) -> Result<Tensor, ModelError> {
    let Prompts { queries, pages, rows } = prompts;
    let (count, heads, head_dim) = queries.dims3()?;
    let (queries, tables) = (queries.contiguous()?.reshape((count, heads * head_dim))?, rows.prompt_tables()?);
    let (starts, keys) = (rows.query_starts()?.to_vec1::<u32>()?, rows.key_starts()?.to_vec1::<u32>()?);
    let (mut table_of, mut lengths) = (Vec::new(), Vec::new());
    for (prompt, (queries, keys)) in (0..).zip(starts.windows(2).zip(keys.windows(2))) {
        let (rows, length) = (queries[1] - queries[0], keys[1] - keys[0]);
        table_of.extend((0..rows).map(|_| prompt));
        lengths.extend((0..rows).map(|row| length - rows + row + 1));
    }
    let shape = AttendShape {
        rows: count,
        heads,
        kv_heads: pages.dim(3)?,
        head_dim,
        table_width: rows.extents.table_width,
        splits: splits(rows.extents.longest_context),
    };
    let (table_of, lengths) = (device.indices(&table_of)?, device.indices(&lengths)?);
    let (queries, tables, table_of, lengths) = (&queries, &tables, &table_of, &lengths);
    kernels::paged_attend(device, &Paged { queries, pages, tables, table_of, lengths, window: None, shape })
}

/// How many rows attend at once.
fn rows_at_once(extents: &Extents, heads: usize, head_dim: usize) -> usize {
    let row_bytes = heads * extents.splits * (head_dim + 2) * size_of::<f32>();
    (PART_BYTES / row_bytes.max(1)).clamp(1, MOST_ROWS)
}

/// Attention of every row of a tile to every other of it.
///
/// qkv: `[tiles * positions, 3 * heads * head_dim]`; result: `[tiles * positions, heads * head_dim]`
pub(super) fn attend_all(device: &Device, qkv: &Tensor, positions: usize, heads: usize) -> Result<Tensor, ModelError> {
    let (rows, width) = qkv.dims2()?;
    let (tiles, head_dim) = (rows / positions, width / 3 / heads);
    if let Some(gpu) = device.gpu()
        && device.compute() != DType::F32
        && head_dim <= WIDEST_TILE_HEAD
    {
        let attended = gpu.attend_tiles(&qkv.reshape((tiles, positions, 3 * heads, head_dim))?, heads)?;
        return Ok(attended.reshape((rows, heads * head_dim))?);
    }
    // In f32, `[3, tiles, heads, positions, head_dim]`
    let wide = qkv.reshape((tiles, positions, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
    let wide = wide.to_dtype(CandleType::F32)?;
    let (queries, keys, values) = (wide.get(0)?, wide.get(1)?, wide.get(2)?);
    let scores = (queries / (head_dim as f64).sqrt())?.matmul(&keys.t()?)?;
    let attended = softmax_last_dim(&scores)?.matmul(&values)?.to_dtype(qkv.dtype())?;
    Ok(attended.transpose(1, 2)?.contiguous()?.reshape((rows, heads * head_dim))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rows_attend_at_once_as_their_parts_have_room() {
        let extents = Extents { splits: 64, ..Extents::default() };
        assert_eq!(rows_at_once(&extents, 32, 128), 252);
        assert_eq!(rows_at_once(&Extents { splits: 1 << 20, ..extents }, 32, 128), 1);
        assert_eq!(rows_at_once(&Extents { splits: 1, ..extents }, 1, 8), MOST_ROWS);
    }
}
