//! `gather`.

use tessera_kernels::{Element, launch, reference};

use crate::{
    case::{Argument, assert_same, for_each_kind, memory, number, numbers, run},
    program::Program,
    random::Random,
};

#[test]
fn gather_copies_rows_from_anywhere() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(1));
        for _ in 0..20 {
            let (rows, width, room) = (1 + random.below(5), random.width(), 3 * 1100);
            let pools: [Vec<T>; 2] = [random.numbers(room, 1.0), random.numbers(room, 1.0)];
            // A row may begin anywhere in either.
            let places: Vec<(usize, usize)> = (0..rows)
                .map(|_| (random.below(2), random.below(room - width) / 8 * 8 + random.pick(&[0, 0, 1, 3])))
                .map(|(pool, start)| (pool, start.min(room - width)))
                .collect();
            let addresses = places.iter().map(|(pool, start)| (1 + *pool as u32, (start * size_of::<T>()) as u64));
            let sources: Vec<&[T]> = places.iter().map(|(pool, start)| &pools[*pool][*start..][..width]).collect();
            let mut expected = Random::poison(rows * width);
            reference::gather(&mut expected, &sources, width);

            let (out, shift) = (Random::poison::<T>(rows * width), random.shift());
            let arguments = [
                memory(&out).shifted::<T>(shift),
                Argument::Elsewhere(bytemuck::cast_slice(&pools[0]).to_vec()),
                Argument::Elsewhere(bytemuck::cast_slice(&pools[1]).to_vec()),
                Argument::Addresses(addresses.collect()),
                number(rows),
                number(width),
            ];
            let launch = launch::gather(T::KIND, rows, width).unwrap();
            let found = run(&mut program, &launch, &arguments, &[0]);
            assert_same(&numbers::<T>(&found[0]), &expected, &format!("{rows} rows of {width}"));
        }
    }
    for_each_kind!(check);
}
