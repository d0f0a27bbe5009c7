//! Powers of e and their sums, to the same bits wherever they are computed.
//!
//! What a library's `exp` gives differs in its last bits from library to library and from a CPU to a GPU, and what a sum gives
//! depends on its order. A token that is drawn on one device must be drawn again on another where an answer goes on there.
//! So here is one function, of additions and multiplications alone, each rounded for itself, and one order of adding.
//! `cuda/choose.cu` has the same.

/// Sums that are kept apart, each of the ids that leave the same rest.
pub const LANES: usize = 1024;
/// Lanes that are added up first.
const GROUP: usize = 32;

/// Below it a power is 0: less than any sum of powers with a 1 in it notices.
const LEAST: f64 = -700.0;
/// Adding it leaves of a number the nearest whole one, in the lowest bits.
const ROUNDING: f64 = 6_755_399_441_055_744.0;
const LOG2_E: f64 = std::f64::consts::LOG2_E;
/// The logarithm of 2 in two parts: multiples of the first are exact.
const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
/// Of the series of e to the power of x: 1 / 13!, 1 / 12!, ... 1.
const SERIES: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    1.0 / 2.0,
    1.0,
    1.0,
];

/// Returns e to the power of a number that is not above 0, within two units of the last place; 0 where that is below 1e-304.
#[inline]
#[must_use]
pub fn power(x: f64) -> f64 {
    if x < LEAST {
        return 0.0;
    }
    // x is a whole number of logarithms of 2 and a rest that is at most half of one.
    let rounded = x * LOG2_E + ROUNDING;
    let whole = rounded - ROUNDING;
    let rest = (x - whole * LN2[0]) - whole * LN2[1];
    let mut sum = SERIES[0];
    for term in &SERIES[1..] {
        sum = sum * rest + term;
    }
    // The whole number goes where the exponent is.
    f64::from_bits(sum.to_bits().wrapping_add(rounded.to_bits() << 52))
}

/// What scores are divided by before powers are taken of them.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    shift: f32,
    temperature: f32,
}

impl Scale {
    /// Makes the scale of a row whose largest score is `top`. A temperature close to 0 would make scores infinite: their
    /// distances from the largest are divided then, which loses nothing that could be drawn.
    #[must_use]
    pub fn new(top: f32, temperature: f32) -> Self {
        Self { shift: if (top / temperature).is_finite() { 0.0 } else { top }, temperature }
    }

    /// Returns the scaled score.
    #[inline]
    #[must_use]
    pub fn of(self, score: f32) -> f32 {
        (score - self.shift) / self.temperature
    }
}

/// The sum of the powers of some ids' exponents, in an order that the ids alone decide.
#[derive(Clone, Debug)]
pub struct Powers {
    lanes: Vec<f64>,
}

impl Powers {
    /// Adds up the powers of exponents that are not above 0. Ids rise.
    #[must_use]
    pub fn of(exponents: impl Iterator<Item = (u32, f64)>) -> Self {
        let mut lanes = vec![0.0; LANES];
        for (id, exponent) in exponents {
            lanes[id as usize % LANES] += power(exponent);
        }
        Self { lanes }
    }

    /// Returns the sum of all.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.groups().sum()
    }

    /// Returns the id in whose part of the unit interval a number falls. Parts are as long as powers are large, and stand lane
    /// behind lane. There is none where there is no power.
    ///
    /// exponents: those that were added up
    pub fn find(&self, number: f64, exponents: impl Iterator<Item = (u32, f64)>) -> Option<u32> {
        let mut left = number * self.total();
        let group = part(self.groups(), &mut left)?;
        let lanes = &self.lanes[group * GROUP..][..GROUP];
        let lane = group * GROUP + part(lanes.iter().copied(), &mut left)?;
        let (ids, powers): (Vec<u32>, Vec<f64>) = exponents
            .filter(|(id, _)| *id as usize % LANES == lane)
            .map(|(id, exponent)| (id, power(exponent)))
            .unzip();
        part(powers.into_iter(), &mut left).map(|index| ids[index])
    }

    fn groups(&self) -> impl Iterator<Item = f64> {
        self.lanes.chunks_exact(GROUP).map(|lanes| lanes.iter().sum())
    }
}

/// Returns in which of some parts, one behind the other, a number falls, and leaves how far into it. Where rounding has left it
/// behind all, that is the end of the last that is not empty.
fn part(parts: impl Iterator<Item = f64>, left: &mut f64) -> Option<usize> {
    let mut last = None;
    for (index, part) in parts.enumerate() {
        if *left < part {
            return Some(index);
        }
        if part > 0.0 {
            last = Some(index);
        }
        *left -= part;
    }
    *left = f64::INFINITY;
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_is_within_two_units_of_the_last_place() {
        for step in 0..200_000 {
            let x = -f64::from(step) * 0.003_501;
            let (found, expected) = (power(x), x.exp());
            assert!(
                (found / expected - 1.0).abs() <= 2.0 * f64::EPSILON || x < LEAST,
                "{x}: {found:e}, not {expected:e}"
            );
        }
        assert_eq!([0.0, -0.0, LEAST - 0.001, f64::NEG_INFINITY].map(power), [1.0, 1.0, 0.0, 0.0]);
        assert!(power(LEAST) > 0.0);
    }

    #[test]
    fn a_number_falls_in_the_part_of_its_id() {
        let exponents = [(3, 0.0), (5, -f64::ln(2.0)), (8, 0.0), (9, f64::NEG_INFINITY), (1027, 0.0), (4100, 0.0)];
        let powers = Powers::of(exponents.into_iter());
        assert!((powers.total() - 4.5).abs() < 1e-15);
        let find = |eighths: f64| powers.find(eighths / 4.5, exponents.into_iter());
        // Lane 3 holds 3 and 1027, lane 4 holds 4100.
        let found = [0.0, 0.9, 1.1, 1.9, 2.1, 2.9, 3.1, 3.4, 3.6, 4.5, 4.6].map(find);
        assert_eq!(found, [3, 3, 1027, 1027, 4100, 4100, 5, 5, 8, 8, 8].map(Some));
        assert_eq!(Powers::of(std::iter::empty()).find(0.5, std::iter::empty()), None);
    }

    #[test]
    fn scores_that_would_be_infinite_are_divided_as_distances() {
        assert_eq!(Scale::new(3.0, 0.5).of(1.0), 2.0);
        let scale = Scale::new(3.0, 1e-45);
        assert_eq!([3.0, 2.0].map(|score| scale.of(score)), [0.0, f32::NEG_INFINITY]);
    }
}
