//! How an answer is made, as both kinds of requests say it: OpenAI's fields, and those that only this gateway has.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tessera_api::gateway::{BeamSettings, Settings};
use tessera_api::language::{self, Generator};
use tessera_api::{Error, Result};

use crate::words::Words;

/// Declares the body of a request: its own fields, and those that every request has.
macro_rules! request {
    ($(#[$about:meta])* $name:ident { $($(#[$own_about:meta])* $own:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            /// The model that is served, as `/v1/models` lists it.
            pub(super) model: String,
            $($(#[$own_about])* pub(super) $own: $kind,)*
            /// New tokens at most, the end token included. Default: what the checkpoint says, then what the gateway's
            /// operator does, then what the context leaves.
            pub(super) max_tokens: Option<u32>,
            /// 0: greedy. Default: greedy unless the checkpoint samples, or another sampling setting is given (then 1).
            pub(super) temperature: Option<f32>,
            /// Keep the likeliest tokens whose probabilities reach this sum. Default: 1 (all).
            pub(super) top_p: Option<f32>,
            /// Answers to the same prompt, at most 64. More than one needs a temperature or a beam search. Default: 1.
            pub(super) n: Option<settings::Count>,
            /// Equal seeds give equal answers. Default: drawn by the gateway and reported in `tessera.seed`.
            pub(super) seed: Option<u64>,
            /// The answer ends in front of the first of these texts; at most 16.
            pub(super) stop: Option<settings::OneOrMore>,
            /// Subtracted once from the score of every token that the answer holds. Default: 0.
            pub(super) presence_penalty: Option<f32>,
            /// Subtracted from the score of a token as often as the answer holds it. Default: 0.
            pub(super) frequency_penalty: Option<f32>,
            /// Added to the scores of tokens, by id; at most 1024.
pub(super) logit_bias: Option<settings::Bias>,
            /// Send the answer as it is made, as server-sent events.
            pub(super) stream: Option<bool>,
            /// What a stream carries beside the answer.
            pub(super) stream_options: Option<settings::StreamOptions>,
            /// Whom the answer is for. Has no effect, and is not kept.
            #[serde(rename = "user")]
            pub(super) _user: Option<String>,
            /// Ours: keep the k likeliest tokens. 0: all. Default when sampling: 50.
            pub(super) top_k: Option<u32>,
            /// Ours: keep tokens with at least this share of the likeliest one's probability. Default: 0 (all).
            pub(super) min_p: Option<f32>,
            /// Ours: keep the tokens whose surprise is nearest to the expected one, up to this sum of probabilities.
            /// Default: 1 (all).
            pub(super) typical_p: Option<f32>,
            /// Ours: divides the scores of tokens that occurred already. Default: 1 (off).
            pub(super) repetition_penalty: Option<f32>,
            /// Ours: no run of so many tokens occurs twice, prompt included. Default: 0 (off).
            pub(super) no_repeat_ngram: Option<u32>,
            /// Ours: runs of token ids that never occur; at most 1024.
            pub(super) bad_words: Option<Vec<Vec<u32>>>,
            /// Ours: the answer does not end with an end token before so many tokens. Default: 0.
            pub(super) min_tokens: Option<u32>,
            /// Ours: tokens that end an answer as well; at most 64.
            pub(super) stop_token_ids: Option<Vec<u32>>,
            /// Ours: keep the text of what stopped the answer. vLLM's `include_stop_str_in_output` is the same.
            #[serde(alias = "include_stop_str_in_output")]
            pub(super) include_stop: Option<bool>,
            /// Ours: do not end at the checkpoint's end tokens. vLLM's `ignore_eos` is the same.
            #[serde(alias = "ignore_eos")]
            pub(super) ignore_end: Option<bool>,
            /// Ours: log-probabilities of the prompt's tokens, and so many of the likeliest at each place, in
            /// `tessera.prompt_logprobs`; at most 20.
            pub(super) prompt_logprobs: Option<usize>,
            /// Ours: search instead of choosing a token at a time.
            pub(super) beam_search: Option<settings::BeamSearch>,
            /// Ours: the form that the answer must have.
            pub(super) constraint: Option<settings::Constraint>,
            /// Ours: where the numbers of a draw come from. Default: `counter`.
            pub(super) generator: Option<settings::Numbers>,
            /// Ours: the ids of the new tokens, in `token_ids` of each choice.
            pub(super) return_token_ids: Option<bool>,
            /// Ours: end the answer with what there is of it after so many milliseconds.
            pub(super) deadline_ms: Option<u64>,
            #[serde(default, rename = "best_of")]
            #[schemars(skip)]
            pub(super) _best_of: body::Absent,
            #[serde(default, rename = "logits_processors")]
            #[schemars(skip)]
            pub(super) _logits_processors: body::Absent,
        }

        impl $name {
            /// Takes what every request has.
            pub(super) fn common(&mut self) -> settings::Common {
                settings::Common {
                    max_tokens: self.max_tokens,
                    temperature: self.temperature,
                    top_p: self.top_p,
                    n: self.n,
                    seed: self.seed,
                    stop: self.stop.take(),
                    presence_penalty: self.presence_penalty,
                    frequency_penalty: self.frequency_penalty,
                    logit_bias: self.logit_bias.take(),
                    stream: self.stream,
                    stream_options: self.stream_options,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    typical_p: self.typical_p,
                    repetition_penalty: self.repetition_penalty,
                    no_repeat_ngram: self.no_repeat_ngram,
                    bad_words: self.bad_words.take(),
                    min_tokens: self.min_tokens,
                    stop_token_ids: self.stop_token_ids.take(),
                    include_stop: self.include_stop,
                    ignore_end: self.ignore_end,
                    prompt_logprobs: self.prompt_logprobs,
                    beam_search: self.beam_search,
                    constraint: self.constraint.take(),
                    generator: self.generator,
                    return_token_ids: self.return_token_ids,
                    deadline_ms: self.deadline_ms,
                }
            }
        }
    };
}
pub(super) use request;

/// What every request has besides its model.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) max_tokens: Option<u32>,
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) n: Option<Count>,
    pub(super) seed: Option<u64>,
    pub(super) stop: Option<OneOrMore>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) logit_bias: Option<Bias>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) top_k: Option<u32>,
    pub(super) min_p: Option<f32>,
    pub(super) typical_p: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) no_repeat_ngram: Option<u32>,
    pub(super) bad_words: Option<Vec<Vec<u32>>>,
    pub(super) min_tokens: Option<u32>,
    pub(super) stop_token_ids: Option<Vec<u32>>,
    pub(super) include_stop: Option<bool>,
    pub(super) ignore_end: Option<bool>,
    pub(super) prompt_logprobs: Option<usize>,
    pub(super) beam_search: Option<BeamSearch>,
    pub(super) constraint: Option<Constraint>,
    pub(super) generator: Option<Numbers>,
    pub(super) return_token_ids: Option<bool>,
    pub(super) deadline_ms: Option<u64>,
}

/// What the answer is to be like, beside what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    /// As it is made.
    pub(super) stream: bool,
    /// A last chunk with what was used.
    pub(super) usage: bool,
    pub(super) token_ids: bool,
    /// Likeliest tokens at each place; nothing where no log-probabilities are wanted.
    pub(super) logprobs: Option<usize>,
    pub(super) samples: usize,
    /// How long it may take.
    pub(super) time: Option<Duration>,
}

/// A text, or several.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OneOrMore(pub(super) Vec<String>);

/// A number of answers; at least 1.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "usize")]
pub(super) struct Count(#[schemars(with = "NonZeroUsize")] NonZeroUsize);

/// What is added to the scores of tokens, by their ids.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(try_from = "BTreeMap<String, f32>")]
pub(super) struct Bias(#[schemars(with = "BTreeMap<String, f32>")] BTreeMap<u32, f32>);

/// What a stream carries beside the answer.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamOptions {
    /// A last chunk with no choices says what was used.
    include_usage: Option<bool>,
    /// Chunks are not padded: only false can be had.
    include_obfuscation: Option<bool>,
}

/// A search for the likeliest answers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BeamSearch {
    /// At least n and at most 64; 1 is no search.
    beams: Count,
    /// The sum of log-probabilities is divided by the length to this power. Default: 1.
    length_penalty: Option<f32>,
    /// When it ends that has enough finished answers. Default: `heuristic`.
    early_stopping: Option<EarlyStopping>,
}

/// When a search ends that has enough finished answers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum EarlyStopping {
    /// When no running beam promises to be better, at the length that it has now.
    Heuristic,
    /// At once.
    Always,
    /// When it is certain that none can be better.
    Never,
}

/// Where the numbers of a draw come from.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Numbers {
    /// A hash of seed, sample and position: the answer does not depend on what else is served.
    Counter,
    /// What `torch.multinomial` draws on a CPU after `torch.manual_seed(seed)`. Seeds below 2^32.
    Torch,
}

/// The form that the answer must have: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Constraint {
    /// JSON of this schema.
    #[schemars(with = "Option<serde_json::Value>")]
    json_schema: Option<Box<RawValue>>,
    /// A regular expression that the whole answer matches.
    regex: Option<String>,
    /// A context-free grammar in Lark's notation.
    lark: Option<String>,
    /// One of these texts.
    choices: Option<Vec<String>>,
}

impl Common {
    /// What is asked for in the gateway's own terms. `form` is what another field says of the answer's form.
    ///
    /// # Errors
    /// Names the field that is wrong by itself or beside another one.
    pub(super) fn settings(
        self,
        logprobs: Option<usize>,
        form: Option<language::Constraint>,
        words: &mut Words,
    ) -> Result<(Settings, Wants)> {
        words.say("settings.samples", "n");
        let wants = self.wants(logprobs)?;
        let constraint = match (self.constraint, form) {
            (Some(_), Some(_)) => {
                let description = "response_format asks for a form, too: leave one of them out";
                return Err(Error::field("SETTINGS_CONFLICT", "constraint", description));
            }
            (Some(constraint), None) => Some(constraint.read()?),
            (None, form) => form,
        };
        let settings = Settings {
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            no_repeat_ngram: self.no_repeat_ngram,
            logit_bias: self.logit_bias.unwrap_or_default().0.into_iter().collect(),
            bad_words: self.bad_words.unwrap_or_default(),
            seed: self.seed,
            generator: match self.generator {
                None | Some(Numbers::Counter) => Generator::Counter,
                Some(Numbers::Torch) => Generator::Torch,
            },
            stop: self.stop.map(|stop| stop.0).unwrap_or_default(),
            stop_token_ids: self.stop_token_ids.unwrap_or_default(),
            include_stop: self.include_stop.unwrap_or(false),
            ignore_end: self.ignore_end.unwrap_or(false),
            logprobs,
            prompt_logprobs: self.prompt_logprobs,
            // Clients of this API expect one answer, whatever the checkpoint makes by itself.
            samples: Some(self.n.map_or(NonZeroUsize::MIN, |n| n.0)),
            beam_search: self.beam_search.map(BeamSettings::from),
            constraint,
        };
        Ok((settings.check().map_err(|error| words.of(error))?, wants))
    }

    fn wants(&self, logprobs: Option<usize>) -> Result<Wants> {
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(Error::field("SETTINGS_CONFLICT", "stream_options", "nothing is streamed: set stream to true"));
        }
        let options = self.stream_options;
        if options.and_then(|options| options.include_obfuscation).unwrap_or(false) {
            let field = "stream_options.include_obfuscation";
            return Err(Error::field("FIELD_UNSUPPORTED", field, "is not supported: chunks are not padded"));
        }
        Ok(Wants {
            stream,
            usage: options.and_then(|options| options.include_usage).unwrap_or(false),
            token_ids: self.return_token_ids.unwrap_or(false),
            logprobs,
            samples: self.n.map_or(1, |n| n.0.get()),
            time: self.deadline_ms.map(Duration::from_millis),
        })
    }
}

impl Constraint {
    /// # Errors
    /// When there is none, or more than one.
    fn read(self) -> Result<language::Constraint> {
        let Self { json_schema, regex, lark, choices } = self;
        let forms = [
            json_schema.map(|schema| language::Constraint::JsonSchema(schema.get().to_owned())),
            regex.map(language::Constraint::Regex),
            lark.map(language::Constraint::Lark),
            choices.map(language::Constraint::Choices),
        ];
        let mut forms = forms.into_iter().flatten();
        match (forms.next(), forms.next()) {
            (Some(form), None) => Ok(form),
            _ => {
                let description = "must be exactly one of json_schema, regex, lark and choices";
                Err(Error::field("SETTINGS_CONFLICT", "constraint", description))
            }
        }
    }
}

impl From<BeamSearch> for BeamSettings {
    fn from(search: BeamSearch) -> Self {
        let early_stopping = search.early_stopping.map(|early_stopping| match early_stopping {
            EarlyStopping::Heuristic => language::EarlyStopping::Heuristic,
            EarlyStopping::Always => language::EarlyStopping::Always,
            EarlyStopping::Never => language::EarlyStopping::Never,
        });
        Self { beams: search.beams.0, length_penalty: search.length_penalty, early_stopping }
    }
}

impl TryFrom<usize> for Count {
    type Error = &'static str;

    fn try_from(count: usize) -> Result<Self, Self::Error> {
        // One of the reasons of `body`.
        NonZeroUsize::new(count).map(Self).ok_or("VALUE_OUT_OF_RANGE: 0 is not at least 1")
    }
}

/// JSON's keys are texts.
impl TryFrom<BTreeMap<String, f32>> for Bias {
    type Error = String;

    fn try_from(bias: BTreeMap<String, f32>) -> Result<Self, String> {
        let read = |(id, bias): (String, f32)| match id.parse() {
            Ok(id) => Ok((id, bias)),
            Err(_) => Err(format!("{id:?} is no id of a token")),
        };
        bias.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or an array of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<OneOrMore, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = texts.next_element()? {
                    all.push(text);
                }
                Ok(OneOrMore(all))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

impl JsonSchema for OneOrMore {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMore".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
        })
    }
}
