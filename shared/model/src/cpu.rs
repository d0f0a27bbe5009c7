//! Arithmetic on the CPU: one matrix product and one attention, both in vectors of whatever width the processor has.
//!
//! All sums are f32 with fused multiply-add, and every one of them adds the same numbers in the same order however many
//! rows there are and whoever is in the batch. So a row gives, bit for bit, what it gives alone.

mod attend;
mod exp;
mod kernel;
mod pages;
mod panels;
mod pointwise;
mod product;
mod store;

use pulp::{Arch, Simd, WithSimd};

pub(crate) use attend::{Reach, Span, attend};
pub use pages::BLOCK_POSITIONS;
pub(crate) use pages::Pages;
pub(crate) use panels::{Panels, Source};
pub(crate) use pointwise::{activate, gated};
pub(crate) use product::{Then, product};

/// Fewer numbers than these are not worth waking another core for.
const NUMBERS_WORTH_A_TASK: usize = 1 << 14;

/// Returns how many f32 this processor's vectors hold.
fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// Calls `of_row` with the number of every row of `width` numbers of `out`, and the row; in parallel if it is worth it.
pub(crate) fn each_row(out: &mut [f32], width: usize, of_row: impl Fn(usize, &mut [f32]) + Sync) {
    use rayon::prelude::*;

    if out.len() < NUMBERS_WORTH_A_TASK {
        out.chunks_exact_mut(width).enumerate().for_each(|(index, row)| of_row(index, row));
    } else {
        let rows_a_task = (NUMBERS_WORTH_A_TASK / width).max(1);
        let rows = out.par_chunks_exact_mut(width).enumerate().with_min_len(rows_a_task);
        rows.for_each(|(index, row)| of_row(index, row));
    }
}
