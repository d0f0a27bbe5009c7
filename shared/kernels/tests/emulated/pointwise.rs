//! `bias_act` and `silu_mul`.

use tessera_kernels::{Activation, Element, launch, reference};

use crate::{
    case::{Argument, Tolerance, assert_close, assert_same, for_each_kind, memory, number, numbers, optional, run},
    program::Program,
    random::Random,
};

const TOLERANCE: Tolerance = Tolerance { units: 1.0, terms: 1.0 };

#[test]
fn bias_act_is_its_reference_with_and_without_bias_and_residual() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(6));
        for (round, activation) in Activation::ALL.into_iter().cycle().take(30).enumerate() {
            let (rows, width) = (1 + random.below(4), random.width());
            let x = random.numbers::<T>(rows * width, 8.0);
            let bias = (round % 2 == 0).then(|| random.numbers::<T>(width, 2.0));
            let residual = (round % 3 == 0).then(|| random.numbers::<T>(rows * width, 4.0));
            let mut expected = x.clone();
            reference::bias_act(&mut expected, width, bias.as_deref(), residual.as_deref(), activation);
            let arguments = [
                memory(&x).shifted::<T>(random.shift()),
                optional(bias.as_deref()).shifted::<T>(random.shift()),
                optional(residual.as_deref()).shifted::<T>(random.shift()),
                number(rows),
                number(width),
                Argument::Number(activation.code()),
            ];
            let launch = launch::bias_act(T::KIND, rows, width).unwrap();
            let found = run(&mut program, &launch, &arguments, &[0]);
            assert_close(
                &numbers::<T>(&found[0]),
                &expected,
                TOLERANCE,
                &format!("{activation:?}, {rows} rows of {width}"),
            );
        }
    }
    for_each_kind!(check);
}

#[test]
fn without_anything_to_do_every_number_comes_back() {
    fn check<T: Element>() {
        // Every 16 bits there are, or as many of 32.
        let x: Vec<T> = (0..=u16::MAX).map(|bits| number_of_bits(bits)).collect();
        let arguments = [
            memory(&x),
            Argument::Null,
            Argument::Null,
            number(256),
            number(256),
            Argument::Number(Activation::None.code()),
        ];
        let launch = launch::bias_act(T::KIND, 256, 256).unwrap();
        let found = run(&mut Program::start(), &launch, &arguments, &[0]);
        let mut expected = x.clone();
        reference::bias_act(&mut expected, 256, None, None, Activation::None);
        assert_same(&numbers::<T>(&found[0]), &expected, "all numbers");
        let zeros = |x: &T| x.to_f32() == 0.0 || x.to_f32().is_nan();
        let (found, x) = (numbers::<T>(&found[0]), x);
        assert!(found.iter().zip(&x).all(|(found, x)| zeros(x) || found == x), "nothing is rounded");
    }
    fn number_of_bits<T: Element>(bits: u16) -> T {
        let wide = (u32::from(bits) << 16 | u32::from(bits)).to_ne_bytes();
        bytemuck::pod_read_unaligned(&wide[..size_of::<T>()])
    }
    for_each_kind!(check);
}

#[test]
fn silu_mul_is_its_reference() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(7));
        for _ in 0..20 {
            let (rows, width) = (1 + random.below(4), random.width());
            let gate_up = random.numbers::<T>(rows * 2 * width, 10.0);
            let mut expected = Random::poison(rows * width);
            reference::silu_mul(&mut expected, &gate_up, width);
            let arguments = [
                memory(&Random::poison::<T>(rows * width)).shifted::<T>(random.shift()),
                memory(&gate_up).shifted::<T>(random.shift()),
                number(rows),
                number(width),
            ];
            let launch = launch::silu_mul(T::KIND, rows, width).unwrap();
            let found = run(&mut program, &launch, &arguments, &[0]);
            assert_close(&numbers::<T>(&found[0]), &expected, TOLERANCE, &format!("{rows} rows of {width}"));
        }
    }
    for_each_kind!(check);
}
