//! How the next token is chosen: settings, checked for their ranges.

use std::num::NonZeroUsize;

use crate::convert::{self, out_of_range};
use crate::error::{Error, Result};
use crate::language::MAX_SAMPLES;
use crate::proto::language::v1 as proto;

/// Tokens that one request may bias, and runs that it may forbid.
const MAX_ENTRIES: usize = 1024;

/// Settings in the order in which they are applied: the reference's, with the two penalties that it lacks behind its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Added to the scores of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Above 0; 1 does nothing. Divides the score of every id that occurred (multiplies one below zero).
    pub repetition_penalty: f32,
    /// Subtracted once from the score of every id that the answer holds; 0 does nothing.
    pub presence_penalty: f32,
    /// Subtracted from the score of an id as often as the answer holds it; 0 does nothing.
    pub frequency_penalty: f32,
    /// No run of so many ids occurs twice, prompt included.
    pub no_repeat_ngram: Option<NonZeroUsize>,
    /// Runs of ids that never occur; none is empty.
    pub bad_words: Vec<Vec<u32>>,
    /// End tokens do not occur before so many new ones.
    pub min_new_tokens: usize,
    /// What follows the processors.
    pub choice: Choice,
}

/// The likeliest token, or a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The likeliest; the first of equals.
    Greedy,
    /// A draw: a pure function of seed, sample and position.
    Draw(Draw),
}

/// Settings of a draw, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Above 0.
    pub temperature: f32,
    /// Keep the k likeliest; `None` keeps all.
    pub top_k: Option<NonZeroUsize>,
    /// In (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// In [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// In (0, 1]; 1 keeps all.
    pub typical_p: f32,
    /// Equal seeds give equal answers.
    pub seed: u64,
    /// Where the numbers come from.
    pub generator: Generator,
}

/// Where the numbers of a draw come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generator {
    /// A hash of seed, sample and position.
    #[default]
    Counter,
    /// What `torch.multinomial` draws on a CPU after `torch.manual_seed(seed)`, a sequence at a time; seeds below 2^32.
    /// Sample k is what it draws with seed + k.
    Torch,
}

/// Search for the answers with the greatest sums of log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSearch {
    /// Answers that are followed at once; 2 to [`MAX_SAMPLES`].
    pub beams: usize,
    /// A sum is divided by its length to this power.
    pub length_penalty: f32,
    /// When to stop.
    pub early_stopping: EarlyStopping,
}

/// When a beam search stops, once it has as many finished answers as beams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When no running beam promises to be better, at the length that it has now.
    #[default]
    Heuristic,
    /// At once.
    Always,
    /// When no running beam can be better at any length.
    Never,
}

impl Sampling {
    /// Greedy, with nothing else.
    pub const GREEDY: Self = Self {
        logit_bias: Vec::new(),
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        no_repeat_ngram: None,
        bad_words: Vec::new(),
        min_new_tokens: 0,
        choice: Choice::Greedy,
    };

    /// Checks the ranges; `field` is the path of the message that holds them.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn check(self, field: &str) -> Result<Self> {
        let check = |name: &str, value: f32, fits: bool, range: &str| {
            if fits { Ok(()) } else { Err(out_of_range(&format!("{field}.{name}"), value, range)) }
        };
        let penalty = self.repetition_penalty;
        check("repetition_penalty", penalty, penalty > 0.0 && penalty.is_finite(), "a number above 0")?;
        for (name, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            check(name, value, value.is_finite(), "a finite number")?;
        }
        for (_, bias) in &self.logit_bias {
            check("logit_bias", *bias, !bias.is_nan() && *bias < f32::INFINITY, "a number, or minus infinity")?;
        }
        for (name, entries) in [("logit_bias", self.logit_bias.len()), ("bad_words", self.bad_words.len())] {
            if entries > MAX_ENTRIES {
                let range = format!("at most {MAX_ENTRIES} entries");
                return Err(out_of_range(&format!("{field}.{name}"), entries, &range));
            }
        }
        if self.bad_words.iter().any(Vec::is_empty) {
            return Err(Error::field("VALUE_OUT_OF_RANGE", format!("{field}.bad_words"), "must not hold an empty one"));
        }
        if let Choice::Draw(Draw { temperature, top_p, min_p, typical_p, seed, generator, .. }) = self.choice {
            check("temperature", temperature, temperature > 0.0 && temperature.is_finite(), "0 or a number above it")?;
            check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?;
            check("min_p", min_p, (0.0..=1.0).contains(&min_p), "between 0 and 1")?;
            check("typical_p", typical_p, typical_p > 0.0 && typical_p <= 1.0, "above 0 and at most 1")?;
            if generator == Generator::Torch && seed > u64::from(u32::MAX) {
                return Err(out_of_range(&format!("{field}.seed"), seed, "below 2^32, as torch's generator needs"));
            }
        }
        Ok(self)
    }
}

impl BeamSearch {
    /// Checks the ranges for so many samples; `field` is the path of the message that holds them.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn check(self, field: &str, samples: usize) -> Result<Self> {
        let Self { beams, length_penalty, .. } = self;
        if !(2..=MAX_SAMPLES).contains(&beams) || beams < samples {
            let range = format!("between {} and {MAX_SAMPLES}", samples.max(2));
            return Err(out_of_range(&format!("{field}.beams"), beams, &range));
        }
        if !length_penalty.is_finite() {
            return Err(out_of_range(&format!("{field}.length_penalty"), length_penalty, "a finite number"));
        }
        Ok(self)
    }
}

impl TryFrom<proto::Sampling> for Sampling {
    type Error = Error;

    fn try_from(sampling: proto::Sampling) -> Result<Self> {
        let generator = match sampling.generator() {
            proto::Generator::Unspecified => Generator::Counter,
            proto::Generator::Torch => Generator::Torch,
        };
        let choice = if sampling.temperature == 0.0 {
            Choice::Greedy
        } else {
            Choice::Draw(Draw {
                temperature: sampling.temperature,
                top_k: NonZeroUsize::new(sampling.top_k as usize),
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                typical_p: sampling.typical_p.unwrap_or(1.0),
                seed: sampling.seed,
                generator,
            })
        };
        let mut logit_bias: Vec<(u32, f32)> = sampling.logit_bias.into_iter().collect();
        logit_bias.sort_unstable_by_key(|(id, _)| *id);
        let sampling = Self {
            logit_bias,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            no_repeat_ngram: NonZeroUsize::new(sampling.no_repeat_ngram as usize),
            bad_words: sampling.bad_words.into_iter().map(|run| run.token_ids).collect(),
            min_new_tokens: sampling.min_new_tokens as usize,
            choice,
        };
        sampling.check("sampling")
    }
}

impl From<Sampling> for proto::Sampling {
    fn from(sampling: Sampling) -> Self {
        let count = |n: Option<NonZeroUsize>| n.map_or(0, |n| convert::count(n.get()));
        let processors = Self {
            logit_bias: sampling.logit_bias.into_iter().collect(),
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            no_repeat_ngram: count(sampling.no_repeat_ngram),
            bad_words: sampling.bad_words.into_iter().map(|token_ids| proto::TokenRun { token_ids }).collect(),
            min_new_tokens: convert::count(sampling.min_new_tokens),
            top_p: 1.0,
            ..Self::default()
        };
        match sampling.choice {
            Choice::Greedy => processors,
            Choice::Draw(draw) => Self {
                temperature: draw.temperature,
                top_k: count(draw.top_k),
                top_p: draw.top_p,
                min_p: draw.min_p,
                typical_p: Some(draw.typical_p),
                seed: draw.seed,
                generator: match draw.generator {
                    Generator::Counter => proto::Generator::Unspecified,
                    Generator::Torch => proto::Generator::Torch,
                }
                .into(),
                ..processors
            },
        }
    }
}

impl From<proto::BeamSearch> for BeamSearch {
    fn from(search: proto::BeamSearch) -> Self {
        let early_stopping = match search.early_stopping() {
            proto::EarlyStopping::Unspecified => EarlyStopping::Heuristic,
            proto::EarlyStopping::Always => EarlyStopping::Always,
            proto::EarlyStopping::Never => EarlyStopping::Never,
        };
        Self { beams: search.beams as usize, length_penalty: search.length_penalty, early_stopping }
    }
}

impl From<BeamSearch> for proto::BeamSearch {
    fn from(search: BeamSearch) -> Self {
        let early_stopping = match search.early_stopping {
            EarlyStopping::Heuristic => proto::EarlyStopping::Unspecified,
            EarlyStopping::Always => proto::EarlyStopping::Always,
            EarlyStopping::Never => proto::EarlyStopping::Never,
        };
        Self {
            beams: convert::count(search.beams),
            length_penalty: search.length_penalty,
            early_stopping: early_stopping.into(),
        }
    }
}
