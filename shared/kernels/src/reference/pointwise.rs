//! Functions of single numbers.

use crate::{Activation, Element};

/// Makes `x` `activation(x + bias) + residual`, rounded once.
///
/// x, residual: `[rows, width]`; bias: `[width]`
pub fn bias_act<T: Element>(
    x: &mut [T],
    width: usize,
    bias: Option<&[T]>,
    residual: Option<&[T]>,
    activation: Activation,
) {
    for (row, x) in x.chunks_exact_mut(width).enumerate() {
        let residual = residual.map(|residual| &residual[row * width..(row + 1) * width]);
        for (column, x) in x.iter_mut().enumerate() {
            let at = |numbers: Option<&[T]>| numbers.map_or(0.0, |numbers| numbers[column].to_f32());
            *x = T::from_f32(activation.apply(x.to_f32() + at(bias)) + at(residual));
        }
    }
}

/// Writes the gate, through SiLU, times what it lets through.
///
/// out: `[rows, width]`; gate_up: `[rows, 2 * width]`, the gate in front
pub fn silu_mul<T: Element>(out: &mut [T], gate_up: &[T], width: usize) {
    assert_eq!(gate_up.len(), 2 * out.len(), "a gate and what it lets through");
    for (out, gate_up) in out.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
        let (gate, up) = gate_up.split_at(width);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = T::from_f32(Activation::Silu.apply(gate.to_f32()) * up.to_f32());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bias_comes_before_the_activation_and_the_residual_behind_it() {
        let mut x = [0.0f32, 1.0, -1.0, 2.0];
        bias_act(&mut x, 2, Some(&[1.0, 0.0]), Some(&[10.0, 20.0, 30.0, 40.0]), Activation::Silu);
        for (found, expected) in x.into_iter().zip([10.731_059f32, 20.731_059, 30.0, 41.761_594]) {
            assert!((found - expected).abs() < 4e-6, "{found}, not {expected}");
        }
        let mut x = [0.5f32, -0.5];
        bias_act(&mut x, 2, None, None, Activation::None);
        assert_eq!(x, [0.5, -0.5]);
    }

    #[test]
    fn the_gate_stands_in_front() {
        let mut out = [0.0f32; 2];
        silu_mul(&mut out, &[1.0, 3.0, 2.0, 5.0], 1);
        for (found, expected) in out.into_iter().zip([3.0 * 0.731_058_6f32, 5.0 * 1.761_594_2]) {
            assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        }
    }
}
