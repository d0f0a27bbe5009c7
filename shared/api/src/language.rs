//! Domain types of `LanguageWorker`.

mod constraint;
mod sampling;
mod wire;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::Duration;

use tessera_anyres::ImageSize;
use tessera_embedding::{DecoderFingerprint, ImageKey, Salt};

pub use constraint::Constraint;
pub use sampling::{BeamSearch, Choice, Draw, EarlyStopping, Generator, Sampling};

/// Samples or beams that one request may ask for.
pub const MAX_SAMPLES: usize = 64;
/// Likeliest tokens that one request may ask for at each place.
pub const MAX_LOGPROBS: usize = 20;

/// A checked request to continue one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// For logs.
    pub request_id: String,
    /// The whole prompt; not empty.
    pub token_ids: Vec<u32>,
    /// Samples that are continued, in order; the others are over then. Empty: all begin.
    pub begun: Vec<Begun>,
    /// In order of position, inside the prompt, without overlap.
    pub images: Vec<ImageReference>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Search for the best answers instead; the sampling is greedy then.
    pub beam_search: Option<BeamSearch>,
    /// Answers to the same prompt; at most [`MAX_SAMPLES`].
    pub samples: NonZeroUsize,
    /// New tokens at most, of each sample; what there is of one that is continued counts.
    pub max_new_tokens: NonZeroUsize,
    /// Ids that end a sample.
    pub end_token_ids: Vec<u32>,
    /// What the answer must be.
    pub constraint: Option<Constraint>,
    /// Log-probabilities with every new token, and those of so many of the likeliest; at most [`MAX_LOGPROBS`].
    pub logprobs: Option<usize>,
    /// The same for the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Sequences of different salts share no blocks.
    pub salt: Salt,
    /// What must decide the scores, if that matters.
    pub decoder: Option<DecoderFingerprint>,
}

/// A sample that is continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Which, from 0.
    pub sample: usize,
    /// Its tokens so far; no more than it may have.
    pub token_ids: Vec<u32>,
}

/// Where an image stands and where its features are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    /// Whose features.
    pub key: ImageKey,
    /// The prompt positions that it fills.
    pub positions: Range<usize>,
    /// Size of the image: gives the layout.
    pub image_size: ImageSize,
    /// URL of the `EmbeddingStore` to pull from.
    pub store: String,
    /// The store said that it has them: they are not waited for.
    pub is_stored: bool,
}

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token, a stop string, or the end of what a constraint allows.
    Stop,
    /// The limit of new tokens, or the end of the context.
    Length,
    /// The deadline came first.
    Deadline,
}

/// Where a sequence spent its time in the language worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Waiting to be scheduled for the first time.
    pub queue: Duration,
    /// From being scheduled until every feature had arrived.
    pub features: Duration,
    /// From being scheduled to the first new token.
    pub prefill: Duration,
    /// From the first new token to the last.
    pub decode: Duration,
}

/// Natural logarithms of probabilities at one place, as the model gives them, before any setting is applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logprobs {
    /// Of the token that stands there.
    pub chosen: f32,
    /// Of the likeliest tokens, likeliest first.
    pub likeliest: Vec<(u32, f32)>,
}

/// What comes back while a request is served.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Comes first, if it was asked for: one entry for every prompt position but the first.
    PromptLogprobs(Vec<Logprobs>),
    /// New tokens, in order.
    Tokens {
        /// Whose, from 0.
        sample: usize,
        /// The new ids.
        token_ids: Vec<u32>,
        /// As many as ids, or none when they were not asked for.
        logprobs: Vec<Logprobs>,
    },
    /// The last event of a sample.
    Finished(Finished),
}

/// How a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Whose, from 0.
    pub sample: usize,
    /// Why.
    pub reason: FinishReason,
    /// Where the time went.
    pub timings: Timings,
    /// Prompt positions that were not computed because their blocks were here already.
    pub reused_positions: usize,
}

/// What a language worker can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Longest sequence, prompt and answer together.
    pub max_positions: usize,
    /// Rows of the output layer.
    pub vocabulary: usize,
    /// The id at image positions.
    pub image_token_id: u32,
    /// Version of the worker.
    pub version: String,
    /// What decides its scores.
    pub fingerprint: DecoderFingerprint,
}

/// How busy a language worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Blocks of the KV cache.
    pub total_blocks: usize,
    /// Those that a sequence could have now, kept prefixes included.
    pub free_blocks: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// New tokens a second since the last report.
    pub tokens_per_second: f32,
    /// Share of prompt positions, since the start, that were not computed because their blocks were here.
    pub prefix_hit_rate: f32,
    /// New tokens since the start.
    pub new_tokens: u64,
}

impl GenerateRequest {
    /// Makes a request for one greedy answer to a prompt without images.
    pub fn greedy(token_ids: Vec<u32>, max_new_tokens: NonZeroUsize) -> Self {
        Self {
            request_id: String::new(),
            token_ids,
            begun: Vec::new(),
            images: Vec::new(),
            sampling: Sampling::GREEDY,
            beam_search: None,
            samples: NonZeroUsize::MIN,
            max_new_tokens,
            end_token_ids: Vec::new(),
            constraint: None,
            logprobs: None,
            prompt_logprobs: None,
            salt: Salt::default(),
            decoder: None,
        }
    }
}
