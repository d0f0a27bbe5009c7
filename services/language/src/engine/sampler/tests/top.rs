//! Draws from the largest scores alone, beside draws from all.

use std::num::NonZeroUsize;

use half::bf16;
use proptest::prelude::*;
use tessera_api::language::Generator;
use tessera_kernels::reference::{Found, choose};
use tessera_kernels::{TOP_WORDS, Wish};

use super::super::*;
use super::{DRAW, draw, sampler};
use crate::engine::scheduler::Wanted;

/// What a device tells of scores where this is wanted.
fn told(scores: &[f32], wish: Wish) -> (u32, TopScores) {
    let (mut token, mut top, mut kept) = ([0], [0; TOP_WORDS], vec![0.0; scores.len()]);
    let found = Found { tokens: &mut token, top: &mut top, scores: &mut kept, stride: scores.len() };
    choose(found, scores, &[wish], scores.len());
    (token[0], TopScores::read(&top))
}

/// Scores as a model gives them in bf16, many of which are equal; some are not finite.
fn scores() -> impl Strategy<Value = Vec<f32>> {
    let spread = prop_oneof![Just(0.01f32), Just(1.0), Just(4.0), Just(30.0)];
    (1usize..3000, spread, any::<u64>()).prop_map(|(count, spread, seed)| {
        let score = |id: usize| {
            let bits = (id as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let even = (bits & 0xffff) as f32 / 65536.0 + (bits >> 16) as f32 / 256.0;
            if bits.is_multiple_of(97) { f32::NAN } else { bf16::from_f32(even * spread).to_f32() }
        };
        (0..count).map(score).collect()
    })
}

fn settings() -> impl Strategy<Value = Draw> {
    let top_k = prop_oneof![Just(None), (1usize..160).prop_map(NonZeroUsize::new)];
    let share = || prop_oneof![2 => Just(0.0f32), 3 => 0.001f32..1.0];
    let temperature = prop_oneof![Just(1.0f32), 0.05f32..2.0, Just(1e-44)];
    (temperature, top_k, share(), share(), share(), any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, typical_p, seed)| {
            let whole = |share: f32| if share == 0.0 { 1.0 } else { share };
            Draw { temperature, top_k, top_p: whole(top_p), min_p, typical_p: whole(typical_p), seed, ..DRAW }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_wanted_draws_what_all_scores_draw(scores in scores(), settings in settings(), position in 1usize..1000) {
        let mut sampler = sampler(draw(settings), 1);
        let expected = sampler.choose(&scores, &vec![0; position], 1, None);
        match sampler.wants(position, true) {
            Wanted::Top { temperature } => {
                let (_, top) = told(&scores, Wish::Top { temperature });
                if let Some(candidates) = sampler.candidates(&top) {
                    prop_assert_eq!(sampler.draw(&candidates, position), expected);
                } else {
                    prop_assert!(top.leaves_some());
                }
            }
            Wanted::Draw { temperature, number } => {
                let (token, _) = told(&scores, Wish::Draw { temperature, number });
                prop_assert_eq!(Some(token).filter(|id| *id != tessera_kernels::NONE), expected.ok());
            }
            wanted => prop_assert_eq!(wanted, Wanted::Last),
        }
    }
}

#[test]
fn the_largest_scores_suffice_for_common_settings() {
    // 32,000 scores that thin out upwards, and a few that stand out: as a model's do.
    let score = |id: u32| {
        let even = ((id.wrapping_mul(2_654_435_761) >> 8) + 1) as f32 / (1 << 24) as f32;
        bf16::from_f32(if id % 4000 == 7 { 14.0 } else { 0.0 } - even.ln()).to_f32()
    };
    let scores: Vec<f32> = (0..32_000).map(score).collect();
    let common = [
        Draw { top_k: NonZeroUsize::new(50), ..DRAW },
        Draw { top_p: 0.9, ..DRAW },
        Draw { top_p: 0.95, temperature: 0.7, ..DRAW },
        Draw { min_p: 0.05, ..DRAW },
        Draw { top_k: NonZeroUsize::new(40), top_p: 0.95, min_p: 0.05, temperature: 0.8, ..DRAW },
    ];
    for settings in common {
        let sampler = sampler(draw(settings), 0);
        let Wanted::Top { temperature } = sampler.wants(3, false) else { panic!("{settings:?}") };
        assert!(sampler.candidates(&told(&scores, Wish::Top { temperature }).1).is_some(), "{settings:?}");
    }
    let flat = Draw { top_p: 0.99, temperature: 3.0, ..DRAW };
    let (_, top) = told(&scores, Wish::Top { temperature: Some(3.0) });
    assert!(sampler(draw(flat), 0).candidates(&top).is_none(), "thousands are left");
}

#[test]
fn all_scores_are_wanted_where_less_does_not_tell() {
    let wants = |settings: Sampling, is_alone| sampler(settings, 0).wants(3, is_alone);
    let top_k = |count| Draw { top_k: NonZeroUsize::new(count), ..DRAW };
    let penalties = Sampling { repetition_penalty: 1.1, ..draw(top_k(5)) };
    assert_eq!(wants(Sampling::GREEDY, false), Wanted::Likeliest);
    assert_eq!(wants(draw(top_k(128)), false), Wanted::Top { temperature: None });
    assert!(matches!(wants(draw(DRAW), true), Wanted::Draw { temperature: 1.0, .. }));
    // Of several samples each draws for itself.
    assert_eq!(wants(draw(DRAW), false), Wanted::Last);
    for settings in [
        penalties,
        draw(top_k(129)),
        draw(Draw { typical_p: 0.9, ..DRAW }),
        draw(Draw { generator: Generator::Torch, ..top_k(5) }),
    ] {
        assert_eq!(wants(settings.clone(), true), Wanted::Last, "{settings:?}");
    }
}
