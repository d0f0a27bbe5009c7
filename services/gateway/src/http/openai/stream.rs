//! Server-sent events: pieces of an answer as they are made. Whoever stops reading drops the stream, and with it the
//! request.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde::Serialize;
use tessera_api::Result;
use tessera_api::gateway::{Event, Finished, Logprobs};

use super::answer::{Begun, Ends, Form, Said, Tessera, cut_off, reason};
use super::place;
use crate::http::Failure;

/// What ends a stream that is whole.
const DONE: &[u8] = b"data: [DONE]\n\n";
/// A comment, which clients pass over: to proxies a connection on which nothing comes is dead.
const PATIENCE: &[u8] = b": the answer goes on\n\n";
/// How long nothing comes before that.
const SILENCE: Duration = Duration::from_secs(15);
/// Of the response.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    // Some proxies collect what they pass on unless they are told not to.
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];

/// An answer that is being sent.
struct Sending<F: Form> {
    begun: Begun,
    /// What the first piece says of the request.
    first: Option<Tessera>,
    ends: Ends,
    /// Characters of each sample's tokens so far, counted where log-probabilities are wanted.
    characters: Vec<usize>,
    /// What was not sent yet.
    text: Vec<u8>,
    form: std::marker::PhantomData<fn() -> F>,
}

/// Sends an answer as it is made.
pub(super) fn respond<F: Form>(begun: Begun) -> Response {
    let frames = stream::unfold(Some(Sending::<F>::new(begun)), |sending| async {
        let mut sending = sending?;
        let is_over = sending.next().await;
        let bytes = Bytes::from(std::mem::take(&mut sending.text));
        Some((Ok::<_, Infallible>(bytes), (!is_over).then_some(sending)))
    });
    (HEADERS, Body::from_stream(frames)).into_response()
}

impl<F: Form> Sending<F> {
    fn new(begun: Begun) -> Self {
        let (first, samples) = (Some(begun.understood()), begun.wants.samples);
        let mut sending = Self {
            begun,
            first,
            ends: Ends::default(),
            characters: vec![0; samples],
            text: Vec::new(),
            form: std::marker::PhantomData,
        };
        for piece in (0..samples).filter_map(F::beginning) {
            sending.send(vec![piece], None);
        }
        sending
    }

    /// Waits until there is something to send; returns whether nothing comes after it.
    async fn next(&mut self) -> bool {
        while self.text.is_empty() {
            let Ok(event) = tokio::time::timeout(SILENCE, self.begun.events.next()).await else {
                self.text.extend_from_slice(PATIENCE);
                return false;
            };
            if let Err(error) = event.unwrap_or_else(|| Err(cut_off())).and_then(|event| self.tell(event)) {
                let failure = Failure(self.begun.words.of(error));
                frame(&mut self.text, &failure.body());
                return true;
            }
        }
        self.ends.0.len() == self.begun.wants.samples
    }

    /// Writes what an event comes to.
    ///
    /// # Errors
    /// When there is no such sample.
    fn tell(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Started(_) => {}
            Event::PromptLogprobs(positions) => {
                let tessera = Tessera::of_prompt(&self.begun.front.preparer.prompter, &positions);
                self.send(Vec::new(), Some(tessera));
            }
            Event::Delta { sample, text, token_ids, logprobs } => self.tell_more(sample, text, token_ids, logprobs)?,
            Event::Finished(finished) => self.tell_end(finished),
        }
        Ok(())
    }

    fn tell_more(&mut self, index: usize, text: String, token_ids: Vec<u32>, logprobs: Vec<Logprobs>) -> Result<()> {
        let before = *self.characters.get(index).ok_or_else(cut_off)?;
        self.characters[index] += place::length(&logprobs);
        let said = Said {
            text,
            logprobs: (!logprobs.is_empty()).then_some(logprobs),
            token_ids: (self.begun.wants.token_ids && !token_ids.is_empty()).then_some(token_ids),
        };
        // A character that is not whole yet is nothing to show.
        if !said.text.is_empty() || said.logprobs.is_some() || said.token_ids.is_some() {
            let piece = F::piece(&self.begun.front.preparer.prompter, index, said, before);
            self.send(vec![piece], None);
        }
        Ok(())
    }

    fn tell_end(&mut self, finished: Finished) {
        let piece = F::end(finished.sample, reason(finished.reason));
        self.ends.0.push(finished);
        let (is_last, has_usage) = (self.ends.0.len() == self.begun.wants.samples, self.begun.wants.usage);
        let tessera = is_last.then(|| self.first.take().unwrap_or_default().with_ends(&self.ends));
        match (is_last, has_usage) {
            (true, true) => {
                self.send(vec![piece], None);
                let usage = self.ends.usage(self.begun.started.prompt_tokens);
                let reply = self.begun.reply::<F, F::Piece>(F::CHUNK, Vec::new(), tessera);
                frame(&mut self.text, &reply.with_usage(Some(usage)));
            }
            _ => self.send(vec![piece], tessera),
        }
        if is_last {
            self.text.extend_from_slice(DONE);
        }
    }

    /// Writes a piece; the first one says how the request was understood.
    fn send(&mut self, pieces: Vec<F::Piece>, tessera: Option<Tessera>) {
        let tessera = tessera.or_else(|| self.first.take());
        let reply = self.begun.reply::<F, _>(F::CHUNK, pieces, tessera);
        let reply = if self.begun.wants.usage { reply.with_usage(None) } else { reply };
        frame(&mut self.text, &reply);
    }
}

/// Writes an event.
fn frame(text: &mut Vec<u8>, data: &impl Serialize) {
    text.extend_from_slice(b"data: ");
    if let Err(error) = serde_json::to_writer(&mut *text, data) {
        // Nothing that is sent has keys that are no texts, and memory does not fail to be written.
        tracing::error!(%error, "a piece of an answer could not be written");
    }
    text.extend_from_slice(b"\n\n");
}
