//! The rules of the sampler, one by one.

use std::num::NonZeroUsize;

use tessera_api::language::Generator;

use super::*;

const DRAW: Draw = Draw {
    temperature: 1.0,
    top_k: None,
    top_p: 1.0,
    min_p: 0.0,
    typical_p: 1.0,
    seed: 7,
    generator: Generator::Counter,
};

fn draw(settings: Draw) -> Sampling {
    Sampling { choice: Choice::Draw(settings), ..Sampling::GREEDY }
}

/// Ids that come out over many positions.
fn drawn(logits: &[f32], settings: Draw) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    for position in 0..4000 {
        let history = vec![0; position];
        counts[choose(logits.to_vec(), &history, &draw(settings)).unwrap() as usize] += 1;
    }
    counts
}

#[test]
fn greedy_takes_the_first_of_equals() {
    assert_eq!(choose(vec![1.0, 3.0, 3.0], &[], &Sampling::GREEDY), Ok(1));
    assert_eq!(choose(vec![f32::NAN, 1.0, f32::INFINITY], &[], &Sampling::GREEDY), Ok(1));
    assert_eq!(choose(vec![f32::NAN; 3], &[], &Sampling::GREEDY), Err(NoFiniteScore));
    assert_eq!(choose(vec![f32::NAN; 3], &[], &draw(DRAW)), Err(NoFiniteScore));
}

#[test]
fn a_repeated_id_is_penalized_once_and_away_from_zero() {
    let mut logits = vec![2.0, -2.0, 2.0];
    penalize(&mut logits, &[0, 0, 1], 2.0);
    assert_eq!(logits, [1.0, -4.0, 2.0]);
}

#[test]
fn draws_follow_the_probabilities() {
    let counts = drawn(&[0.0, 3f32.ln()], DRAW);
    assert!((2900..3100).contains(&counts[1]), "{counts:?}");
    let sharper = drawn(&[0.0, 3f32.ln()], Draw { temperature: 0.5, ..DRAW });
    assert!((3520..3680).contains(&sharper[1]), "{sharper:?}");
}

#[test]
fn a_draw_is_a_function_of_seed_and_position() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
    let logits = &logits;
    let next = |n, seed| choose(logits.clone(), &vec![1; n], &draw(Draw { seed, ..DRAW })).unwrap();
    let run = |seed| (0..20).map(move |n| next(n, seed));
    assert!(run(1).eq(run(1)));
    assert!(!run(1).eq(run(2)));
}

#[test]
fn top_k_keeps_ties_with_the_last() {
    let counts = drawn(&[1.0, 5.0, 4.0, 4.0, 0.0], Draw { top_k: NonZeroUsize::new(2), ..DRAW });
    assert!(counts[1] > 0 && counts[2] > 0 && counts[3] > 0, "{counts:?}");
    assert_eq!((counts[0], counts[4]), (0, 0));
}

#[test]
fn top_p_drops_the_tail_and_keeps_the_likeliest() {
    // Probabilities 0.5, 0.25, 0.125, 0.125: the tail of 1 - 0.74 holds the last two.
    let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0];
    let counts = drawn(&logits, Draw { top_p: 0.74, ..DRAW });
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    assert_eq!((counts[2], counts[3]), (0, 0));
    assert_eq!(drawn(&logits, Draw { top_p: 1e-6, ..DRAW })[0], 4000);
}

#[test]
fn min_p_is_a_share_of_the_likeliest() {
    let logits = [4f32.ln(), 2f32.ln(), 0.0];
    let counts = drawn(&logits, Draw { min_p: 0.4, ..DRAW });
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    assert_eq!(counts[2], 0);
}
