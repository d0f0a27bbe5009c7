use half::bf16;

use super::*;
use crate::splits;

/// A row's sequence in blocks that stand in another order in the pages.
struct Sequence {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    table: Vec<u32>,
    shape: AttendShape,
}

impl Sequence {
    fn new(shape: AttendShape) -> Self {
        let AttendShape { heads, kv_heads, head_dim, table_width, .. } = shape;
        let mut state = 7u64;
        let mut number = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        let page = table_width * BLOCK_POSITIONS * kv_heads * head_dim;
        Self {
            queries: (0..shape.rows * heads * head_dim).map(|_| number()).collect(),
            keys: (0..page).map(|_| number()).collect(),
            values: (0..page).map(|_| number()).collect(),
            table: (0..table_width as u32).rev().collect(),
            shape,
        }
    }

    fn attend(&self, lengths: &[u32], window: Option<NonZeroU32>) -> Vec<f32> {
        let merge = self.shape.merge();
        // An empty part's partial sums must not be looked at.
        let mut partials = vec![f32::NAN; merge.partials()];
        let (mut maxima, mut sums) = (vec![f32::NAN; merge.parts()], vec![f32::NAN; merge.parts()]);
        let input = Attend {
            queries: &self.queries,
            stride: self.shape.heads * self.shape.head_dim,
            keys: &self.keys,
            values: &self.values,
            tables: &self.table,
            table_of: &vec![0; lengths.len()],
            lengths,
            window,
            scale: 0.5,
            shape: self.shape,
        };
        paged_attend(input, PartsMut { partials: &mut partials, maxima: &mut maxima, sums: &mut sums });
        let mut out = vec![f32::NAN; self.shape.rows * self.shape.heads * self.shape.head_dim];
        paged_merge(&mut out, Parts { partials: &partials, maxima: &maxima, sums: &sums }, merge);
        out
    }

    /// One softmax over all positions that are seen, in f64.
    fn exact(&self, row: usize, seen: Range<usize>) -> Vec<f64> {
        let AttendShape { heads, kv_heads, head_dim, table_width, .. } = self.shape;
        let place = |position: usize, head: usize| {
            let block = table_width - 1 - position / BLOCK_POSITIONS;
            ((block * BLOCK_POSITIONS + position % BLOCK_POSITIONS) * kv_heads + head * kv_heads / heads) * head_dim
        };
        (0..heads)
            .flat_map(|head| {
                let query = &self.queries[(row * heads + head) * head_dim..][..head_dim];
                let weight = |position| {
                    let key = &self.keys[place(position, head)..][..head_dim];
                    let products = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k));
                    (0.5 * products.sum::<f64>()).exp()
                };
                let weights: Vec<f64> = seen.clone().map(weight).collect();
                let total: f64 = weights.iter().sum();
                let mut out = vec![0.0; head_dim];
                for (position, weight) in seen.clone().zip(&weights) {
                    let values = &self.values[place(position, head)..][..head_dim];
                    out.iter_mut().zip(values).for_each(|(out, v)| *out += weight / total * f64::from(*v));
                }
                out
            })
            .collect()
    }
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 2e-6, "{what}: {found}, not {expected}");
    }
}

const SHAPE: AttendShape = AttendShape { rows: 1, heads: 4, kv_heads: 2, head_dim: 8, table_width: 7, splits: 4 };

#[test]
fn parts_add_up_to_one_softmax_in_f64() {
    let sequence = Sequence::new(SHAPE);
    for length in [1, 2, 31, 32, 33, 63, 64, 65, 128, 200, 224] {
        assert!(splits(length) <= SHAPE.splits);
        assert_close(&sequence.attend(&[length as u32], None), &sequence.exact(0, 0..length), &format!("{length}"));
    }
}

#[test]
fn a_window_hides_all_but_the_last_positions() {
    let sequence = Sequence::new(SHAPE);
    for (length, window) in [(200, 1), (200, 8), (200, 73), (200, 136), (200, 200), (200, 1000), (3, 2)] {
        let found = sequence.attend(&[length as u32], NonZeroU32::new(window as u32));
        let seen = length - window.min(length)..length;
        assert_close(&found, &sequence.exact(0, seen), &format!("{length} in {window}"));
    }
}

#[test]
fn a_row_that_is_padding_gives_zeros_and_nothing_depends_on_the_other_rows() {
    let sequence = Sequence::new(AttendShape { rows: 3, ..SHAPE });
    let found = sequence.attend(&[70, 0, 9], None);
    let width = SHAPE.heads * SHAPE.head_dim;
    assert_close(&found[..width], &sequence.exact(0, 0..70), "first");
    assert!(found[width..2 * width].iter().all(|x| *x == 0.0));
    assert_close(&found[2 * width..], &sequence.exact(2, 0..9), "last");
}

#[test]
fn one_position_gives_its_values() {
    let sequence = Sequence::new(SHAPE);
    let found = sequence.attend(&[1], None);
    let first = 6 * BLOCK_POSITIONS * 16;
    assert_eq!(found[..8], sequence.values[first..first + 8], "the first head's");
    assert_eq!(found[8..16], found[..8], "the same for the other head of the group");
    assert_eq!(found[24..], sequence.values[first + 8..first + 16], "the last head's");
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    let (partials, maxima, sums) = ([f32::NAN, 1.0], [f32::NEG_INFINITY, 0.0], [f32::NAN, 1.0]);
    let mut out = [bf16::ZERO];
    let shape = MergeShape { rows: 1, heads: 1, head_dim: 1, splits: 2 };
    paged_merge(&mut out, Parts { partials: &partials, maxima: &maxima, sums: &sums }, shape);
    assert!(out[0].is_nan());
}
