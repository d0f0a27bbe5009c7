//! Who waits for a sequence: what they are told, and where the time went meanwhile.

use std::time::Duration;

use tessera_api::Result;
use tessera_api::language::{Event, FinishReason, Finished, Logprobs, Timings};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The listener of one sequence.
#[derive(Debug)]
pub(super) struct Listener {
    request_id: String,
    events: mpsc::Sender<Result<Event>>,
    admitted: Instant,
    scheduled: Option<Instant>,
    features: Option<Instant>,
    first_token: Option<Instant>,
    /// True when the answers that are continued have tokens already.
    has_heard_before: bool,
    /// Prompt positions that were not computed, because their blocks were here when it was first scheduled.
    pub(super) reused: usize,
}

impl Listener {
    /// `has_heard_before`: somebody told it the beginning already.
    pub(super) fn new(request_id: String, events: mpsc::Sender<Result<Event>>, has_heard_before: bool) -> Self {
        Self {
            request_id,
            events,
            admitted: Instant::now(),
            scheduled: None,
            features: None,
            first_token: None,
            has_heard_before,
            reused: 0,
        }
    }

    /// For logs.
    pub(super) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// True when nobody listens any more.
    pub(super) fn has_left(&self) -> bool {
        self.events.is_closed()
    }

    /// A way to see whether it is still there.
    pub(super) fn weak(&self) -> mpsc::WeakSender<Result<Event>> {
        self.events.downgrade()
    }

    /// How long ago the sequence was admitted.
    pub(super) fn age(&self) -> Duration {
        self.admitted.elapsed()
    }

    /// Notes that the sequence runs; true for the first time.
    pub(super) fn note_scheduled(&mut self) -> bool {
        let first = self.scheduled.is_none();
        self.scheduled.get_or_insert_with(Instant::now);
        first
    }

    /// Notes that every feature that is needed is here.
    pub(super) fn note_features(&mut self) {
        self.features.get_or_insert_with(Instant::now);
    }

    /// True when a token was told, here or where the answer began.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard_before || self.first_token.is_some()
    }

    /// Tells new tokens of a sample.
    pub(super) fn tell_tokens(&mut self, sample: usize, token_ids: Vec<u32>, logprobs: Vec<Logprobs>) {
        self.first_token.get_or_insert_with(Instant::now);
        self.tell(Ok(Event::Tokens { sample, token_ids, logprobs }));
    }

    /// Tells that a sample is over.
    pub(super) fn tell_finished(&self, sample: usize, reason: FinishReason) {
        let finished = Finished { sample, reason, timings: self.timings(), reused_positions: self.reused };
        self.tell(Ok(Event::Finished(finished)));
    }

    /// Sends an event. The channel holds every event of the sequence, so only a listener that left can miss one.
    pub(super) fn tell(&self, event: Result<Event>) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            tracing::error!(request_id = self.request_id, "an event did not fit its channel");
        }
    }

    fn timings(&self) -> Timings {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        Timings {
            queue: between(Some(self.admitted), self.scheduled),
            features: between(self.scheduled, self.features),
            prefill: between(self.scheduled, self.first_token),
            decode: between(self.first_token, Some(Instant::now())),
        }
    }
}
