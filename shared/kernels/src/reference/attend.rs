//! Attention over pages, part by part.
//!
//! A row's positions are cut in parts of [`SPLIT_POSITIONS`]. Each gives its largest score, the sum of its weights
//! relative to that score, and the sum of its values under these weights (Milakov and Gimelshein 2018); the parts are
//! then added up in the order of their positions.

use std::{num::NonZeroU32, ops::Range};

use crate::{AttendShape, BLOCK_POSITIONS, Element, MergeShape, SPLIT_POSITIONS};

/// What [`paged_attend`] takes.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a, T> {
    /// `[rows, stride]`, each row beginning with its `heads * head_dim` queries.
    pub queries: &'a [T],
    /// Numbers from one row's queries to the next's.
    pub stride: usize,
    /// `[blocks, 32, kv_heads, head_dim]`: a layer's pages.
    pub keys: &'a [T],
    /// `[blocks, 32, kv_heads, head_dim]`
    pub values: &'a [T],
    /// `[tables, table_width]`: blocks in the order of their positions.
    pub tables: &'a [u32],
    /// `[rows]`: each row's table.
    pub table_of: &'a [u32],
    /// `[rows]`: the positions that a row may see, its own included; 0 for a row that is padding.
    pub lengths: &'a [u32],
    /// If given, only the last so many of them.
    pub window: Option<NonZeroU32>,
    /// What scores are multiplied by.
    pub scale: f32,
    /// The extents.
    pub shape: AttendShape,
}

/// What attention to the parts of all rows gave.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// `[rows, heads, splits, head_dim]`: sums of values; of an empty part, anything.
    pub partials: &'a [f32],
    /// `[rows, heads, splits]`: largest scores; of an empty part, negative infinity.
    pub maxima: &'a [f32],
    /// `[rows, heads, splits]`: sums of weights; of an empty part, 0.
    pub sums: &'a [f32],
}

/// Where [`paged_attend`] writes, as [`Parts`] has it.
#[derive(Debug)]
pub struct PartsMut<'a> {
    /// `[rows, heads, splits, head_dim]`
    pub partials: &'a mut [f32],
    /// `[rows, heads, splits]`
    pub maxima: &'a mut [f32],
    /// `[rows, heads, splits]`
    pub sums: &'a mut [f32],
}

/// Lets every head of every row attend to its positions, part by part. A part of which the row sees nothing is empty,
/// and its partial sums are left as they were.
pub fn paged_attend<T: Element>(input: Attend<'_, T>, parts: PartsMut<'_>) {
    let AttendShape { rows, heads, head_dim, splits, .. } = input.shape;
    let lines =
        (0..rows).flat_map(|row| (0..heads).flat_map(move |head| (0..splits).map(move |split| (row, head, split))));
    let outputs = parts.partials.chunks_exact_mut(head_dim).zip(parts.maxima).zip(parts.sums);
    for ((row, head, split), ((partial, maximum), sum)) in lines.zip(outputs) {
        let seen = input.seen(row, split);
        let scores: Vec<f32> = seen.clone().map(|position| input.score(row, head, position)).collect();
        *maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        *sum = 0.0;
        if scores.is_empty() {
            continue;
        }
        partial.fill(0.0);
        for (score, position) in scores.iter().zip(seen) {
            let weight = (score - *maximum).exp();
            *sum += weight;
            let values = &input.values[input.place(row, head, position)..][..head_dim];
            partial.iter_mut().zip(values).for_each(|(partial, value)| *partial += weight * value.to_f32());
        }
    }
}

impl<T: Element> Attend<'_, T> {
    /// The positions of a part that the row sees.
    fn seen(&self, row: usize, split: usize) -> Range<usize> {
        let length = self.lengths[row] as usize;
        let first = self.window.map_or(0, |window| length.saturating_sub(window.get() as usize));
        let start = split * SPLIT_POSITIONS;
        first.max(start)..length.min(start + SPLIT_POSITIONS)
    }

    /// Where the keys and values of a position begin that a head attends to.
    fn place(&self, row: usize, head: usize, position: usize) -> usize {
        let AttendShape { kv_heads, head_dim, table_width, .. } = self.shape;
        let table = self.table_of[row] as usize * table_width;
        let block = self.tables[table + position / BLOCK_POSITIONS] as usize;
        let slot = block * BLOCK_POSITIONS + position % BLOCK_POSITIONS;
        (slot * kv_heads + head / self.shape.group()) * head_dim
    }

    fn score(&self, row: usize, head: usize, position: usize) -> f32 {
        let head_dim = self.shape.head_dim;
        let query = &self.queries[row * self.stride + head * head_dim..][..head_dim];
        let key = &self.keys[self.place(row, head, position)..][..head_dim];
        query.iter().zip(key).map(|(query, key)| query.to_f32() * self.scale * key.to_f32()).sum()
    }
}

/// Adds the parts of every head up, in the order of their positions; zeros where all parts are empty.
///
/// out: `[rows, heads * head_dim]`
pub fn paged_merge<T: Element>(out: &mut [T], parts: Parts<'_>, shape: MergeShape) {
    let MergeShape { head_dim, splits, .. } = shape;
    let partials = parts.partials.chunks_exact(splits * head_dim);
    let heads = partials.zip(parts.maxima.chunks_exact(splits)).zip(parts.sums.chunks_exact(splits));
    for (out, ((partials, maxima), sums)) in out.chunks_exact_mut(head_dim).zip(heads) {
        let largest = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut total, mut values) = (0.0, vec![0.0; head_dim]);
        let parts = partials.chunks_exact(head_dim).zip(maxima).zip(sums);
        for ((partial, maximum), sum) in parts.filter(|(_, sum)| **sum != 0.0) {
            let weight = (maximum - largest).exp();
            total += weight * sum;
            values.iter_mut().zip(partial).for_each(|(value, partial)| *value += weight * partial);
        }
        let factor = if total == 0.0 { 0.0 } else { 1.0 / total };
        out.iter_mut().zip(values).for_each(|(out, value)| *out = T::from_f32(value * factor));
    }
}

#[cfg(test)]
mod tests;
