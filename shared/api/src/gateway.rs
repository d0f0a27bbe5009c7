//! Domain types of `Gateway`: conversations in, events out.

mod encode;
mod image_url;
mod settings;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use tessera_anyres::ImageSize;
use tessera_embedding::ImageKey;

pub use crate::language::FinishReason;
pub use encode::{BatchRequest, BatchResponse, EncodeRequest, Encoded, MAX_ID_BYTES};
pub use image_url::{ImageUrl, ImageUrlError, MAX_URL_BYTES};
pub use settings::{BeamSettings, Settings};

/// Stop strings that one request may name.
pub const MAX_STOP_STRINGS: usize = 16;

/// A checked conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// As the client named it; may be empty.
    pub request_id: String,
    /// At least one.
    pub messages: Vec<Message>,
    /// What the client set.
    pub settings: Settings,
}

impl GenerateRequest {
    /// True when some message shows an image.
    pub fn has_images(&self) -> bool {
        self.messages.iter().flat_map(|message| &message.parts).any(|part| matches!(part, Part::Image(_)))
    }

    /// The handles that stand for images, in order of appearance.
    pub fn handles(&self) -> Vec<ImageKey> {
        let parts = self.messages.iter().flat_map(|message| &message.parts);
        let handle = |part: &Part| match part {
            Part::Image(ImageSource::Stored(key)) => Some(*key),
            _ => None,
        };
        parts.filter_map(handle).collect()
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What they say and show, in order.
    pub parts: Vec<Part>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The person or program that asks.
    User,
    /// The model, in an earlier turn.
    Assistant,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Plain text.
    Text(String),
    /// An image.
    Image(ImageSource),
}

/// How a client names an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// By the file itself.
    File(Bytes),
    /// By the handle of one that was encoded before.
    Stored(ImageKey),
    /// By where the file is.
    Url(ImageUrl),
}

/// What comes back: one `Started`, `PromptLogprobs` if they were asked for, any number of `Delta` and one `Finished` for
/// every sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request was admitted.
    Started(Started),
    /// More of the prompt's positions but the first, in order.
    PromptLogprobs(Vec<Logprobs>),
    /// More of an answer.
    Delta {
        /// Whose, from 0.
        sample: usize,
        /// Whole characters.
        text: String,
        /// New ids, special tokens included.
        token_ids: Vec<u32>,
        /// As many as ids, or none when they were not asked for.
        logprobs: Vec<Logprobs>,
    },
    /// The end of a sample.
    Finished(Finished),
}

/// How a request was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The client's, or one that the gateway made.
    pub request_id: String,
    /// Tokens of the prompt, images included.
    pub prompt_tokens: usize,
    /// In order of appearance.
    pub images: Vec<ImagePlan>,
    /// The seed in force.
    pub seed: u64,
}

/// How one image was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePlan {
    /// Identity of its features.
    pub key: ImageKey,
    /// Its size.
    pub image_size: ImageSize,
    /// The chosen grid in pixels.
    pub grid: ImageSize,
    /// Tiles, the base view included.
    pub tiles: usize,
    /// Prompt positions that it fills.
    pub image_tokens: usize,
}

/// Natural logarithms of probabilities at one place, as the model gives them, before any setting is applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that stands there.
    pub chosen: TokenLogprob,
    /// Of the likeliest tokens, likeliest first.
    pub likeliest: Vec<TokenLogprob>,
}

/// Log-probability of one token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Its id.
    pub token_id: u32,
    /// The token by itself.
    pub text: String,
    /// Natural logarithm.
    pub logprob: f32,
}

/// How a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Whose, from 0.
    pub sample: usize,
    /// Why.
    pub reason: FinishReason,
    /// What it used.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// Tokens of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, images included.
    pub prompt_tokens: usize,
    /// Those of them that images fill.
    pub image_tokens: usize,
    /// New tokens, the end token included.
    pub completion_tokens: usize,
    /// Those of the prompt that were not computed; `None` where a stop string ended the sample.
    pub reused_tokens: Option<usize>,
}

/// Where the time went, seen from the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Until both legs were sent.
    pub prepare: Duration,
    /// The slowest image's encoding.
    pub encode: Duration,
    /// Until the first new token.
    pub first_token: Duration,
    /// Until the last new token.
    pub total: Duration,
    /// Images that were stored before.
    pub images_stored_before: usize,
    /// In the language worker that ended it: waiting.
    pub queue: Duration,
    /// In the language worker: from being scheduled to the first new token.
    pub prefill: Duration,
    /// In the language worker: from the first new token to the last.
    pub decode: Duration,
    /// How often the request was sent to a language worker again, because one was lost or shut down.
    pub continuations: usize,
}
