//! The emulator finds what kernels must not do.

use tessera_kernels::launch::Launch;

use crate::{
    case::{Argument, Order, memory, number, numbers},
    program::Program,
};

const THREADS: usize = 64;

/// Runs a kernel of `faults.cu` in each order, with `end` for where its memory ends.
fn results(function: &'static str, end: usize) -> Vec<Result<Vec<u32>, String>> {
    let words: Vec<u32> = (1..=THREADS as u32).collect();
    let arguments = [memory(&[0u32; THREADS]).shifted::<u32>(end), memory(&words).shifted::<u32>(end), number(THREADS)];
    let shared_bytes = (THREADS * size_of::<u32>()) as u32;
    let launch = Launch { function, grid: [1, 1, 1], block: [THREADS as u32, 1, 1], shared_bytes };
    let run = |order| Program::start().run(&launch, order, &arguments);
    Order::SOME.into_iter().map(|order| Ok(numbers(&run(order)?[0]))).collect()
}

fn assert_found(function: &'static str, end: usize, sentence: &str) {
    for result in results(function, end) {
        let wrong = result.expect_err(function);
        assert!(wrong.starts_with(function) && wrong.contains(sentence), "{wrong}");
    }
}

#[test]
fn a_kernel_without_faults_gives_the_same_in_every_order() {
    let mirrored: Vec<u32> = (1..=THREADS as u32).rev().collect();
    for result in results("fault_none", 0) {
        assert_eq!(result.unwrap(), mirrored);
    }
}

#[test]
fn a_missing_barrier_gives_other_bits_in_another_order() {
    for function in ["fault_no_barrier", "fault_no_second_barrier", "fault_room_used_again"] {
        let results = results(function, 0);
        assert!(results.iter().any(|result| result != &results[0]), "{function}");
    }
}

#[test]
fn shared_memory_that_nobody_wrote_holds_no_number() {
    for result in results("fault_uninitialised", 0) {
        assert!(result.unwrap().iter().all(|word| f32::from_bits(*word).is_nan()));
    }
}

#[test]
fn an_access_outside_of_memory_is_found() {
    assert_found("fault_read_behind", 16, "accesses what is none of its memory");
    assert_found("fault_write_behind", 0, "accesses what is none of its memory");
    assert_found("fault_write_in_front", 0, "writes beside its memory");
    assert_found("fault_shared_behind", 0, "writes behind its shared memory");
    for result in results("fault_read_in_front", 0) {
        assert!(f32::from_bits(result.unwrap()[0]).is_nan(), "what lies in front is no number");
    }
}

#[test]
fn a_wide_load_from_an_address_that_is_not_aligned_is_found() {
    assert_found("fault_misaligned", 0, "a misaligned access");
}

#[test]
fn threads_that_wait_for_those_who_never_come_are_found() {
    assert_found("fault_barrier_of_some", 0, "waits for ever: 32 threads at a barrier");
    assert_found("fault_shuffle_of_some", 0, "waits for ever");
}

#[test]
fn arguments_that_do_not_fit_are_found() {
    let launch = Launch { function: "gather_f32", grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0 };
    let wrong = Program::start().run(&launch, Order::Ascending, &[Argument::Null]).unwrap_err();
    assert!(wrong.contains("another number of arguments"), "{wrong}");
}
