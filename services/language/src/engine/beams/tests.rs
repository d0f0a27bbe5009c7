//! The search over models that are tables.

use tessera_api::language::Choice;

use super::super::sampler::tests::golden::Golden;
use super::*;

fn search(beams: usize) -> BeamSearch {
    BeamSearch { beams, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic }
}

fn beams(search: BeamSearch, samples: usize, max_new_tokens: usize) -> Beams {
    Beams::new(search, samples, Arc::new(Sampling::GREEDY), Arc::from([0]), max_new_tokens, &[1, 1])
}

/// Runs a search with a model to its end.
fn run(mut beams: Beams, prompt: &[u32], model: impl Fn(&[u32]) -> Vec<f32>) -> Vec<Found> {
    let mut running = vec![prompt.to_vec()];
    loop {
        let logits: Vec<Vec<f32>> = running.iter().map(|history| model(history)).collect();
        let logits: Vec<&[f32]> = logits.iter().map(Vec::as_slice).collect();
        let Step::Go(next) = beams.advance(&logits).unwrap() else { return beams.finish() };
        running = next.into_iter().map(|(parent, token)| [running[parent].as_slice(), &[token]].concat()).collect();
    }
}

#[test]
fn beams_find_what_the_reference_finds() {
    let golden = Golden::load();
    assert!(golden.beams.len() >= 100);
    for case in &golden.beams {
        let sampling = Arc::new(case.settings.sampling(0));
        assert_eq!(sampling.choice, Choice::Greedy);
        let beams = Beams::new(case.search(), case.samples, sampling, golden.end_token_ids(), 10, &case.prompt);
        let found = run(beams, &case.prompt, |history| golden.logits(history).to_vec());
        let what = format!("{:?}, {:?}", case.search(), case.settings);
        let ids = |found: &[Found]| found.iter().map(|one| one.token_ids.clone()).collect::<Vec<_>>();
        let expected: Vec<Vec<u32>> = case.found.iter().map(|(ids, _)| ids.clone()).collect();
        assert_eq!(ids(&found), expected, "{what}");
        for (one, (ids, score)) in found.iter().zip(&case.found) {
            assert!((one.score - score).abs() <= 1e-5 * score.abs(), "{what}: {} is not {score}", one.score);
            assert_eq!(one.ended, golden.end_token_ids().contains(ids.last().unwrap()), "{what}");
        }
    }
}

#[test]
fn a_search_as_wide_as_the_tree_finds_the_best_of_all_answers() {
    let model = |history: &[u32]| -> Vec<f32> {
        let state = history.iter().fold(17u32, |state, id| (state ^ id).wrapping_mul(2_654_435_761).rotate_left(9));
        (0..3).map(|id| (state.rotate_left(10 * id) >> 24) as f32 / 64.0).collect()
    };
    // Every answer of 3 tokens, or one that 0 ends.
    let mut best: Option<(f32, Vec<u32>)> = None;
    let mut open = vec![(0.0, vec![])];
    while let Some((sum, ids)) = open.pop() {
        let history = [&[1, 1], ids.as_slice()].concat();
        let logits = model(&history);
        let total = log_total(&logits).unwrap();
        for id in 0..3 {
            let sum: f64 = sum + f64::from(logits[id as usize]) - total;
            let ids = [ids.as_slice(), &[id]].concat();
            if id != 0 && ids.len() < 3 {
                open.push((sum, ids));
            } else {
                let score = (sum / ids.len() as f64) as f32;
                if best.as_ref().is_none_or(|(best, _)| score > *best) {
                    best = Some((score, ids));
                }
            }
        }
    }
    let search = BeamSearch { early_stopping: EarlyStopping::Never, ..search(27) };
    let found = run(beams(search, 1, 3), &[1, 1], model);
    let (score, ids) = best.unwrap();
    assert_eq!(found[0].token_ids, ids);
    assert!((found[0].score - score).abs() < 1e-5);
}

#[test]
fn beams_that_stop_are_replaced_and_the_better_parent_comes_first() {
    let mut beams = beams(search(2), 2, 9);
    let first = beams.advance(&[&[2.0, 3.0, 1.0, 0.0]]).unwrap();
    // The end token is second and stops; the third goes on in its place.
    assert_eq!(first, Step::Go(vec![(0, 1), (0, 2)]));
    let second = beams.advance(&[&[-9.0, -3.0, -3.0, 1.0], &[-9.0, 0.0, 9.0, 0.0]]).unwrap();
    assert_eq!(second, Step::Go(vec![(0, 3), (1, 2)]));
    let found = beams.finish();
    assert_eq!((found[0].token_ids.as_slice(), found[0].ended), ([0].as_slice(), true));
    assert_eq!((found[1].token_ids.as_slice(), found[1].ended), ([1, 3].as_slice(), false));
}

#[test]
fn an_end_token_behind_the_best_is_not_taken() {
    let mut beams = beams(search(2), 2, 9);
    assert_eq!(beams.advance(&[&[1.0, 3.0, 2.0, 0.0]]).unwrap(), Step::Go(vec![(0, 1), (0, 2)]));
    assert!(beams.finish().iter().all(|one| !one.ended));
}

#[test]
fn the_limit_stops_a_search() {
    let mut beams = beams(search(3), 3, 1);
    assert_eq!(beams.advance(&[&[1.0, 3.0, 2.0, 0.0]]).unwrap(), Step::Over);
    let found = beams.finish();
    assert_eq!(found.iter().map(|one| one.token_ids[0]).collect::<Vec<_>>(), [1, 2, 0]);
    assert_eq!(found.iter().map(|one| one.ended).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn what_is_not_finite_is_no_candidate_and_no_score_at_all_is_an_error() {
    let mut some = beams(search(2), 2, 9);
    let broken = [f32::NAN, f32::INFINITY, 1.0, f32::NEG_INFINITY];
    assert_eq!(some.advance(&[&broken]).unwrap(), Step::Go(vec![(0, 2)]));
    assert_eq!(some.advance(&[&[f32::NAN; 4]]), Err(NoFiniteScore));
    assert_eq!(beams(search(2), 2, 9).advance(&[&[f32::NEG_INFINITY; 4]]), Err(NoFiniteScore));
    let bad_words = (0..4).map(|id| vec![id]).collect();
    let nothing = Arc::new(Sampling { bad_words, ..Sampling::GREEDY });
    let mut forbidden = Beams::new(search(2), 2, nothing, Arc::from([]), 9, &[1]);
    assert_eq!(forbidden.advance(&[&[1.0; 4]]), Err(NoFiniteScore));
}

#[test]
fn a_search_without_a_step_has_found_nothing() {
    assert_eq!(beams(search(2), 2, 9).finish(), []);
}
