//! Functions of single numbers: activations and the gate of the feed-forward network.

use candle_core::cpu::erf::erf_f32;
use pulp::{Arch, Simd, WithSimd};
use tessera_checkpoint::Activation;

use super::{each_row, exp::exp};

/// Twice the inner factor of GELU's approximation, for `(1 + tanh(u)) / 2` is the logistic function of `2 u`.
const TANH_FACTOR: f32 = 1.595_769_2;
const TANH_CUBE: f32 = 0.044_715;
const QUICK_FACTOR: f32 = 1.702;

/// Applies an activation to every number.
pub(crate) fn activate(values: &mut [f32], activation: Activation) {
    match activation {
        Activation::QuickGelu => Arch::new().dispatch(QuickGelu(values)),
        Activation::GeluTanh => Arch::new().dispatch(GeluTanh(values)),
        Activation::Gelu => {
            values.iter_mut().for_each(|x| *x *= 0.5 * (1.0 + erf_f32(*x * std::f32::consts::FRAC_1_SQRT_2)));
        }
    }
}

/// Returns the gate, through SiLU, times what it lets through: `[rows, width]`.
///
/// gate_up: `[rows, 2 * width]`, the gate in front
pub(crate) fn gated(gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; gate_up.len() / 2];
    each_row(&mut out, width, |row, out| {
        let (gate, up) = gate_up[row * 2 * width..(row + 1) * 2 * width].split_at(width);
        Arch::new().dispatch(Gated { gate, up, out });
    });
    out
}

/// `x / (1 + e^-y)`
#[inline(always)]
fn times_logistic<S: Simd>(simd: S, x: S::f32s, y: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(x, simd.add_f32s(one, exp(simd, simd.neg_f32s(y))))
}

/// Applies `f` to all numbers, the last few filled up to a vector.
#[inline(always)]
fn map<S: Simd>(values: &mut [f32], f: impl Fn(S::f32s) -> S::f32s, simd: S) {
    let (vectors, rest) = S::as_mut_simd_f32s(values);
    vectors.iter_mut().for_each(|x| *x = f(*x));
    if !rest.is_empty() {
        let last = f(simd.partial_load_f32s(rest));
        simd.partial_store_f32s(rest, last);
    }
}

struct QuickGelu<'a>(&'a mut [f32]);

impl WithSimd for QuickGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let factor = simd.splat_f32s(QUICK_FACTOR);
        map(self.0, |x| times_logistic(simd, x, simd.mul_f32s(x, factor)), simd);
    }
}

struct GeluTanh<'a>(&'a mut [f32]);

impl WithSimd for GeluTanh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (factor, cube) = (simd.splat_f32s(TANH_FACTOR), simd.splat_f32s(TANH_CUBE));
        let one = simd.splat_f32s(1.0);
        let inner = |x| simd.mul_f32s(simd.mul_f32s(factor, x), simd.mul_add_e_f32s(simd.mul_f32s(cube, x), x, one));
        map(self.0, |x| times_logistic(simd, x, inner(x)), simd);
    }
}

struct Gated<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { gate, up, out } = self;
        let gated = |gate, up| simd.mul_f32s(times_logistic(simd, gate, gate), up);
        let (gate, gate_rest) = S::as_simd_f32s(gate);
        let (up, up_rest) = S::as_simd_f32s(up);
        let (out, out_rest) = S::as_mut_simd_f32s(out);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gated(*gate, *up);
        }
        if !out_rest.is_empty() {
            let last = gated(simd.partial_load_f32s(gate_rest), simd.partial_load_f32s(up_rest));
            simd.partial_store_f32s(out_rest, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logistic(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// From -20 to 20, in a number that fills no vector.
    fn inputs() -> Vec<f32> {
        (0..4003).map(|step| step as f32 / 100.0 - 20.0).collect()
    }

    fn assert_close(found: &[f32], expected: impl Iterator<Item = f64>) {
        for (index, (&found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(found) - expected).abs();
            // Where the result is a small fraction of the input, the rounding of the exponent counts.
            assert!(error <= 4e-7 * expected.abs() + 1e-8, "{index}: {found} for {expected}");
        }
    }

    #[test]
    fn activations_are_those_of_f64() {
        let exact = |of: fn(f64) -> f64| inputs().into_iter().map(move |x| of(f64::from(x)));
        let mut values = inputs();
        activate(&mut values, Activation::QuickGelu);
        assert_close(&values, exact(|x| x * logistic(1.702 * x)));
        let mut values = inputs();
        activate(&mut values, Activation::GeluTanh);
        assert_close(
            &values,
            exact(|x| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }),
        );
    }

    #[test]
    fn a_gate_is_that_of_f64_in_every_row() {
        let gates = inputs();
        let width = gates.len();
        let ups: Vec<f32> = gates.iter().map(|gate| gate * 0.3 + 1.0).collect();
        let rows: Vec<f32> = (0..9).flat_map(|_| gates.iter().chain(&ups).copied()).collect();
        let exact: Vec<f64> = gates
            .iter()
            .zip(&ups)
            .map(|(&gate, &up)| f64::from(gate) * logistic(f64::from(gate)) * f64::from(up))
            .collect();
        for row in gated(&rows, width).chunks(width) {
            assert_close(row, exact.iter().copied());
        }
    }
}
