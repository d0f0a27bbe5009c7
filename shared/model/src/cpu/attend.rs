//! Attention over pages.
//!
//! The softmax goes part by part (Milakov and Gimelshein 2018; Dao et al. 2022): every part of a sequence's positions
//! gives the sum of its values under weights that are relative to its own largest score, and parts are merged in the
//! order of their positions. What a part gives depends on nothing but the row and the part, so rows that are computed
//! together or apart, and parts that are computed on one core or on many, give the same to the bit.

use std::ops::Range;

use bytemuck::cast_slice;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    exp::exp,
    kernel::{self, MOST_ROWS, VECTORS, with_rows},
    pages::{BLOCK_POSITIONS, Pages},
};

/// Positions of a part.
const PART: usize = 256;
/// Numbers from one line's scores to the next's: lines a power of two apart would displace each other from the cache.
const STRIDE: usize = PART + 16;
/// Rows times heads that pass by a part together.
const LINES_AT_ONCE: usize = 192;
/// Tasks for each core: many enough to even out that they are not equally long.
const TASKS_PER_CORE: usize = 4;

/// Which positions a row sees.
#[derive(Clone, Copy)]
pub(crate) enum Reach {
    /// Every one below this.
    All(usize),
    /// Its own and those before it, the last so many if there is a window.
    Causal { window: Option<usize> },
}

/// Consecutive rows of one sequence.
#[derive(Clone)]
pub(crate) struct Span<'a> {
    /// The blocks of the sequence.
    pub(crate) table: &'a [u32],
    /// The position of the first row.
    pub(crate) start: usize,
    /// The rows in the batch.
    pub(crate) rows: Range<usize>,
}

/// Queries as they stand in the rows of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Queries<'a> {
    /// `[rows, stride]`, a row beginning with its `heads * head_dim` queries.
    values: &'a [f32],
    stride: usize,
    heads: usize,
}

impl Reach {
    /// The positions that a row at `position` sees.
    fn of(self, position: usize) -> Range<usize> {
        match self {
            Self::All(end) => 0..end,
            Self::Causal { window } => window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1,
        }
    }
}

/// Lets the rows of all spans attend to their sequences, whose pages hold the rows' own keys and values already.
///
/// queries: `[rows, stride]`, each row beginning with `heads * head_dim` queries; result: `[rows, heads * head_dim]`
pub(crate) fn attend(
    pages: &Pages,
    queries: &[f32],
    stride: usize,
    heads: usize,
    spans: &[Span<'_>],
    reach: Reach,
) -> Vec<f32> {
    let rows = queries.len() / stride;
    let queries = Queries { values: queries, stride, heads };
    let width = heads * pages.head_dim();
    let mut out = vec![0.0; rows * width];
    let mut tasks = tasks(pages, queries, spans, reach, &mut out);
    let arch = Arch::new();
    let wanted = TASKS_PER_CORE * rayon::current_num_threads();
    if tasks.len() < wanted && tasks.iter().any(|task| task.parts().len() > 1) {
        let pieces: Vec<(usize, usize)> =
            tasks.iter().enumerate().flat_map(|(index, task)| task.parts().map(move |part| (index, part))).collect();
        let run = |(index, part): &(usize, usize)| arch.dispatch(Run { task: &tasks[*index], parts: *part..*part + 1 });
        let states: Vec<States> = pieces.par_iter().map(run).collect();
        let mut totals: Vec<Option<States>> = tasks.iter().map(|_| None).collect();
        for ((index, _), states) in pieces.iter().zip(states) {
            match &mut totals[*index] {
                Some(total) => total.merge(&states),
                total => *total = Some(states),
            }
        }
        tasks.iter_mut().zip(totals.iter().flatten()).for_each(|(task, total)| task.write(total));
    } else {
        tasks.par_iter_mut().for_each(|task| {
            let parts = task.parts();
            let states = arch.dispatch(Run { task, parts });
            task.write(&states);
        });
    }
    out
}

/// Some rows of a span for one head of keys and values.
struct Task<'a> {
    pages: &'a Pages,
    queries: Queries<'a>,
    table: &'a [u32],
    kv_head: usize,
    /// The position of the first row.
    start: usize,
    /// The rows in the batch.
    rows: Range<usize>,
    reach: Reach,
    /// The result of each row, `[group * head_dim]`.
    out: Vec<&'a mut [f32]>,
}

/// Cuts the work in tasks.
fn tasks<'a>(
    pages: &'a Pages,
    queries: Queries<'a>,
    spans: &[Span<'a>],
    reach: Reach,
    out: &'a mut [f32],
) -> Vec<Task<'a>> {
    let group = queries.heads / pages.kv_heads();
    let rows_at_once = (LINES_AT_ONCE / group).max(1);
    let width = group * pages.head_dim();
    let mut tasks = Vec::new();
    let mut out = out.chunks_exact_mut(width * pages.kv_heads());
    for Span { table, start, rows } in spans {
        for (first, count) in kernel::tiles(rows.len(), rows_at_once) {
            let index = tasks.len();
            tasks.extend((0..pages.kv_heads()).map(|kv_head| {
                let rows = rows.start + first..rows.start + first + count;
                Task { pages, queries, table, kv_head, start: start + first, rows, reach, out: Vec::new() }
            }));
            for row in out.by_ref().take(count) {
                let columns = row.chunks_exact_mut(width);
                tasks[index..].iter_mut().zip(columns).for_each(|(task, columns)| task.out.push(columns));
            }
        }
    }
    tasks
}

impl Task<'_> {
    fn group(&self) -> usize {
        self.queries.heads / self.pages.kv_heads()
    }

    /// The number of rows times heads.
    fn lines(&self) -> usize {
        self.rows.len() * self.group()
    }

    /// What a line sees. Lines are rows, and within a row its heads.
    fn seen(&self, line: usize) -> Range<usize> {
        self.reach.of(self.start + line / self.group())
    }

    /// The parts that any of the lines see some of.
    fn parts(&self) -> Range<usize> {
        let (first, last) = (self.seen(0), self.seen(self.lines() - 1));
        first.start / PART..last.end.div_ceil(PART)
    }

    /// Writes the lines' results.
    fn write(&mut self, states: &States) {
        let head_dim = self.pages.head_dim();
        let out = self.out.iter_mut().flat_map(|row| row.chunks_exact_mut(head_dim));
        for ((out, sums), weight) in out.zip(states.sums.chunks_exact(head_dim)).zip(&states.weights) {
            let factor = weight.recip();
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
        }
    }

    /// Returns the queries of all lines, scaled, in tiles: `[head_dim, lines of the tile]` each.
    fn packed(&self, tiles: impl Iterator<Item = (usize, usize)>) -> Vec<f32> {
        let (group, head_dim) = (self.group(), self.pages.head_dim());
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        let mut packed = vec![0.0; self.lines() * head_dim];
        for (first, lines) in tiles {
            let tile = &mut packed[first * head_dim..(first + lines) * head_dim];
            for line in 0..lines {
                let (row, head) = ((first + line) / group, (first + line) % group);
                let start = (self.rows.start + row) * self.queries.stride + (self.kv_head * group + head) * head_dim;
                let query = &self.queries.values[start..start + head_dim];
                tile[line..].iter_mut().step_by(lines).zip(query).for_each(|(packed, query)| *packed = query * scale);
            }
        }
        packed
    }
}

/// What lines have gathered from the parts so far.
struct States {
    /// `[lines]`: the largest score.
    largest: Vec<f32>,
    /// `[lines]`: the sum of all weights, relative to that score.
    weights: Vec<f32>,
    /// `[lines, head_dim]`: the sum of the values under these weights.
    sums: Vec<f32>,
}

impl States {
    /// Lines that have seen nothing.
    fn new(lines: usize, head_dim: usize) -> Self {
        Self { largest: vec![f32::MIN; lines], weights: vec![0.0; lines], sums: vec![0.0; lines * head_dim] }
    }

    /// Adds what the lines gathered from the part that follows.
    fn merge(&mut self, next: &Self) {
        let head_dim = self.sums.len() / self.largest.len();
        for (line, sums) in next.sums.chunks_exact(head_dim).enumerate() {
            let (old, new) = self.factors(line, next.largest[line], next.weights[line]);
            let total = &mut self.sums[line * head_dim..(line + 1) * head_dim];
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total = *total * old + sum * new);
        }
    }

    /// Merges largest score and weight of one line; returns the factors of the sums so far and of the new sums, of which
    /// one is 1.
    #[inline(always)]
    fn factors(&mut self, line: usize, largest: f32, weight: f32) -> (f32, f32) {
        let before = self.largest[line];
        let (old, new) =
            if largest > before { ((before - largest).exp(), 1.0) } else { (1.0, (largest - before).exp()) };
        self.largest[line] = before.max(largest);
        self.weights[line] = self.weights[line] * old + weight * new;
        (old, new)
    }
}

/// Some parts of a task.
struct Run<'a, 'b> {
    task: &'b Task<'a>,
    parts: Range<usize>,
}

impl WithSimd for Run<'_, '_> {
    type Output = States;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> States {
        let Self { task, parts } = self;
        let head_dim = task.pages.head_dim();
        let tiles = kernel::tiles(task.lines(), kernel::most_rows::<S>());
        let queries = task.packed(tiles.clone());
        let mut states = States::new(task.lines(), head_dim);
        let mut scratch =
            Scratch { weights: Box::new([[0.0; STRIDE]; MOST_ROWS]), numbers: Vec::new(), padded: Vec::new() };
        for part in parts {
            for (first, lines) in tiles.clone() {
                let queries = &queries[first * head_dim..(first + lines) * head_dim];
                let tile = Tile { task, first, part, queries };
                with_rows!(lines, M, tile.attend::<S, M>(simd, &mut states, &mut scratch));
            }
        }
        states
    }
}

/// Some lines and a part.
struct Tile<'a, 'b> {
    task: &'b Task<'a>,
    first: usize,
    part: usize,
    /// `[head_dim, lines]`
    queries: &'b [f32],
}

/// Room that is used again and again.
struct Scratch {
    /// The scores of a tile with a part, then its weights.
    weights: Box<[[f32; STRIDE]; MOST_ROWS]>,
    /// Numbers of a block that is not kept in f32.
    numbers: Vec<f32>,
    /// Values of a block, the last columns, filled up to the width of a tile.
    padded: Vec<f32>,
}

impl Tile<'_, '_> {
    /// Lets the tile's `M` lines attend to the part.
    #[inline(always)]
    fn attend<S: Simd, const M: usize>(&self, simd: S, states: &mut States, scratch: &mut Scratch) {
        let start = self.part * PART;
        let seen: [Range<usize>; M] = std::array::from_fn(|line| self.task.seen(self.first + line));
        let within = seen[0].start.max(start)..seen[M - 1].end.min(start + PART);
        if within.is_empty() {
            return;
        }
        let blocks = within.start / BLOCK_POSITIONS..within.end.div_ceil(BLOCK_POSITIONS);
        let Scratch { weights, numbers, padded } = scratch;
        let Some(weights) = weights.first_chunk_mut::<M>() else { return };
        self.scores(simd, &blocks, weights, numbers);

        let base = blocks.start * BLOCK_POSITIONS;
        let columns = base - start..blocks.end * BLOCK_POSITIONS - start;
        let mut factors = [(0.0, 0.0); M];
        for (line, weights) in weights.iter_mut().enumerate() {
            let weights = &mut weights[columns.clone()];
            let from = seen[line].start.saturating_sub(base).min(weights.len());
            let to = seen[line].end.saturating_sub(base).clamp(from, weights.len());
            weights[..from].fill(f32::NEG_INFINITY);
            weights[to..].fill(f32::NEG_INFINITY);
            let (largest, weight) = soften(simd, weights);
            factors[line] = states.factors(self.first + line, largest, weight);
        }
        let width = VECTORS * S::F32_LANES;
        let head_dim = self.task.pages.head_dim();
        for column in (0..head_dim).step_by(width) {
            let columns = column..head_dim.min(column + width);
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; M];
            for block in blocks.clone() {
                let first = block * BLOCK_POSITIONS;
                let positions = within.end.min(first + BLOCK_POSITIONS) - first;
                let place = self.task.table[block] as usize;
                let values = self.task.pages.values(place, self.task.kv_head, &columns, numbers);
                let values = &values[..positions * columns.len()];
                let values =
                    if columns.len() == width { values } else { fill_up(values, columns.len(), width, padded) };
                let of_block = kernel::product_of_rows(simd, weights, first - start, values);
                for (sums, of_block) in sums.iter_mut().zip(&of_block) {
                    sums.iter_mut().zip(of_block).for_each(|(sum, of_block)| *sum = simd.add_f32s(*sum, *of_block));
                }
            }
            for (line, (sums, factors)) in sums.iter().zip(&factors).enumerate() {
                let total = (self.first + line) * head_dim;
                add(simd, &mut states.sums[total + columns.start..total + columns.end], sums, *factors);
            }
        }
    }

    /// Writes the scores of the lines with the positions of some blocks of the part.
    #[inline(always)]
    fn scores<S: Simd, const M: usize>(
        &self,
        simd: S,
        blocks: &Range<usize>,
        scores: &mut [[f32; STRIDE]; M],
        numbers: &mut Vec<f32>,
    ) {
        let (queries, _) = self.queries.as_chunks::<M>();
        let width = VECTORS * S::F32_LANES;
        for block in blocks.clone() {
            let keys = self.task.pages.keys(self.task.table[block] as usize, self.task.kv_head, numbers);
            for column in (0..BLOCK_POSITIONS).step_by(width) {
                let sums = kernel::product::<S, M>(simd, queries, keys, BLOCK_POSITIONS, column);
                let place = block * BLOCK_POSITIONS - self.part * PART + column;
                for (scores, sums) in scores.iter_mut().zip(&sums) {
                    scores[place..place + width].copy_from_slice(cast_slice(sums));
                }
            }
        }
    }
}

/// Returns values, `[positions, columns]`, with zeros beside them: `[positions, width]`.
fn fill_up<'a>(values: &[f32], columns: usize, width: usize, padded: &'a mut Vec<f32>) -> &'a [f32] {
    padded.clear();
    padded.resize(values.len() / columns * width, 0.0);
    for (to, from) in padded.chunks_exact_mut(width).zip(values.chunks_exact(columns)) {
        to[..columns].copy_from_slice(from);
    }
    padded
}

/// Makes scores weights relative to the largest score; returns that, and the sum of the weights.
#[inline(always)]
fn soften<S: Simd>(simd: S, scores: &mut [f32]) -> (f32, f32) {
    let (vectors, _) = S::as_mut_simd_f32s(scores);
    let mut largest = simd.splat_f32s(f32::MIN);
    for score in vectors.iter() {
        largest = simd.max_f32s(largest, *score);
    }
    let largest = simd.reduce_max_f32s(largest);
    let base = simd.splat_f32s(largest);
    for score in vectors {
        *score = exp(simd, simd.sub_f32s(*score, base));
    }
    (largest, sum(scores))
}

/// Adds numbers up in an order that does not depend on the width of the processor's vectors.
#[inline(always)]
fn sum(numbers: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    for chunk in numbers.as_chunks::<16>().0 {
        lanes.iter_mut().zip(chunk).for_each(|(lane, number)| *lane += number);
    }
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
    }
    lanes[0]
}

/// Adds new sums to those of a line, each under its factor.
#[inline(always)]
fn add<S: Simd>(simd: S, total: &mut [f32], sums: &[S::f32s; VECTORS], (old, new): (f32, f32)) {
    if total.len() == VECTORS * S::F32_LANES {
        let (old, new) = (simd.splat_f32s(old), simd.splat_f32s(new));
        let (total, _) = S::as_mut_simd_f32s(total);
        for (total, sum) in total.iter_mut().zip(sums) {
            *total = simd.add_f32s(simd.mul_f32s(*total, old), simd.mul_f32s(*sum, new));
        }
    } else {
        let sums = cast_slice::<_, f32>(sums);
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total = *total * old + sum * new);
    }
}
