//! `unfold` and `embed_tiles`.

use tessera_kernels::{
    Element, UnfoldShape, launch,
    reference::{self, EmbedTiles},
};

use crate::{
    case::{Tolerance, assert_close, assert_same, for_each_kind, memory, number, numbers, optional, run},
    program::Program,
    random::Random,
};

#[test]
fn unfold_cuts_patches_and_rounds_every_number_right() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(8));
        for round in 0..16 {
            let patch = 1 + random.below(7);
            let side = patch + random.below(5 * patch);
            let shape = UnfoldShape { tiles: 1 + random.below(3), channels: 1 + random.below(3), side, patch };
            let UnfoldShape { tiles, channels, .. } = shape;
            // Any bits at all: subnormal numbers, infinities and what is none, and those half way between two of T.
            let any =
                |random: &mut Random| f32::from_bits(random.bits() as u32 & random.pick(&[u32::MAX, !0xfff, !0x7fff]));
            let near = |random: &mut Random| random.real() * random.pick(&[1.0, 1e-4, 1e-7, 6e4]);
            let pixel = |random: &mut Random| if round % 2 == 0 { any(random) } else { near(random) };
            let pixels: Vec<f32> = (0..tiles * channels * side * side).map(|_| pixel(&mut random)).collect();
            let room = shape.rows() * shape.width();
            let mut expected = Random::poison::<T>(room);
            reference::unfold(&mut expected, &pixels, shape);
            let arguments = [
                memory(&Random::poison::<T>(room)).shifted::<T>(random.shift()),
                memory(&pixels).shifted::<f32>(random.shift()),
                number(tiles),
                number(channels),
                number(side),
                number(patch),
            ];
            let found = run(&mut program, &launch::unfold(T::KIND, shape).unwrap(), &arguments, &[0]);
            assert_same(&numbers::<T>(&found[0]), &expected, &format!("{shape:?}"));
        }
    }
    for_each_kind!(check);
}

#[test]
fn embed_tiles_is_its_reference_with_and_without_class_and_bias() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(9));
        for round in 0..16 {
            let (tiles, patches, width) = (1 + random.below(3), 1 + random.below(4), random.width());
            let class = (round % 2 == 0).then(|| random.numbers::<T>(width, 1.0));
            let bias = (round % 4 < 2).then(|| random.numbers::<T>(width, 1.0));
            let positions = patches + usize::from(class.is_some());
            let (contents, table) =
                (random.numbers::<T>(tiles * patches * width, 1.0), random.numbers::<T>(positions * width, 1.0));
            let mut expected = Random::poison::<T>(tiles * positions * width);
            let (class, bias) = (class.as_deref(), bias.as_deref());
            reference::embed_tiles(&mut expected, EmbedTiles { patches: &contents, bias, class, table: &table, width });
            let arguments = [
                memory(&Random::poison::<T>(tiles * positions * width)).shifted::<T>(random.shift()),
                memory(&contents).shifted::<T>(random.shift()),
                optional(bias).shifted::<T>(random.shift()),
                optional(class).shifted::<T>(random.shift()),
                memory(&table).shifted::<T>(random.shift()),
                number(tiles),
                number(positions),
                number(width),
            ];
            let tolerance = Tolerance { units: 1.0, terms: 0.2 };
            let launch = launch::embed_tiles(T::KIND, tiles, positions, width).unwrap();
            let found = run(&mut program, &launch, &arguments, &[0]);
            assert_close(&numbers::<T>(&found[0]), &expected, tolerance, &format!("{tiles} x {positions} x {width}"));
        }
    }
    for_each_kind!(check);
}
