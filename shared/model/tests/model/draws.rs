//! What a draw needs of the scores: a device tells that alone, the CPU's own way gives all.

use tessera_checkpoint::Checkpoint;
use tessera_kernels::{
    TOP_WORDS, TopScores, Wish,
    reference::{Found, choose},
};
use tessera_model::{Chunk, Input, KvPool, Logits, ModelError, StepLogits};
use tessera_tensor::DType;
use tessera_testkit::family_dir;

use crate::run::{Loaded, dense};

const TABLES: [[u32; 1]; 6] = [[0], [1], [2], [3], [4], [5]];
const TOKENS: [[u32; 3]; 6] = [[5, 6, 7], [9, 8, 7], [40, 3, 3], [7, 7, 7], [12, 90, 4], [1, 2, 3]];

/// What is wanted of each sequence.
const WANTED: [Logits; 6] = [
    Logits::Draw { temperature: 1.3, number: 0.4 },
    Logits::Top { temperature: Some(0.7) },
    Logits::Last,
    Logits::Likeliest,
    Logits::Top { temperature: None },
    Logits::Draw { temperature: 0.2, number: 0.999 },
];

fn load(family: &str, compute: DType, devices: usize) -> Loaded {
    Loaded::with(Checkpoint::open(&family_dir(family)).unwrap(), &dense(compute, devices))
}

/// Runs the third token of every sequence behind the first two, or the whole of them.
fn step(loaded: &Loaded, pool: &mut KvPool, start: usize, wanted: [Logits; 6]) -> StepLogits {
    let chunk = |index: usize| Chunk {
        blocks: &TABLES[index],
        start,
        inputs: vec![Input::Tokens(&TOKENS[index][start..])],
        logits: wanted[index],
    };
    loaded.language.forward(pool, &[0, 1, 2, 3, 4, 5].map(chunk)).unwrap()
}

/// What is found in all scores.
fn expected(scores: &[f32], wish: Wish) -> (u32, TopScores) {
    let (mut token, mut top, mut kept) = ([0], [0; TOP_WORDS], vec![0.0; scores.len()]);
    choose(
        Found { tokens: &mut token, top: &mut top, scores: &mut kept, stride: scores.len() },
        scores,
        &[wish],
        scores.len(),
    );
    (token[0], TopScores::read(&top))
}

#[test]
fn a_device_tells_of_its_scores_what_is_wanted() {
    for (family, compute, devices) in [("mistral", DType::F32, 1), ("qwen2", DType::BF16, 2), ("llama3", DType::F16, 1)]
    {
        let loaded = load(family, compute, devices);
        let mut pool = loaded.language.new_pool(6).unwrap();
        // As prompts, and as the decode step that they end with, which is rounded up to eight rows.
        for start in [0, 2, 2] {
            let all = step(&loaded, &mut pool, start, [Logits::Last; 6]);
            let found = step(&loaded, &mut pool, start, WANTED);
            assert!(found.of(2) == all.of(2), "{family} in {compute}");
            for (chunk, wanted) in WANTED.into_iter().enumerate() {
                let wish = match wanted {
                    Logits::Top { temperature } => Wish::Top { temperature },
                    Logits::Draw { temperature, number } => Wish::Draw { temperature, number },
                    _ => Wish::Likeliest,
                };
                let (token, top) = expected(all.of(chunk), wish);
                match wanted {
                    Logits::Last => {}
                    Logits::Top { .. } => {
                        assert_eq!((found.top(chunk), found.token(chunk)), (Some(&top), None), "{family} in {compute}");
                        assert!(
                            loaded.language.scores(&pool, chunk).unwrap() == all.of(chunk),
                            "{family} in {compute}"
                        );
                    }
                    _ => {
                        assert_eq!((found.token(chunk), found.top(chunk)), (Some(token), None), "{family} in {compute}")
                    }
                }
                assert_eq!(found.of(chunk).is_empty(), chunk != 2);
            }
        }
    }
}

#[test]
fn scores_are_kept_for_those_who_got_the_largest_and_until_the_next_step() {
    let loaded = load("mistral", DType::F32, 1);
    let mut pool = loaded.language.new_pool(6).unwrap();
    step(&loaded, &mut pool, 0, WANTED);
    for chunk in [0, 2, 3, 6] {
        let error = loaded.language.scores(&pool, chunk).unwrap_err();
        assert!(matches!(error, ModelError::Chunk { index, .. } if index == chunk), "{error}");
    }
    assert!(loaded.language.scores(&pool, 1).is_ok());
    step(&loaded, &mut pool, 2, [Logits::Likeliest; 6]);
    assert!(loaded.language.scores(&pool, 1).is_err());
    let other = load("mistral", DType::F32, 1);
    assert!(matches!(other.language.scores(&pool, 1), Err(ModelError::Pool)));
}

#[test]
fn the_cpu_gives_all_scores_instead() {
    let loaded = Loaded::family("mistral");
    let mut pool = loaded.language.new_pool(6).unwrap();
    let all = step(&loaded, &mut pool, 0, [Logits::Last; 6]);
    let found = step(&loaded, &mut pool, 0, WANTED);
    for chunk in [0, 1, 2, 4, 5] {
        assert!(found.of(chunk) == all.of(chunk) && found.token(chunk).is_none() && found.top(chunk).is_none());
    }
    assert_eq!(found.token(3), Some(expected(all.of(3), Wish::Likeliest).0));
}

#[test]
fn steps_whose_phases_are_timed_give_the_same() {
    for loaded in Loaded::both_ways("mistral") {
        let mut pool = loaded.language.new_pool(6).unwrap();
        for start in [0, 2] {
            let expected = step(&loaded, &mut pool, start, WANTED);
            let timed =
                pool.time_phases(|pool| Ok((step(&loaded, pool, start, WANTED), step(&loaded, pool, start, WANTED))));
            let ((first, second), phases) = timed.unwrap();
            assert!(first == expected && second == expected);
            let unused: Vec<_> = phases.iter().filter(|(_, time)| time.is_zero()).map(|(phase, _)| *phase).collect();
            // The CPU's own way copies nothing.
            assert!(unused.is_empty() || unused == [tessera_model::Phase::Copies], "{unused:?}");
        }
    }
}
