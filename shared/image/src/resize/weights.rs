//! The fixed-point weights of one axis.

use super::Resizer;

/// Pillow's precision: 32-bit sums of 8-bit pixels, two bits of room.
const PILLOW_BITS: u32 = 22;
/// The cubic's free parameter.
const A: f64 = -0.5;
/// The cubic is zero from here on.
const SUPPORT: f64 = 2.0;

/// For each output of an axis: where its window begins, and the window's weights.
pub(super) struct Weights {
    /// Start of each window, and where its weights begin and end in `taps`.
    windows: Vec<(usize, std::ops::Range<usize>)>,
    taps: Vec<i32>,
    /// Fraction bits of a weight.
    bits: u32,
}

impl Weights {
    /// Returns the weights for resizing an axis from `input` to `output` pixels.
    pub(super) fn new(resizer: Resizer, input: u32, output: u32) -> Self {
        let cubic = match resizer {
            Resizer::Torchvision => cubic_torch,
            Resizer::Pillow | Resizer::Pillow12 => cubic_pillow,
        };
        let scale = f64::from(input) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        let mut windows = Vec::with_capacity(output as usize);
        let mut exact: Vec<f64> = Vec::new();
        for index in 0..output {
            let center = (f64::from(index) + 0.5) * scale;
            // Casts of negative numbers saturate at zero, which is the lower bound.
            let start = (center - support + 0.5) as u32;
            let end = ((center + support + 0.5) as u32).min(input);
            let first = exact.len();
            let inverse = 1.0 / filter_scale;
            exact.extend((0..end - start).map(|j| cubic((f64::from(j + start) - center + 0.5) * inverse)));
            let sum: f64 = exact[first..].iter().sum();
            if sum != 0.0 {
                normalise(&mut exact[first..], sum, resizer);
            }
            windows.push((start as usize, first..exact.len()));
        }
        let bits = match resizer {
            Resizer::Torchvision => torch_bits(&exact),
            Resizer::Pillow | Resizer::Pillow12 => PILLOW_BITS,
        };
        let one = f64::from(1_u32 << bits);
        // Half away from zero.
        let quantise = |weight: f64| (if weight < 0.0 { weight * one - 0.5 } else { weight * one + 0.5 }) as i32;
        Self { windows, taps: exact.into_iter().map(quantise).collect(), bits }
    }

    /// Returns the number of outputs.
    pub(super) fn outputs(&self) -> usize {
        self.windows.len()
    }

    /// Returns where the window of output `index` begins, and its weights.
    pub(super) fn window(&self, index: usize) -> (usize, &[i32]) {
        let (start, taps) = &self.windows[index];
        (*start, &self.taps[taps.clone()])
    }

    /// Returns all windows in order.
    pub(super) fn windows(&self) -> impl Iterator<Item = (usize, &[i32])> + '_ {
        self.windows.iter().map(|(start, taps)| (*start, &self.taps[taps.clone()]))
    }

    /// Returns what a sum begins with, so that `finish` rounds.
    pub(super) fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    /// Returns the pixel of a sum.
    pub(super) fn finish(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }
}

/// Makes the weights of one window add up to one. Pillow multiplies by the reciprocal, torch divides.
fn normalise(weights: &mut [f64], sum: f64, resizer: Resizer) {
    match resizer {
        Resizer::Torchvision => weights.iter_mut().for_each(|weight| *weight /= sum),
        Resizer::Pillow | Resizer::Pillow12 => {
            let reciprocal = 1.0 / sum;
            weights.iter_mut().for_each(|weight| *weight *= reciprocal);
        }
    }
}

/// The most fraction bits with which the axis's largest weight still fits 16 bits.
fn torch_bits(weights: &[f64]) -> u32 {
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let mut bits = 0;
    while bits < PILLOW_BITS && (0.5 + largest * f64::from(1_u32 << (bits + 1))) as i64 <= i64::from(i16::MAX) {
        bits += 1;
    }
    bits
}

/// The cubic as Pillow evaluates it.
fn cubic_pillow(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The cubic as torch evaluates it.
fn cubic_torch(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}
