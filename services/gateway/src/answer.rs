//! One request in progress: both legs at once, tokens to text, the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use tessera_api::gateway::{Event, Finished, ImagePlan, Started, Timings, Usage};
use tessera_api::language::{self, FinishReason, GenerateRequest, ImageReference};
use tessera_api::vision::{EncodeRequest, Encoded};
use tessera_api::{Error, ErrorKind, Result};
use tessera_prompt::{Detokenizer, StopStrings};
use tessera_rpc::Deadline;
use tokio::sync::mpsc;

use crate::prepare::{Prepared, PreparedImage};
use crate::upstream::{Events, Upstream};

/// How long the cause of a failed sequence is waited for: an image that could not be encoded.
const CAUSE: Duration = Duration::from_secs(1);

/// A request that was prepared.
pub(crate) struct Answer {
    pub(crate) request_id: String,
    pub(crate) received: Instant,
    pub(crate) deadline: Deadline,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) detokenizer: Detokenizer,
    pub(crate) prepared: Prepared,
}

/// Turns the tokens of a sequence into text.
struct Text {
    received: Instant,
    detokenizer: Detokenizer,
    stop: StopStrings,
}

/// How a sequence ended.
struct Ended {
    reason: FinishReason,
    /// New tokens, the end token included.
    tokens: usize,
    /// When the first of them came, counted from the request.
    first_token: Duration,
    /// As the language worker says; zeros when a stop string ended the sequence.
    spent: language::Timings,
}

impl Answer {
    /// Runs the request and sends its events; ends early when nobody listens any more.
    pub(crate) async fn run(self, events: mpsc::Sender<Result<Event>>) {
        let deadline = self.deadline;
        let running = deadline.bound("the answer was being generated", self.generate(&events));
        let ended = tokio::select! {
            biased;
            () = events.closed() => return,
            ended = running => ended,
        };
        if let Err(error) = ended {
            // The listener may have left just now.
            let _ = events.send(Err(error)).await;
        }
    }

    async fn generate(self, events: &mpsc::Sender<Result<Event>>) -> Result<()> {
        let Self { request_id, received, deadline, upstream, detokenizer, prepared } = self;
        let images: Vec<ImagePlan> = prepared.images.iter().map(image_plan).collect();
        let mut usage = Usage {
            prompt_tokens: prepared.prompt.ids.len(),
            image_tokens: images.iter().map(|image| image.image_tokens).sum(),
            completion_tokens: 0,
        };
        let mut timings = Timings { prepare: received.elapsed(), ..Timings::default() };
        let started =
            Started { request_id: request_id.clone(), prompt_tokens: usage.prompt_tokens, images, seed: prepared.seed };
        send(events, Event::Started(started)).await?;

        let mut encoding: FuturesUnordered<_> =
            prepared.images.iter().map(|image| encode(&upstream, image.clone(), deadline)).collect();
        let text = Text { received, detokenizer, stop: StopStrings::new(prepared.stop.iter().cloned()) };
        let opening = upstream.generate(sequence(request_id, prepared, &upstream), deadline);
        let generating = text.follow(opening, events);
        tokio::pin!(generating);
        let ended = loop {
            tokio::select! {
                biased;
                Some(encoded) = encoding.next(), if !encoding.is_empty() => {
                    let encoded: Encoded = encoded?;
                    timings.images_stored_before += usize::from(encoded.stored_before);
                    let spent = encoded.timings;
                    timings.encode = timings.encode.max(spent.preprocess + spent.queue + spent.forward);
                }
                ended = &mut generating => match ended {
                    Ok(ended) => break ended,
                    Err(error) => return Err(cause(error, &mut encoding).await),
                },
            }
        };
        let Ended { reason, tokens, first_token, spent } = ended;
        usage.completion_tokens = tokens;
        (timings.first_token, timings.total) = (first_token, received.elapsed());
        (timings.queue, timings.prefill, timings.decode) = (spent.queue, spent.prefill, spent.decode);
        send(events, Event::Finished(Finished { reason, usage, timings })).await
    }
}

impl Text {
    /// Follows a sequence to its end and sends its text.
    async fn follow(
        mut self,
        opening: impl Future<Output = Result<Events>>,
        events: &mpsc::Sender<Result<Event>>,
    ) -> Result<Ended> {
        let mut sequence = opening.await?;
        let (mut tokens, mut first_token) = (0, Duration::ZERO);
        loop {
            match sequence.next().await? {
                language::Event::PromptLogprobs(_) => {}
                language::Event::Tokens { token_ids, .. } => {
                    if tokens == 0 {
                        first_token = self.received.elapsed();
                    }
                    tokens += token_ids.len();
                    let piece: String = token_ids.iter().map(|&id| self.detokenizer.push(id)).collect();
                    let released = self.stop.push(&piece);
                    send(events, Event::Delta { text: released.text, token_ids }).await?;
                    if released.stop.is_some() {
                        let spent = language::Timings::default();
                        return Ok(Ended { reason: FinishReason::Stop, tokens, first_token, spent });
                    }
                }
                language::Event::Finished(language::Finished { reason, timings, .. }) => {
                    let released = self.stop.push(&self.detokenizer.finish());
                    let text = released.text + &self.stop.finish();
                    if !text.is_empty() {
                        send(events, Event::Delta { text, token_ids: Vec::new() }).await?;
                    }
                    let reason = if released.stop.is_some() { FinishReason::Stop } else { reason };
                    return Ok(Ended { reason, tokens, first_token, spent: timings });
                }
            }
        }
    }
}

/// A sequence fails when the features of an image do not come; the reason is what the encoding says.
async fn cause<F>(error: Error, encoding: &mut FuturesUnordered<F>) -> Error
where
    F: Future<Output = Result<Encoded>>,
{
    let first_failure = async {
        while let Some(encoded) = encoding.next().await {
            if let Err(cause) = encoded {
                return Some(cause);
            }
        }
        None
    };
    tokio::time::timeout(CAUSE, first_failure).await.ok().flatten().unwrap_or(error)
}

/// Encodes one image; an error names its field in the request.
async fn encode(upstream: &Upstream, image: PreparedImage, deadline: Deadline) -> Result<Encoded> {
    let PreparedImage { field, file, key, plan } = image;
    let encoded = upstream.encode(EncodeRequest { image: file, key }, deadline).await.map_err(|mut error| {
        for violation in error.fields.iter_mut().filter(|violation| violation.field == "image") {
            violation.field.clone_from(&field);
            error.message = format!("{field}: {}", violation.description);
        }
        error
    })?;
    if encoded.image_size != plan.image {
        let (theirs, ours) = (encoded.image_size, plan.image);
        let message =
            format!("{field}: the vision worker read size {theirs}, the gateway {ours}: their settings differ");
        return Err(Error::new(ErrorKind::Precondition, "SETTINGS_MISMATCH", message));
    }
    Ok(encoded)
}

fn sequence(request_id: String, prepared: Prepared, upstream: &Upstream) -> GenerateRequest {
    let images = prepared.images.iter().zip(prepared.prompt.images).map(|(image, positions)| ImageReference {
        key: image.key,
        positions,
        image_size: image.plan.image,
        store: upstream.store_of(&image.key).to_owned(),
    });
    GenerateRequest {
        request_id,
        images: images.collect(),
        sampling: prepared.sampling,
        end_token_ids: prepared.end_token_ids,
        ..GenerateRequest::greedy(prepared.prompt.ids, prepared.max_new_tokens)
    }
}

fn image_plan(image: &PreparedImage) -> ImagePlan {
    ImagePlan {
        key: image.key,
        image_size: image.plan.image,
        grid: image.plan.grid,
        tiles: image.plan.tile_count(),
        image_tokens: image.plan.image_tokens(),
    }
}

async fn send(events: &mpsc::Sender<Result<Event>>, event: Event) -> Result<()> {
    let left = |_| Error::new(ErrorKind::Cancelled, "CANCELLED", "the caller left");
    events.send(Ok(event)).await.map_err(left)
}
