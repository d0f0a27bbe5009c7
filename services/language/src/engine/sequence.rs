//! The state of one generation.

use std::ops::Range;
use std::time::{Duration, Instant};

use tessera_api::Result;
use tessera_api::language::{Event, FinishReason, Finished, GenerateRequest, Sampling, Timings};
use tessera_rpc::Deadline;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::blocks::Reservation;

/// Name of a sequence in one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// One generation: prompt and answer so far, how far it is computed, and who listens.
#[derive(Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    /// For logs.
    pub request_id: String,
    /// Prompt, then answer.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    images: Vec<Image>,
    /// Positions whose keys and values are in the cache.
    computed: usize,
    max_new_tokens: usize,
    end_token_ids: Vec<u32>,
    sampling: Sampling,
    deadline: Deadline,
    events: mpsc::Sender<Result<Event>>,
    /// Blocks it holds, from its first scheduling on.
    pub(super) reservation: Option<Reservation>,
    times: Times,
    /// Its place among the sequences that may exist; free again when it is dropped.
    _admission: OwnedSemaphorePermit,
}

/// Where an image stands, and whether its features are here.
#[derive(Debug)]
struct Image {
    positions: Range<usize>,
    arrived: bool,
}

#[derive(Debug)]
struct Times {
    admitted: Instant,
    scheduled: Option<Instant>,
    features: Option<Instant>,
    first_token: Option<Instant>,
}

/// What one position range of a step is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Token positions.
    Tokens(Range<usize>),
    /// Rows of an image.
    Image {
        /// Which image.
        index: usize,
        /// Its rows.
        rows: Range<usize>,
    },
}

impl Sequence {
    /// Makes a sequence of which nothing is computed.
    pub fn new(
        id: SequenceId,
        request: GenerateRequest,
        deadline: Deadline,
        events: mpsc::Sender<Result<Event>>,
        admission: OwnedSemaphorePermit,
    ) -> Self {
        let images = request.images.iter().map(|image| Image { positions: image.positions.clone(), arrived: false });
        Self {
            id,
            request_id: request.request_id,
            prompt_tokens: request.token_ids.len(),
            images: images.collect(),
            tokens: request.token_ids,
            computed: 0,
            max_new_tokens: request.max_new_tokens.get(),
            end_token_ids: request.end_token_ids,
            sampling: request.sampling,
            deadline,
            events,
            reservation: None,
            times: Times { admitted: Instant::now(), scheduled: None, features: None, first_token: None },
            _admission: admission,
        }
    }

    /// Positions that prompt and longest answer take.
    pub fn capacity(&self) -> usize {
        self.prompt_tokens + self.max_new_tokens
    }

    /// Number of its images.
    pub fn image_count(&self) -> usize {
        self.images.len()
    }

    /// Prompt and answer so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions computed so far.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// How the next token is chosen.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// When it must be over.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// True when nobody listens any more.
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// True when only the last token is to be computed.
    pub fn is_decoding(&self) -> bool {
        self.tokens.len() > self.prompt_tokens
    }

    /// Positions that can be computed now: up to the first image whose features have not come.
    pub fn ready(&self) -> Range<usize> {
        let missing = self.images.iter().find(|image| !image.arrived);
        self.computed..missing.map_or(self.tokens.len(), |image| image.positions.start).max(self.computed)
    }

    /// Cuts a range of positions into runs of tokens and runs of image rows.
    pub fn pieces(&self, range: Range<usize>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        for (index, image) in self.images.iter().enumerate() {
            let (start, end) = (image.positions.start.max(at), image.positions.end.min(range.end));
            if start >= end {
                continue;
            }
            if at < start {
                pieces.push(Piece::Tokens(at..start));
            }
            pieces.push(Piece::Image { index, rows: start - image.positions.start..end - image.positions.start });
            at = end;
        }
        if at < range.end {
            pieces.push(Piece::Tokens(at..range.end));
        }
        pieces
    }

    /// Notes that it is scheduled for the first time.
    pub(super) fn start(&mut self, reservation: Reservation) {
        self.reservation = Some(reservation);
        self.times.scheduled = Some(Instant::now());
        if self.images.is_empty() {
            self.times.features = self.times.scheduled;
        }
    }

    /// Notes that the features of an image are here.
    pub(super) fn image_arrived(&mut self, index: usize) {
        self.images[index].arrived = true;
        if self.images.iter().all(|image| image.arrived) {
            self.times.features = Some(Instant::now());
        }
    }

    /// Notes that positions were computed; returns the images that are not needed any more.
    pub(super) fn advance(&mut self, rows: usize) -> Vec<usize> {
        let before = self.computed;
        self.computed += rows;
        let done = |image: &Image| image.positions.end > before && image.positions.end <= self.computed;
        self.images.iter().enumerate().filter(|(_, image)| done(image)).map(|(index, _)| index).collect()
    }

    /// Appends a new token and tells the listener; returns the reason when the sequence ends with it.
    pub(super) fn push(&mut self, token: u32) -> Option<FinishReason> {
        self.tokens.push(token);
        self.times.first_token.get_or_insert_with(Instant::now);
        self.tell(Ok(Event::Tokens { sample: 0, token_ids: vec![token], logprobs: Vec::new() }));
        let reason = if self.end_token_ids.contains(&token) {
            FinishReason::Stop
        } else if self.tokens.len() - self.prompt_tokens >= self.max_new_tokens {
            FinishReason::Length
        } else {
            return None;
        };
        let finished = Finished { sample: 0, reason, timings: self.timings(), reused_positions: 0 };
        self.tell(Ok(Event::Finished(finished)));
        Some(reason)
    }

    /// Sends an event. Its channel holds every event of the sequence, so only a listener that left can miss one.
    pub(super) fn tell(&self, event: Result<Event>) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            tracing::error!(request_id = %self.request_id, "an event did not fit its channel");
        }
    }

    fn timings(&self) -> Timings {
        let Times { admitted, scheduled, features, first_token } = &self.times;
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        Timings {
            queue: between(Some(*admitted), *scheduled),
            features: between(*scheduled, *features),
            prefill: between(*scheduled, *first_token),
            decode: between(*first_token, Some(Instant::now())),
        }
    }
}
