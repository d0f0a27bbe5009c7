//! The matrix product of a few rows or of many with packed weights.

use std::ops::Range;

use bytemuck::cast_slice;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    NUMBERS_WORTH_A_TASK, activate,
    kernel::{self, VECTORS, with_rows},
    panels::Panels,
};
use tessera_checkpoint::Activation;

/// The inputs that are summed up in registers. Sums of so many are added to the result, which rounds less than one long
/// sum does and takes no more time; and a panel's weights of as many inputs stay in the innermost cache while all rows
/// pass.
const INPUTS_AT_ONCE: usize = 64;
/// The rows that pass by a panel before the next panel comes.
const ROWS_AT_ONCE: usize = 192;
/// Tasks for each core: many enough to even out what else the cores do.
const TASKS_PER_CORE: usize = 4;

/// What is done to a sum once it is complete, in this order.
#[derive(Clone, Copy, Default)]
pub(crate) struct Then<'a> {
    /// `[outputs]`, added to every row.
    pub(crate) bias: Option<&'a [f32]>,
    /// Applied to every number.
    pub(crate) activation: Option<Activation>,
    /// `[rows, outputs]`, added.
    pub(crate) added: Option<&'a [f32]>,
}

/// Returns `x` times the transposed weights, and what is to be done then: `[rows, outputs]`.
///
/// x: `[rows, inputs]`
pub(crate) fn product(x: &[f32], weights: &Panels, then: Then<'_>) -> Vec<f32> {
    let (inputs, outputs) = (weights.inputs(), weights.outputs());
    let rows = x.len() / inputs;
    let mut out = vec![0.0; rows * outputs];
    let arch = Arch::new();
    let x = Tiles::new(x, inputs, arch.dispatch(MostRows));

    let groups = x.groups();
    let wanted = (TASKS_PER_CORE * rayon::current_num_threads()).div_ceil(groups.len());
    let panels_a_task = weights.count().div_ceil(wanted);
    let mut tasks: Vec<Task<'_>> = Vec::new();
    let mut rest = out.as_mut_slice();
    for group in groups {
        let first = tasks.len();
        tasks.extend((0..weights.count()).step_by(panels_a_task).map(|start| {
            let panels = start..weights.count().min(start + panels_a_task);
            Task { x: &x, weights, then, tiles: group.clone(), panels, out: Vec::new() }
        }));
        let count = x.rows(&group).len();
        let (own, after) = rest.split_at_mut(count * outputs);
        rest = after;
        for row in own.chunks_exact_mut(outputs) {
            let columns = row.chunks_mut(panels_a_task * weights.width());
            tasks[first..].iter_mut().zip(columns).for_each(|(task, columns)| task.out.push(columns));
        }
    }
    if rows * inputs * outputs < NUMBERS_WORTH_A_TASK {
        tasks.into_iter().for_each(|task| arch.dispatch(task));
    } else {
        tasks.into_par_iter().for_each(|task| arch.dispatch(task));
    }
    out
}

/// How many rows a tile has at most.
struct MostRows;

impl WithSimd for MostRows {
    type Output = usize;
    fn with_simd<S: Simd>(self, _: S) -> usize {
        kernel::most_rows::<S>()
    }
}

/// The rows in tiles, each `[inputs, rows of the tile]`.
struct Tiles {
    values: Vec<f32>,
    inputs: usize,
    /// First row and number of rows.
    tiles: Vec<(usize, usize)>,
}

impl Tiles {
    fn new(x: &[f32], inputs: usize, most_rows: usize) -> Self {
        let rows = x.len() / inputs;
        let tiles: Vec<_> = kernel::tiles(rows, most_rows).collect();
        let mut values = vec![0.0; x.len()];
        let mut rest = values.as_mut_slice();
        let mut parts = Vec::with_capacity(tiles.len());
        for &(start, count) in &tiles {
            let (own, after) = rest.split_at_mut(count * inputs);
            rest = after;
            parts.push((&x[start * inputs..(start + count) * inputs], own));
        }
        let pack = |(x, tile): (&[f32], &mut [f32])| {
            let count = x.len() / inputs;
            for (row, x) in x.chunks_exact(inputs).enumerate() {
                tile[row..].iter_mut().step_by(count).zip(x).for_each(|(to, from)| *to = *from);
            }
        };
        if x.len() < NUMBERS_WORTH_A_TASK {
            parts.into_iter().for_each(pack);
        } else {
            parts.into_par_iter().for_each(pack);
        }
        Self { values, inputs, tiles }
    }

    /// Tiles that pass by a panel together.
    fn groups(&self) -> Vec<Range<usize>> {
        let rows = self.values.len() / self.inputs;
        let groups = rows.div_ceil(ROWS_AT_ONCE).min(self.tiles.len());
        let split = |group: usize| group * self.tiles.len() / groups;
        (0..groups).map(|group| split(group)..split(group + 1)).collect()
    }

    /// The rows of some tiles.
    fn rows(&self, tiles: &Range<usize>) -> Range<usize> {
        let (start, _) = self.tiles[tiles.start];
        let (last, count) = self.tiles[tiles.end - 1];
        start..last + count
    }

    /// Some inputs of a tile, `[inputs, rows of the tile]`.
    #[inline(always)]
    fn block(&self, tile: usize, inputs: &Range<usize>) -> &[f32] {
        let (start, rows) = self.tiles[tile];
        let tile = start * self.inputs;
        &self.values[tile + inputs.start * rows..tile + inputs.end * rows]
    }
}

/// Some tiles times some panels.
struct Task<'a> {
    x: &'a Tiles,
    weights: &'a Panels,
    then: Then<'a>,
    tiles: Range<usize>,
    panels: Range<usize>,
    /// The panels' columns of each row.
    out: Vec<&'a mut [f32]>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut scratch = Vec::new();
        let inputs = self.weights.inputs();
        let first_row = self.x.rows(&self.tiles).start;
        for panel in self.panels.clone() {
            let column = (panel - self.panels.start) * self.weights.width();
            for start in (0..inputs).step_by(INPUTS_AT_ONCE) {
                let block = start..inputs.min(start + INPUTS_AT_ONCE);
                let weights = self.weights.block(panel, &block, &mut scratch);
                for tile in self.tiles.clone() {
                    let (row, rows) = self.x.tiles[tile];
                    let out = &mut self.out[row - first_row..row - first_row + rows];
                    let x = self.x.block(tile, &block);
                    with_rows!(rows, M, add_tile::<S, M>(simd, x, weights, column, out));
                }
            }
        }
        self.finish();
    }
}

/// Adds a tile's products with some inputs of a panel to the columns of `out` from `column` on, as far as there are any.
#[inline(always)]
fn add_tile<S: Simd, const M: usize>(simd: S, x: &[f32], weights: &[f32], column: usize, out: &mut [&mut [f32]]) {
    let (x, _) = x.as_chunks::<M>();
    let width = VECTORS * S::F32_LANES;
    let sums = kernel::product::<S, M>(simd, x, weights, width, 0);
    for (sums, row) in sums.iter().zip(out) {
        let end = row.len().min(column + width);
        let row = &mut row[column..end];
        if row.len() == width {
            let (row, _) = S::as_mut_simd_f32s(row);
            row.iter_mut().zip(sums).for_each(|(to, sum)| *to = simd.add_f32s(*to, *sum));
        } else {
            row.iter_mut().zip(cast_slice::<_, f32>(sums)).for_each(|(to, sum)| *to += sum);
        }
    }
}

impl Task<'_> {
    /// Does what is to be done to complete sums.
    fn finish(self) {
        let Then { bias, activation, added } = self.then;
        let first_row = self.x.rows(&self.tiles).start;
        let column = self.panels.start * self.weights.width();
        for (row, out) in self.out.into_iter().enumerate() {
            if let Some(bias) = bias {
                out.iter_mut().zip(&bias[column..]).for_each(|(to, bias)| *to += bias);
            }
            if let Some(activation) = activation {
                activate(out, activation);
            }
            if let Some(added) = added {
                let start = (first_row + row) * self.weights.outputs() + column;
                out.iter_mut().zip(&added[start..]).for_each(|(to, added)| *to += added);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tessera_tensor::DType;

    use super::{super::Source, *};

    struct Matrix<'a>(&'a [f32], usize);

    impl Source for Matrix<'_> {
        fn read(&self, output: usize, inputs: Range<usize>, weights: &mut [f32]) {
            weights.copy_from_slice(&self.0[output * self.1..][inputs]);
        }
    }

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let hash =
            |index: usize| (index as u32 ^ seed).wrapping_mul(0x9E37_79B9).rotate_left(13).wrapping_mul(0x85EB_CA6B);
        (0..count).map(|index| (hash(index) >> 8) as f32 / 2.0f32.powi(23) - 1.0).collect()
    }

    #[test]
    fn it_is_that_of_f64_in_every_shape() {
        for (inputs, outputs) in [(1, 1), (7, 3), (64, 32), (255, 33), (257, 95), (600, 100)] {
            let matrix = numbers(inputs * outputs, 1);
            let weights = Panels::pack(&Matrix(&matrix, inputs), inputs, outputs, DType::F32);
            for rows in (1..=17).chain([40, 200, 403]) {
                let x = numbers(rows * inputs, 2);
                let (bias, added) = (numbers(outputs, 3), numbers(rows * outputs, 4));
                let y = product(&x, &weights, Then { bias: Some(&bias), activation: None, added: Some(&added) });
                assert_eq!(y.len(), rows * outputs);
                for (index, &y) in y.iter().enumerate() {
                    let (row, output) = (index / outputs, index % outputs);
                    let pairs = x[row * inputs..][..inputs].iter().zip(&matrix[output * inputs..][..inputs]);
                    let terms = pairs.map(|(x, weight)| f64::from(*x) * f64::from(*weight));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    let exact = sum + f64::from(bias[output]) + f64::from(added[index]);
                    let error = (f64::from(y) - exact).abs();
                    assert!(error <= 1e-6 * (size + 2.0), "{rows} x {inputs} x {outputs} at {index}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_row_gives_bit_for_bit_what_it_gives_alone() {
        for dtype in [DType::F32, DType::F16] {
            let (inputs, outputs) = (700, 70);
            let matrix = numbers(inputs * outputs, 1);
            let weights = Panels::pack(&Matrix(&matrix, inputs), inputs, outputs, dtype);
            let x = numbers(403 * inputs, 2);
            let alone: Vec<f32> = x.chunks(inputs).flat_map(|row| product(row, &weights, Then::default())).collect();
            for rows in [2, 3, 12, 13, 25, 200, 403] {
                let together = product(&x[..rows * inputs], &weights, Then::default());
                assert_eq!(together, alone[..rows * outputs], "{rows} rows");
            }
        }
    }

    #[test]
    fn weights_are_read_back_as_they_were_packed() {
        let (inputs, outputs) = (300, 70);
        let matrix = numbers(inputs * outputs, 5);
        let weights = Panels::pack(&Matrix(&matrix, inputs), inputs, outputs, DType::F32);
        let mut row = vec![0.0; inputs];
        for (output, expected) in matrix.chunks(inputs).enumerate() {
            weights.read_output(output, &mut row);
            assert_eq!(row, expected);
        }
    }
}
