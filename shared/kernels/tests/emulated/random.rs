//! Numbers drawn from a seed.

use tessera_kernels::Element;

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    /// A number from -1 to 1.
    pub(crate) fn real(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Numbers from -`reach` to `reach`.
    pub(crate) fn numbers<T: Element>(&mut self, count: usize, reach: f32) -> Vec<T> {
        (0..count).map(|_| T::from_f32(reach * self.real())).collect()
    }

    /// Memory that holds no number.
    pub(crate) fn poison<T: Element>(count: usize) -> Vec<T> {
        vec![T::from_f32(f32::NAN); count]
    }

    /// A width that is aligned as often as it is not.
    pub(crate) fn width(&mut self) -> usize {
        let ragged = 1 + self.below(700);
        self.pick(&[ragged, ragged, 8 * (1 + ragged / 4), 1, 7, 8, 9, 255, 256, 257, 1024])
    }

    /// Such a width or, as often, one of these.
    pub(crate) fn width_or(&mut self, widths: &[usize]) -> usize {
        if self.coin() { self.width() } else { self.pick(widths) }
    }

    /// Where memory begins: half the time at a multiple of 16 bytes, else some numbers past it, or so that it ends
    /// exactly.
    pub(crate) fn shift(&mut self) -> usize {
        let past = self.pick(&[1, 2, 3, 16]);
        self.pick(&[0, past])
    }

    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }
}
