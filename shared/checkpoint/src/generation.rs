//! What a request means that leaves its parameters out (`generation_config.json`, reference: `GenerationConfig`).

use std::path::Path;

use serde_json::Value;

use crate::CheckpointError;
use crate::json::{File, Section};
use crate::text::Family;

/// Defaults of the sampling parameters; what is absent here is the server's choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Ids that end an answer; any of them does. Empty if the checkpoint names none.
    pub eos_ids: Vec<u32>,
    /// Id that starts a text.
    pub bos_id: Option<u32>,
    /// Id that fills a batch; the first of `eos_ids` if the checkpoint names none.
    pub pad_id: Option<u32>,
    /// Whether to sample; greedy if not.
    pub do_sample: Option<bool>,
    /// Divisor of the logits; not negative.
    pub temperature: Option<f64>,
    /// How many of the likeliest ids are kept; 0 keeps all.
    pub top_k: Option<usize>,
    /// Probability mass that is kept, above 0 and at most 1.
    pub top_p: Option<f64>,
    /// Smallest probability that is kept, as a share of the largest: 0 to 1.
    pub min_p: Option<f64>,
    /// Penalty on ids that occurred before, greater than 0; 1 is none.
    pub repetition_penalty: Option<f64>,
    /// Longest prompt and answer together, in positions, image tokens included.
    pub max_length: Option<usize>,
    /// Longest answer in tokens; goes before `max_length`.
    pub max_new_tokens: Option<usize>,
    /// Probability mass of the most typical ids that is kept, above 0 and at most 1.
    pub typical_p: Option<f64>,
    /// No run of so many ids occurs twice; 0 is off.
    pub no_repeat_ngram: Option<usize>,
    /// Shortest prompt and answer together: no end id occurs before.
    pub min_length: Option<usize>,
    /// Shortest answer in tokens; goes before `min_length`.
    pub min_new_tokens: Option<usize>,
    /// Beams of a search; 1 is none.
    pub num_beams: Option<usize>,
    /// Power of the length that divides a beam's score.
    pub length_penalty: Option<f64>,
    /// When a search ends that has enough finished answers.
    pub early_stopping: Option<EarlyStopping>,
    /// Answers to one prompt.
    pub num_return_sequences: Option<usize>,
    /// Runs of ids that never occur; none is empty.
    pub bad_words: Option<Vec<Vec<u32>>>,
    /// Ids that never occur.
    pub suppress_tokens: Option<Vec<u32>>,
}

/// When a beam search ends that has enough finished answers (`early_stopping`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `false`: when no running beam promises to be better.
    Heuristic,
    /// `true`: at once.
    Always,
    /// `"never"`: when it is certain that none can be better.
    Never,
}

/// A value at which a key does nothing.
#[derive(Clone, Copy, Debug)]
enum Neutral {
    Nothing,
    Zero,
    One,
    False,
}

/// Keys that change what the reference generates and that Tessera has no code for, each with the value at which it does
/// nothing. Whoever finds one away from there must say so: an answer without it would be another one.
const UNSUPPORTED: [(&str, Neutral); 23] = [
    ("begin_suppress_tokens", Neutral::Nothing),
    ("constraints", Neutral::Nothing),
    ("diversity_penalty", Neutral::Zero),
    ("dola_layers", Neutral::Nothing),
    ("encoder_no_repeat_ngram_size", Neutral::Zero),
    ("encoder_repetition_penalty", Neutral::One),
    ("epsilon_cutoff", Neutral::Zero),
    ("eta_cutoff", Neutral::Zero),
    ("exponential_decay_length_penalty", Neutral::Nothing),
    ("force_words_ids", Neutral::Nothing),
    ("forced_bos_token_id", Neutral::Nothing),
    ("forced_eos_token_id", Neutral::Nothing),
    ("guidance_scale", Neutral::One),
    ("max_time", Neutral::Nothing),
    ("num_beam_groups", Neutral::One),
    ("penalty_alpha", Neutral::Zero),
    ("remove_invalid_values", Neutral::False),
    ("renormalize_logits", Neutral::False),
    ("sequence_bias", Neutral::Nothing),
    ("stop_strings", Neutral::Nothing),
    ("token_healing", Neutral::False),
    ("top_h", Neutral::Nothing),
    ("watermarking_config", Neutral::Nothing),
];

impl GenerationDefaults {
    /// Reads `generation_config.json`. Without the file the reference looks for the same keys in `config.json`, first
    /// at the top and then in `text_config`, with the class defaults of the decoder's start and end ids.
    pub(crate) fn read(dir: &Path, config: &File, family: Family) -> Result<Self, CheckpointError> {
        let config_root = config.root();
        let text = config_root.section("text_config")?;
        let inner = text.as_ref().map(Self::read_section).transpose()?.unwrap_or_default();
        let mut defaults = match File::find(dir, "generation_config.json")? {
            Some(file) => {
                refuse_unsupported(&file.root())?;
                // A file without an end id would let every answer run to its limit.
                let own = Self::read_section(&file.root())?;
                Self { eos_ids: if own.eos_ids.is_empty() { inner.eos_ids } else { own.eos_ids.clone() }, ..own }
            }
            None => {
                refuse_unsupported(&config_root)?;
                text.as_ref().map_or(Ok(()), refuse_unsupported)?;
                Self::read_section(&config_root)?.or(inner).or(Self::of_class(text.as_ref(), family))
            }
        };
        defaults.pad_id = defaults.pad_id.or(defaults.eos_ids.first().copied());
        Ok(defaults)
    }

    fn read_section(section: &Section<'_>) -> Result<Self, CheckpointError> {
        Ok(Self {
            eos_ids: section.ids("eos_token_id")?.unwrap_or_default(),
            bos_id: section.id("bos_token_id")?,
            pad_id: section.id("pad_token_id")?,
            do_sample: section.boolean("do_sample")?,
            temperature: section.number("temperature", "a number that is not negative", |number| number >= 0.0)?,
            top_k: section.count("top_k")?,
            top_p: section.number("top_p", "above 0 and at most 1", |number| number > 0.0 && number <= 1.0)?,
            min_p: section.number("min_p", "0 to 1", |number| (0.0..=1.0).contains(&number))?,
            repetition_penalty: section.positive("repetition_penalty")?,
            max_length: section.size("max_length")?,
            max_new_tokens: section.size("max_new_tokens")?,
            typical_p: section.number("typical_p", "above 0 and at most 1", |number| number > 0.0 && number <= 1.0)?,
            no_repeat_ngram: section.count("no_repeat_ngram_size")?,
            min_length: section.count("min_length")?,
            min_new_tokens: section.count("min_new_tokens")?,
            num_beams: section.size("num_beams")?,
            length_penalty: section.number("length_penalty", "a number", |_| true)?,
            early_stopping: section.read("early_stopping", "true, false or \"never\"", early_stopping)?,
            num_return_sequences: section.size("num_return_sequences")?,
            bad_words: section.token_runs("bad_words_ids")?,
            suppress_tokens: section.ids("suppress_tokens")?,
        })
    }

    /// Start and end ids that the decoder's class assumes when `text_config` does not mention them.
    fn of_class(text: Option<&Section<'_>>, family: Family) -> Self {
        let mentions = |key: &str| text.is_some_and(|section| section.mentions(key));
        let known = family != Family::Qwen2;
        Self {
            eos_ids: if known && !mentions("eos_token_id") { vec![2] } else { Vec::new() },
            bos_id: (known && !mentions("bos_token_id")).then_some(1),
            ..Self::default()
        }
    }

    /// Fills what is absent from `other`.
    fn or(self, other: Self) -> Self {
        Self {
            eos_ids: if self.eos_ids.is_empty() { other.eos_ids } else { self.eos_ids },
            bos_id: self.bos_id.or(other.bos_id),
            pad_id: self.pad_id.or(other.pad_id),
            do_sample: self.do_sample.or(other.do_sample),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            max_length: self.max_length.or(other.max_length),
            max_new_tokens: self.max_new_tokens.or(other.max_new_tokens),
            typical_p: self.typical_p.or(other.typical_p),
            no_repeat_ngram: self.no_repeat_ngram.or(other.no_repeat_ngram),
            min_length: self.min_length.or(other.min_length),
            min_new_tokens: self.min_new_tokens.or(other.min_new_tokens),
            num_beams: self.num_beams.or(other.num_beams),
            length_penalty: self.length_penalty.or(other.length_penalty),
            early_stopping: self.early_stopping.or(other.early_stopping),
            num_return_sequences: self.num_return_sequences.or(other.num_return_sequences),
            bad_words: self.bad_words.or(other.bad_words),
            suppress_tokens: self.suppress_tokens.or(other.suppress_tokens),
        }
    }
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Nothing => value.as_array().is_some_and(Vec::is_empty),
            Self::Zero => value.as_f64() == Some(0.0),
            Self::One => value.as_f64() == Some(1.0),
            Self::False => value.as_bool() == Some(false),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Zero => "0",
            Self::One => "1",
            Self::False => "false",
        }
    }
}

fn refuse_unsupported(section: &Section<'_>) -> Result<(), CheckpointError> {
    for (key, neutral) in UNSUPPORTED {
        if section.value(key).is_some_and(|value| !neutral.is(value)) {
            return Err(section.unsupported(key, neutral.name()));
        }
    }
    Ok(())
}

fn early_stopping(value: &Value) -> Option<EarlyStopping> {
    match value {
        Value::Bool(false) => Some(EarlyStopping::Heuristic),
        Value::Bool(true) => Some(EarlyStopping::Always),
        Value::String(word) if word == "never" => Some(EarlyStopping::Never),
        _ => None,
    }
}
