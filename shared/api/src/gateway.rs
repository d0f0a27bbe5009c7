//! Domain types of `Gateway`: conversations in, events out.

mod wire;

use std::time::Duration;

use bytes::Bytes;
use tessera_anyres::ImageSize;
use tessera_embedding::ImageKey;

pub use crate::language::FinishReason;

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
    /// An image file.
    Image(Bytes),
}

/// Generation settings as the client gave them; what is `None` is decided by the checkpoint, then by defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// New tokens at most; at least 1.
    pub max_tokens: Option<u32>,
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<u32>,
    /// In (0, 1].
    pub top_p: Option<f32>,
    /// In [0, 1].
    pub min_p: Option<f32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
    /// Equal seeds give equal answers.
    pub seed: Option<u64>,
    /// Strings that end the answer; none empty.
    pub stop: Vec<String>,
}

/// What comes back: one `Started`, any number of `Delta`, one `Finished`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request was admitted.
    Started(Started),
    /// More of the answer.
    Delta {
        /// Whole characters.
        text: String,
        /// New ids, special tokens included.
        token_ids: Vec<u32>,
    },
    /// The end.
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

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// What it used.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, images included.
    pub prompt_tokens: usize,
    /// Those of them that images fill.
    pub image_tokens: usize,
    /// New tokens, the end token included.
    pub completion_tokens: usize,
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
    /// In the language worker: waiting.
    pub queue: Duration,
    /// In the language worker: from being scheduled to the first new token.
    pub prefill: Duration,
    /// In the language worker: from the first new token to the last.
    pub decode: Duration,
}
