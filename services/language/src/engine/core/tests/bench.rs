//! An engine over the fake model, and who asks it.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use tessera_anyres::ImageSize;
use tessera_api::Result;
use tessera_api::language::{Event, FinishReason, GenerateRequest, ImageReference};
use tessera_embedding::{EncoderFingerprint, ImageFeatures, ImageKey};
use tessera_rpc::Deadline;
use tessera_tensor::HostTensor;
use tokio::sync::{Semaphore, mpsc};

use super::fake::{FakeRunner, VOCABULARY};
use crate::engine::{Command, Engine, Events, Limits, Pull, Sequence, SequenceId};

pub(super) const LIMITS: Limits =
    Limits { max_positions: 4096, vocabulary: VOCABULARY, blocks: 64, running: 4, waiting: 64, step_rows: 16 };
const IMAGE_TOKEN: u32 = 96;
const PERMITS: usize = 10_000;

pub(super) fn key(image: u32) -> ImageKey {
    ImageKey::of(b"", &EncoderFingerprint::of(&[]), &image.to_le_bytes())
}

/// A prompt of so many tokens; those of equal `start` have equal prefixes. Perhaps with image 1 at these positions.
pub(super) fn request(tokens: usize, image: Option<Range<usize>>, new: usize) -> GenerateRequest {
    about(1, tokens, image, new)
}

/// The same about another image.
pub(super) fn about(image: u32, tokens: usize, positions: Option<Range<usize>>, new: usize) -> GenerateRequest {
    let mut token_ids: Vec<u32> = (0..tokens as u32).map(|n| n * 7 % 90).collect();
    let references = positions.into_iter().map(|positions| {
        token_ids[positions.clone()].fill(IMAGE_TOKEN);
        let image_size = ImageSize { height: 1, width: 1 };
        ImageReference { key: key(image), positions, image_size, store: String::new(), is_stored: false }
    });
    let images = references.collect();
    GenerateRequest {
        images,
        end_token_ids: vec![5],
        ..GenerateRequest::greedy(token_ids, NonZeroUsize::new(new).unwrap())
    }
}

pub(super) struct Bench {
    pub(super) engine: Engine<FakeRunner>,
    pub(super) pulls: Arc<Mutex<Vec<Pull>>>,
    admission: Arc<Semaphore>,
    next: u64,
}

impl Bench {
    pub(super) fn new(limits: Limits) -> Self {
        let pulls = Arc::<Mutex<Vec<Pull>>>::default();
        let pulled = pulls.clone();
        let pull = move |pull| pulled.lock().unwrap().push(pull);
        let engine = Engine::new(FakeRunner::new(limits.blocks), limits, Box::new(pull));
        Self { engine, pulls, admission: Arc::new(Semaphore::new(PERMITS)), next: 0 }
    }

    pub(super) fn start(&mut self, request: GenerateRequest) -> (SequenceId, Events) {
        self.start_within(request, Deadline::default())
    }

    pub(super) fn start_within(&mut self, request: GenerateRequest, deadline: Deadline) -> (SequenceId, Events) {
        let id = SequenceId(self.next);
        self.next += 1;
        let (sender, events) = mpsc::channel(Sequence::most_events(&request));
        let permit = self.admission.clone().try_acquire_owned().unwrap();
        self.engine.take(Command::Start(Box::new(Sequence::new(id, request, deadline, sender, permit))));
        (id, events)
    }

    /// Gives a sequence an image; of height 999 it does not fit the model.
    pub(super) fn image(&mut self, id: SequenceId, index: usize, height: u32) {
        let tensor = HostTensor::from_f32(vec![1, 1], vec![0.0]).unwrap();
        let artifact = ImageFeatures::seal(ImageSize { height, width: 1 }, tensor);
        self.engine.take(Command::Image { id, index, features: Ok(Arc::new(artifact)) });
    }

    /// Brings what was asked for.
    pub(super) fn bring(&mut self) {
        let pulls = std::mem::take(&mut *self.pulls.lock().unwrap());
        pulls.into_iter().for_each(|pull| self.image(pull.id, pull.index, 1));
    }

    pub(super) fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.engine.step();
        }
    }

    /// Steps while there is something to compute.
    pub(super) fn run(&mut self) {
        while self.engine.step() {}
    }

    /// Steps and brings images until nobody is left.
    pub(super) fn run_to_the_end(&mut self) {
        while !self.engine.is_empty() {
            self.engine.step();
            self.bring();
        }
    }

    pub(super) fn assert_clean(&self) {
        assert!(self.engine.is_empty());
        assert!(self.engine.runner.images.is_empty());
        let blocks = self.engine.scheduler().blocks();
        assert_eq!(blocks.free(), blocks.total(), "blocks leaked");
        assert_eq!(self.admission.available_permits(), PERMITS);
    }
}

/// What a listener heard of one sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heard {
    pub(super) tokens: Vec<u32>,
    pub(super) logprobs: Vec<f32>,
    pub(super) end: Option<FinishReason>,
    pub(super) reused: usize,
}

/// What a listener heard so far, by sample; or the error.
pub(super) fn hear_all(events: &mut Events) -> Result<Vec<Heard>> {
    let mut samples = Vec::<Heard>::new();
    while let Ok(event) = events.try_recv() {
        let sample = match &event {
            Ok(Event::Tokens { sample, .. }) => *sample,
            Ok(Event::Finished(finished)) => finished.sample,
            _ => 0,
        };
        if samples.len() <= sample {
            samples.resize(sample + 1, Heard::default());
        }
        let heard = &mut samples[sample];
        match event? {
            Event::Tokens { token_ids, logprobs, .. } => {
                assert_eq!(heard.end, None, "nothing follows the end");
                heard.tokens.extend(token_ids);
                heard.logprobs.extend(logprobs.iter().map(|logprobs| logprobs.chosen));
            }
            Event::Finished(finished) => {
                heard.end = Some(finished.reason);
                heard.reused = finished.reused_positions;
            }
            Event::PromptLogprobs(_) => {}
        }
    }
    Ok(samples)
}

/// What a listener of one sample heard so far.
pub(super) fn hear(events: &mut Events) -> Heard {
    hear_all(events).unwrap().pop().unwrap_or_default()
}

/// What a request gives when it is alone in a new engine, its prompt in one piece.
pub(super) fn alone(request: GenerateRequest) -> Vec<Heard> {
    let mut bench = Bench::new(Limits { step_rows: 100_000, blocks: 1000, running: 100, ..LIMITS });
    let (_, mut events) = bench.start(request);
    bench.run_to_the_end();
    bench.assert_clean();
    let mut heard = hear_all(&mut events).unwrap();
    heard.iter_mut().for_each(|heard| heard.reused = 0);
    heard
}
