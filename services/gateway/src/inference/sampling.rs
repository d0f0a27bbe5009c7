//! Sampling parameters: JSON with the names that Triton's vLLM backend takes, and with our own. Numbers and truth values may
//! stand in strings, as they may there.

mod value;

use std::num::NonZeroUsize;

use serde_json::{Map, Value};
use tessera_api::gateway::{BeamSettings, Settings};
use tessera_api::language::{Constraint, EarlyStopping, Generator};
use tessera_api::{Error, Result};

use super::model::shown;
use crate::words::Words;
use value::{biases, count, decimal, ids, integer, object, runs, text, texts, truth};

/// What the backend calls a setting, and what we do.
const ALIASES: [(&str, &str); 5] = [
    ("n", "samples"),
    ("include_stop_str_in_output", "include_stop"),
    ("ignore_eos", "ignore_end"),
    ("guided_decoding", "constraint"),
    ("structured_outputs", "constraint"),
];

/// What we call the form of an answer, and what the backend does.
const FORMS: [(&str, &str); 4] =
    [("json_schema", "json"), ("regex", "regex"), ("lark", "grammar"), ("choices", "choice")];

/// What a request says about how its answer is made.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sampling {
    pub(super) settings: Settings,
    /// The text is a turn of a conversation, which it is unless somebody says otherwise.
    pub(super) chat_template: Option<bool>,
}

/// Why a parameter cannot be taken.
#[derive(Debug)]
enum Wrong {
    /// There is no such.
    Unknown,
    /// There is, and we do not have it: what to do.
    Unsupported(&'static str),
    /// What is wrong with its value.
    Value(String),
    /// It is 0, and must not be.
    Zero,
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Value(what)
    }
}

impl Sampling {
    /// Takes parameters; `path` makes of a name the path by which its client knows it.
    ///
    /// # Errors
    /// Names the parameter that is unknown, malformed or given twice.
    pub(super) fn read(
        parameters: &Map<String, Value>,
        path: impl Fn(&str) -> String,
        words: &mut Words,
    ) -> Result<Self> {
        let mut sampling = Self::default();
        let mut given: Vec<(&str, &str)> = Vec::new();
        // What is null is left out, as by the backend.
        for (name, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
            let ours = ALIASES.iter().find(|(theirs, _)| theirs == name).map_or(name.as_str(), |(_, ours)| ours);
            if let Some((_, other)) = given.iter().find(|(known, _)| *known == ours) {
                let what = format!("says the same as {other}: leave one of them out");
                return Err(Error::field("SETTINGS_CONFLICT", path(name), what));
            }
            sampling.set(ours, value).map_err(|wrong| match wrong {
                Wrong::Unknown => {
                    let short: String = name.chars().take(64).collect();
                    let what = format!("there is no sampling parameter {}", shown(name));
                    Error::field("PARAMETER_UNKNOWN", path(&short), what)
                }
                Wrong::Unsupported(what) => Error::field("PARAMETER_UNSUPPORTED", path(name), what),
                Wrong::Value(what) => Error::field("PARAMETER_MALFORMED", path(name), what),
                Wrong::Zero => Error::field("VALUE_OUT_OF_RANGE", path(name), "must be at least 1"),
            })?;
            given.push((ours, name));
            words.say(format!("settings.{ours}"), path(name));
            if ours == "constraint" && name != ours {
                for (form, theirs) in FORMS {
                    words.say(format!("settings.constraint.{form}"), format!("{}.{theirs}", path(name)));
                }
            }
        }
        Ok(sampling)
    }

    /// Sets what we call `name`.
    fn set(&mut self, name: &str, value: &Value) -> Result<(), Wrong> {
        let settings = &mut self.settings;
        match name {
            "max_tokens" => settings.max_tokens = Some(count(value)?),
            "min_tokens" => settings.min_tokens = Some(count(value)?),
            "temperature" => settings.temperature = Some(decimal(value)?),
            // The backend's way to keep all.
            "top_k" if integer(value) == Some(-1) => settings.top_k = Some(0),
            "top_k" => settings.top_k = Some(count(value)?),
            "top_p" => settings.top_p = Some(decimal(value)?),
            "min_p" => settings.min_p = Some(decimal(value)?),
            "typical_p" => settings.typical_p = Some(decimal(value)?),
            "repetition_penalty" => settings.repetition_penalty = Some(decimal(value)?),
            "presence_penalty" => settings.presence_penalty = Some(decimal(value)?),
            "frequency_penalty" => settings.frequency_penalty = Some(decimal(value)?),
            "no_repeat_ngram" => settings.no_repeat_ngram = Some(count(value)?),
            "seed" => settings.seed = Some(count(value)?),
            "samples" => settings.samples = Some(positive(value)?),
            "logprobs" => settings.logprobs = Some(count(value)?),
            "stop" => settings.stop = texts(value)?,
            "stop_token_ids" => settings.stop_token_ids = ids(value)?,
            "include_stop" => settings.include_stop = truth(value)?,
            "ignore_end" => settings.ignore_end = truth(value)?,
            "logit_bias" => settings.logit_bias = biases(value)?,
            "bad_words" => settings.bad_words = runs(value)?,
            "generator" => settings.generator = generator(value)?,
            "beam_search" => settings.beam_search = Some(beam_search(value)?),
            "constraint" => settings.constraint = constraint(value)?,
            "chat_template" => self.chat_template = Some(truth(value)?),
            "detokenize" | "skip_special_tokens" | "spaces_between_special_tokens" => {
                // So it is always done.
                if !truth(value)? {
                    return Err(Wrong::Unsupported(
                        "text is made of all tokens but the special ones: ask for `token_ids`",
                    ));
                }
            }
            "lora_name" => return Err(Wrong::Unsupported("there are no adapters: serve a model that has it merged")),
            "prompt_logprobs" => {
                return Err(Wrong::Unsupported("no output holds them: tessera.gateway.v1.Gateway tells them"));
            }
            _ => return Err(Wrong::Unknown),
        }
        Ok(())
    }
}

/// The form of the answer: `{"json": …}` and the like, which may stand in a string.
fn constraint(value: &Value) -> Result<Option<Constraint>, Wrong> {
    let mut constraint = None;
    for (name, value) in object(value)?.iter().filter(|(_, value)| !value.is_null()) {
        let form = match name.as_str() {
            "json" | "json_schema" => Constraint::JsonSchema(text(value)),
            "json_object" if truth(value)? => Constraint::JsonSchema("{\"type\":\"object\"}".into()),
            "regex" => Constraint::Regex(text(value)),
            "grammar" | "lark" => Constraint::Lark(text(value)),
            "choice" | "choices" => Constraint::Choices(texts(value)?),
            // Who makes the form come true is ours to choose.
            "json_object" | "backend" => continue,
            other => {
                let what = format!("{} is no form: use json, json_object, regex, choice or grammar", shown(other));
                return Err(Wrong::Value(what));
            }
        };
        if constraint.replace(form).is_some() {
            return Err(Wrong::Value("names two forms: an answer can have one".into()));
        }
    }
    Ok(constraint)
}

fn generator(value: &Value) -> Result<Generator, Wrong> {
    match value.as_str() {
        Some("counter") => Ok(Generator::Counter),
        Some("torch") => Ok(Generator::Torch),
        _ => Err(Wrong::Value("must be \"counter\" or \"torch\"".into())),
    }
}

fn beam_search(value: &Value) -> Result<BeamSettings, Wrong> {
    let search = object(value)?;
    let names = ["beams", "length_penalty", "early_stopping"];
    if let Some(other) = search.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(Wrong::Value(format!("has no {}: it has {}", shown(other), names.join(", "))));
    }
    let beams = search.get("beams").ok_or_else(|| Wrong::Value("needs a number of beams".into()))?;
    let early_stopping = match search.get("early_stopping").map(text).as_deref() {
        None => None,
        Some("heuristic") => Some(EarlyStopping::Heuristic),
        Some("always") => Some(EarlyStopping::Always),
        Some("never") => Some(EarlyStopping::Never),
        Some(_) => return Err(Wrong::Value("stops early by \"heuristic\", \"always\" or \"never\"".into())),
    };
    let length_penalty = search.get("length_penalty").map(decimal).transpose()?;
    Ok(BeamSettings { beams: positive(beams)?, length_penalty, early_stopping })
}

/// A whole number above 0.
fn positive(value: &Value) -> Result<NonZeroUsize, Wrong> {
    NonZeroUsize::new(count(value)?).ok_or(Wrong::Zero)
}

#[cfg(test)]
mod tests;
