//! `/tokenize` and `/detokenize`, as vLLM has them: text to ids as a request's would be, and ids to text.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_api::gateway::Input;
use tessera_api::{Error, Result};
use tessera_rpc::Deadline;

use super::body::{self, Absent};
use super::completions;
use super::content::{Message, Part, conversation};
use super::read;
use crate::front::Front;
use crate::http::Failure;
use crate::tenant::Tenant;
use crate::words::Words;

/// What is to be tokenized: a prompt as `/v1/completions` takes it, or messages as `/v1/chat/completions` does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenizeRequest {
    /// The model that is served; that one where it is left out.
    model: Option<String>,
    /// A prompt.
    prompt: Option<String>,
    /// Ours: the images of a prompt.
    images: Option<Vec<Part>>,
    /// A conversation.
    messages: Option<Vec<Message>>,
    /// The tokens by themselves, too.
    return_token_strs: Option<bool>,
    #[serde(default, rename = "add_generation_prompt")]
    #[schemars(skip)]
    _add_generation_prompt: Absent,
    #[serde(default, rename = "add_special_tokens")]
    #[schemars(skip)]
    _add_special_tokens: Absent,
    #[serde(default, rename = "chat_template")]
    #[schemars(skip)]
    _chat_template: Absent,
    #[serde(default, rename = "chat_template_kwargs")]
    #[schemars(skip)]
    _chat_template_kwargs: Absent,
    #[serde(default, rename = "tools")]
    #[schemars(skip)]
    _tools: Absent,
}

/// The tokens of a prompt.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Tokens {
    /// How many there are, those that images fill included.
    count: usize,
    /// The longest prompt and answer together.
    max_model_len: usize,
    /// Their ids, with the image token's wherever an image is.
    tokens: Vec<u32>,
    /// The tokens by themselves, if they were asked for.
    token_strs: Option<Vec<String>>,
}

/// Ids that are to be text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DetokenizeRequest {
    /// The model that is served; that one where it is left out.
    model: Option<String>,
    /// The ids.
    tokens: Vec<u32>,
}

/// The text of ids.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Detokenized {
    /// With the names of special tokens in it.
    prompt: String,
}

/// Says what prompt something would be, of which nothing is encoded and nothing generated.
pub(super) async fn tokenize(
    State(front): State<Arc<Front>>,
    Extension(tenant): Extension<Arc<Tenant>>,
    request: Request,
) -> Result<Json<Tokens>, Failure> {
    let (input, with_texts, words) = read(&front, request, |front, body| {
        let request: TokenizeRequest = body::parse(body)?;
        request.model.iter().try_for_each(|model| front.served.check(model))?;
        let with_texts = request.return_token_strs.unwrap_or(false);
        let mut words = Words::default();
        let input = request.read(front.preparer.prompter.image_token(), &mut words)?;
        Ok((input, with_texts, words))
    })
    .await?;
    let tokenized = front.tokenize(&tenant, input, Deadline::default()).await.map_err(|error| words.of(error))?;
    let text = |&id: &u32| front.preparer.prompter.token_text(id);
    Ok(Json(Tokens {
        count: tokenized.token_ids.len(),
        max_model_len: tokenized.context,
        token_strs: with_texts.then(|| tokenized.token_ids.iter().map(text).collect()),
        tokens: tokenized.token_ids,
    }))
}

/// Says what text ids are.
pub(super) async fn detokenize(
    State(front): State<Arc<Front>>,
    request: Request,
) -> Result<Json<Detokenized>, Failure> {
    let prompt = read(&front, request, |front, body| {
        let request: DetokenizeRequest = body::parse(body)?;
        request.model.iter().try_for_each(|model| front.served.check(model))?;
        let (prompter, size) = (&front.preparer.prompter, front.preparer.prompter.vocab_size());
        if let Some(index) = request.tokens.iter().position(|&id| id as usize >= size) {
            let description = format!("{} is no token: there are {size}", request.tokens[index]);
            return Err(Error::field("VALUE_OUT_OF_RANGE", format!("tokens[{index}]"), description));
        }
        prompter.decode_all(&request.tokens).map_err(|error| Error::field(error.reason(), "tokens", error.to_string()))
    });
    Ok(Json(Detokenized { prompt: prompt.await? }))
}

impl TokenizeRequest {
    /// # Errors
    /// When there is neither a prompt nor messages, or both.
    fn read(self, image_token: &str, words: &mut Words) -> Result<Input> {
        match (self.prompt, self.messages) {
            (Some(prompt), None) => {
                let images = self.images.unwrap_or_default();
                Ok(Input::Prompt(completions::parts(&prompt, images, image_token, words)?))
            }
            (None, Some(messages)) if self.images.is_none() => Ok(Input::Conversation(conversation(messages, words)?)),
            (None, Some(_)) => {
                Err(Error::field("INPUT_CONFLICT", "images", "images of a conversation are parts of its messages"))
            }
            (Some(_), Some(_)) => Err(Error::field("INPUT_CONFLICT", "prompt", "there are messages, too")),
            (None, None) => Err(Error::field("FIELD_MISSING", "prompt", "must be set, or messages")),
        }
    }
}
