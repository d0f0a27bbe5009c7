//! `/v1/chat/completions`: conversations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tessera_api::gateway::{Input, Logprobs, Settings};
use tessera_api::language::Constraint;
use tessera_api::{Error, Result};
use tessera_prompt::Prompter;

use super::answer::{Form, Said};
use super::body::{self, Absent};
use super::content::{Message, conversation};
use super::place::{ChatPlaces, chat_places};
use super::settings::{self, Wants, request};
use crate::words::Words;

request! {
    /// A conversation to be answered.
    ChatRequest {
        /// The conversation so far; at least one message.
        messages: Vec<Message>,
        /// The same as `max_tokens`, as newer clients call it.
        max_completion_tokens: Option<u32>,
        /// Send the log-probability of every new token, as the model gives it before any setting is applied.
        logprobs: Option<bool>,
        /// With `logprobs`: so many of the likeliest tokens at each place, too; at most 20.
        top_logprobs: Option<usize>,
        /// The form that the answer must have.
        response_format: Option<ResponseFormat>,
        /// Only `["text"]` can be had.
        modalities: Option<Vec<String>>,
        /// Only `auto` and `default` can be had: there is one tier.
        service_tier: Option<String>,
        /// Only false can be had: answers are not stored.
        store: Option<bool>,
        /// Who the answer is for. Has no effect, and is not kept.
        #[serde(rename = "safety_identifier")]
        _safety_identifier: Option<String>,
        /// Prefixes are found by their content. Has no effect, and is not kept.
        #[serde(rename = "prompt_cache_key")]
        _prompt_cache_key: Option<String>,
        #[serde(default, rename = "audio")]
        #[schemars(skip)]
        _audio: Absent,
        #[serde(default, rename = "function_call")]
        #[schemars(skip)]
        _function_call: Absent,
        #[serde(default, rename = "functions")]
        #[schemars(skip)]
        _functions: Absent,
        #[serde(default, rename = "metadata")]
        #[schemars(skip)]
        _metadata: Absent,
        #[serde(default, rename = "moderation")]
        #[schemars(skip)]
        _moderation: Absent,
        #[serde(default, rename = "parallel_tool_calls")]
        #[schemars(skip)]
        _parallel_tool_calls: Absent,
        #[serde(default, rename = "prediction")]
        #[schemars(skip)]
        _prediction: Absent,
        #[serde(default, rename = "prompt_cache_retention")]
        #[schemars(skip)]
        _prompt_cache_retention: Absent,
        #[serde(default, rename = "reasoning_effort")]
        #[schemars(skip)]
        _reasoning_effort: Absent,
        #[serde(default, rename = "tool_choice")]
        #[schemars(skip)]
        _tool_choice: Absent,
        #[serde(default, rename = "tools")]
        #[schemars(skip)]
        _tools: Absent,
        #[serde(default, rename = "verbosity")]
        #[schemars(skip)]
        _verbosity: Absent,
        #[serde(default, rename = "web_search_options")]
        #[schemars(skip)]
        _web_search_options: Absent,
        #[serde(default, rename = "chat_template")]
        #[schemars(skip)]
        _chat_template: Absent,
        #[serde(default, rename = "chat_template_kwargs")]
        #[schemars(skip)]
        _chat_template_kwargs: Absent,
        #[serde(default, rename = "add_generation_prompt")]
        #[schemars(skip)]
        _add_generation_prompt: Absent,
        #[serde(default, rename = "add_special_tokens")]
        #[schemars(skip)]
        _add_special_tokens: Absent,
    }
}

/// The form that an answer must have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResponseFormat {
    /// Any text, any object of JSON, or JSON of a schema.
    #[serde(rename = "type")]
    kind: FormatKind,
    /// Of type `json_schema`.
    json_schema: Option<SchemaFormat>,
}

/// Forms of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FormatKind {
    /// Any text.
    Text,
    /// Any object of JSON.
    JsonObject,
    /// JSON of a schema.
    JsonSchema,
}

/// JSON of a schema.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SchemaFormat {
    /// What the caller calls it. Has no effect: the model is not told.
    #[serde(rename = "name")]
    _name: Option<String>,
    /// What it is for. Has no effect: the model is not told.
    #[serde(rename = "description")]
    _description: Option<String>,
    /// The schema, which the answer always keeps to.
    #[schemars(with = "Option<serde_json::Value>")]
    schema: Option<Box<RawValue>>,
    /// Has no effect: the answer always keeps to the schema.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

impl ChatRequest {
    /// What is asked for in the gateway's own terms.
    ///
    /// # Errors
    /// Names the field that is wrong by itself or beside another one.
    pub(super) fn read(mut self, words: &mut Words) -> Result<(Input, Settings, Wants)> {
        self.check()?;
        if self.messages.is_empty() {
            return Err(Error::field("FIELD_MISSING", "messages", "must have at least one message"));
        }
        let mut common = self.common();
        match (self.max_completion_tokens, common.max_tokens) {
            (Some(_), Some(_)) => {
                let description = "max_tokens is the same: leave one of them out";
                return Err(Error::field("SETTINGS_CONFLICT", "max_completion_tokens", description));
            }
            (Some(max), None) => {
                common.max_tokens = Some(max);
                words.say("settings.max_tokens", "max_completion_tokens");
            }
            (None, _) => {}
        }
        let logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (false, Some(_)) => {
                return Err(Error::field("SETTINGS_CONFLICT", "top_logprobs", "needs logprobs to be true"));
            }
            (wanted, top) => wanted.then(|| top.unwrap_or(0)),
        };
        words.say("settings.logprobs", "top_logprobs");
        let form = self.response_format.map(ResponseFormat::read).transpose()?.flatten();
        if form.is_some() {
            words.say("settings.constraint", "response_format");
            words.say("settings.constraint.json_schema", "response_format.json_schema.schema");
        }
        let (settings, wants) = common.settings(logprobs, form, words)?;
        Ok((Input::Conversation(conversation(self.messages, words)?), settings, wants))
    }

    /// Refuses values that OpenAI's API has and that cannot be had here.
    fn check(&self) -> Result<()> {
        let refuse = |field: &str, what: String| Err(Error::field("FIELD_UNSUPPORTED", field, what));
        if let Some(other) = self.modalities.iter().flatten().find(|modality| *modality != "text") {
            return refuse("modalities", format!("{other:?} is not supported: answers are text"));
        }
        if let Some(other) = self.service_tier.as_ref().filter(|tier| !matches!(tier.as_str(), "auto" | "default")) {
            return refuse("service_tier", format!("{other:?} is not supported: there is one tier, \"default\""));
        }
        if self.store == Some(true) {
            return refuse("store", "is not supported: answers are not stored".to_owned());
        }
        Ok(())
    }
}

impl ResponseFormat {
    /// # Errors
    /// When there is a schema where none belongs, or none where one does.
    fn read(self) -> Result<Option<Constraint>> {
        let field = "response_format.json_schema";
        let schema = match (self.kind, self.json_schema) {
            (FormatKind::JsonSchema, Some(format)) => format.schema,
            (FormatKind::JsonSchema, None) => return Err(Error::field("FIELD_MISSING", field, "must be set")),
            (_, Some(_)) => return Err(Error::field("SETTINGS_CONFLICT", field, "the type is not json_schema")),
            (FormatKind::Text, None) => return Ok(None),
            (FormatKind::JsonObject, None) => return Ok(Some(Constraint::JsonSchema(r#"{"type":"object"}"#.into()))),
        };
        let schema = schema.ok_or_else(|| Error::field("FIELD_MISSING", format!("{field}.schema"), "must be set"))?;
        Ok(Some(Constraint::JsonSchema(schema.get().to_owned())))
    }
}

/// A whole answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatChoice {
    /// Which sample, from 0.
    index: usize,
    /// What the model says.
    message: ChatMessage,
    /// Of every new token, if they were asked for.
    logprobs: Option<ChatPlaces>,
    /// `stop`, or `length` for an answer that was cut off, also by a deadline: `tessera.samples` says which.
    finish_reason: &'static str,
    /// If they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// What the model says.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatMessage {
    /// Always `assistant`.
    role: &'static str,
    /// The text.
    content: String,
    /// Always null: refusals are content.
    refusal: Option<String>,
}

/// A piece of an answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatPiece {
    /// Which sample, from 0.
    index: usize,
    /// What is new.
    delta: ChatDelta,
    /// Of the new tokens, if they were asked for.
    logprobs: Option<ChatPlaces>,
    /// In the last piece of a sample.
    finish_reason: Option<&'static str>,
    /// If they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// What is new of a message.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct ChatDelta {
    /// `assistant`, in the first piece of a sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Answers to conversations.
#[derive(Debug)]
pub(super) struct Chat;

impl Form for Chat {
    const PREFIX: &'static str = "chatcmpl-";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";
    type Choice = ChatChoice;
    type Piece = ChatPiece;

    fn choice(prompter: &Prompter, index: usize, said: Said, finish_reason: &'static str) -> ChatChoice {
        ChatChoice {
            index,
            logprobs: said.logprobs.as_deref().map(|places| chat_places(prompter, places)),
            message: ChatMessage { role: "assistant", content: said.text, refusal: None },
            finish_reason,
            token_ids: said.token_ids,
        }
    }

    fn beginning(index: usize) -> Option<ChatPiece> {
        let delta = ChatDelta { role: Some("assistant"), content: Some(String::new()) };
        Some(ChatPiece { index, delta, logprobs: None, finish_reason: None, token_ids: None })
    }

    fn piece(prompter: &Prompter, index: usize, said: Said, _: usize) -> ChatPiece {
        ChatPiece {
            index,
            logprobs: said.logprobs.as_deref().map(|places: &[Logprobs]| chat_places(prompter, places)),
            delta: ChatDelta { role: None, content: Some(said.text) },
            finish_reason: None,
            token_ids: said.token_ids,
        }
    }

    fn end(index: usize, finish_reason: &'static str) -> ChatPiece {
        let finish_reason = Some(finish_reason);
        ChatPiece { index, delta: ChatDelta::default(), logprobs: None, finish_reason, token_ids: None }
    }
}
