//! The innermost loops: a few rows times two vectors of columns, all sums in registers.

use pulp::Simd;

/// Vectors side by side in a tile.
pub(super) const VECTORS: usize = 2;
/// The most rows of a tile; a processor with few registers takes fewer.
pub(super) const MOST_ROWS: usize = 12;

/// The sums of a tile: a row has `VECTORS` vectors.
pub(super) type Sums<S, const M: usize> = [[<S as Simd>::f32s; VECTORS]; M];

/// Calls `$call` with the constant `$rows` set to the number of rows that `$count` says, 1 to [`MOST_ROWS`].
macro_rules! with_rows {
    ($count:expr, $rows:ident, $call:expr) => {
        with_rows!(@arms $count, $rows, $call, 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@arms $count:expr, $rows:ident, $call:expr, $($number:literal)*) => {
        match $count {
            $($number => {
                const $rows: usize = $number;
                $call
            })*
            _ => unreachable!("a tile has 1 to 12 rows"),
        }
    };
}
pub(super) use with_rows;

/// The most rows whose sums fit in the registers, beside the columns and a factor.
pub(super) const fn most_rows<S: Simd>() -> usize {
    let rows = (S::REGISTER_COUNT - VECTORS - 1) / VECTORS;
    if rows < MOST_ROWS { rows } else { MOST_ROWS }
}

/// Splits `count` rows into tiles of nearly the same number of rows, none with more than `most`: the tile's first row,
/// and its rows.
pub(super) fn tiles(count: usize, most: usize) -> impl ExactSizeIterator<Item = (usize, usize)> + Clone {
    let tiles = count.div_ceil(most);
    (0..tiles).map(move |tile| {
        let (start, end) = (tile * count / tiles, (tile + 1) * count / tiles);
        (start, end - start)
    })
}

/// Returns `a` transposed times the columns `column..` of `b`. Sums run over the rows of `b` in their order.
///
/// a: `[k, M]`, b: `[k, stride]`
#[inline(always)]
pub(super) fn product<S: Simd, const M: usize>(
    simd: S,
    a: &[[f32; M]],
    b: &[f32],
    stride: usize,
    column: usize,
) -> Sums<S, M> {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; M];
    for (a, b) in a.iter().zip(b.chunks_exact(stride)) {
        let b = vectors::<S>(&b[column..column + VECTORS * S::F32_LANES]);
        for row in 0..M {
            let factor = simd.splat_f32s(a[row]);
            for vector in 0..VECTORS {
                sums[row][vector] = simd.mul_add_e_f32s(factor, b[vector], sums[row][vector]);
            }
        }
    }
    sums
}

/// Returns `a[row][first..]` times `b`. Sums run over the rows of `b` in their order.
///
/// a: `M` rows, b: `[k, columns of a tile]`
#[inline(always)]
pub(super) fn product_of_rows<S: Simd, const M: usize, const K: usize>(
    simd: S,
    a: &[[f32; K]; M],
    first: usize,
    b: &[f32],
) -> Sums<S, M> {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; M];
    for (k, b) in (first..K).zip(b.chunks_exact(VECTORS * S::F32_LANES)) {
        let b = vectors::<S>(b);
        for row in 0..M {
            let factor = simd.splat_f32s(a[row][k]);
            for vector in 0..VECTORS {
                sums[row][vector] = simd.mul_add_e_f32s(factor, b[vector], sums[row][vector]);
            }
        }
    }
    sums
}

/// Sees numbers as the two vectors of a tile's columns.
#[inline(always)]
fn vectors<S: Simd>(numbers: &[f32]) -> [S::f32s; VECTORS] {
    let (vectors, _) = S::as_simd_f32s(numbers);
    [vectors[0], vectors[1]]
}
