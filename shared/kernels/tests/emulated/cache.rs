//! `rope_cache` and `copy_blocks`.

use tessera_kernels::{
    BLOCK_POSITIONS, CopyShape, Element, NONE, RopeShape, launch,
    reference::{self, Angles, RopeCache},
};

use crate::{
    case::{Argument, Tolerance, assert_close, assert_same, for_each_kind, memory, number, numbers, optional, run},
    program::Program,
    random::Random,
};

const BLOCKS: usize = 3;
const MOST_POSITIONS: usize = 50;

#[test]
fn rope_cache_is_its_reference_and_leaves_padding_alone() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(10));
        for round in 0..20 {
            let head_dim = random.pick(&[2, 8, 12, 24, 64, 80, 128]);
            let kv_heads = 1 + random.below(3);
            let shape =
                RopeShape { rows: 1 + random.below(5), heads: kv_heads * (1 + random.below(4)), kv_heads, head_dim };
            let RopeShape { rows, heads, .. } = shape;
            // Each row has a slot of its own; padding may stand at any position, there need not be one.
            let mut slots: Vec<u32> = (0..(BLOCKS * BLOCK_POSITIONS) as u32).collect();
            random.shuffle(&mut slots);
            slots.truncate(rows);
            let mut positions: Vec<u32> = (0..rows).map(|_| random.below(MOST_POSITIONS) as u32).collect();
            for row in 0..rows {
                if random.below(4) == 0 {
                    (slots[row], positions[row]) = (NONE, NONE);
                }
            }
            let angles: Vec<f32> = (0..MOST_POSITIONS * head_dim / 2).map(|_| 3.2 * random.real()).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
            let turns = round % 4 != 3;

            let page = BLOCKS * BLOCK_POSITIONS * kv_heads * head_dim;
            let qkv = random.numbers::<T>(rows * shape.row_width(), 2.0);
            let (keys, values) = (random.numbers::<T>(page, 1.0), random.numbers::<T>(page, 1.0));
            let (mut turned, mut new_keys, mut new_values) = (qkv.clone(), keys.clone(), values.clone());
            reference::rope_cache(RopeCache {
                qkv: &mut turned,
                keys: &mut new_keys,
                values: &mut new_values,
                angles: turns.then_some(Angles { cos: &cos, sin: &sin }),
                positions: &positions,
                slots: &slots,
                shape,
            });
            let arguments = [
                memory(&qkv).shifted::<T>(random.shift()),
                memory(&keys).shifted::<T>(random.shift()),
                memory(&values).shifted::<T>(random.shift()),
                optional(turns.then_some(&cos[..])).shifted::<f32>(random.shift()),
                optional(turns.then_some(&sin[..])).shifted::<f32>(random.shift()),
                memory(&positions),
                memory(&slots),
                number(rows),
                number(heads),
                number(kv_heads),
                number(head_dim),
            ];
            let found = run(&mut program, &launch::rope_cache(T::KIND, shape).unwrap(), &arguments, &[0, 1, 2]);
            let tolerance = Tolerance { units: 1.0, terms: 0.2 };
            for (found, expected) in found.iter().zip([turned, new_keys]) {
                assert_close(&numbers::<T>(found), &expected, tolerance, &format!("{shape:?}"));
            }
            assert_same(&numbers::<T>(&found[2]), &new_values, "values are copied");
            for row in (0..rows).filter(|row| slots[*row] == NONE) {
                let place = row * shape.row_width()..(row + 1) * shape.row_width();
                assert_same(&numbers::<T>(&found[0])[place.clone()], &qkv[place], "padding stays");
            }
        }
    }
    for_each_kind!(check);
}

#[test]
fn copy_blocks_copies_in_all_layers_and_nothing_else() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(11));
        for _ in 0..10 {
            let block_len = random.pick(&[1, 9, 256, 320, 8192, 8200, 10_000]);
            let shape = CopyShape { pairs: 1 + random.below(3), layers: 1 + random.below(3), blocks: 7, block_len };
            let CopyShape { pairs, layers, blocks, .. } = shape;
            let mut order: Vec<u32> = (0..blocks as u32).collect();
            random.shuffle(&mut order);
            let chosen: Vec<[u32; 2]> = (0..pairs).map(|pair| [order[2 * pair], order[2 * pair + 1]]).collect();
            let pool = random.numbers::<T>(layers * 2 * blocks * block_len, 1.0);
            let mut expected = pool.clone();
            reference::copy_blocks(&mut expected, &chosen, shape);
            let arguments: [Argument; 6] = [
                memory(&pool).shifted::<T>(random.shift()),
                memory(chosen.as_flattened()),
                number(pairs),
                number(layers),
                number(blocks),
                number(block_len),
            ];
            let found = run(&mut program, &launch::copy_blocks(T::KIND, shape).unwrap(), &arguments, &[0]);
            assert_same(&numbers::<T>(&found[0]), &expected, &format!("{shape:?}"));
        }
    }
    for_each_kind!(check);
}
