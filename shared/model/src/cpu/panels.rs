//! Weights in the order in which the product reads them.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;
use tessera_tensor::DType;

use super::{kernel::VECTORS, lanes, store::Store};

/// Inputs that are packed at once.
const BLOCK: usize = 256;
/// What is left free between the rows of a block: rows a power of two apart would displace each other from the cache.
const GAP: usize = 16;

/// Weights of a linear layer, `[outputs, inputs]`: panels of as many outputs as a tile is wide, each `[inputs, width]`.
/// The last panel is filled up with zeros. There is no other copy.
pub(crate) struct Panels {
    inputs: usize,
    outputs: usize,
    width: usize,
    weights: Store,
}

/// Where weights come from when a model is loaded.
pub(crate) trait Source: Sync {
    /// Writes some of the weights of one output.
    fn read(&self, output: usize, inputs: Range<usize>, weights: &mut [f32]);
}

impl Panels {
    /// Packs the weights, all cores at once.
    pub(crate) fn pack(source: &impl Source, inputs: usize, outputs: usize, dtype: DType) -> Self {
        let width = VECTORS * lanes();
        let mut weights = Store::zeros(dtype, outputs.div_ceil(width) * width * inputs);
        let packing = Packing { source, inputs, outputs, width };
        match &mut weights {
            Store::F32(weights) => packing.fill(weights.as_mut_slice(), |weight| weight),
            Store::F16(weights) => packing.fill(weights.as_mut_slice(), f16::from_f32),
        }
        Self { inputs, outputs, width, weights }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The outputs of a panel.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The number of panels.
    pub(super) fn count(&self) -> usize {
        self.outputs.div_ceil(self.width)
    }

    /// Returns the weights of some inputs of a panel, `[inputs, width]`.
    #[inline(always)]
    pub(super) fn block<'a>(&'a self, panel: usize, inputs: &Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        let start = panel * self.inputs;
        self.weights.read((start + inputs.start) * self.width..(start + inputs.end) * self.width, scratch)
    }

    /// Writes the weights of one output, all inputs in their order: a row of a token embedding that is the head too.
    pub(crate) fn read_output(&self, output: usize, weights: &mut [f32]) {
        let start = output / self.width * self.width * self.inputs + output % self.width;
        for (input, weight) in weights.iter_mut().enumerate() {
            *weight = self.weights.get(start + input * self.width);
        }
    }
}

/// The work of packing.
struct Packing<'a, W> {
    source: &'a W,
    inputs: usize,
    outputs: usize,
    width: usize,
}

impl<W: Source> Packing<'_, W> {
    fn fill<T: Send>(&self, weights: &mut [T], convert: impl Fn(f32) -> T + Sync) {
        let &Self { source, inputs, outputs, width } = self;
        weights.par_chunks_exact_mut(width * inputs).enumerate().for_each_init(Vec::new, |rows, (index, panel)| {
            let of_panel = index * width..outputs.min((index + 1) * width);
            rows.resize(width * (BLOCK + GAP), 0.0);
            for (block, panel) in panel.chunks_mut(width * BLOCK).enumerate() {
                let from = block * BLOCK..inputs.min((block + 1) * BLOCK);
                for (row, output) in rows.chunks_exact_mut(BLOCK + GAP).zip(of_panel.clone()) {
                    source.read(output, from.clone(), &mut row[..from.len()]);
                }
                for (input, panel) in panel.chunks_exact_mut(width).enumerate() {
                    let column = rows[input..].iter().step_by(BLOCK + GAP);
                    panel[..of_panel.len()].iter_mut().zip(column).for_each(|(to, from)| *to = convert(*from));
                }
            }
        });
    }
}
