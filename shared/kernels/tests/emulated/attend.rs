//! `paged_attend` and `paged_merge`.

use std::num::NonZeroU32;

use tessera_kernels::{
    AttendShape, BLOCK_POSITIONS, Element, MergeShape, SPLIT_POSITIONS, launch,
    reference::{self, Attend, Parts, PartsMut},
    splits,
};

use crate::{
    case::{Argument, Tolerance, assert_close, assert_same, for_each_kind, memory, number, numbers, real, run},
    program::Program,
    random::Random,
};

/// Lengths at which something begins or ends.
const EDGES: [usize; 14] = [1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129];

/// A batch of rows, each with a table of its own, and pages with their blocks.
struct Batch<T> {
    queries: Vec<T>,
    stride: usize,
    keys: Vec<T>,
    values: Vec<T>,
    tables: Vec<u32>,
    table_of: Vec<u32>,
    lengths: Vec<u32>,
    window: Option<NonZeroU32>,
    shape: AttendShape,
}

impl<T: Element> Batch<T> {
    /// Rows of these lengths. Where a row sees nothing of a block its table leads nowhere, and so do the tables of
    /// padding.
    fn new(random: &mut Random, lengths: &[usize], heads: [usize; 3], window: Option<usize>) -> Self {
        let [group, kv_heads, head_dim] = heads;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let table_width = longest.div_ceil(BLOCK_POSITIONS) + random.below(2);
        let table_width = table_width.max(1);
        let rows = lengths.len();
        let mut blocks: Vec<u32> = (0..(rows * table_width) as u32).collect();
        random.shuffle(&mut blocks);
        let (mut tables, mut table_of) = (blocks, (0..rows as u32).collect::<Vec<_>>());
        random.shuffle(&mut table_of);
        for (row, length) in lengths.iter().enumerate() {
            let first = window.map_or(0, |window| length.saturating_sub(window));
            let table = &mut tables[table_of[row] as usize * table_width..][..table_width];
            for (index, block) in table.iter_mut().enumerate() {
                let start = index * BLOCK_POSITIONS;
                if start >= *length || start + BLOCK_POSITIONS <= first {
                    *block = u32::MAX;
                }
            }
            if *length == 0 {
                table_of[row] = u32::MAX;
            }
        }
        let page = rows * table_width * BLOCK_POSITIONS * kv_heads * head_dim;
        let heads = group * kv_heads;
        let stride = heads * head_dim + random.pick(&[0, 2 * kv_heads * head_dim, 3]);
        let shape = AttendShape {
            rows,
            heads,
            kv_heads,
            head_dim,
            table_width,
            splits: splits(longest).max(1) + random.below(3),
        };
        Self {
            queries: random.numbers(rows * stride, 3.0),
            stride,
            keys: random.numbers(page, 2.0),
            values: random.numbers(page, 1.0),
            tables,
            table_of,
            lengths: lengths.iter().map(|length| *length as u32).collect(),
            window: window.and_then(|window| NonZeroU32::new(window as u32)),
            shape,
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Partial sums, maxima and sums of weights of the reference; what it leaves alone is no number.
    fn reference(&self) -> [Vec<f32>; 3] {
        let merge = self.shape.merge();
        let mut parts = [merge.partials(), merge.parts(), merge.parts()].map(Random::poison::<f32>);
        let [partials, maxima, sums] = &mut parts;
        let input = Attend {
            queries: &self.queries,
            stride: self.stride,
            keys: &self.keys,
            values: &self.values,
            tables: &self.tables,
            table_of: &self.table_of,
            lengths: &self.lengths,
            window: self.window,
            scale: self.scale(),
            shape: self.shape,
        };
        reference::paged_attend(input, PartsMut { partials, maxima, sums });
        parts
    }

    /// The same of the kernel, its pages `shift` numbers past a multiple of 16 bytes.
    fn kernel(&self, program: &mut Program, shift: usize) -> [Vec<f32>; 3] {
        let AttendShape { rows, heads, kv_heads, head_dim, table_width, splits } = self.shape;
        let merge = self.shape.merge();
        let room = |count| memory(&Random::poison::<f32>(count)).shifted::<f32>(16);
        let arguments = [
            memory(&self.queries).shifted::<T>(shift),
            number(self.stride),
            memory(&self.keys).shifted::<T>(shift),
            memory(&self.values).shifted::<T>(shift),
            memory(&self.tables).shifted::<u32>(16),
            memory(&self.table_of).shifted::<u32>(16),
            memory(&self.lengths).shifted::<u32>(16),
            Argument::Number(self.window.map_or(0, NonZeroU32::get)),
            real(self.scale()),
            number(rows),
            number(heads),
            number(kv_heads),
            number(head_dim),
            number(table_width),
            room(merge.partials()),
            room(merge.parts()),
            room(merge.parts()),
            number(splits),
        ];
        let launch = launch::paged_attend(T::KIND, self.shape).expect("the shape can be launched");
        let found = run(program, &launch, &arguments, &[14, 15, 16]);
        [numbers(&found[0]), numbers(&found[1]), numbers(&found[2])]
    }

    /// Runs the kernel beside its reference, and the merge of its parts beside the merge of the reference's.
    fn check(&self, program: &mut Program, shift: usize) {
        let what = format!("{:?}, lengths {:?}, window {:?}", self.shape, self.lengths, self.window);
        let (found, expected) = (self.kernel(program, shift), self.reference());
        // Of some 64 weights and values up to 1; scores up to 6 * 11, whose exponent loses as much as they do.
        let tolerance = Tolerance { units: 4.0, terms: 64.0 };
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(found, expected, tolerance, &what);
        }
        let merge = self.shape.merge();
        let merged = merge_of::<T>(program, &found, merge);
        let mut expected_merged = Random::poison::<T>(merge.rows * merge.heads * merge.head_dim);
        let [partials, maxima, sums] = &expected;
        reference::paged_merge(&mut expected_merged, Parts { partials, maxima, sums }, merge);
        assert_close(&merged, &expected_merged, Tolerance { units: 1.0, terms: 16.0 }, &what);
        for (row, length) in self.lengths.iter().enumerate() {
            let width = merge.heads * merge.head_dim;
            let zeros = merged[row * width..(row + 1) * width].iter().all(|x| x.to_f32() == 0.0);
            assert_eq!(zeros, *length == 0, "zeros are for padding: {what}");
        }
    }

    /// What a row gives, attended to and merged.
    fn row(&self, program: &mut Program, row: usize) -> Vec<T> {
        let merge = self.shape.merge();
        let parts = self.kernel(program, 0);
        let width = merge.heads * merge.head_dim;
        merge_of::<T>(program, &parts, merge)[row * width..(row + 1) * width].to_vec()
    }
}

/// The kernel's merge of parts.
fn merge_of<T: Element>(program: &mut Program, parts: &[Vec<f32>; 3], shape: MergeShape) -> Vec<T> {
    let MergeShape { rows, heads, head_dim, splits } = shape;
    let [partials, maxima, sums] = parts;
    let arguments = [
        memory(&Random::poison::<T>(rows * heads * head_dim)).shifted::<T>(16),
        memory(partials).shifted::<f32>(16),
        memory(maxima).shifted::<f32>(16),
        memory(sums).shifted::<f32>(16),
        number(rows),
        number(heads),
        number(head_dim),
        number(splits),
    ];
    let launch = launch::paged_merge(T::KIND, shape).expect("the shape can be launched");
    numbers(&run(program, &launch, &arguments, &[0])[0])
}

#[test]
fn attention_is_its_reference_at_every_edge() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(12));
        for length in EDGES {
            let window = random.coin().then(|| random.pick(&[1, 5, 32, 64, 100]));
            let heads = [random.pick(&[1, 2]), 1, random.pick(&[16, 64, 128])];
            Batch::<T>::new(&mut random, &[length], heads, window).check(&mut program, 0);
        }
    }
    for_each_kind!(check);
}

#[test]
fn attention_is_its_reference_for_every_group_and_width() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(13));
        for group in 1..=16 {
            let head_dim = random.pick(&[8, 24, 56, 64, 72, 80, 96, 128, 136, 192, 256]);
            let lengths = [random.pick(&EDGES), 0, 1 + random.below(150)];
            let window = random.coin().then(|| 1 + random.below(150));
            let shift = if group % 4 == 0 { random.shift() } else { 0 };
            Batch::<T>::new(&mut random, &lengths[..1 + group % 3], [group, 1 + group % 2, head_dim], window)
                .check(&mut program, shift);
        }
        Batch::<T>::new(&mut random, &[70], [16, 1, 256], None).check(&mut program, 0);
    }
    for_each_kind!(check);
}

#[test]
fn a_batch_of_nothing_but_padding_gives_zeros() {
    fn check<T: Element>() {
        Batch::<T>::new(&mut Random::new(14), &[0, 0], [4, 2, 64], None).check(&mut Program::start(), 0);
    }
    for_each_kind!(check);
}

#[test]
fn a_rows_bits_do_not_depend_on_who_else_is_in_the_batch() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(15));
        let mut batch = Batch::<T>::new(&mut random, &[300, 77, 0], [4, 2, 64], None);
        let together = batch.row(&mut program, 1);
        // The same row alone: its blocks elsewhere, fewer parts, another stride.
        let AttendShape { table_width, .. } = batch.shape;
        let table = batch.table_of[1] as usize * table_width;
        let (tables, block_len) = (batch.tables[table..table + 3].to_vec(), BLOCK_POSITIONS * 2 * 64);
        let moved = |pages: &[T]| -> Vec<T> {
            tables.iter().rev().flat_map(|block| &pages[*block as usize * block_len..][..block_len]).copied().collect()
        };
        (batch.keys, batch.values) = (moved(&batch.keys), moved(&batch.values));
        batch.queries = batch.queries[batch.stride..2 * batch.stride].to_vec();
        batch.queries.resize(8 * 64, T::from_f32(0.0));
        batch.stride = 8 * 64;
        (batch.tables, batch.table_of, batch.lengths) = (vec![2, 1, 0], vec![0], vec![77]);
        batch.shape = AttendShape { rows: 1, table_width: 3, splits: splits(77), ..batch.shape };
        assert_same(&batch.row(&mut program, 0), &together, "a row alone and in a batch");
    }
    for_each_kind!(check);
}

#[test]
fn many_parts_are_merged_in_the_order_of_their_positions() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(16));
        for splits in [1, 2, 3, 4, 5, 31, 127, 128, 129, 130, 400] {
            let head_dim = random.pick(&[1, 8, 33, 64, 128, 250, 256]);
            let shape = MergeShape { rows: 2, heads: 2, head_dim, splits };
            let mut parts = [random.numbers::<f32>(shape.partials(), 30.0), Vec::new(), Vec::new()];
            for _ in 0..shape.parts() {
                parts[1].push(20.0 * random.real());
                parts[2].push(1.0 + 31.0 * random.real().abs());
            }
            // Empty parts: the sums of values may be anything. All those of the last head are empty.
            for part in 0..shape.parts() {
                if random.below(3) == 0 || part >= shape.parts() - splits {
                    (parts[1][part], parts[2][part]) = (f32::NEG_INFINITY, 0.0);
                    parts[0][part * head_dim..(part + 1) * head_dim].fill(f32::NAN);
                }
            }
            let found = merge_of::<T>(&mut program, &parts, shape);
            let mut expected = Random::poison::<T>(found.len());
            let [partials, maxima, sums] = &parts;
            reference::paged_merge(&mut expected, Parts { partials, maxima, sums }, shape);
            assert_close(&found, &expected, Tolerance { units: 1.0, terms: 32.0 }, &format!("{shape:?}"));

            // Room for more parts, which are empty, changes no bit.
            let wider = MergeShape { splits: splits + 5, ..shape };
            let wide = |values: &[f32], width: usize, fill: f32| -> Vec<f32> {
                let filled = values.chunks(splits * width).map(|head| [head, &vec![fill; 5 * width]].concat());
                filled.collect::<Vec<_>>().concat()
            };
            let widened = [wide(partials, head_dim, f32::NAN), wide(maxima, 1, f32::NEG_INFINITY), wide(sums, 1, 0.0)];
            assert_same(&merge_of::<T>(&mut program, &widened, wider), &found, "with room for more parts");
        }
    }
    for_each_kind!(check);
}

#[test]
fn what_is_not_a_number_stays_visible() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(17));
        let mut batch = Batch::<T>::new(&mut random, &[SPLIT_POSITIONS + 3], [2, 1, 64], None);
        let block = batch.tables[batch.table_of[0] as usize * batch.shape.table_width] as usize;
        batch.keys[block * BLOCK_POSITIONS * 64] = T::from_f32(f32::NAN);
        assert!(batch.row(&mut program, 0).iter().all(|x| x.to_f32().is_nan()));
    }
    for_each_kind!(check);
}
