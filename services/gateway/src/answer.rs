//! One request in progress: both legs at once, tokens to text, the end of every sample.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tessera_api::gateway::{Event, Finished, ImagePlan, Logprobs, Started, Timings, TokenLogprob, Usage};
use tessera_api::language::{self, FinishReason, GenerateRequest, ImageReference};
use tessera_api::{Error, ErrorKind, Result};
use tessera_prompt::Prompter;
use tessera_rpc::Deadline;
use tokio::sync::mpsc;

use crate::encoding::Encoding;
use crate::prepare::{Prepared, Preparer, image_plan};
use crate::sample::{Piece, Sample, Stops};
use crate::upstream::Upstream;

/// How long after the deadline the language worker may still say what there was by then.
const GRACE: Duration = Duration::from_secs(1);
/// Positions of the prompt whose log-probabilities make one event.
const PLACES: usize = 128;
/// What the language worker calls the fields of a request, and what the client does.
const FIELDS: [(&str, &str); 9] = [
    ("sampling.min_new_tokens", "settings.min_tokens"),
    ("sampling", "settings"),
    ("max_new_tokens", "settings.max_tokens"),
    ("end_token_ids", "settings.stop_token_ids"),
    ("samples", "settings.samples"),
    ("beam_search", "settings.beam_search"),
    ("constraint", "settings.constraint"),
    ("logprobs", "settings.logprobs"),
    ("prompt_logprobs", "settings.prompt_logprobs"),
];

/// A request that was prepared.
pub(crate) struct Answer {
    pub(crate) request_id: String,
    pub(crate) received: Instant,
    pub(crate) deadline: Deadline,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) prepared: Prepared,
}

/// Makes the client's events of the language worker's.
struct Telling<'a> {
    events: &'a mpsc::Sender<Result<Event>>,
    prompter: &'a Prompter,
    received: Instant,
    prompt: &'a [u32],
    image_tokens: usize,
    samples: Vec<Sample>,
}

impl Answer {
    /// Runs the request and sends its events; ends early when nobody listens any more.
    pub(crate) async fn run(self, events: mpsc::Sender<Result<Event>>) {
        let deadline = self.deadline;
        let late = async {
            deadline.passed().await;
            tokio::time::sleep(GRACE).await;
        };
        let ended = tokio::select! {
            biased;
            () = events.closed() => return,
            ended = self.generate(&events) => ended,
            () = late => Err(Error::deadline("the answer was being generated")),
        };
        if let Err(error) = ended {
            // The listener may have left just now.
            let _ = events.send(Err(in_the_clients_words(error))).await;
        }
    }

    async fn generate(self, events: &mpsc::Sender<Result<Event>>) -> Result<()> {
        let Self { request_id, received, deadline, upstream, preparer, prepared } = self;
        let request = sequence(request_id.clone(), &prepared, &upstream, preparer.salt.clone());
        let Prepared { prompt, images, generation, settings, .. } = prepared;
        let plans: Vec<ImagePlan> = images.iter().map(image_plan).collect();
        let stops = Arc::new(Stops::new(settings));
        let sample = || Sample::new(preparer.prompter.detokenizer(), Arc::clone(&stops));
        let mut telling = Telling {
            events,
            prompter: &preparer.prompter,
            received,
            prompt: &prompt.ids,
            image_tokens: plans.iter().map(|image| image.image_tokens).sum(),
            samples: std::iter::repeat_with(sample).take(generation.samples.get()).collect(),
        };
        let prepare = received.elapsed();
        let started = Started { request_id, prompt_tokens: prompt.ids.len(), images: plans, seed: generation.seed };
        telling.send(Event::Started(started)).await?;

        let mut encoding = Encoding::start(&upstream, images, deadline, prepare);
        let mut sequence = encoding.during(upstream.generate(request, deadline)).await?;
        // To let go of the stream frees what its samples hold, so it is read until all of them have ended.
        while telling.samples.iter().any(|sample| !sample.ended) {
            let event = encoding.during(sequence.next()).await?;
            if matches!(event, language::Event::Finished(_)) {
                encoding.settle().await;
            }
            telling.tell(event, encoding.timings).await?;
        }
        Ok(())
    }
}

impl Telling<'_> {
    async fn tell(&mut self, event: language::Event, timings: Timings) -> Result<()> {
        match event {
            language::Event::PromptLogprobs(positions) => self.tell_prompt(&positions).await,
            language::Event::Tokens { sample, token_ids, logprobs } => {
                self.tell_tokens(sample, token_ids, &logprobs, timings).await
            }
            language::Event::Finished(finished) => self.tell_end(finished, timings).await,
        }
    }

    async fn tell_prompt(&self, positions: &[language::Logprobs]) -> Result<()> {
        let tokens = self.prompt.get(1..).unwrap_or_default();
        if positions.len() != tokens.len() {
            let message = format!("log-probabilities of {} prompt positions, not {}", positions.len(), tokens.len());
            return Err(broken(&message));
        }
        for (positions, tokens) in positions.chunks(PLACES).zip(tokens.chunks(PLACES)) {
            self.send(Event::PromptLogprobs(self.logprobs(tokens, positions))).await?;
        }
        Ok(())
    }

    async fn tell_tokens(
        &mut self,
        index: usize,
        mut token_ids: Vec<u32>,
        logprobs: &[language::Logprobs],
        timings: Timings,
    ) -> Result<()> {
        if !logprobs.is_empty() && logprobs.len() != token_ids.len() {
            return Err(broken(&format!("{} log-probabilities of {} tokens", logprobs.len(), token_ids.len())));
        }
        let now = self.received.elapsed();
        let sample = self.sample(index)?;
        if sample.ended {
            return Ok(());
        }
        let Piece { text, tokens, stopped } = sample.push(&token_ids, now);
        token_ids.truncate(tokens);
        let logprobs = self.logprobs(&token_ids, logprobs);
        self.send(Event::Delta { sample: index, text, token_ids, logprobs }).await?;
        if stopped {
            let finished = self.finished(index, FinishReason::Stop, timings)?;
            self.send(Event::Finished(finished)).await?;
        }
        Ok(())
    }

    async fn tell_end(&mut self, end: language::Finished, timings: Timings) -> Result<()> {
        let index = end.sample;
        let sample = self.sample(index)?;
        if sample.ended {
            return Ok(());
        }
        let Piece { text, stopped, .. } = sample.finish();
        if !text.is_empty() {
            let (token_ids, logprobs) = (Vec::new(), Vec::new());
            self.send(Event::Delta { sample: index, text, token_ids, logprobs }).await?;
        }
        let reason = if stopped { FinishReason::Stop } else { end.reason };
        let language::Timings { queue, prefill, decode, .. } = end.timings;
        let mut finished = self.finished(index, reason, Timings { queue, prefill, decode, ..timings })?;
        finished.usage.reused_tokens = Some(end.reused_positions);
        self.send(Event::Finished(finished)).await
    }

    /// The end of a sample, as far as the gateway knows it by itself.
    fn finished(&mut self, index: usize, reason: FinishReason, timings: Timings) -> Result<Finished> {
        let total = self.received.elapsed();
        let Sample { tokens, first_token, .. } = *self.sample(index)?;
        let usage = Usage {
            prompt_tokens: self.prompt.len(),
            image_tokens: self.image_tokens,
            completion_tokens: tokens,
            reused_tokens: None,
        };
        Ok(Finished { sample: index, reason, usage, timings: Timings { first_token, total, ..timings } })
    }

    fn sample(&mut self, index: usize) -> Result<&mut Sample> {
        let samples = self.samples.len();
        self.samples.get_mut(index).ok_or_else(|| broken(&format!("sample {index} of {samples}")))
    }

    /// Log-probabilities with their tokens; none where none were asked for.
    fn logprobs(&self, token_ids: &[u32], places: &[language::Logprobs]) -> Vec<Logprobs> {
        let token = |token_id, logprob| TokenLogprob { token_id, text: self.prompter.token_text(token_id), logprob };
        let place = |(&id, place): (&u32, &language::Logprobs)| Logprobs {
            chosen: token(id, place.chosen),
            likeliest: place.likeliest.iter().map(|&(id, logprob)| token(id, logprob)).collect(),
        };
        token_ids.iter().zip(places).map(place).collect()
    }

    async fn send(&self, event: Event) -> Result<()> {
        let left = |_| Error::new(ErrorKind::Cancelled, "CANCELLED", "the caller left");
        self.events.send(Ok(event)).await.map_err(left)
    }
}

fn sequence(request_id: String, prepared: &Prepared, upstream: &Upstream, salt: Bytes) -> GenerateRequest {
    let Prepared { prompt, images, generation, lengths, settings } = prepared;
    let images = images.iter().zip(&prompt.images).map(|(image, positions)| ImageReference {
        key: image.key,
        positions: positions.clone(),
        image_size: image.plan.image,
        store: upstream.store_of(&image.key).to_owned(),
        is_stored: image.file.is_none(),
    });
    GenerateRequest {
        request_id,
        images: images.collect(),
        sampling: language::Sampling { min_new_tokens: lengths.min, ..generation.sampling.clone() },
        beam_search: generation.beam_search,
        samples: generation.samples,
        end_token_ids: generation.end_token_ids.clone(),
        constraint: settings.constraint.clone(),
        logprobs: settings.logprobs,
        prompt_logprobs: settings.prompt_logprobs,
        salt,
        ..GenerateRequest::greedy(prompt.ids.clone(), lengths.max)
    }
}

/// The error of a language worker that does not keep to the contract.
fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Internal, "CONTRACT_BROKEN", format!("the language worker sent {what}"))
}

/// An error that names fields as the client knows them.
fn in_the_clients_words(mut error: Error) -> Error {
    for violation in &mut error.fields {
        let known = FIELDS.iter().find_map(|(theirs, ours)| {
            let rest = violation.field.strip_prefix(theirs)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{ours}{rest}"))
        });
        if let Some(field) = known {
            if let Some(rest) = error.message.strip_prefix(&violation.field) {
                error.message = format!("{field}{rest}");
            }
            violation.field = field;
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_workers_fields_become_the_clients() {
        for (theirs, ours) in [
            ("sampling.top_p", "settings.top_p"),
            ("sampling.bad_words[3]", "settings.bad_words[3]"),
            ("sampling.min_new_tokens", "settings.min_tokens"),
            ("constraint.json_schema", "settings.constraint.json_schema"),
            ("beam_search.beams", "settings.beam_search.beams"),
            ("max_new_tokens", "settings.max_tokens"),
            ("logprobs", "settings.logprobs"),
            ("messages[0].parts[1].image", "messages[0].parts[1].image"),
            ("samplings", "samplings"),
        ] {
            let error = in_the_clients_words(Error::field("A_REASON", theirs, "is wrong"));
            assert_eq!((error.fields[0].field.as_str(), error.message), (ours, format!("{ours}: is wrong")));
        }
    }
}
