//! What comes back: an answer as one object of JSON, for either kind of request, and what this gateway says beside it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use schemars::JsonSchema;
use serde::Serialize;
use tessera_anyres::ImageSize;
use tessera_api::gateway::{Event, FinishReason, Finished, GenerateRequest, ImagePlan, Logprobs, Started};
use tessera_api::{Error, ErrorKind, Result};
use tessera_prompt::Prompter;
use tessera_rpc::Deadline;

use super::place::{ChatPlace, chat_places};
use super::settings::Wants;
use crate::front::{Events, Front};
use crate::tenant::Tenant;
use crate::words::Words;

/// How one kind of request is answered.
pub(super) trait Form: Send + 'static {
    /// In front of the request's name in an answer's.
    const PREFIX: &'static str;
    /// What a whole answer says that it is, and what a piece of one does.
    const OBJECT: &'static str;
    const CHUNK: &'static str;
    type Choice: Serialize;
    type Piece: Serialize;

    /// A whole sample.
    fn choice(prompter: &Prompter, index: usize, said: Said, finish_reason: &'static str) -> Self::Choice;

    /// What comes before all others of a sample's pieces, if something does.
    fn beginning(index: usize) -> Option<Self::Piece>;

    /// More of a sample. Tokens `before` have so many characters, which only counts with log-probabilities.
    fn piece(prompter: &Prompter, index: usize, said: Said, before: usize) -> Self::Piece;

    /// What comes behind all others of a sample's pieces.
    fn end(index: usize, finish_reason: &'static str) -> Self::Piece;
}

/// What a sample says.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) text: String,
    /// If they are wanted.
    pub(super) logprobs: Option<Vec<Logprobs>>,
    /// If they are wanted.
    pub(super) token_ids: Option<Vec<u32>>,
}

/// An answer, or a piece of one.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Reply.{C}")]
pub(super) struct Reply<C> {
    /// The request's name; that of every piece is the same.
    id: String,
    object: &'static str,
    /// When the answer began, in seconds since 1970.
    created: u64,
    /// The model that is served.
    model: String,
    /// What decides the scores: weights, configuration and number format. Equal seeds give equal answers while it is the
    /// same.
    system_fingerprint: Option<String>,
    choices: Vec<C>,
    /// In a stream only if it is asked for, and null in all pieces but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    /// In a stream in the first and the last piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    tessera: Option<Tessera>,
}

/// Tokens of all samples together.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub(super) struct Usage {
    /// Of the prompt, images included.
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    /// Absent where nobody knows: a stop string ended every sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptDetails>,
}

/// Tokens of the prompt that were not computed.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(super) struct PromptDetails {
    /// Because the language worker had them already.
    cached_tokens: usize,
}

/// What only this gateway says.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Tessera {
    /// Tokens of the prompt, images included.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens: Option<usize>,
    /// The seed in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// How each image was cut, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Vec<Image>>,
    /// One for every position of the prompt but the first, if they were asked for. A stream has them in chunks of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Vec<ChatPlace>>,
    /// How each sample ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<Vec<Sample>>,
}

/// How one image was cut.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Image {
    /// Its key, which is a handle for as long as it is stored.
    key: String,
    image_size: Size,
    /// The chosen grid in pixels.
    grid: Size,
    /// Tiles, the base view included.
    tiles: usize,
    image_tokens: usize,
}

/// A size in pixels.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(super) struct Size {
    width: u32,
    height: u32,
}

/// How a sample ended.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Sample {
    /// Which, from 0.
    index: usize,
    /// `stop`, `length`, or `deadline` where its time was over.
    finish_reason: &'static str,
    usage: SampleUsage,
    timings: Timings,
    /// Images that were stored before this request.
    images_stored_before: usize,
    /// Tokens of the prompt that were not computed; null where a stop string ended the sample.
    reused_tokens: Option<usize>,
    /// How often it was sent to a language worker again, because one was lost or shut down.
    continuations: usize,
}

/// Tokens of a sample.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(super) struct SampleUsage {
    /// Of the prompt, images included.
    prompt_tokens: usize,
    /// Those of them that images fill.
    image_tokens: usize,
    /// New tokens, the end token included.
    completion_tokens: usize,
}

/// Where the time of a sample went, seen from the gateway, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(super) struct Timings {
    /// Receiving the request to sending both legs.
    prepare_ms: f64,
    /// The slowest image's encoding.
    encode_ms: f64,
    /// In the language worker: waiting.
    queue_ms: f64,
    /// In the language worker: until the features of every image had come; part of `prefill_ms`.
    transfer_ms: f64,
    /// In the language worker: to the first new token.
    prefill_ms: f64,
    /// In the language worker: from the first new token to the last.
    decode_ms: f64,
    /// Receiving the request to the first new token.
    first_token_ms: f64,
    /// Receiving the request to the last new token.
    total_ms: f64,
}

/// An answer that has begun.
pub(super) struct Begun {
    pub(super) front: Arc<Front>,
    pub(super) started: Started,
    pub(super) events: Events,
    pub(super) wants: Wants,
    pub(super) words: Words,
    created: u64,
    fingerprint: Option<String>,
}

impl Begun {
    /// Asks, and waits until the answer begins: what is wrong up to then has a status of its own.
    ///
    /// # Errors
    /// The gateway's, in the caller's words.
    pub(super) async fn ask(
        front: Arc<Front>,
        tenant: &Arc<Tenant>,
        request: GenerateRequest,
        wants: Wants,
        words: Words,
    ) -> Result<Self> {
        let deadline = Deadline::default();
        let deadline = wants.time.map_or(deadline, |time| deadline.within(time));
        let asked = async {
            let mut events = front.generate(tenant, request, deadline).await?;
            match events.next().await {
                Some(Ok(Event::Started(started))) => Ok((started, events)),
                Some(Err(error)) => Err(error),
                _ => Err(cut_off()),
            }
        };
        let (started, events) = asked.await.map_err(|error| words.of(error))?;
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let fingerprint = front.upstream.decoder().map(|decoder| decoder.to_string());
        Ok(Self { front, started, events, wants, words, created, fingerprint })
    }

    /// The whole answer, once all of it is there.
    ///
    /// # Errors
    /// The gateway's, in the caller's words.
    pub(super) async fn whole<F: Form>(mut self) -> Result<Reply<F::Choice>> {
        let wants = self.wants;
        let empty = || Said {
            text: String::new(),
            logprobs: wants.logprobs.map(|_| Vec::new()),
            token_ids: wants.token_ids.then(Vec::new),
        };
        let mut said: Vec<Said> = std::iter::repeat_with(empty).take(wants.samples).collect();
        let (mut ends, mut prompt) = (Ends::default(), Vec::new());
        while let Some(event) = self.events.next().await {
            match event.map_err(|error| self.words.of(error))? {
                Event::Started(_) => {}
                Event::PromptLogprobs(positions) => prompt.extend(positions),
                Event::Delta { sample, text, token_ids, logprobs } => {
                    let Some(said) = said.get_mut(sample) else { continue };
                    said.text.push_str(&text);
                    said.logprobs.iter_mut().for_each(|all| all.extend_from_slice(&logprobs));
                    said.token_ids.iter_mut().for_each(|all| all.extend_from_slice(&token_ids));
                }
                Event::Finished(finished) => ends.0.push(finished),
            }
        }
        if ends.0.len() < wants.samples {
            return Err(cut_off());
        }
        ends.0.sort_by_key(|end| end.sample);
        let prompter = &self.front.preparer.prompter;
        let choice = |(said, end): (Said, &Finished)| F::choice(prompter, end.sample, said, reason(end.reason));
        let choices = said.into_iter().zip(&ends.0).map(choice).collect();
        let mut tessera = self.understood();
        tessera.samples = Some(ends.samples());
        if !prompt.is_empty() {
            tessera.prompt_logprobs = Some(chat_places(prompter, &prompt).content);
        }
        let usage = Some(Some(ends.usage(self.started.prompt_tokens)));
        Ok(Reply { usage, ..self.reply::<F, _>(F::OBJECT, choices, Some(tessera)) })
    }

    /// A reply with these choices.
    pub(super) fn reply<F: Form, C>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        tessera: Option<Tessera>,
    ) -> Reply<C> {
        Reply {
            id: format!("{}{}", F::PREFIX, self.started.request_id),
            object,
            created: self.created,
            model: self.front.served.name.clone(),
            system_fingerprint: self.fingerprint.clone(),
            choices,
            usage: None,
            tessera,
        }
    }

    /// How the request was understood.
    pub(super) fn understood(&self) -> Tessera {
        Tessera {
            prompt_tokens: Some(self.started.prompt_tokens),
            seed: Some(self.started.seed),
            images: Some(self.started.images.iter().map(Image::from).collect()),
            ..Tessera::default()
        }
    }
}

impl<C> Reply<C> {
    /// The same with what was used, or will be said to have been.
    pub(super) fn with_usage(self, usage: Option<Usage>) -> Self {
        Self { usage: Some(usage), ..self }
    }
}

impl Tessera {
    /// The same with how each sample ended.
    pub(super) fn with_ends(self, ends: &Ends) -> Self {
        Self { samples: Some(ends.samples()), ..self }
    }

    /// Log-probabilities of the prompt alone.
    pub(super) fn of_prompt(prompter: &Prompter, positions: &[Logprobs]) -> Self {
        Self { prompt_logprobs: Some(chat_places(prompter, positions).content), ..Self::default() }
    }
}

/// The ends of samples, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Ends(pub(super) Vec<Finished>);

impl Ends {
    /// What all of them used together.
    pub(super) fn usage(&self, prompt_tokens: usize) -> Usage {
        let completion_tokens = self.0.iter().map(|end| end.usage.completion_tokens).sum();
        // All samples have the same prompt.
        let cached = self.0.iter().find_map(|end| end.usage.reused_tokens);
        let prompt_tokens_details = cached.map(|cached_tokens| PromptDetails { cached_tokens });
        let total_tokens = prompt_tokens + completion_tokens;
        Usage { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details }
    }

    /// In the order of samples.
    fn samples(&self) -> Vec<Sample> {
        let mut samples: Vec<Sample> = self.0.iter().map(Sample::from).collect();
        samples.sort_by_key(|sample| sample.index);
        samples
    }
}

impl From<&Finished> for Sample {
    fn from(end: &Finished) -> Self {
        let (usage, timings) = (end.usage, end.timings);
        Self {
            index: end.sample,
            finish_reason: match end.reason {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
                FinishReason::Deadline => "deadline",
            },
            usage: SampleUsage {
                prompt_tokens: usage.prompt_tokens,
                image_tokens: usage.image_tokens,
                completion_tokens: usage.completion_tokens,
            },
            timings: Timings {
                prepare_ms: milliseconds(timings.prepare),
                encode_ms: milliseconds(timings.encode),
                queue_ms: milliseconds(timings.queue),
                transfer_ms: milliseconds(timings.transfer),
                prefill_ms: milliseconds(timings.prefill),
                decode_ms: milliseconds(timings.decode),
                first_token_ms: milliseconds(timings.first_token),
                total_ms: milliseconds(timings.total),
            },
            images_stored_before: timings.images_stored_before,
            reused_tokens: usage.reused_tokens,
            continuations: timings.continuations,
        }
    }
}

impl From<&ImagePlan> for Image {
    fn from(plan: &ImagePlan) -> Self {
        Self {
            key: plan.key.to_string(),
            image_size: plan.image_size.into(),
            grid: plan.grid.into(),
            tiles: plan.tiles,
            image_tokens: plan.image_tokens,
        }
    }
}

impl From<ImageSize> for Size {
    fn from(ImageSize { height, width }: ImageSize) -> Self {
        Self { width, height }
    }
}

/// Why a sample ended, in OpenAI's words, which know no deadline: the answer is as unfinished as one that was too long.
pub(super) fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length | FinishReason::Deadline => "length",
    }
}

/// The error of an answer that ends before its samples.
pub(super) fn cut_off() -> Error {
    Error::new(ErrorKind::Unavailable, "STREAM_BROKEN", "the gateway ended the answer too early: ask again")
}

/// With three decimals, as the wire carries microseconds.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
