//! The numbers that are not torch's.

use super::*;

/// The generator as it was before there were samples.
fn before(seed: u64, position: usize) -> f64 {
    let bits = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add((position as u64).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn stream(seed: u64, sample: usize) -> u64 {
    let Numbers::Counter { stream } = Numbers::new(Generator::Counter, seed, sample) else {
        panic!("another generator")
    };
    stream
}

#[test]
fn the_first_sample_has_the_numbers_that_a_seed_always_had() {
    for seed in [0, 1, 7, u64::MAX] {
        for position in [0, 1, 2, 4095] {
            assert_eq!(uniform(stream(seed, 0), position), before(seed, position));
        }
    }
    assert_eq!(uniform(stream(7, 0), 0), 0.455_897_080_805_445_1);
}

#[test]
fn samples_have_streams_of_their_own() {
    let mut streams: Vec<u64> = (0..8).flat_map(|seed| (0..64).map(move |sample| stream(seed, sample))).collect();
    streams.sort_unstable();
    streams.dedup();
    assert_eq!(streams.len(), 8 * 64);
}

#[test]
fn numbers_are_even_along_positions_samples_and_seeds() {
    fn check(what: &str, number: impl Fn(usize) -> f64) {
        let mut tenths = [0; 10];
        (0..10_000).for_each(|n| tenths[(number(n) * 10.0) as usize] += 1);
        assert!(tenths.iter().all(|count| (900..1100).contains(count)), "{what}: {tenths:?}");
    }
    check("positions", |n| uniform(stream(7, 1), n));
    check("samples", |n| uniform(stream(7, n), 5));
    check("seeds", |n| uniform(stream(n as u64, 2), 5));
}

#[test]
fn a_number_falls_in_the_part_of_its_candidate() {
    let candidates = [(3, 0.0), (5, 2f32.ln()), (8, 0.0)].map(|(id, score)| Candidate { id, score });
    let drawn = |number| inverse(&candidates, number);
    assert_eq!([0.0, 0.24, 0.26, 0.74, 0.76, 1.0].map(drawn), [3, 3, 5, 5, 8, 8].map(Some));
    assert_eq!(inverse(&[], 0.5), None);
}
