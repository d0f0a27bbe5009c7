//! The exponential function of a vector.

use pulp::Simd;

/// Below it the result is taken to be zero, which it is to within 1.2e-38.
const LOWEST: f32 = -87.3;
/// Above it the result would overflow.
const HIGHEST: f32 = 88.3;
/// Adding it rounds to an integer, whose binary digits are then the last of the sum's.
const ROUNDER: f32 = 12_582_912.0;
/// The natural logarithm of 2 in two parts, the first with so few digits that its small multiples are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// The logarithm of e to base 2.
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// The coefficients of the Taylor series from the highest on, enough for half a logarithm of 2.
const SERIES: [f32; 7] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];

/// Returns e to the power of `x`, to within a unit or two of the last place; zero below -87.3, and above 88.3 what it is
/// there.
///
/// With n the integer next to x / ln 2: e^x = 2^n e^(x - n ln 2), the second factor by its series.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let lowest = simd.splat_f32s(LOWEST);
    let is_zero = simd.less_than_f32s(x, lowest);
    let x = simd.min_f32s(simd.max_f32s(x, lowest), simd.splat_f32s(HIGHEST));
    let rounder = simd.splat_f32s(ROUNDER);
    let rounded = simd.mul_add_e_f32s(x, simd.splat_f32s(LOG2_E), rounder);
    let n = simd.sub_f32s(rounded, rounder);
    let rest = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2[0]), x);
    let rest = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2[1]), rest);
    let mut sum = simd.splat_f32s(SERIES[0]);
    for coefficient in &SERIES[1..] {
        sum = simd.mul_add_e_f32s(sum, rest, simd.splat_f32s(*coefficient));
    }
    let one = simd.splat_f32s(1.0);
    let sum = simd.mul_add_e_f32s(sum, rest, one);
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(rounded), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.transmute_u32s_f32s(one)));
    simd.select_f32s(is_zero, simd.splat_f32s(0.0), simd.mul_f32s(sum, power))
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;

    struct Exp<'a>(&'a mut [f32]);

    impl WithSimd for Exp<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            assert!(rest.is_empty());
            vectors.iter_mut().for_each(|x| *x = exp(simd, *x));
        }
    }

    #[test]
    fn it_is_that_of_f64_over_its_whole_range() {
        let inputs: Vec<f32> = (0..1 << 20).map(|step| step as f32 * (175.6 / (1 << 20) as f32) - 87.3).collect();
        let mut outputs = inputs.clone();
        Arch::new().dispatch(Exp(&mut outputs));
        let error = |(x, y): (&f32, &f32)| (f64::from(*y) / f64::from(*x).exp() - 1.0).abs();
        let worst = inputs.iter().zip(&outputs).map(error).fold(0.0, f64::max);
        println!("relative error {worst:.2e}");
        assert!(worst < 1.5e-7, "{worst}");
    }

    #[test]
    fn of_zero_it_is_one_and_of_minus_infinity_zero() {
        let mut values = [0.0f32; 32];
        values[1..5].copy_from_slice(&[f32::NEG_INFINITY, -1e30, -87.4, f32::MIN]);
        values[5] = -0.0;
        Arch::new().dispatch(Exp(&mut values));
        assert_eq!(values[..7], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    }
}
