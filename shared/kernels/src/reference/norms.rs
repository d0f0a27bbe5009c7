//! Normalisation over rows.

use crate::Element;

/// Writes the rows of `x` divided by the root of their mean square, times `weight`, as Llama's: rounded to the type of
/// the numbers, then times the weight in that type.
///
/// out, x: `[rows, width]`; weight: `[width]`
pub fn rms_norm<T: Element>(out: &mut [T], x: &[T], weight: &[T], epsilon: f32) {
    let width = weight.len();
    assert_eq!(out.len(), x.len(), "a row for each row");
    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let mean_square = x.iter().map(|x| x.to_f32() * x.to_f32()).sum::<f32>() / width as f32;
        let factor = 1.0 / (mean_square + epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            let rounded = T::from_f32(x.to_f32() * factor);
            *out = T::from_f32(rounded.to_f32() * weight.to_f32());
        }
    }
}

/// Writes the rows of `x` less their mean, divided by their standard deviation, times `weight`, plus `bias`. The
/// variance is the mean of the squares of the differences from the mean, which keeps its digits far from zero.
///
/// out, x: `[rows, width]`; weight, bias: `[width]`
pub fn layer_norm<T: Element>(out: &mut [T], x: &[T], weight: &[T], bias: &[T], epsilon: f32) {
    let width = weight.len();
    assert_eq!(out.len(), x.len(), "a row for each row");
    assert_eq!(bias.len(), width, "a bias for each weight");
    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let mean = x.iter().map(|x| x.to_f32()).sum::<f32>() / width as f32;
        let variance = x.iter().map(|x| (x.to_f32() - mean) * (x.to_f32() - mean)).sum::<f32>() / width as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = T::from_f32((x.to_f32() - mean) * factor * weight.to_f32() + bias.to_f32());
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn a_root_mean_square_norm_has_the_values_that_are_known() {
        // mean square of 1, 1, 1, 5: 7; with 2 for epsilon the root is 3
        let mut out = [0.0; 4];
        rms_norm(&mut out, &[1.0, 1.0, 1.0, 5.0], &[3.0, 6.0, -3.0, 0.3], 2.0);
        for (found, expected) in out.into_iter().zip([1.0f32, 2.0, -1.0, 0.5]) {
            assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        }
    }

    #[test]
    fn a_root_mean_square_norm_rounds_before_the_weight() {
        // 1 / sqrt(3) in bf16 is 0.578125 (0.57735 rounded); times 1.5 is 0.8671875, that rounds to 0.8671875
        let x = [bf16::from_f32(1.0); 2];
        let mut out = [bf16::ZERO; 2];
        rms_norm(&mut out, &x, &[bf16::from_f32(1.5), bf16::from_f32(1.0)], 2.0);
        assert_eq!(out.map(bf16::to_f32), [0.867_187_5, 0.578_125]);
    }

    #[test]
    fn a_layer_norm_has_the_values_that_are_known() {
        // mean 3, differences -2, 0, 2; their squares' mean 8 / 3; with 4 / 3 for epsilon the root is 2
        let (mut out, rows) = ([0.0; 6], [1.0, 3.0, 5.0, 101.0, 103.0, 105.0]);
        layer_norm(&mut out, &rows, &[1.0, 1.0, 10.0], &[0.5, 0.25, 0.0], 4.0 / 3.0);
        for (found, expected) in out.into_iter().zip([-0.5f32, 0.25, 10.0, -0.5, 0.25, 10.0]) {
            assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
        }
    }

    #[test]
    fn norms_in_sixteen_bits_sum_in_f32() {
        // a sum of 4096 squares of 32 would end at f16's limit of 65504
        let x = vec![f16::from_f32(32.0); 4096];
        let (weight, mut out) = (vec![f16::ONE; 4096], vec![f16::ZERO; 4096]);
        rms_norm(&mut out, &x, &weight, 0.0);
        assert!(out.iter().all(|out| *out == f16::ONE));
        layer_norm(&mut out, &x, &weight, &weight, 1e-5);
        assert!(out.iter().all(|out| *out == f16::ONE), "no difference, then the bias");
    }
}
