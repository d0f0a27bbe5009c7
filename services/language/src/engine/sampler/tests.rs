//! The rules of the sampler, one by one; beside them, what the reference does.

pub(in crate::engine) mod golden;
mod reference;
mod tiny;
mod top;

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

const NONE: f32 = f32::NEG_INFINITY;

fn sampler(settings: Sampling, sample: usize) -> Sampler {
    Sampler::new(Arc::new(settings), Arc::from([2, 4]), sample)
}

fn draw(settings: Draw) -> Sampling {
    Sampling { choice: Choice::Draw(settings), ..Sampling::GREEDY }
}

/// The likeliest after the processors of greedy settings.
fn greedy(settings: Sampling, logits: &[f32], history: &[u32], prompt: usize) -> Result<u32, NoFiniteScore> {
    sampler(settings, 0).choose(logits, history, prompt, None)
}

/// Scores after the processors.
fn processed(settings: Sampling, logits: &[f32], history: &[u32], prompt: usize) -> Vec<f32> {
    let mut scores = logits.to_vec();
    Processors::new(Arc::new(settings), Arc::from([2, 4])).apply(&mut scores, history, prompt, None);
    scores
}

/// Ids that come out over many positions.
fn drawn(logits: &[f32], settings: Draw) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    let mut sampler = sampler(draw(settings), 0);
    let history = vec![0; 4000];
    for position in 0..4000 {
        counts[sampler.choose(logits, &history[..position], 0, None).unwrap() as usize] += 1;
    }
    counts
}

fn answer(settings: &Sampling, sample: usize) -> Vec<u32> {
    let mut sampler = sampler(settings.clone(), sample);
    let mut history = vec![1, 2, 3];
    for step in 0..20u16 {
        let logits: Vec<f32> = (0..50u16).map(|id| (f32::from(id * 7 + step) * 0.7).sin() * 2.0).collect();
        history.push(sampler.choose(&logits, &history, 3, None).unwrap());
    }
    history.split_off(3)
}

#[test]
fn greedy_takes_the_first_of_equals() {
    assert_eq!(greedy(Sampling::GREEDY, &[1.0, 3.0, 3.0], &[], 0), Ok(1));
    let mut long = vec![-1.0; 1000];
    assert_eq!(greedy(Sampling::GREEDY, &long, &[], 0), Ok(0));
    for id in [999, 500, 17, 16, 15] {
        long[id] = 2.5;
        assert_eq!(greedy(Sampling::GREEDY, &long, &[], 0), Ok(id as u32));
    }
}

#[test]
fn what_is_not_finite_is_never_chosen_and_without_a_finite_score_there_is_an_error() {
    let broken = [f32::NAN, 1.0, f32::INFINITY, NONE];
    let penalized = Sampling { repetition_penalty: 1.1, ..Sampling::GREEDY };
    for settings in [Sampling::GREEDY, penalized, draw(DRAW), draw(Draw { top_k: NonZeroUsize::new(3), ..DRAW })] {
        assert_eq!(greedy(settings.clone(), &broken, &[3], 1), Ok(1));
        assert_eq!(greedy(settings.clone(), &[f32::NAN; 40], &[3], 1), Err(NoFiniteScore));
        assert_eq!(greedy(settings.clone(), &[NONE, f32::INFINITY], &[3], 1), Err(NoFiniteScore));
        assert_eq!(greedy(settings, &[], &[3], 1), Err(NoFiniteScore));
    }
}

#[test]
fn a_repeated_id_is_penalized_once_and_away_from_zero() {
    let settings = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
    assert_eq!(processed(settings, &[2.0, -2.0, 2.0], &[0, 0, 1, 77], 2), [1.0, -4.0, 2.0]);
}

#[test]
fn presence_and_frequency_count_the_answer_alone() {
    let settings = Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, ..Sampling::GREEDY };
    assert_eq!(processed(settings.clone(), &[1.0; 4], &[0, 0, 1, 1, 1, 2], 3), [1.0, 0.0, 0.25, 1.0]);
    assert_eq!(processed(settings, &[1.0; 4], &[0, 0, 1, 1, 1, 2], 6), [1.0; 4]);
    let negative = Sampling { presence_penalty: -2.0, ..Sampling::GREEDY };
    assert_eq!(processed(negative, &[1.0; 3], &[0, 1], 1), [1.0, 3.0, 1.0]);
}

#[test]
fn penalties_come_behind_the_bias_and_the_repetition_penalty_comes_first() {
    let settings = Sampling {
        logit_bias: vec![(1, 3.0), (9, 1.0)],
        repetition_penalty: 2.0,
        presence_penalty: 1.0,
        ..Sampling::GREEDY
    };
    assert_eq!(processed(settings, &[0.0, 1.0], &[1], 0), [0.0, (1.0 + 3.0) / 2.0 - 1.0]);
}

#[test]
fn no_run_is_repeated_prompt_included() {
    let settings = |size| Sampling { no_repeat_ngram: NonZeroUsize::new(size), ..Sampling::GREEDY };
    let history = [1, 2, 3, 1, 0, 1, 2];
    assert_eq!(processed(settings(3), &[5.0; 4], &history, 4), [5.0, 5.0, 5.0, NONE]);
    assert_eq!(processed(settings(2), &[5.0; 4], &history, 4), [5.0, 5.0, 5.0, NONE]);
    assert_eq!(processed(settings(2), &[5.0; 4], &history[..6], 4), [NONE, 5.0, NONE, 5.0]);
    assert_eq!(processed(settings(1), &[5.0; 4], &history[..2], 2), [5.0, NONE, NONE, 5.0]);
    assert_eq!(processed(settings(8), &[5.0; 4], &history, 4), [5.0; 4]);
    assert_eq!(processed(settings(9), &[5.0; 4], &history, 4), [5.0; 4]);
}

#[test]
fn a_bad_word_is_forbidden_where_its_beginning_stands_and_an_end_token_is_none() {
    let settings =
        |words: &[&[u32]]| Sampling { bad_words: words.iter().map(|word| word.to_vec()).collect(), ..Sampling::GREEDY };
    assert_eq!(processed(settings(&[&[1]]), &[5.0; 3], &[], 0), [5.0, NONE, 5.0]);
    assert_eq!(processed(settings(&[&[0, 1]]), &[5.0; 3], &[1, 0], 2), [5.0, NONE, 5.0]);
    assert_eq!(processed(settings(&[&[0, 1]]), &[5.0; 3], &[0, 1], 2), [5.0; 3]);
    assert_eq!(processed(settings(&[&[0, 0, 1]]), &[5.0; 3], &[0], 1), [5.0; 3]);
    assert_eq!(processed(settings(&[&[2]]), &[5.0; 3], &[0], 1), [5.0; 3]);
    assert_eq!(processed(settings(&[&[0, 2]]), &[5.0; 3], &[0], 1), [5.0, 5.0, NONE]);
}

#[test]
fn no_end_token_comes_before_the_minimum() {
    let settings = Sampling { min_new_tokens: 2, ..Sampling::GREEDY };
    let logits = [0.0, 1.0, 9.0, 2.0, 8.0];
    assert_eq!(greedy(settings.clone(), &logits, &[7, 7, 7], 3), Ok(3));
    assert_eq!(greedy(settings.clone(), &logits, &[7, 7, 7], 2), Ok(3));
    assert_eq!(greedy(settings, &logits, &[7, 7, 7], 1), Ok(2));
}

#[test]
fn a_mask_allows_what_its_bits_say() {
    let mut mask = Mask::new(vec![0b101]);
    assert!(mask.allows(0) && !mask.allows(1) && mask.allows(2) && !mask.allows(32) && !mask.allows(u32::MAX));
    mask.allow(70);
    assert!(mask.allows(70) && !mask.allows(69));
    assert_eq!(mask.words(), [0b101, 0, 1 << 6]);
}

#[test]
fn a_constraint_holds_whatever_else_is_asked() {
    let logits: Vec<f32> = (0..100u8).map(f32::from).collect();
    let choose = |settings: Sampling, ids: &[u32]| {
        let mut mask = Mask::default();
        ids.iter().for_each(|&id| mask.allow(id));
        sampler(settings, 0).choose(&logits, &[5], 1, Some(&mask))
    };
    assert_eq!(choose(Sampling::GREEDY, &[3, 40, 31, 200]), Ok(40));
    assert_eq!(choose(draw(DRAW), &[64]), Ok(64));
    // Only an end token is allowed, which is not to come yet.
    assert_eq!(choose(Sampling { min_new_tokens: 9, ..Sampling::GREEDY }, &[4]), Ok(4));
    assert_eq!(choose(Sampling::GREEDY, &[]), Err(NoFiniteScore));
    assert_eq!(choose(Sampling::GREEDY, &[200]), Err(NoFiniteScore));
    let full = Mask::new(vec![u32::MAX; 4]);
    assert_eq!(sampler(Sampling::GREEDY, 0).choose(&logits, &[5], 1, Some(&full)), Ok(99));
    assert_eq!(sampler(Sampling::GREEDY, 0).choose(&[f32::NAN; 3], &[5], 1, Some(&full)), Err(NoFiniteScore));
}

#[test]
fn when_everything_is_forbidden_there_is_an_error() {
    let settings = Sampling { bad_words: vec![vec![0], vec![1]], ..Sampling::GREEDY };
    assert_eq!(greedy(settings.clone(), &[1.0, 2.0], &[], 0), Err(NoFiniteScore));
    let drawing = Sampling { choice: Choice::Draw(DRAW), ..settings };
    assert_eq!(greedy(drawing, &[1.0, 2.0], &[], 0), Err(NoFiniteScore));
}

#[test]
fn draws_follow_the_probabilities() {
    for generator in [Generator::Counter, Generator::Torch] {
        let settings = Draw { generator, ..DRAW };
        let counts = drawn(&[0.0, 3f32.ln()], settings);
        assert!((2900..3100).contains(&counts[1]), "{counts:?}");
        let sharper = drawn(&[0.0, 3f32.ln()], Draw { temperature: 0.5, ..settings });
        assert!((3520..3680).contains(&sharper[1]), "{sharper:?}");
        let even = drawn(&[0.0; 8], settings);
        assert!(even.iter().all(|count| (420..580).contains(count)), "{even:?}");
    }
}

#[test]
fn equal_seeds_give_equal_answers_and_others_give_others() {
    for generator in [Generator::Counter, Generator::Torch] {
        let settings = |seed| draw(Draw { seed, generator, ..DRAW });
        assert_eq!(answer(&settings(1), 0), answer(&settings(1), 0));
        assert_eq!(answer(&settings(1), 3), answer(&settings(1), 3));
        assert_ne!(answer(&settings(1), 0), answer(&settings(2), 0));
        let mut samples: Vec<_> = (0..8).map(|sample| answer(&settings(1), sample)).collect();
        samples.sort();
        samples.dedup();
        assert_eq!(samples.len(), 8);
    }
}

#[test]
fn a_temperature_close_to_zero_takes_the_likeliest() {
    for temperature in [1e-30, f32::MIN_POSITIVE, 1e-45] {
        let settings = Draw { temperature, ..DRAW };
        assert_eq!(drawn(&[-3.0, 5.0, 2.0], settings)[1], 4000);
        assert_eq!(drawn(&[-3.0, -1.0, -2.0], settings)[1], 4000);
    }
    let ties = drawn(&[5.0, 5.0, 2.0], Draw { temperature: f32::MIN_POSITIVE, ..DRAW });
    assert!(ties[0] > 1800 && ties[1] > 1800, "{ties:?}");
}

#[test]
fn top_k_keeps_ties_with_the_last() {
    let counts = drawn(&[1.0, 5.0, 4.0, 4.0, 0.0], Draw { top_k: NonZeroUsize::new(2), ..DRAW });
    assert!(counts[1] > 0 && counts[2] > 0 && counts[3] > 0, "{counts:?}");
    assert_eq!((counts[0], counts[4]), (0, 0));
    let all = drawn(&[1.0, 1.5], Draw { top_k: NonZeroUsize::new(usize::MAX), ..DRAW });
    assert!(all[0] > 0 && all[1] > 0, "{all:?}");
}

#[test]
fn top_p_drops_the_tail_and_keeps_the_likeliest() {
    // Probabilities 0.5, 0.25, 0.125, 0.125: the tail of 1 - 0.74 holds the last two.
    let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0];
    let counts = drawn(&logits, Draw { top_p: 0.74, ..DRAW });
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    assert_eq!((counts[2], counts[3]), (0, 0));
    assert_eq!(drawn(&logits, Draw { top_p: 1e-6, ..DRAW })[0], 4000);
    // Of equals the first go first, as in the reference.
    assert_eq!(drawn(&[1.0; 4], Draw { top_p: 1e-6, ..DRAW }), [0, 0, 0, 4000]);
}

#[test]
fn top_p_of_many_keeps_what_it_keeps_of_all_sorted() {
    for (count, spread) in [(300u32, 0.001), (3000, 0.001), (3000, 3.0), (70_000, 0.2)] {
        let mix = |id: u32| id.wrapping_mul(2_654_435_761) >> 20;
        let scores: Vec<f32> = (0..count).map(|id| (mix(id) as f32 / 4096.0 * 6.0).sin() * spread).collect();
        for top_p in [0.001, 0.2, 0.9, 0.999] {
            let kept = cuts::candidates(&scores, &Draw { top_p, ..DRAW }, cuts::tail(top_p));
            let kept: Vec<u32> = kept.iter().map(|candidate| candidate.id).collect();
            let all = cuts::candidates(&scores, &DRAW, 0.0);
            let mut sorted: Vec<_> = all.iter().zip(cuts::probabilities(&all)).collect();
            sorted.sort_by(|a, b| a.0.score.total_cmp(&b.0.score));
            let mut sum = 0.0;
            let dropped = sorted.iter().take_while(|(_, probability)| {
                sum += f64::from(*probability);
                sum as f32 <= cuts::tail(top_p)
            });
            let dropped = dropped.count().min(sorted.len() - 1);
            let mut expected: Vec<u32> = sorted[dropped..].iter().map(|(candidate, _)| candidate.id).collect();
            expected.sort_unstable();
            assert_eq!(kept, expected, "{count} {spread} {top_p}");
        }
    }
}

#[test]
fn min_p_is_a_share_of_the_likeliest() {
    let logits = [4f32.ln(), 2f32.ln(), 0.0];
    let counts = drawn(&logits, Draw { min_p: 0.4, ..DRAW });
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    assert_eq!(counts[2], 0);
    assert_eq!(drawn(&logits, Draw { min_p: 1.0, ..DRAW })[0], 4000);
}

#[test]
fn typical_p_keeps_what_is_as_surprising_as_can_be_expected() {
    // Probabilities 0.6 and eight of 0.05: the entropy is 1.5, the surprises 0.5 and 3.0.
    let mut logits = [0.0; 9];
    logits[4] = 12f32.ln();
    assert_eq!(drawn(&logits, Draw { typical_p: 0.5, ..DRAW })[4], 4000);
    let counts = drawn(&logits, Draw { typical_p: 0.65, ..DRAW });
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}
