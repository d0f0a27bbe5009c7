//! What the client is told: events of its own words, made of those of one language worker after the other.

use std::sync::Arc;
use std::time::Instant;

use tessera_api::gateway::{Event, Finished, Logprobs, Timings, TokenLogprob, Usage};
use tessera_api::language::{self, Begun, FinishReason};
use tessera_api::{Error, ErrorKind, Result};
use tessera_prompt::Prompter;
use tokio::sync::mpsc;

use crate::sample::{Piece, Sample, Stops};

/// Positions of the prompt whose log-probabilities make one event.
const PLACES: usize = 128;

/// An answer that is being told.
pub(crate) struct Telling<'a> {
    events: &'a mpsc::Sender<Result<Event>>,
    prompter: &'a Prompter,
    received: Instant,
    prompt: &'a [u32],
    image_tokens: usize,
    samples: Vec<Sample>,
    /// Tokens of each sample before the next one that the present worker tells.
    reached: Vec<usize>,
    /// Nothing can be continued: what comes again begins at the beginning.
    is_search: bool,
    has_told_prompt: bool,
}

/// What is told about.
pub(crate) struct Told<'a> {
    pub(crate) prompter: &'a Prompter,
    /// When the request came.
    pub(crate) received: Instant,
    pub(crate) prompt: &'a [u32],
    pub(crate) image_tokens: usize,
    /// What stops every sample besides the language worker.
    pub(crate) stops: Stops,
    pub(crate) samples: usize,
    /// The samples are found by a search.
    pub(crate) is_search: bool,
}

impl<'a> Telling<'a> {
    /// Starts to tell of samples of which nothing is known.
    pub(crate) fn new(events: &'a mpsc::Sender<Result<Event>>, told: Told<'a>) -> Self {
        let Told { prompter, received, prompt, image_tokens, stops, samples, is_search } = told;
        let stops = Arc::new(stops);
        let sample = || Sample::new(prompter.detokenizer(), Arc::clone(&stops));
        Self {
            events,
            prompter,
            received,
            prompt,
            image_tokens,
            samples: std::iter::repeat_with(sample).take(samples).collect(),
            reached: vec![0; samples],
            is_search,
            has_told_prompt: false,
        }
    }

    /// True while a sample goes on.
    pub(crate) fn is_open(&self) -> bool {
        self.samples.iter().any(|sample| !sample.ended)
    }

    /// Tokens that were told, of all samples together.
    pub(crate) fn tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.token_ids.len()).sum()
    }

    /// True when the log-probabilities of the prompt were told.
    pub(crate) fn has_told_prompt(&self) -> bool {
        self.has_told_prompt
    }

    /// What the next language worker is told of the samples that go on: nothing while there is nothing, and where it searches.
    pub(crate) fn begin(&mut self) -> Vec<Begun> {
        let is_fresh = |sample: &Sample| sample.token_ids.is_empty() && !sample.ended;
        if self.is_search || self.samples.iter().all(is_fresh) {
            self.reached.fill(0);
            return Vec::new();
        }
        for (reached, sample) in self.reached.iter_mut().zip(&self.samples) {
            *reached = sample.token_ids.len();
        }
        let open = self.samples.iter().enumerate().filter(|(_, sample)| !sample.ended);
        open.map(|(sample, begun)| Begun { sample, token_ids: begun.token_ids.clone() }).collect()
    }

    /// Tells what an event of the language worker comes to.
    ///
    /// # Errors
    /// When the worker does not keep to the contract, and when the client has left.
    pub(crate) async fn tell(&mut self, event: language::Event, timings: Timings) -> Result<()> {
        match event {
            language::Event::PromptLogprobs(positions) => self.tell_prompt(&positions).await,
            language::Event::Tokens { sample, token_ids, logprobs } => {
                self.tell_tokens(sample, token_ids, logprobs, timings).await
            }
            language::Event::Finished(end) => {
                let language::Timings { queue, features: transfer, prefill, decode } = end.timings;
                let timings = Timings { queue, transfer, prefill, decode, ..timings };
                self.tell_end(end.sample, end.reason, Some(end.reused_positions), timings).await
            }
        }
    }

    /// Ends what goes on because its time is over: this is what there was by then.
    ///
    /// # Errors
    /// When the client has left.
    pub(crate) async fn end_at_the_deadline(&mut self, timings: Timings) -> Result<()> {
        for sample in 0..self.samples.len() {
            self.tell_end(sample, FinishReason::Deadline, None, timings).await?;
        }
        Ok(())
    }

    async fn tell_prompt(&mut self, positions: &[language::Logprobs]) -> Result<()> {
        let tokens = self.prompt.get(1..).unwrap_or_default();
        if positions.len() != tokens.len() {
            let message = format!("log-probabilities of {} prompt positions, not {}", positions.len(), tokens.len());
            return Err(broken(&message));
        }
        if self.has_told_prompt {
            return Err(broken("log-probabilities of the prompt a second time"));
        }
        self.has_told_prompt = true;
        for (positions, tokens) in positions.chunks(PLACES).zip(tokens.chunks(PLACES)) {
            self.send(Event::PromptLogprobs(self.logprobs(tokens, positions))).await?;
        }
        Ok(())
    }

    async fn tell_tokens(
        &mut self,
        index: usize,
        mut token_ids: Vec<u32>,
        mut logprobs: Vec<language::Logprobs>,
        timings: Timings,
    ) -> Result<()> {
        if !logprobs.is_empty() && logprobs.len() != token_ids.len() {
            return Err(broken(&format!("{} log-probabilities of {} tokens", logprobs.len(), token_ids.len())));
        }
        let known = self.known(index, &token_ids)?;
        token_ids.drain(..known);
        logprobs.drain(..known.min(logprobs.len()));
        let now = self.received.elapsed();
        let sample = self.sample(index)?;
        if sample.ended || token_ids.is_empty() {
            return Ok(());
        }
        let Piece { text, tokens, stopped } = sample.push(&token_ids, now);
        token_ids.truncate(tokens);
        let logprobs = self.logprobs(&token_ids, &logprobs);
        self.send(Event::Delta { sample: index, text, token_ids, logprobs }).await?;
        if stopped {
            let finished = self.finished(index, FinishReason::Stop, timings)?;
            self.send(Event::Finished(finished)).await?;
        }
        Ok(())
    }

    /// Counts tokens that a worker tells; returns how many of them another one told before, which must be the same.
    fn known(&mut self, index: usize, token_ids: &[u32]) -> Result<usize> {
        let sample = self.sample(index)?;
        if sample.ended {
            return Ok(0);
        }
        let before = self.reached[index];
        self.reached[index] += token_ids.len();
        let told = self.samples[index].token_ids.get(before..).unwrap_or_default();
        let known = told.len().min(token_ids.len());
        if told[..known] != token_ids[..known] {
            return Err(broken(&format!("another answer than the worker before it, from token {before} on")));
        }
        Ok(known)
    }

    async fn tell_end(
        &mut self,
        index: usize,
        reason: FinishReason,
        reused: Option<usize>,
        timings: Timings,
    ) -> Result<()> {
        let sample = self.sample(index)?;
        if sample.ended {
            return Ok(());
        }
        let Piece { text, stopped, .. } = sample.finish();
        if !text.is_empty() {
            let (token_ids, logprobs) = (Vec::new(), Vec::new());
            self.send(Event::Delta { sample: index, text, token_ids, logprobs }).await?;
        }
        let reason = if stopped { FinishReason::Stop } else { reason };
        let mut finished = self.finished(index, reason, timings)?;
        finished.usage.reused_tokens = reused;
        self.send(Event::Finished(finished)).await
    }

    /// The end of a sample, as far as the gateway knows it by itself.
    fn finished(&mut self, index: usize, reason: FinishReason, timings: Timings) -> Result<Finished> {
        let total = self.received.elapsed();
        let sample = self.sample(index)?;
        let (completion_tokens, first_token) = (sample.token_ids.len(), sample.first_token);
        let usage = Usage {
            prompt_tokens: self.prompt.len(),
            image_tokens: self.image_tokens,
            completion_tokens,
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

    /// Sends an event to the client.
    ///
    /// # Errors
    /// When it has left.
    pub(crate) async fn send(&self, event: Event) -> Result<()> {
        let left = |_| Error::new(ErrorKind::Cancelled, "CANCELLED", "the caller left");
        self.events.send(Ok(event)).await.map_err(left)
    }
}

/// The error of a language worker that does not keep to the contract.
fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Internal, "CONTRACT_BROKEN", format!("the language worker sent {what}"))
}
