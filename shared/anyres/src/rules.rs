//! The reference's rules, in 64-bit floats and in the reference's order of operations.
//!
//! Every rounding here is on purpose. Exact arithmetic picks another grid for a few sizes (1259x2520), another resize
//! for many (375x500), and another count without the rounding to seven decimals (176x55).

use crate::ImageSize;

/// The part of the grid's patches that shows the image and not its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptWindow {
    pub(crate) first_row: u32,
    pub(crate) first_column: u32,
    pub(crate) rows: u32,
    pub(crate) columns: u32,
}

/// Returns the grid that keeps most of the image's pixels, then the one that wastes least, then the earliest
/// (`select_best_resolution`). `pinpoints` is not empty.
pub(crate) fn best_grid(image: ImageSize, pinpoints: &[ImageSize]) -> ImageSize {
    let (height, width) = (f64::from(image.height), f64::from(image.width));
    let mut best: Option<(ImageSize, u64, u64)> = None;
    for &grid in pinpoints {
        let scale = (f64::from(grid.width) / width).min(f64::from(grid.height) / height);
        let shown = ((width * scale) as u64 * (height * scale) as u64).min(image.pixels());
        let wasted = grid.pixels().saturating_sub(shown);
        let better = best.is_none_or(|(_, most, least)| shown > most || (shown == most && wasted < least));
        if better {
            best = Some((grid, shown, wasted));
        }
    }
    best.map_or(image, |(grid, _, _)| grid)
}

/// Returns the size that the image is resized to: as large as fits into `grid` with its aspect kept, rounded up
/// (`get_patch_output_size`).
pub(crate) fn resized(image: ImageSize, grid: ImageSize) -> ImageSize {
    let (height, width) = (f64::from(image.height), f64::from(image.width));
    let scale_width = f64::from(grid.width) / width;
    let scale_height = f64::from(grid.height) / height;
    if scale_width < scale_height {
        ImageSize::new(((height * scale_width).ceil() as u32).min(grid.height), grid.width)
    } else {
        ImageSize::new(grid.height, ((width * scale_height).ceil() as u32).min(grid.width))
    }
}

/// Returns the rows and columns of the grid of `down` x `across` patches that un-padding keeps (`unpad_image`).
///
/// An odd surplus keeps one row, or column, more. Nothing may be left: a picture of one row has no row of patches.
pub(crate) fn kept_window(image: ImageSize, down: u32, across: u32) -> KeptWindow {
    let (height, width) = (f64::from(image.height), f64::from(image.width));
    let (grid_height, grid_width) = (f64::from(down), f64::from(across));
    if width / height > grid_width / grid_height {
        let shown = trunc_round7(height * (grid_width / width));
        let cut = down.saturating_sub(shown) / 2;
        KeptWindow { first_row: cut, first_column: 0, rows: down - 2 * cut, columns: across }
    } else {
        let shown = trunc_round7(width * (grid_height / height));
        let cut = across.saturating_sub(shown) / 2;
        KeptWindow { first_row: 0, first_column: cut, rows: down, columns: across - 2 * cut }
    }
}

/// Rounds `x` to seven decimals, as Python's `round(x, 7)` does, and truncates the result. `x` is a count of patches:
/// not negative and below 2^15.
///
/// The rounding matters only when it reaches the next integer, that is, when `x` is less than half of 1e-7 below it.
/// The subtraction is exact (both sides are within a factor of two of each other, or the distance is far from small),
/// and a binary fraction is never exactly the decimal 5e-8, so this is the correctly rounded answer.
fn trunc_round7(x: f64) -> u32 {
    let floor = x.floor();
    let next = floor + 1.0;
    if next - x < 5e-8 { next as u32 } else { floor as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule as it reads: print with seven decimals, read back, truncate.
    fn trunc_round7_in_decimal(x: f64) -> u32 {
        format!("{x:.7}").parse::<f64>().unwrap() as u32
    }

    #[test]
    fn the_fast_rounding_equals_the_decimal_one_next_to_every_integer() {
        for integer in (0..=80).chain([143, 144, 576, 2340, 32767]) {
            let integer = f64::from(integer);
            for step in -200..=200 {
                let near = integer + f64::from(step) * 1e-9;
                let edge = integer - 5e-8 + f64::from(step) * 1e-13;
                let mut ulp_by_ulp = integer - 5e-8;
                for _ in 0..step.max(0) {
                    ulp_by_ulp = ulp_by_ulp.next_up();
                }
                for x in [near, edge, ulp_by_ulp, edge.next_down(), near.next_up()] {
                    if x >= 0.0 {
                        assert_eq!(trunc_round7(x), trunc_round7_in_decimal(x), "{x:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_fast_rounding_equals_the_decimal_one_on_the_quotients_that_occur() {
        for across in [24_u32, 48, 72] {
            for width in 1..=400_u32 {
                for height in (1..=400_u32).step_by(3) {
                    let x = f64::from(height) * (f64::from(across) / f64::from(width));
                    assert_eq!(trunc_round7(x), trunc_round7_in_decimal(x), "{height} * ({across} / {width})");
                }
            }
        }
    }

    #[test]
    fn without_the_rounding_two_rows_would_be_lost() {
        for (height, width) in [(55, 176), (88, 55), (88, 99), (110, 352), (176, 110), (176, 198)] {
            let image = ImageSize::new(height, width);
            let grid = best_grid(
                image,
                &[
                    ImageSize::new(336, 672),
                    ImageSize::new(672, 336),
                    ImageSize::new(672, 672),
                    ImageSize::new(336, 1008),
                ],
            );
            let (down, across) = (grid.height / 14, grid.width / 14);
            let kept = kept_window(image, down, across);
            let (h, w) = (f64::from(height), f64::from(width));
            let truncated = if w / h > f64::from(across) / f64::from(down) {
                (h * (f64::from(across) / w)) as u32
            } else {
                (w * (f64::from(down) / h)) as u32
            };
            let (side, shown) = if kept.rows < down { (down, kept.rows) } else { (across, kept.columns) };
            assert_eq!(shown, side - 2 * ((side - truncated) / 2) + 2, "{image}");
        }
    }
}
