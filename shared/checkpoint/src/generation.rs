//! What a request means that leaves its parameters out (`generation_config.json`, reference: `GenerationConfig`).

use std::path::Path;

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
}

impl GenerationDefaults {
    /// Reads `generation_config.json`. Without the file the reference looks for the same keys in `config.json`, first
    /// at the top and then in `text_config`, with the class defaults of the decoder's start and end ids.
    pub(crate) fn read(dir: &Path, config: &File, family: Family) -> Result<Self, CheckpointError> {
        let config_root = config.root();
        let text = config_root.section("text_config")?;
        let inner = text.as_ref().map(Self::read_section).transpose()?.unwrap_or_default();
        let mut defaults = match File::find(dir, "generation_config.json")? {
            Some(file) => {
                // A file without an end id would let every answer run to its limit.
                let own = Self::read_section(&file.root())?;
                Self { eos_ids: if own.eos_ids.is_empty() { inner.eos_ids } else { own.eos_ids.clone() }, ..own }
            }
            None => Self::read_section(&config_root)?.or(inner).or(Self::of_class(text.as_ref(), family)),
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
        }
    }
}
