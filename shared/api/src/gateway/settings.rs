//! Generation settings as a client gives them, from and to the wire.

use std::num::NonZeroUsize;

use super::MAX_STOP_STRINGS;
use crate::convert::{count, missing, out_of_range};
use crate::error::{Error, Result};
use crate::language::{Constraint, EarlyStopping, Generator, MAX_LOGPROBS, MAX_SAMPLES};
use crate::proto::gateway::v1 as proto;
use crate::proto::gateway::v1::constraint::Form;

/// Stop tokens that one request may name.
const MAX_STOP_TOKENS: usize = 64;
/// Tokens in one run that must not occur.
const MAX_RUN: usize = 256;

/// Generation settings as the client gave them; what is `None` is decided by the checkpoint, then by defaults. Ranges
/// of what chooses a token are checked once it is known what applies, by [`Sampling`](crate::language::Sampling).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// New tokens at most; at least 1.
    pub max_tokens: Option<u32>,
    /// The answer does not end with an end token before so many.
    pub min_tokens: Option<u32>,
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<u32>,
    /// In (0, 1].
    pub top_p: Option<f32>,
    /// In [0, 1].
    pub min_p: Option<f32>,
    /// In (0, 1].
    pub typical_p: Option<f32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
    /// Subtracted once from the score of an id that the answer holds.
    pub presence_penalty: Option<f32>,
    /// Subtracted from the score of an id as often as the answer holds it.
    pub frequency_penalty: Option<f32>,
    /// No run of so many ids occurs twice; 0 is off.
    pub no_repeat_ngram: Option<u32>,
    /// Added to the scores of these ids; by id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Runs of ids that never occur.
    pub bad_words: Vec<Vec<u32>>,
    /// Equal seeds give equal answers.
    pub seed: Option<u64>,
    /// Where the numbers of a draw come from.
    pub generator: Generator,
    /// Strings that end the answer; none empty.
    pub stop: Vec<String>,
    /// Ids that end the answer.
    pub stop_token_ids: Vec<u32>,
    /// Keep the text of what stopped the answer.
    pub include_stop: bool,
    /// Do not end at the checkpoint's end tokens.
    pub ignore_end: bool,
    /// Log-probabilities with every new token, and those of so many of the likeliest; at most [`MAX_LOGPROBS`].
    pub logprobs: Option<usize>,
    /// The same for the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Answers to the same prompt; at most [`MAX_SAMPLES`].
    pub samples: Option<NonZeroUsize>,
    /// Search instead of choosing an id at a time.
    pub beam_search: Option<BeamSettings>,
    /// The form that the answer must have.
    pub constraint: Option<Constraint>,
}

/// A beam search as the client asked for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSettings {
    /// 1 is no search; at most [`MAX_SAMPLES`].
    pub beams: NonZeroUsize,
    /// A sum is divided by its length to this power.
    pub length_penalty: Option<f32>,
    /// When to stop.
    pub early_stopping: Option<EarlyStopping>,
}

impl Settings {
    /// Checks what can be seen to be wrong without the checkpoint, whatever protocol the settings came by.
    ///
    /// # Errors
    /// Names the setting that is out of its range.
    pub fn check(mut self) -> Result<Self> {
        self.check_ends()?;
        if let Some(temperature) = self.temperature
            && !(temperature >= 0.0 && temperature.is_finite())
        {
            return Err(out_of_range("settings.temperature", temperature, "0 or a number above it"));
        }
        for (field, wanted) in
            [("settings.logprobs", self.logprobs), ("settings.prompt_logprobs", self.prompt_logprobs)]
        {
            if let Some(wanted) = wanted.filter(|&wanted| wanted > MAX_LOGPROBS) {
                return Err(out_of_range(field, wanted, &format!("at most {MAX_LOGPROBS}")));
            }
        }
        let beams = self.beam_search.map(|search| search.beams);
        for (field, count) in [("settings.samples", self.samples), ("settings.beam_search.beams", beams)] {
            if let Some(count) = count.filter(|count| count.get() > MAX_SAMPLES) {
                return Err(not_samples(field, count.get()));
            }
        }
        self.constraint = self.constraint.map(|constraint| constraint.check("settings.constraint")).transpose()?;
        Ok(self)
    }

    /// Checks what ends an answer, and what must not occur in it.
    fn check_ends(&self) -> Result<()> {
        let stop = &self.stop;
        if stop.len() > MAX_STOP_STRINGS {
            return Err(out_of_range("settings.stop", stop.len(), &format!("at most {MAX_STOP_STRINGS} strings")));
        }
        if let Some(index) = stop.iter().position(String::is_empty) {
            return Err(Error::field("STOP_EMPTY", format!("settings.stop[{index}]"), "is empty"));
        }
        let tokens = self.stop_token_ids.len();
        if tokens > MAX_STOP_TOKENS {
            return Err(out_of_range("settings.stop_token_ids", tokens, &format!("at most {MAX_STOP_TOKENS} tokens")));
        }
        if let Some(index) = self.bad_words.iter().position(|run| !(1..=MAX_RUN).contains(&run.len())) {
            let (field, tokens) = (format!("settings.bad_words[{index}]"), self.bad_words[index].len());
            return Err(out_of_range(&field, tokens, &format!("between 1 and {MAX_RUN} tokens")));
        }
        if self.max_tokens == Some(0) {
            return Err(out_of_range("settings.max_tokens", 0, "at least 1"));
        }
        match (self.min_tokens, self.max_tokens) {
            (Some(min), Some(max)) if min > max => {
                Err(out_of_range("settings.min_tokens", min, &format!("at most max_tokens, {max}")))
            }
            _ => Ok(()),
        }
    }
}

fn not_samples(field: &str, count: usize) -> Error {
    out_of_range(field, count, &format!("between 1 and {MAX_SAMPLES}"))
}

impl TryFrom<proto::GenerationSettings> for Settings {
    type Error = Error;

    fn try_from(settings: proto::GenerationSettings) -> Result<Self> {
        let generator = match settings.generator() {
            proto::Generator::Unspecified => Generator::Counter,
            proto::Generator::Torch => Generator::Torch,
        };
        let samples = settings.samples.map(|samples| {
            let samples = NonZeroUsize::new(samples as usize);
            samples.ok_or_else(|| not_samples("settings.samples", 0))
        });
        let mut logit_bias: Vec<(u32, f32)> = settings.logit_bias.into_iter().collect();
        logit_bias.sort_unstable_by_key(|(id, _)| *id);
        let settings = Self {
            max_tokens: settings.max_tokens,
            min_tokens: settings.min_tokens,
            temperature: settings.temperature,
            top_k: settings.top_k,
            top_p: settings.top_p,
            min_p: settings.min_p,
            typical_p: settings.typical_p,
            repetition_penalty: settings.repetition_penalty,
            presence_penalty: settings.presence_penalty,
            frequency_penalty: settings.frequency_penalty,
            no_repeat_ngram: settings.no_repeat_ngram,
            logit_bias,
            bad_words: settings.bad_words.into_iter().map(|run| run.token_ids).collect(),
            seed: settings.seed,
            generator,
            stop: settings.stop,
            stop_token_ids: settings.stop_token_ids,
            include_stop: settings.include_stop,
            ignore_end: settings.ignore_end,
            logprobs: settings.logprobs.map(|logprobs| logprobs as usize),
            prompt_logprobs: settings.prompt_logprobs.map(|logprobs| logprobs as usize),
            samples: samples.transpose()?,
            beam_search: settings.beam_search.map(TryInto::try_into).transpose()?,
            constraint: settings.constraint.map(TryInto::try_into).transpose()?,
        };
        settings.check()
    }
}

impl TryFrom<proto::BeamSearch> for BeamSettings {
    type Error = Error;

    fn try_from(search: proto::BeamSearch) -> Result<Self> {
        let early_stopping = match search.early_stopping() {
            proto::EarlyStopping::Unspecified => None,
            proto::EarlyStopping::Heuristic => Some(EarlyStopping::Heuristic),
            proto::EarlyStopping::Always => Some(EarlyStopping::Always),
            proto::EarlyStopping::Never => Some(EarlyStopping::Never),
        };
        let beams = NonZeroUsize::new(search.beams as usize);
        let beams = beams.ok_or_else(|| not_samples("settings.beam_search.beams", 0))?;
        Ok(Self { beams, length_penalty: search.length_penalty, early_stopping })
    }
}

impl TryFrom<proto::Constraint> for Constraint {
    type Error = Error;

    fn try_from(constraint: proto::Constraint) -> Result<Self> {
        Ok(match constraint.form.ok_or_else(|| missing("settings.constraint.form"))? {
            Form::JsonSchema(text) => Self::JsonSchema(text),
            Form::Regex(text) => Self::Regex(text),
            Form::Lark(text) => Self::Lark(text),
            Form::Choices(choices) => Self::Choices(choices.texts),
        })
    }
}

impl From<Settings> for proto::GenerationSettings {
    fn from(settings: Settings) -> Self {
        let generator = match settings.generator {
            Generator::Counter => proto::Generator::Unspecified,
            Generator::Torch => proto::Generator::Torch,
        };
        Self {
            max_tokens: settings.max_tokens,
            temperature: settings.temperature,
            top_k: settings.top_k,
            top_p: settings.top_p,
            min_p: settings.min_p,
            repetition_penalty: settings.repetition_penalty,
            seed: settings.seed,
            stop: settings.stop,
            typical_p: settings.typical_p,
            presence_penalty: settings.presence_penalty,
            frequency_penalty: settings.frequency_penalty,
            no_repeat_ngram: settings.no_repeat_ngram,
            logit_bias: settings.logit_bias.into_iter().collect(),
            bad_words: settings.bad_words.into_iter().map(|token_ids| proto::TokenRun { token_ids }).collect(),
            min_tokens: settings.min_tokens,
            stop_token_ids: settings.stop_token_ids,
            include_stop: settings.include_stop,
            ignore_end: settings.ignore_end,
            logprobs: settings.logprobs.map(count),
            prompt_logprobs: settings.prompt_logprobs.map(count),
            samples: settings.samples.map(|samples| count(samples.get())),
            beam_search: settings.beam_search.map(Into::into),
            constraint: settings.constraint.map(Into::into),
            generator: generator.into(),
        }
    }
}

impl From<BeamSettings> for proto::BeamSearch {
    fn from(search: BeamSettings) -> Self {
        let early_stopping = match search.early_stopping {
            None => proto::EarlyStopping::Unspecified,
            Some(EarlyStopping::Heuristic) => proto::EarlyStopping::Heuristic,
            Some(EarlyStopping::Always) => proto::EarlyStopping::Always,
            Some(EarlyStopping::Never) => proto::EarlyStopping::Never,
        };
        Self {
            beams: count(search.beams.get()),
            length_penalty: search.length_penalty,
            early_stopping: early_stopping.into(),
        }
    }
}

impl From<Constraint> for proto::Constraint {
    fn from(constraint: Constraint) -> Self {
        let form = match constraint {
            Constraint::JsonSchema(text) => Form::JsonSchema(text),
            Constraint::Regex(text) => Form::Regex(text),
            Constraint::Lark(text) => Form::Lark(text),
            Constraint::Choices(texts) => Form::Choices(proto::Choices { texts }),
        };
        Self { form: Some(form) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field at a value of its own.
    fn everything() -> Settings {
        let beams = NonZeroUsize::new(3).unwrap();
        Settings {
            max_tokens: Some(20),
            min_tokens: Some(3),
            temperature: Some(0.5),
            top_k: Some(7),
            top_p: Some(0.9),
            min_p: Some(0.1),
            typical_p: Some(0.8),
            repetition_penalty: Some(1.2),
            presence_penalty: Some(-0.25),
            frequency_penalty: Some(0.75),
            no_repeat_ngram: Some(4),
            logit_bias: vec![(3, f32::NEG_INFINITY), (9, 1.5)],
            bad_words: vec![vec![5], vec![6, 7]],
            seed: Some(11),
            generator: Generator::Torch,
            stop: vec!["end".into()],
            stop_token_ids: vec![12, 13],
            include_stop: true,
            ignore_end: true,
            logprobs: Some(0),
            prompt_logprobs: Some(20),
            samples: NonZeroUsize::new(2),
            beam_search: Some(BeamSettings {
                beams,
                length_penalty: Some(0.0),
                early_stopping: Some(EarlyStopping::Heuristic),
            }),
            constraint: Some(Constraint::Regex("a+".into())),
        }
    }

    #[test]
    fn every_setting_survives_the_wire() {
        let written = proto::GenerationSettings::from(everything());
        assert_eq!(Settings::try_from(written).unwrap(), everything());
        let silent = Settings::try_from(proto::GenerationSettings::default()).unwrap();
        assert_eq!(silent, Settings::default());
    }

    #[test]
    fn forms_and_early_stopping_are_told_apart() {
        let choices = || vec!["yes".to_owned(), "no".to_owned()];
        for form in [
            Constraint::JsonSchema("{}".into()),
            Constraint::Regex("a".into()),
            Constraint::Lark("start: \"a\"".into()),
            Constraint::Choices(choices()),
        ] {
            assert_eq!(Constraint::try_from(proto::Constraint::from(form.clone())).unwrap(), form);
        }
        for early_stopping in
            [None, Some(EarlyStopping::Heuristic), Some(EarlyStopping::Always), Some(EarlyStopping::Never)]
        {
            let search = BeamSettings { beams: NonZeroUsize::MIN, length_penalty: None, early_stopping };
            assert_eq!(BeamSettings::try_from(proto::BeamSearch::from(search)).unwrap(), search);
        }
    }

    #[test]
    fn what_can_be_seen_to_be_wrong_is_named() {
        let wire = || proto::GenerationSettings::from(everything());
        let run = |token_ids| vec![proto::TokenRun { token_ids: vec![1] }, proto::TokenRun { token_ids }];
        let beams = |beams| Some(proto::BeamSearch { beams, ..Default::default() });
        for (settings, field) in [
            (proto::GenerationSettings { samples: Some(0), ..wire() }, "settings.samples"),
            (proto::GenerationSettings { samples: Some(65), ..wire() }, "settings.samples"),
            (proto::GenerationSettings { logprobs: Some(21), ..wire() }, "settings.logprobs"),
            (proto::GenerationSettings { prompt_logprobs: Some(21), ..wire() }, "settings.prompt_logprobs"),
            (proto::GenerationSettings { min_tokens: Some(21), ..wire() }, "settings.min_tokens"),
            (proto::GenerationSettings { stop_token_ids: vec![1; 65], ..wire() }, "settings.stop_token_ids"),
            (proto::GenerationSettings { bad_words: run(vec![]), ..wire() }, "settings.bad_words[1]"),
            (proto::GenerationSettings { bad_words: run(vec![1; 257]), ..wire() }, "settings.bad_words[1]"),
            (proto::GenerationSettings { beam_search: beams(0), ..wire() }, "settings.beam_search.beams"),
            (proto::GenerationSettings { beam_search: beams(65), ..wire() }, "settings.beam_search.beams"),
            (proto::GenerationSettings { constraint: Some(Default::default()), ..wire() }, "settings.constraint.form"),
            (
                proto::GenerationSettings {
                    constraint: Some(proto::Constraint { form: Some(Form::Regex(String::new())) }),
                    ..wire()
                },
                "settings.constraint.regex",
            ),
        ] {
            let error = Settings::try_from(settings).expect_err(field);
            assert_eq!(error.fields[0].field, field, "{error}");
        }
    }
}
