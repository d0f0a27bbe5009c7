//! `rms_norm` and `layer_norm`.

use tessera_kernels::{Element, launch, reference};

use crate::{
    case::{Tolerance, assert_close, assert_same, for_each_kind, memory, number, numbers, real, run},
    program::Program,
    random::Random,
};

#[test]
fn rms_norm_is_its_reference() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(3));
        for _ in 0..20 {
            let (rows, width) = (1 + random.below(4), random.width_or(&[4096, 5000]));
            let (x, weight) = (random.numbers::<T>(rows * width, 3.0), random.numbers::<T>(width, 2.0));
            let mut expected = Random::poison(rows * width);
            reference::rms_norm(&mut expected, &x, &weight, 1e-5);
            let launch = launch::rms_norm(T::KIND, rows, width).unwrap();
            let mut bits = Vec::new();
            for shift in [0, random.shift()] {
                let arguments = [
                    memory(&Random::poison::<T>(rows * width)).shifted::<T>(random.shift()),
                    memory(&x).shifted::<T>(shift),
                    memory(&weight).shifted::<T>(random.shift()),
                    number(rows),
                    number(width),
                    real(1e-5),
                ];
                let found = run(&mut program, &launch, &arguments, &[0]);
                let tolerance = Tolerance { units: 2.0, terms: 4.0 };
                assert_close(&numbers::<T>(&found[0]), &expected, tolerance, &format!("{rows} rows of {width}"));
                bits.push(found);
            }
            assert_eq!(bits[0], bits[1], "the alignment must not change a bit of {rows} rows of {width}");
        }
    }
    for_each_kind!(check);
}

#[test]
fn layer_norm_is_its_reference_far_from_zero_too() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(4));
        for round in 0..20 {
            let (rows, width) = (1 + random.below(4), random.width_or(&[1024, 1152]));
            let far = if round % 4 == 0 { 50.0 } else { 0.0 };
            let x: Vec<T> = (0..rows * width).map(|_| T::from_f32(far + 2.0 * random.real())).collect();
            let (weight, bias) = (random.numbers::<T>(width, 2.0), random.numbers::<T>(width, 1.0));
            let mut expected = Random::poison(rows * width);
            reference::layer_norm(&mut expected, &x, &weight, &bias, 1e-5);
            let arguments = [
                memory(&Random::poison::<T>(rows * width)).shifted::<T>(random.shift()),
                memory(&x).shifted::<T>(random.shift()),
                memory(&weight).shifted::<T>(random.shift()),
                memory(&bias).shifted::<T>(random.shift()),
                number(rows),
                number(width),
                real(1e-5),
            ];
            let launch = launch::layer_norm(T::KIND, rows, width).unwrap();
            let found = run(&mut program, &launch, &arguments, &[0]);
            let tolerance = Tolerance { units: 1.0, terms: 4.0 + 4.0 * far };
            assert_close(&numbers::<T>(&found[0]), &expected, tolerance, &format!("{rows} rows of {width}"));
        }
    }
    for_each_kind!(check);
}

#[test]
fn a_rows_norm_does_not_depend_on_the_rows_beside_it() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(5));
        let (rows, width) = (3, 517);
        let (x, weight) = (random.numbers::<T>(rows * width, 1.0), random.numbers::<T>(width, 1.0));
        let mut norm = |x: &[T]| {
            let out = memory(&Random::poison::<T>(x.len()));
            let rows = x.len() / width;
            let arguments = [out, memory(x), memory(&weight), number(rows), number(width), real(1e-6)];
            let launch = launch::rms_norm(T::KIND, rows, width).unwrap();
            numbers::<T>(&run(&mut program, &launch, &arguments, &[0])[0])
        };
        let together = norm(&x);
        let apart: Vec<T> = x.chunks(width).flat_map(&mut norm).collect();
        assert_same(&together, &apart, "rows together and apart");
    }
    for_each_kind!(check);
}
