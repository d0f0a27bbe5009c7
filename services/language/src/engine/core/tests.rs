//! The engine over a fake model: scheduling, images that come late, cancellation, accounting. No candle.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;

use proptest::prelude::*;
use tessera_anyres::ImageSize;
use tessera_api::language::{Event, FinishReason, Finished, ImageReference};
use tessera_embedding::{EncoderFingerprint, ImageKey};
use tessera_rpc::Deadline;
use tessera_tensor::HostTensor;
use tokio::sync::{Semaphore, mpsc};

use super::super::runner::RunError;
use super::*;

const LIMITS: Limits =
    Limits { max_positions: 4096, vocabulary: VOCABULARY, blocks: 64, running: 4, waiting: 64, step_rows: 16 };
const VOCABULARY: usize = 97;
const IMAGE_TOKEN: u32 = 96;

/// A model whose next token is a function of everything it has seen of a sequence, and which checks what it is fed.
#[derive(Debug, Default)]
struct FakeRunner {
    sequences: HashMap<SequenceId, Fake>,
    largest_step: usize,
}

#[derive(Debug, Default)]
struct Fake {
    seen: usize,
    sum: u64,
    images: Vec<Option<u64>>,
}

impl ModelRunner for FakeRunner {
    fn open(&mut self, id: SequenceId, _: usize, images: usize) -> Result<(), RunError> {
        self.sequences.insert(id, Fake { images: vec![None; images], ..Fake::default() });
        Ok(())
    }

    fn place(&mut self, id: SequenceId, index: usize, features: &Artifact) -> Result<(), RunError> {
        let value = u64::from(features.image_size.height);
        if value == 999 {
            return Err(RunError::Features("wrong width".into()));
        }
        self.sequences.get_mut(&id).unwrap().images[index] = Some(value);
        Ok(())
    }

    fn release(&mut self, id: SequenceId, index: usize) {
        assert!(self.sequences.get_mut(&id).unwrap().images[index].take().is_some(), "released twice");
    }

    fn run(&mut self, step: &[Slice<'_>]) -> Result<Vec<Option<Vec<f32>>>, RunError> {
        let mut rows = 0;
        let logits = step.iter().map(|slice| {
            let fake = self.sequences.get_mut(&slice.id).unwrap();
            assert_eq!(fake.seen, slice.start, "a position was left out or computed twice");
            let mut mix = |value: u64| {
                fake.sum = fake.sum.wrapping_mul(31).wrapping_add(value);
                fake.seen += 1;
                rows += 1;
            };
            for input in &slice.inputs {
                match input {
                    Input::Tokens(tokens) => tokens.iter().for_each(|&token| mix(u64::from(token))),
                    Input::Image { index, rows } => {
                        let image = fake.images[*index].expect("an image is computed after its features came");
                        rows.clone().for_each(|row| mix(1000 * image + row as u64));
                    }
                }
            }
            slice.wants_logits.then(|| {
                let mut logits = vec![0.0; VOCABULARY];
                logits[(fake.sum % (VOCABULARY as u64 - 1)) as usize] = 1.0;
                logits
            })
        });
        let logits = logits.collect();
        self.largest_step = self.largest_step.max(rows);
        Ok(logits)
    }

    fn close(&mut self, id: SequenceId) {
        self.sequences.remove(&id).expect("a sequence is closed once");
    }
}

/// A prompt of so many tokens, perhaps with an image at these positions.
fn request(tokens: usize, image: Option<Range<usize>>, new: usize) -> GenerateRequest {
    let mut token_ids: Vec<u32> = (0..tokens as u32).map(|n| n * 7 % 90).collect();
    let references = image.into_iter().map(|positions| {
        token_ids[positions.clone()].fill(IMAGE_TOKEN);
        ImageReference {
            key: ImageKey::of(b"", &EncoderFingerprint::of(&[]), b""),
            positions,
            image_size: ImageSize { height: 1, width: 1 },
            store: String::new(),
        }
    });
    let images = references.collect();
    GenerateRequest {
        images,
        end_token_ids: vec![5],
        ..GenerateRequest::greedy(token_ids, NonZeroUsize::new(new).unwrap())
    }
}

fn features(height: u32) -> Result<Arc<Artifact>> {
    let tensor = HostTensor::from_f32(vec![1, 1], vec![0.0]).unwrap();
    Ok(Arc::new(Artifact::seal(ImageSize { height, width: 1 }, tensor)))
}

struct Bench {
    engine: Engine<FakeRunner>,
    admission: Arc<Semaphore>,
    next: u64,
}

type Events = mpsc::Receiver<Result<Event>>;

impl Bench {
    fn new(limits: Limits) -> Self {
        let engine = Engine::new(FakeRunner::default(), limits);
        Self { engine, admission: Arc::new(Semaphore::new(10_000)), next: 0 }
    }

    fn start(&mut self, request: GenerateRequest) -> (SequenceId, Events) {
        self.start_within(request, Deadline::default())
    }

    fn start_within(&mut self, request: GenerateRequest, deadline: Deadline) -> (SequenceId, Events) {
        let id = SequenceId(self.next);
        self.next += 1;
        let (sender, events) = mpsc::channel(request.max_new_tokens.get() + 2);
        let permit = self.admission.clone().try_acquire_owned().unwrap();
        self.engine.take(Command::Start(Box::new(Sequence::new(id, request, deadline, sender, permit))));
        (id, events)
    }

    fn image(&mut self, id: SequenceId, index: usize, height: u32) {
        self.engine.take(Command::Image { id, index, features: features(height) });
    }

    fn run(&mut self) {
        while self.engine.has_work() {
            self.engine.step();
        }
    }

    fn assert_clean(&self) {
        assert!(self.engine.is_empty());
        assert!(self.engine.runner.sequences.is_empty());
        assert_eq!(self.engine.blocks().free(), self.engine.blocks().total());
        assert_eq!(self.admission.available_permits(), 10_000);
    }
}

fn drain(events: &mut Events) -> (Vec<u32>, Option<Result<FinishReason>>) {
    let mut tokens = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event {
            Ok(Event::Tokens { token_ids, .. }) => tokens.extend(token_ids),
            Ok(Event::PromptLogprobs(_)) => {}
            Ok(Event::Finished(Finished { reason, .. })) => return (tokens, Some(Ok(reason))),
            Err(error) => return (tokens, Some(Err(error))),
        }
    }
    (tokens, None)
}

/// What a request gives when it is alone.
fn alone(request: GenerateRequest, heights: &[u32]) -> Vec<u32> {
    let mut bench = Bench::new(Limits { step_rows: 100_000, ..LIMITS });
    let (id, mut events) = bench.start(request);
    for (index, height) in heights.iter().enumerate() {
        bench.image(id, index, *height);
    }
    bench.run();
    bench.assert_clean();
    drain(&mut events).0
}

#[test]
fn the_text_before_an_image_is_computed_while_it_is_awaited() {
    let mut bench = Bench::new(LIMITS);
    let (id, mut events) = bench.start(request(20, Some(5..12), 3));
    bench.run();
    assert_eq!(bench.engine.runner.sequences[&id].seen, 5);
    bench.image(id, 0, 3);
    bench.run();
    assert_eq!(drain(&mut events).0, alone(request(20, Some(5..12), 3), &[3]));
    bench.assert_clean();
}

#[test]
fn decode_rows_go_first_and_a_long_prompt_takes_its_turn_in_chunks() {
    let mut bench = Bench::new(LIMITS);
    let endless = GenerateRequest { end_token_ids: vec![], ..request(4, None, 30) };
    let (_, mut short) = bench.start(endless);
    bench.engine.step();
    assert_eq!(drain(&mut short).0.len(), 1);
    let (_, mut long) = bench.start(request(100, None, 1));
    let mut steps = 0;
    while drain(&mut long).1.is_none() {
        bench.engine.step();
        assert_eq!(drain(&mut short).0.len(), 1, "a long prompt held up a decode");
        steps += 1;
    }
    assert_eq!(steps, 100usize.div_ceil(LIMITS.step_rows - 1));
    assert_eq!(bench.engine.runner.largest_step, LIMITS.step_rows);
    bench.run();
    bench.assert_clean();
}

#[test]
fn a_caller_who_leaves_frees_everything_within_one_step() {
    let mut bench = Bench::new(LIMITS);
    let (_, running) = bench.start(request(40, None, 50));
    let (_, awaiting) = bench.start(request(40, Some(0..9), 50));
    bench.engine.step();
    drop((running, awaiting));
    bench.engine.step();
    bench.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_sequence_that_runs_and_one_that_waits() {
    let mut bench = Bench::new(Limits { running: 1, ..LIMITS });
    let deadline = Deadline::default().within(std::time::Duration::from_secs(1));
    let (_, mut first) = bench.start_within(request(40, None, 50), deadline);
    let (_, mut second) = bench.start_within(request(40, None, 50), deadline);
    bench.engine.step();
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    bench.engine.step();
    for events in [&mut first, &mut second] {
        assert_eq!(drain(events).1, Some(Err(Error::deadline("generating"))));
    }
    bench.assert_clean();
}

#[test]
fn features_that_fail_or_do_not_fit_end_only_their_sequence() {
    let mut bench = Bench::new(LIMITS);
    let image = Some(2..5);
    let (first, mut lost) = bench.start(request(10, image.clone(), 3));
    let (second, mut misfit) = bench.start(request(10, image.clone(), 3));
    let (third, mut fine) = bench.start(request(10, image.clone(), 3));
    bench.engine.step();
    let gone = Error::new(ErrorKind::NotFound, "EMBEDDING_NOT_FOUND", "gone");
    bench.engine.take(Command::Image { id: first, index: 0, features: Err(gone.clone()) });
    bench.image(second, 0, 999);
    bench.image(third, 0, 4);
    bench.run();
    assert_eq!(drain(&mut lost).1, Some(Err(gone)));
    assert_eq!(drain(&mut misfit).1.unwrap().unwrap_err().reason, "FEATURES_MISMATCH");
    assert!(matches!(drain(&mut fine).1, Some(Ok(_))));
    // Features for a sequence that is gone are let go.
    bench.image(first, 0, 4);
    bench.assert_clean();
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let error = LIMITS.check(&request(2000, None, 100)).unwrap_err();
    assert_eq!(error.reason, "SEQUENCE_TOO_LONG");
    assert_eq!(error.metadata.iter().find(|(name, _)| name == "positions").unwrap().1, "2048");
    let mut unknown = request(3, None, 1);
    unknown.token_ids[2] = VOCABULARY as u32;
    assert_eq!(LIMITS.check(&unknown).unwrap_err().fields[0].field, "token_ids[2]");
}

/// Something that happens between two steps.
#[derive(Clone, Debug)]
enum Happening {
    Start { tokens: usize, image: bool, new: usize },
    Leave(usize),
    Arrive(usize),
    Steps(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (3usize..80, any::<bool>(), 1usize..20)
            .prop_map(|(tokens, image, new)| Happening::Start { tokens, image, new }),
        1 => (0usize..100).prop_map(Happening::Leave),
        3 => (0usize..100).prop_map(Happening::Arrive),
        4 => (1usize..6).prop_map(Happening::Steps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever comes when, and whoever leaves: each answer is the one of the request alone, and nothing leaks.
    #[test]
    fn answers_do_not_depend_on_the_schedule(
        happenings in prop::collection::vec(happening(), 1..60),
        step_rows in 1usize..40,
        running in 1usize..6,
        blocks in 4usize..20,
    ) {
        let limits = Limits { step_rows, running, blocks, ..LIMITS };
        let mut bench = Bench::new(limits);
        let mut open: Vec<(SequenceId, GenerateRequest, Option<Events>, Vec<u32>)> = Vec::new();
        for happening in happenings {
            match happening {
                Happening::Start { tokens, image, new } => {
                    let image = image.then_some(tokens / 3..tokens / 3 + tokens.div_ceil(2));
                    let request = request(tokens, image, new);
                    if limits.check(&request).is_ok() {
                        let (id, events) = bench.start(request.clone());
                        open.push((id, request, Some(events), Vec::new()));
                    }
                }
                Happening::Leave(n) if !open.is_empty() => {
                    let n = n % open.len();
                    open[n].2 = None;
                }
                Happening::Arrive(n) if !open.is_empty() => {
                    let n = n % open.len();
                    if !open[n].1.images.is_empty() && open[n].3.is_empty() {
                        open[n].3.push(n as u32 + 1);
                        bench.image(open[n].0, 0, n as u32 + 1);
                    }
                }
                Happening::Steps(n) => (0..n).for_each(|_| bench.engine.step()),
                _ => {}
            }
        }
        for (n, (id, request, _, heights)) in open.iter_mut().enumerate() {
            if !request.images.is_empty() && heights.is_empty() {
                heights.push(n as u32 + 1);
                bench.image(*id, 0, n as u32 + 1);
            }
        }
        while !bench.engine.is_empty() {
            bench.engine.step();
        }
        bench.assert_clean();
        for (_, request, events, heights) in open {
            if let Some(mut events) = events {
                let (tokens, end) = drain(&mut events);
                prop_assert!(matches!(end, Some(Ok(_))));
                prop_assert_eq!(tokens, alone(request, &heights));
            }
        }
    }
}
