//! The activations that [`bias_act`](crate::reference::bias_act) knows.

/// A function of one number. Its value is what the kernel is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Activation {
    /// The number itself.
    None = 0,
    /// GELU by the error function.
    Gelu = 1,
    /// GELU by its approximation with a hyperbolic tangent.
    GeluTanh = 2,
    /// `x / (1 + exp(-1.702 x))`, CLIP's.
    QuickGelu = 3,
    /// `x / (1 + exp(-x))`, Llama's.
    Silu = 4,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 5] = [Self::None, Self::Gelu, Self::GeluTanh, Self::QuickGelu, Self::Silu];

    /// The number that the kernel knows it by.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Returns the function's value, to within a few units of the last place.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
            Self::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Self::Silu => x / (1.0 + (-x).exp()),
        }
    }
}

/// The error function, which the standard library lacks, rounded from f64.
///
/// Its series near zero, the continued fraction of its complement elsewhere (Abramowitz and Stegun 1964, 7.1.6 and
/// 7.1.14): slow, and so plain that it can be checked by reading.
fn erf(x: f32) -> f32 {
    let wide = f64::from(x);
    let square = wide * wide;
    let value = if wide.is_nan() {
        wide
    } else if wide.abs() < 2.5 {
        // 2 / sqrt(pi) * exp(-x^2) * sum of 2^n x^(2n + 1) / (1 * 3 * ... * (2n + 1))
        let (mut term, mut sum) = (wide, wide);
        for n in 1..60 {
            term *= 2.0 * square / f64::from(2 * n + 1);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() * sum
    } else {
        // 1 - exp(-x^2) / sqrt(pi) / (x + (1/2) / (x + 1 / (x + (3/2) / (x + ...))))
        let x = wide.abs();
        let fraction = (1..60).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
        let complement = (-square).exp() * std::f64::consts::FRAC_2_SQRT_PI / 2.0 / fraction;
        (1.0 - complement).copysign(wide)
    };
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_that_of_the_tables() {
        // Abramowitz and Stegun, table 7.1
        let table = [
            (0.0, 0.0),
            (0.1, 0.112_462_92),
            (0.5, 0.520_499_9),
            (1.0, 0.842_700_8),
            (2.0, 0.995_322_3),
            (-1.5, -0.966_105_1),
        ];
        for (x, expected) in table {
            let found: f32 = erf(x);
            assert!((found - expected).abs() <= 1.2e-7, "erf({x}) is {found}, not {expected}");
        }
        assert_eq!([erf(30.0), erf(-30.0), erf(f32::INFINITY)], [1.0, -1.0, 1.0]);
        assert!((erf(2.499_999) - erf(2.500_001)).abs() < 1e-6, "both branches meet");
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn activations_have_the_values_that_are_known() {
        // at 1: Phi(1) = 0.8413447, 1 / (1 + e^-1.702) = 0.8457958, 1 / (1 + e^-1) = 0.7310586
        let known = [1.0, 0.841_344_7, 0.841_191_9, 0.845_795_8, 0.731_058_6];
        for (activation, expected) in Activation::ALL.into_iter().zip(known) {
            let found: f32 = activation.apply(1.0);
            assert!((found - expected).abs() < 2e-7, "{activation:?}: {found}, not {expected}");
            assert_eq!(activation.apply(0.0), 0.0);
        }
    }
}
