//! The sampler against what the reference did to the same scores, and drew from them.

use super::super::*;
use super::golden::{Golden, Processed};

/// Scores after the processors and, for a draw, its cuts: what the reference's list of processors returns.
fn process(golden: &Golden, case: &Processed) -> Vec<f32> {
    let sampling = Arc::new(case.settings.sampling(0));
    let mut scores = golden.scores[case.scores].clone();
    let mask = case.allowed.as_ref().map(|ids| {
        let mut mask = Mask::default();
        ids.iter().for_each(|&id| mask.allow(id));
        mask
    });
    let mut processors = Processors::new(sampling.clone(), golden.end_token_ids());
    processors.apply(&mut scores, &case.history, case.prompt, mask.as_ref());
    let Choice::Draw(draw) = sampling.choice else { return scores };
    let mut cut = vec![f32::NEG_INFINITY; scores.len()];
    for candidate in cuts::candidates(&scores, &draw, cuts::tail(draw.top_p)) {
        cut[candidate.id as usize] = candidate.score;
    }
    cut
}

#[test]
fn processors_and_cuts_change_scores_as_the_references_do() {
    let golden = Golden::load();
    let mut wrong = Vec::new();
    for (number, case) in golden.processors.iter().enumerate() {
        let ours = process(&golden, case);
        let equal = match (&case.kept, case.out()) {
            (Some(kept), None) => {
                let ids = (0..).zip(&ours).filter(|(_, score)| score.is_finite()).map(|(id, _)| id);
                ids.eq(kept.iter().copied())
            }
            (None, Some(out)) => ours == out,
            _ => panic!("case {number} holds either ids or scores"),
        };
        if !equal {
            wrong.push(format!("case {number}, {:?}: {ours:?} is not {:?}", case.settings, case.out()));
        }
    }
    assert!(golden.processors.len() >= 150 && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn numbers_are_those_of_torch_to_the_last_bit() {
    for case in Golden::load().exponential {
        let Numbers::Torch(mut twister) = Numbers::new(tessera_api::language::Generator::Torch, case.seed, 0) else {
            panic!("another generator")
        };
        let numbers: Vec<f32> = case.at.iter().map(|&at| generator::exponential(&mut twister, at)).collect();
        assert_eq!(numbers, case.values, "seed {}", case.seed);
    }
}

#[test]
fn seeded_answers_are_those_of_the_reference() {
    let golden = Golden::load();
    for case in &golden.draws {
        let mut sampler = Sampler::new(Arc::new(case.settings.sampling(case.seed)), golden.end_token_ids(), 0);
        let mut history = case.prompt.clone();
        for _ in &case.ids {
            let logits = golden.logits(&history);
            history.push(sampler.choose(logits, &history, case.prompt.len(), None).unwrap());
        }
        assert_eq!(history[case.prompt.len()..], case.ids, "{:?}, seed {}", case.settings, case.seed);
    }
}

#[test]
fn sample_k_of_a_seed_is_the_reference_s_answer_to_that_seed_and_k() {
    let golden = Golden::load();
    for case in golden.draws.iter().filter(|case| case.seed == 7) {
        let mut sampler = Sampler::new(Arc::new(case.settings.sampling(4)), golden.end_token_ids(), 3);
        let mut history = case.prompt.clone();
        for _ in &case.ids {
            let logits = golden.logits(&history);
            history.push(sampler.choose(logits, &history, case.prompt.len(), None).unwrap());
        }
        assert_eq!(history[case.prompt.len()..], case.ids, "{:?}", case.settings);
    }
}

#[test]
fn an_answer_of_torch_s_generator_can_be_continued_anywhere() {
    let golden = Golden::load();
    let case = golden.draws.iter().find(|case| case.ids.len() == 24).unwrap();
    let settings = Arc::new(case.settings.sampling(case.seed));
    let whole = [case.prompt.as_slice(), &case.ids].concat();
    let mut jumping = Sampler::new(settings.clone(), golden.end_token_ids(), 0);
    for end in [5usize, 6, 20, 3, 0, 23] {
        let history = &whole[..case.prompt.len() + end];
        let mut fresh = Sampler::new(settings.clone(), golden.end_token_ids(), 0);
        for sampler in [&mut fresh, &mut jumping] {
            let next = sampler.choose(golden.logits(history), history, case.prompt.len(), None);
            assert_eq!(next, Ok(case.ids[end]), "{end}");
        }
    }
}
