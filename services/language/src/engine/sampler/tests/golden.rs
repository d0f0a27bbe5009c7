//! What the reference did, from `tests/fixtures/sampling.json`; `tests/fixtures/make_sampling.py` says what is in it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;
use tessera_api::language::{BeamSearch, Choice, Draw, EarlyStopping, Generator, Sampling};

/// The file.
#[derive(Deserialize)]
pub(in crate::engine) struct Golden {
    end_token_ids: Vec<u32>,
    pub(in crate::engine) scores: Vec<Vec<f32>>,
    pub(in crate::engine) processors: Vec<Processed>,
    pub(in crate::engine) exponential: Vec<Exponential>,
    table: Vec<Vec<f32>>,
    pub(in crate::engine) draws: Vec<Drawn>,
    pub(in crate::engine) beams: Vec<Searched>,
}

/// Scores before and after.
#[derive(Deserialize)]
pub(in crate::engine) struct Processed {
    pub(in crate::engine) settings: Settings,
    pub(in crate::engine) history: Vec<u32>,
    pub(in crate::engine) prompt: usize,
    /// Index of those before.
    pub(in crate::engine) scores: usize,
    pub(in crate::engine) allowed: Option<Vec<u32>>,
    out: Option<Vec<Option<f32>>>,
    /// The ids that have a score afterwards, in the place of `out`.
    pub(in crate::engine) kept: Option<Vec<u32>>,
}

/// Numbers after a seed.
#[derive(Deserialize)]
pub(in crate::engine) struct Exponential {
    pub(in crate::engine) seed: u64,
    pub(in crate::engine) at: Vec<usize>,
    pub(in crate::engine) values: Vec<f32>,
}

/// An answer that was drawn.
#[derive(Deserialize)]
pub(in crate::engine) struct Drawn {
    pub(in crate::engine) settings: Settings,
    pub(in crate::engine) prompt: Vec<u32>,
    pub(in crate::engine) seed: u64,
    pub(in crate::engine) ids: Vec<u32>,
}

/// Answers that were searched.
#[derive(Deserialize)]
pub(in crate::engine) struct Searched {
    pub(in crate::engine) settings: Settings,
    pub(in crate::engine) prompt: Vec<u32>,
    beams: usize,
    pub(in crate::engine) samples: usize,
    length_penalty: f32,
    early_stopping: serde_json::Value,
    pub(in crate::engine) found: Vec<(Vec<u32>, f32)>,
}

/// [`Sampling`] as the file has it: what is absent is neutral, and minus infinity is null.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Settings {
    #[serde(default)]
    logit_bias: Vec<(u32, Option<f32>)>,
    repetition_penalty: Option<f32>,
    no_repeat_ngram: Option<NonZeroUsize>,
    #[serde(default)]
    bad_words: Vec<Vec<u32>>,
    #[serde(default)]
    min_new_tokens: usize,
    draw: Option<DrawSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrawSettings {
    temperature: Option<f32>,
    top_k: Option<NonZeroUsize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
}

impl Golden {
    pub(in crate::engine) fn load() -> Self {
        let path = tessera_testkit::fixtures_dir().join("sampling.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    pub(in crate::engine) fn end_token_ids(&self) -> Arc<[u32]> {
        self.end_token_ids.clone().into()
    }

    /// Logits of the model that the file holds.
    pub(in crate::engine) fn logits(&self, history: &[u32]) -> &[f32] {
        let [.., before, last] = *history else { panic!("the model looks at two ids") };
        &self.table[(3 * before as usize + 5 * last as usize) % self.table.len()]
    }
}

impl Processed {
    /// Scores afterwards, minus infinity where there is none.
    pub(in crate::engine) fn out(&self) -> Option<Vec<f32>> {
        let scores = self.out.as_ref()?.iter();
        Some(scores.map(|score| score.unwrap_or(f32::NEG_INFINITY)).collect())
    }
}

impl Searched {
    pub(in crate::engine) fn search(&self) -> BeamSearch {
        let early_stopping = match &self.early_stopping {
            serde_json::Value::Bool(false) => EarlyStopping::Heuristic,
            serde_json::Value::Bool(true) => EarlyStopping::Always,
            never => {
                assert_eq!(never, "never");
                EarlyStopping::Never
            }
        };
        BeamSearch { beams: self.beams, length_penalty: self.length_penalty, early_stopping }
    }
}

impl Settings {
    /// Settings with torch's generator.
    pub(in crate::engine) fn sampling(&self, seed: u64) -> Sampling {
        let draw = |draw: &DrawSettings| Draw {
            temperature: draw.temperature.unwrap_or(1.0),
            top_k: draw.top_k,
            top_p: draw.top_p.unwrap_or(1.0),
            min_p: draw.min_p.unwrap_or(0.0),
            typical_p: draw.typical_p.unwrap_or(1.0),
            seed,
            generator: Generator::Torch,
        };
        let bias = |&(id, bias): &(u32, Option<f32>)| (id, bias.unwrap_or(f32::NEG_INFINITY));
        Sampling {
            logit_bias: self.logit_bias.iter().map(bias).collect(),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            no_repeat_ngram: self.no_repeat_ngram,
            bad_words: self.bad_words.clone(),
            min_new_tokens: self.min_new_tokens,
            choice: self.draw.as_ref().map_or(Choice::Greedy, |settings| Choice::Draw(draw(settings))),
            ..Sampling::GREEDY
        }
    }
}
