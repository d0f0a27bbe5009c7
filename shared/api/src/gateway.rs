//! Domain types of `Gateway`: conversations or prompts in, events out.

mod encode;
mod image_url;
mod settings;
mod wire;

use std::fmt;
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

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// As the client named it; may be empty.
    pub request_id: String,
    /// What is continued.
    pub input: Input,
    /// What the client set.
    pub settings: Settings,
}

/// What the model is to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A conversation; at least one message. The checkpoint's chat template makes the prompt.
    Conversation(Vec<Message>),
    /// The prompt itself; at least one part. Text that spells a special token is that token.
    Prompt(Vec<Part>),
}

impl Input {
    /// Where it stands in a request.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Conversation(_) => "messages",
            Self::Prompt(_) => "prompt",
        }
    }

    /// All parts in order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let (messages, prompt): (&[Message], &[Part]) = match self {
            Self::Conversation(messages) => (messages, &[]),
            Self::Prompt(parts) => (&[], parts),
        };
        messages.iter().flat_map(|message| &message.parts).chain(prompt)
    }

    /// All parts in order.
    pub fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        self.places_mut().map(|(_, part)| part)
    }

    /// All parts in order, with where each stands in a request.
    pub fn places_mut(&mut self) -> impl Iterator<Item = (Place, &mut Part)> {
        let (messages, prompt): (&mut [Message], &mut [Part]) = match self {
            Self::Conversation(messages) => (messages, &mut []),
            Self::Prompt(parts) => (&mut [], parts),
        };
        let said = messages.iter_mut().enumerate().flat_map(|(message, turn)| {
            let parts = turn.parts.iter_mut().enumerate();
            parts.map(move |(part, content)| (Place { message: Some(message), part }, content))
        });
        said.chain(prompt.iter_mut().enumerate().map(|(part, content)| (Place { message: None, part }, content)))
    }

    /// True when some part is an image.
    pub fn has_images(&self) -> bool {
        self.parts().any(|part| matches!(part, Part::Image(_)))
    }

    /// The handles that stand for images, in order of appearance.
    pub fn handles(&self) -> Vec<ImageKey> {
        let handle = |part: &Part| match part {
            Part::Image(ImageSource::Stored(key)) => Some(*key),
            _ => None,
        };
        self.parts().filter_map(handle).collect()
    }
}

/// Where a part stands in a request; shown as a path such as `messages[0].parts[1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which message, if not in a prompt.
    pub message: Option<usize>,
    /// Which of its parts.
    pub part: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message {
            Some(message) => write!(f, "messages[{message}].parts[{}]", self.part),
            None => write!(f, "prompt[{}]", self.part),
        }
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

/// A piece of a message or prompt.
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
    /// In the language worker: from being scheduled until every image's features had come. Part of `prefill`.
    pub transfer: Duration,
    /// In the language worker: from being scheduled to the first new token.
    pub prefill: Duration,
    /// In the language worker: from the first new token to the last.
    pub decode: Duration,
    /// How often the request was sent to a language worker again, because one was lost or shut down.
    pub continuations: usize,
}
