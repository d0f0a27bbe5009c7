//! Domain types of `LanguageWorker`.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::Duration;

use tessera_anyres::ImageSize;
use tessera_embedding::ImageKey;

use crate::convert::{self, out_of_range};
use crate::error::{Error, Result};
use crate::proto::language::v1 as proto;

/// A checked request to generate one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// For logs.
    pub request_id: String,
    /// The whole prompt; not empty.
    pub token_ids: Vec<u32>,
    /// In order of position, inside the prompt, without overlap.
    pub images: Vec<ImageReference>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// New tokens at most.
    pub max_new_tokens: NonZeroUsize,
    /// Ids that end the sequence.
    pub end_token_ids: Vec<u32>,
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
}

/// How the next token is chosen: settings in the order in which they are applied, checked for their ranges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Above 0; 1 does nothing.
    pub repetition_penalty: f32,
    /// What follows the penalties.
    pub choice: Choice,
}

/// The likeliest token, or a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The likeliest; the first of equals.
    Greedy,
    /// A draw: a pure function of the seed and the position.
    Draw(Draw),
}

/// Settings of a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Above 0.
    pub temperature: f32,
    /// Keep the k likeliest; `None` keeps all.
    pub top_k: Option<NonZeroUsize>,
    /// In (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// In [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Equal seeds give equal answers.
    pub seed: u64,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// The limit of new tokens, or the end of the context.
    Length,
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

/// What comes back while a sequence is generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// New tokens, in order.
    Tokens(Vec<u32>),
    /// The last event.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// Where the time went.
        timings: Timings,
    },
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
}

impl Sampling {
    /// Greedy, without penalties.
    pub const GREEDY: Self = Self { repetition_penalty: 1.0, choice: Choice::Greedy };

    /// Checks the ranges; `field` is the path of the message that holds them.
    ///
    /// # Errors
    /// Names the field that is out of its range.
    pub fn check(self, field: &str) -> Result<Self> {
        let check = |name: &str, value: f32, fits: bool, range: &str| {
            if fits { Ok(()) } else { Err(out_of_range(&format!("{field}.{name}"), value, range)) }
        };
        let penalty = self.repetition_penalty;
        check("repetition_penalty", penalty, penalty > 0.0 && penalty.is_finite(), "a number above 0")?;
        if let Choice::Draw(Draw { temperature, top_p, min_p, .. }) = self.choice {
            check("temperature", temperature, temperature > 0.0 && temperature.is_finite(), "0 or a number above it")?;
            check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?;
            check("min_p", min_p, (0.0..=1.0).contains(&min_p), "between 0 and 1")?;
        }
        Ok(self)
    }
}

impl TryFrom<proto::Sampling> for Sampling {
    type Error = Error;

    fn try_from(sampling: proto::Sampling) -> Result<Self> {
        let choice = if sampling.temperature == 0.0 {
            Choice::Greedy
        } else {
            Choice::Draw(Draw {
                temperature: sampling.temperature,
                top_k: NonZeroUsize::new(sampling.top_k as usize),
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                seed: sampling.seed,
            })
        };
        Self { repetition_penalty: sampling.repetition_penalty, choice }.check("sampling")
    }
}

impl From<Sampling> for proto::Sampling {
    fn from(sampling: Sampling) -> Self {
        let neutral = Self { repetition_penalty: sampling.repetition_penalty, top_p: 1.0, ..Self::default() };
        match sampling.choice {
            Choice::Greedy => neutral,
            Choice::Draw(draw) => Self {
                temperature: draw.temperature,
                top_k: draw.top_k.map_or(0, |k| u32::try_from(k.get()).unwrap_or(u32::MAX)),
                top_p: draw.top_p,
                min_p: draw.min_p,
                seed: draw.seed,
                ..neutral
            },
        }
    }
}

impl TryFrom<proto::GenerateRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(request: proto::GenerateRequest) -> Result<Self> {
        if request.token_ids.is_empty() {
            return Err(convert::missing("token_ids"));
        }
        let mut images = Vec::with_capacity(request.images.len());
        let mut free_from = 0;
        for (index, image) in request.images.into_iter().enumerate() {
            let image = image_reference(&format!("images[{index}]"), image, free_from, request.token_ids.len())?;
            free_from = image.positions.end;
            images.push(image);
        }
        Ok(Self {
            request_id: request.request_id,
            token_ids: request.token_ids,
            images,
            sampling: request.sampling.ok_or_else(|| convert::missing("sampling"))?.try_into()?,
            max_new_tokens: NonZeroUsize::new(request.max_new_tokens as usize)
                .ok_or_else(|| out_of_range("max_new_tokens", 0, "at least 1"))?,
            end_token_ids: request.end_token_ids,
        })
    }
}

fn image_reference(
    field: &str,
    image: proto::ImageReference,
    free_from: usize,
    prompt_tokens: usize,
) -> Result<ImageReference> {
    let start = image.start as usize;
    let positions = start..start + image.image_tokens as usize;
    if start < free_from || positions.end > prompt_tokens || positions.is_empty() {
        let range = format!("a free range of positions in {free_from}..{prompt_tokens}");
        return Err(out_of_range(&format!("{field}.start"), format!("{positions:?}"), &range));
    }
    Ok(ImageReference {
        key: convert::key(&format!("{field}.key"), &image.key)?,
        positions,
        image_size: convert::image_size(&format!("{field}.image_size"), image.image_size)?,
        store: image.store,
    })
}

/// Counts are below `u32::MAX` because every prompt fits a context.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl From<ImageReference> for proto::ImageReference {
    fn from(image: ImageReference) -> Self {
        Self {
            key: image.key.as_bytes().to_vec().into(),
            start: count(image.positions.start),
            image_tokens: count(image.positions.len()),
            image_size: Some(image.image_size.into()),
            store: image.store,
        }
    }
}

impl From<GenerateRequest> for proto::GenerateRequest {
    fn from(request: GenerateRequest) -> Self {
        Self {
            request_id: request.request_id,
            token_ids: request.token_ids,
            images: request.images.into_iter().map(Into::into).collect(),
            sampling: Some(request.sampling.into()),
            max_new_tokens: count(request.max_new_tokens.get()),
            end_token_ids: request.end_token_ids,
        }
    }
}

impl From<Event> for proto::GenerateResponse {
    fn from(event: Event) -> Self {
        use proto::generate_response::Event as Wire;
        let event = match event {
            Event::Tokens(token_ids) => Wire::Tokens(proto::Tokens { token_ids }),
            Event::Finished { reason, timings } => {
                let reason = match reason {
                    FinishReason::Stop => proto::FinishReason::Stop,
                    FinishReason::Length => proto::FinishReason::Length,
                };
                let timings = proto::Timings {
                    queue_microseconds: convert::micros(timings.queue),
                    features_microseconds: convert::micros(timings.features),
                    prefill_microseconds: convert::micros(timings.prefill),
                    decode_microseconds: convert::micros(timings.decode),
                };
                Wire::Finished(proto::Finished { reason: reason.into(), timings: Some(timings) })
            }
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<proto::GenerateResponse> for Event {
    type Error = Error;

    fn try_from(response: proto::GenerateResponse) -> Result<Self> {
        use proto::generate_response::Event as Wire;
        match response.event.ok_or_else(|| convert::missing("event"))? {
            Wire::Tokens(tokens) => Ok(Self::Tokens(tokens.token_ids)),
            Wire::Finished(finished) => {
                let reason = match finished.reason() {
                    proto::FinishReason::Stop => FinishReason::Stop,
                    proto::FinishReason::Length => FinishReason::Length,
                    proto::FinishReason::Unspecified => return Err(convert::missing("finished.reason")),
                };
                let timings = finished.timings.unwrap_or_default();
                let timings = Timings {
                    queue: Duration::from_micros(timings.queue_microseconds),
                    features: Duration::from_micros(timings.features_microseconds),
                    prefill: Duration::from_micros(timings.prefill_microseconds),
                    decode: Duration::from_micros(timings.decode_microseconds),
                };
                Ok(Self::Finished { reason, timings })
            }
        }
    }
}

impl From<Description> for proto::DescribeResponse {
    fn from(description: Description) -> Self {
        Self {
            max_positions: count(description.max_positions),
            vocabulary: count(description.vocabulary),
            image_token_id: description.image_token_id,
            version: description.version,
        }
    }
}

impl From<proto::DescribeResponse> for Description {
    fn from(response: proto::DescribeResponse) -> Self {
        Self {
            max_positions: response.max_positions as usize,
            vocabulary: response.vocabulary as usize,
            image_token_id: response.image_token_id,
            version: response.version,
        }
    }
}
