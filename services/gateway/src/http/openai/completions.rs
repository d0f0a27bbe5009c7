//! `/v1/completions`: prompts that are continued as they are, without a template.

use schemars::JsonSchema;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use tessera_api::gateway::{self, Input, Place, Settings};
use tessera_api::{Error, Result};
use tessera_prompt::Prompter;

use super::answer::{Form, Said};
use super::body::{self, Absent, refuse};
use super::content::Part;
use super::place::{TextPlaces, text_places};
use super::settings::{self, Wants, request};
use crate::words::Words;

request! {
    /// A prompt to be continued.
    CompletionRequest {
        /// The prompt, to which only what the tokenizer puts around any text is added. Text that spells a special token is
        /// that token.
        prompt: Prompt,
        /// Ours: the images that stand where the prompt spells the checkpoint's image token, in order: parts of type
        /// `image_url` or `image_embedding`.
        images: Option<Vec<Part>>,
        /// Send the log-probability of every new token, and so many of the likeliest at its place; at most 20.
        logprobs: Option<usize>,
        /// Only false can be had.
        echo: Option<bool>,
        #[serde(default, rename = "suffix")]
        #[schemars(skip)]
        _suffix: Absent,
        #[serde(default, rename = "add_special_tokens")]
        #[schemars(skip)]
        _add_special_tokens: Absent,
    }
}

/// A prompt: a text, or an array of a single one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prompt(pub(super) String);

impl CompletionRequest {
    /// What is asked for in the gateway's own terms. `image_token` is the checkpoint's.
    ///
    /// # Errors
    /// Names the field that is wrong by itself or beside another one.
    pub(super) fn read(mut self, image_token: &str, words: &mut Words) -> Result<(Input, Settings, Wants)> {
        if self.echo == Some(true) {
            return Err(Error::field("FIELD_UNSUPPORTED", "echo", "is not supported: the prompt is not repeated"));
        }
        let (settings, wants) = self.common().settings(self.logprobs, None, words)?;
        let images = self.images.take().unwrap_or_default();
        Ok((Input::Prompt(parts(&self.prompt.0, images, image_token, words)?), settings, wants))
    }
}

/// Takes a prompt apart where its images stand.
pub(super) fn parts(
    prompt: &str,
    images: Vec<Part>,
    image_token: &str,
    words: &mut Words,
) -> Result<Vec<gateway::Part>> {
    let mut texts = prompt.split(image_token);
    let (places, found) = (texts.clone().count() - 1, images.len());
    if places != found {
        let description = format!("{found} images for a prompt in which {image_token} stands {places} times");
        return Err(Error::field("PROMPT_IMAGE_COUNT", "images", description));
    }
    let mut parts: Vec<gateway::Part> =
        texts.next().map(|text| gateway::Part::Text(text.to_owned())).into_iter().collect();
    for ((index, image), text) in images.into_iter().enumerate().zip(texts) {
        if image.is_text() {
            let field = format!("images[{index}].type");
            return Err(Error::field("VALUE_INVALID", field, "must be image_url or image_embedding"));
        }
        let ours = Place { message: None, part: parts.len() };
        parts.push(image.read(ours, format_args!("images[{index}]"), words)?);
        parts.push(gateway::Part::Text(text.to_owned()));
    }
    Ok(parts)
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;

        impl<'de> Visitor<'de> for One {
            type Value = Prompt;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut prompts: A) -> Result<Prompt, A::Error> {
                let Some(Element(prompt)) = prompts.next_element()? else {
                    return Err(de::Error::invalid_length(0, &"a prompt"));
                };
                match prompts.next_element::<IgnoredAny>()? {
                    None => Ok(Prompt(prompt)),
                    Some(_) => Err(refuse(
                        "PROMPTS_UNSUPPORTED",
                        "has several prompts: send a request for each, at once if you like",
                    )),
                }
            }
        }

        deserializer.deserialize_any(One)
    }
}

/// A text in an array of prompts, where ids might stand instead.
struct Element(String);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        const IDS: &str = "is of token ids: send the text, in which special tokens are spelled by their names";

        impl<'de> Visitor<'de> for Text {
            type Value = Element;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Element, E> {
                Err(refuse("TOKEN_PROMPT_UNSUPPORTED", IDS))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Element, E> {
                Err(refuse("TOKEN_PROMPT_UNSUPPORTED", IDS))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Element, A::Error> {
                Err(refuse("TOKEN_PROMPT_UNSUPPORTED", IDS))
            }

            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Element, A::Error> {
                Err(de::Error::invalid_type(de::Unexpected::Map, &self))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Prompt {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Prompt".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = serde_json::json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1});
        schemars::json_schema!({ "anyOf": [{"type": "string"}, one] })
    }
}

/// A continuation, or a piece of one.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TextChoice {
    /// Which sample, from 0.
    index: usize,
    /// The text; in a stream what is new of it.
    text: String,
    /// Of the new tokens, if they were asked for.
    logprobs: Option<TextPlaces>,
    /// `stop`, or `length` for one that was cut off, also by a deadline: `tessera.samples` says which. In a stream in the last
    /// piece of a sample.
    finish_reason: Option<&'static str>,
    /// If they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// Continuations of prompts.
#[derive(Debug)]
pub(super) struct Text;

impl Form for Text {
    const PREFIX: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK: &'static str = "text_completion";
    type Choice = TextChoice;
    type Piece = TextChoice;

    fn choice(prompter: &Prompter, index: usize, said: Said, finish_reason: &'static str) -> TextChoice {
        TextChoice { finish_reason: Some(finish_reason), ..Self::piece(prompter, index, said, 0) }
    }

    fn beginning(_: usize) -> Option<TextChoice> {
        None
    }

    fn piece(_: &Prompter, index: usize, said: Said, before: usize) -> TextChoice {
        let logprobs = said.logprobs.as_deref().map(|places| text_places(places, before));
        TextChoice { index, text: said.text, logprobs, finish_reason: None, token_ids: said.token_ids }
    }

    fn end(index: usize, finish_reason: &'static str) -> TextChoice {
        let finish_reason = Some(finish_reason);
        TextChoice { index, text: String::new(), logprobs: None, finish_reason, token_ids: None }
    }
}
