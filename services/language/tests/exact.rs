//! The engine over real models: what a request is answered does not depend, to the last bit of a log-probability, on who
//! else is there, on the size of the steps, on when features come, on what is in the cache, or on being preempted.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests fail at the first error and say what they saw")]

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tessera_anyres::ImageSize;
use tessera_api::language::{
    BeamSearch, Begun, Choice, Draw, EarlyStopping, Event, FinishReason, GenerateRequest, Generator, ImageReference,
    Sampling,
};
use tessera_checkpoint::Checkpoint;
use tessera_embedding::{EncoderFingerprint, ImageFeatures, ImageKey};
use tessera_language::engine::{
    BlockId, CandleRunner, Command, Engine, Events, Limits, ModelRunner, Pull, RunError, Sequence, SequenceId, Slice,
    Wanted,
};
use tessera_model::{LanguageModel, LoadOptions, OnCpu, StepLogits, VisionModel};
use tessera_rpc::Deadline;
use tessera_tensor::{DType, HostTensor};
use tessera_testkit::{Golden, family_dir, pixels};
use tokio::sync::{Semaphore, mpsc};

/// Prompts of the test kit that are asked here.
const ASKED: [&str; 4] = ["one_image", "two_images", "two_turns", "text_only"];

/// A checkpoint, its prompts, and the features of their images.
struct Tiny {
    checkpoint: Checkpoint,
    language: Arc<LanguageModel>,
    prompts: Vec<GenerateRequest>,
    features: Vec<(ImageKey, Arc<ImageFeatures>)>,
}

impl Tiny {
    fn load(family: &str) -> Self {
        Self::with(family, &LoadOptions::default())
    }

    fn with(family: &str, options: &LoadOptions<'_>) -> Self {
        let checkpoint = Checkpoint::open(&family_dir(family)).unwrap();
        let vision = VisionModel::load(&checkpoint, &LoadOptions::default()).unwrap();
        let language = Arc::new(LanguageModel::load(&checkpoint, options).unwrap());
        let mut tiny = Self { checkpoint, language, prompts: Vec::new(), features: Vec::new() };
        for case in ASKED {
            let golden = Golden::load(family, case);
            tiny.encode(&vision, case, &golden);
            let prompt = tiny.prompt(case, &golden);
            tiny.prompts.push(prompt);
        }
        tiny
    }

    fn encode(&mut self, vision: &VisionModel, case: &str, golden: &Golden) {
        let geometry = self.checkpoint.geometry();
        for (index, &(height, width)) in golden.image_sizes.iter().enumerate() {
            let (size, one) = (ImageSize { height, width }, pixels(geometry.tile(), case).torchvision);
            let (plan, one) = (geometry.plan(size), one.narrow(index, 1).unwrap());
            let one = HostTensor::new(one.dtype(), one.shape()[1..].to_vec(), one.into_data()).unwrap();
            let encoded = vision.encode(&one.narrow(0, plan.tile_count()).unwrap()).unwrap();
            let features = vision.pack(&encoded, &plan).unwrap();
            self.features.push((key(case, index), Arc::new(ImageFeatures::seal(size, features))));
        }
    }

    fn prompt(&self, case: &str, golden: &Golden) -> GenerateRequest {
        let ids = golden.unpadded_ids(0);
        let (mut images, mut from) = (Vec::new(), 0);
        for (index, &(height, width)) in golden.image_sizes.iter().enumerate() {
            let image_size = ImageSize { height, width };
            let tokens = self.checkpoint.geometry().plan(image_size).image_tokens();
            let is_image = |id: &u32| *id == self.checkpoint.model.image_token_id;
            let start = from + ids[from..].iter().position(is_image).unwrap();
            from = start + tokens;
            let key = key(case, index);
            images.push(ImageReference {
                key,
                positions: start..from,
                image_size,
                store: String::new(),
                is_stored: false,
            });
        }
        GenerateRequest { images, logprobs: Some(2), ..GenerateRequest::greedy(ids, NonZeroUsize::MIN) }
    }

    fn limits(&self, blocks: usize) -> Limits {
        let config = self.language.config();
        let (max_positions, vocabulary) = (config.max_positions, config.vocab_size);
        Limits { max_positions, vocabulary, blocks, running: 8, waiting: 64, step_rows: 512 }
    }

    fn runner(&self, limits: Limits) -> CandleRunner {
        CandleRunner::new(self.language.clone(), self.checkpoint.geometry(), limits.blocks).unwrap()
    }

    fn engine(&self, limits: Limits) -> Bench<'_> {
        self.engine_over(self.runner(limits), limits)
    }

    fn engine_over<R: ModelRunner>(&self, runner: R, limits: Limits) -> Bench<'_, R> {
        let pulls = Arc::<Mutex<Vec<Pull>>>::default();
        let pulled = pulls.clone();
        let engine = Engine::new(runner, limits, Box::new(move |pull| pulled.lock().unwrap().push(pull)));
        Bench { tiny: self, engine, pulls, next: 0, admission: Arc::new(Semaphore::new(1000)) }
    }

    /// What a request gives when it is alone in a new engine, its prompt in one piece.
    fn alone(&self, request: &GenerateRequest) -> Heard {
        let mut bench = self.engine(self.limits(200));
        let mut events = bench.start(request.clone());
        bench.run_to_the_end();
        hear(&mut events)
    }
}

fn key(case: &str, index: usize) -> ImageKey {
    ImageKey::of(&[], &EncoderFingerprint::of(&[case.as_bytes()]), &[index as u8])
}

struct Bench<'t, R = CandleRunner> {
    tiny: &'t Tiny,
    engine: Engine<R>,
    pulls: Arc<Mutex<Vec<Pull>>>,
    next: u64,
    admission: Arc<Semaphore>,
}

impl<R: ModelRunner> Bench<'_, R> {
    fn start(&mut self, request: GenerateRequest) -> Events {
        let (sender, events) = mpsc::channel(Sequence::most_events(&request));
        let permit = self.admission.clone().try_acquire_owned().unwrap();
        let sequence = Sequence::new(SequenceId(self.next), request, Deadline::default(), sender, permit);
        self.next += 1;
        self.engine.take(Command::Start(Box::new(sequence)));
        events
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.engine.step();
        }
    }

    fn bring(&mut self) {
        let pulls = std::mem::take(&mut *self.pulls.lock().unwrap());
        for Pull { id, index, image, .. } in pulls {
            let (_, features) = self.tiny.features.iter().find(|(key, _)| *key == image.key).unwrap();
            self.engine.take(Command::Image { id, index, features: Ok(features.clone()) });
        }
    }

    fn run_to_the_end(&mut self) {
        let mut idle = 0;
        while !self.engine.is_empty() {
            idle = if self.engine.step() { 0 } else { idle + 1 };
            assert!(idle < 1000, "nobody goes on: {:?}", self.engine.scheduler());
            self.bring();
        }
        let blocks = self.engine.scheduler().blocks();
        assert_eq!(blocks.free(), blocks.total(), "blocks leaked");
    }
}

/// Tokens, log-probabilities and the end of each sample.
type Heard = Vec<(Vec<u32>, Vec<f32>, Option<FinishReason>)>;

fn hear(events: &mut Events) -> Heard {
    let mut samples = Heard::new();
    while let Ok(event) = events.try_recv() {
        let event = event.unwrap();
        let (Event::Tokens { sample, .. } | Event::Finished(tessera_api::language::Finished { sample, .. })) = event
        else {
            panic!("nobody asked for {event:?}")
        };
        samples.resize(samples.len().max(sample + 1), (Vec::new(), Vec::new(), None));
        match event {
            Event::Tokens { token_ids, logprobs, .. } => {
                samples[sample].0.extend(token_ids);
                samples[sample].1.extend(logprobs.iter().map(|logprobs| logprobs.chosen));
            }
            Event::Finished(finished) => samples[sample].2 = Some(finished.reason),
            Event::PromptLogprobs(_) => {}
        }
    }
    samples
}

/// What may be asked of one of the prompts, whose answer is not ended by a token.
fn request(tiny: &Tiny, prompt: usize, new: usize, form: usize, seed: u64) -> GenerateRequest {
    let draw = Draw {
        temperature: 1.5,
        top_k: None,
        top_p: 0.95,
        min_p: 0.0,
        typical_p: 1.0,
        seed,
        generator: if seed == 0 { Generator::Torch } else { Generator::Counter },
    };
    let greedy = GenerateRequest {
        max_new_tokens: NonZeroUsize::new(new).unwrap(),
        ..tiny.prompts[prompt % tiny.prompts.len()].clone()
    };
    let samples = NonZeroUsize::new(2).unwrap();
    let drawn = Sampling { choice: Choice::Draw(draw), ..Sampling::GREEDY };
    let search = BeamSearch { beams: 3, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic };
    match form {
        // With seed 1 the likeliest ids are all that the engine asks for.
        0 => GenerateRequest { logprobs: greedy.logprobs.filter(|_| seed == 0), ..greedy },
        1 => GenerateRequest { sampling: Sampling { repetition_penalty: 1.3, ..Sampling::GREEDY }, ..greedy },
        2 => GenerateRequest { sampling: drawn, samples, ..greedy },
        _ => GenerateRequest { beam_search: Some(search), samples, logprobs: None, ..greedy },
    }
}

/// What happens between two steps: a request, or so many steps, or features.
#[derive(Clone, Debug)]
enum Happening {
    Start { prompt: usize, new: usize, form: usize, seed: u64 },
    Leave(usize),
    Bring,
    Steps(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0usize..4, 1usize..10, 0usize..4, 0u64..2)
            .prop_map(|(prompt, new, form, seed)| Happening::Start { prompt, new, form, seed }),
        1 => (0usize..100).prop_map(Happening::Leave),
        3 => Just(Happening::Bring),
        4 => (1usize..5).prop_map(Happening::Steps),
    ]
}

/// Runs happenings and compares each answer with that of the request alone; returns how often somebody was preempted.
fn compare(tiny: &Tiny, happenings: &[Happening], step_rows: usize, blocks: usize) -> u64 {
    let limits = Limits { step_rows, ..tiny.limits(blocks) };
    let mut bench = tiny.engine(limits);
    let mut open: Vec<(GenerateRequest, Option<Events>)> = Vec::new();
    for happening in happenings {
        match *happening {
            Happening::Start { prompt, new, form, seed } => {
                let request = request(tiny, prompt, new, form, seed);
                if limits.check(&request).is_ok() {
                    let events = bench.start(request.clone());
                    open.push((request, Some(events)));
                }
            }
            Happening::Leave(n) if !open.is_empty() => {
                let n = n % open.len();
                open[n].1 = None;
            }
            Happening::Bring => bench.bring(),
            Happening::Steps(n) => bench.steps(n),
            Happening::Leave(_) => {}
        }
    }
    bench.run_to_the_end();
    for (request, events) in open {
        if let Some(mut events) = events {
            assert_eq!(hear(&mut events), tiny.alone(&request));
        }
    }
    bench.engine.scheduler().preemptions()
}

fn schedules(family: &str, cases: u32) {
    let tiny = Tiny::load(family);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let longest = tiny.prompts.iter().map(|prompt| prompt.token_ids.len()).max().unwrap().div_ceil(32);
    let strategy = (prop::collection::vec(happening(), 1..16), 1usize..200, longest + 1..longest * 3);
    let preemptions = std::cell::Cell::new(0);
    let run = runner.run(&strategy, |(happenings, step_rows, blocks)| {
        preemptions.set(preemptions.get() + compare(&tiny, &happenings, step_rows, blocks));
        Ok(())
    });
    run.unwrap();
    println!("{family}: {cases} schedules, {} preemptions", preemptions.get());
    assert!(preemptions.get() > 0, "blocks never ran out");
}

#[test]
fn answers_do_not_depend_on_the_schedule_with_grouped_queries() {
    schedules("mistral", 500);
}

#[test]
fn answers_do_not_depend_on_the_schedule_with_biases() {
    schedules("qwen2", 250);
}

#[test]
fn answers_do_not_depend_on_the_schedule_with_one_key_head() {
    schedules("yi", 250);
}

/// The rest of an answer, of which there is so much of each sample.
fn rest(whole: &GenerateRequest, heard: &Heard, told: &[usize]) -> GenerateRequest {
    let begun = told.iter().zip(heard).enumerate();
    let begun = begun.map(|(sample, (&told, (ids, ..)))| Begun { sample, token_ids: ids[..told].to_vec() });
    GenerateRequest { begun: begun.collect(), ..whole.clone() }
}

#[test]
fn an_answer_that_is_continued_elsewhere_is_the_whole_one_to_the_bit() {
    let tiny = Tiny::load("qwen2");
    for (prompt, form, seed) in (0..ASKED.len()).flat_map(|prompt| [(prompt, 1, 0), (prompt, 2, 0), (prompt, 2, 1)]) {
        let whole = request(&tiny, prompt, 12, form, seed);
        let heard = tiny.alone(&whole);
        for cut in 0..=12 {
            // The samples are not equally far.
            let told: Vec<usize> = (0..heard.len()).map(|sample| (cut + 5 * sample) % 13).collect();
            let again = tiny.alone(&rest(&whole, &heard, &told));
            for (sample, (ids, logprobs, end)) in heard.iter().enumerate() {
                let from = told[sample];
                let (ids, logprobs) = (ids[from..].to_vec(), logprobs[from..].to_vec());
                assert_eq!(again[sample], (ids, logprobs, *end), "{prompt} {form} {seed} from {told:?}");
            }
        }
    }
}

#[test]
fn an_answer_is_the_same_whether_its_scores_are_asked_for_or_not() {
    for family in ["mistral", "qwen2", "yi"] {
        let tiny = Tiny::load(family);
        for (prompt, case) in ASKED.iter().enumerate() {
            let asked = |samples, logprobs| GenerateRequest {
                samples: NonZeroUsize::new(samples).unwrap(),
                logprobs,
                ..request(&tiny, prompt, 16, 0, 0)
            };
            let scored = tiny.alone(&asked(1, Some(0))).remove(0);
            for heard in tiny.alone(&asked(2, None)) {
                assert_eq!((&heard.0, heard.1.len(), heard.2), (&scored.0, 0, scored.2), "{family}, {case}");
            }
        }
    }
}

#[test]
fn a_second_question_about_an_image_gives_what_a_fresh_one_gives() {
    let tiny = Tiny::load("llama3");
    let mut bench = tiny.engine(tiny.limits(200));
    let asked = request(&tiny, 0, 8, 0, 0);
    let mut longer = asked.clone();
    longer.token_ids.extend([7, 8, 9]);
    let mut first = bench.start(asked.clone());
    bench.run_to_the_end();
    assert_eq!(hear(&mut first), tiny.alone(&asked));
    for question in [longer, asked] {
        let mut again = bench.start(question.clone());
        bench.run_to_the_end();
        assert_eq!(hear(&mut again), tiny.alone(&question));
    }
    // Two full blocks of 94 positions, twice.
    assert_eq!(bench.engine.counters().reused_positions, 128);
}

/// A runner that is asked for all scores where the engine wants less, or for just that; both count.
struct Watched {
    inner: CandleRunner,
    gives_all: bool,
    /// Rows that gave less than all scores, and how often all of one were asked for behind that.
    counts: Arc<Mutex<(usize, usize)>>,
}

impl ModelRunner for Watched {
    type Scores = StepLogits;

    fn place(&mut self, key: ImageKey, features: &ImageFeatures) -> Result<(), RunError> {
        self.inner.place(key, features)
    }

    fn release(&mut self, key: ImageKey) {
        self.inner.release(key);
    }

    fn copy(&mut self, from: BlockId, to: BlockId) -> Result<(), RunError> {
        self.inner.copy(from, to)
    }

    fn run(&mut self, step: &[Slice<'_>]) -> Result<StepLogits, RunError> {
        let draws = |slice: &Slice<'_>| matches!(slice.scores, Wanted::Top { .. } | Wanted::Draw { .. });
        let mut step = step.to_vec();
        if self.gives_all {
            step.iter_mut().filter(|slice| draws(slice)).for_each(|slice| slice.scores = Wanted::Last);
        }
        self.counts.lock().unwrap().0 += step.iter().filter(|slice| draws(slice)).count();
        self.inner.run(&step)
    }

    fn scores(&mut self, slice: usize) -> Result<Vec<f32>, RunError> {
        self.counts.lock().unwrap().1 += 1;
        self.inner.scores(slice)
    }
}

/// Every way to choose tokens, side by side: what a GPU's program tells of its scores, or all of them.
#[test]
fn answers_do_not_depend_on_where_tokens_are_drawn() {
    let plain = Draw {
        temperature: 1.2,
        top_k: None,
        top_p: 1.0,
        min_p: 0.0,
        typical_p: 1.0,
        seed: 5,
        generator: Generator::Counter,
    };
    let top_k = |count| Draw { top_k: NonZeroUsize::new(count), ..plain };
    let draws = [
        plain,
        top_k(40),
        top_k(128),
        top_k(200),
        Draw { top_p: 0.9, ..plain },
        Draw { top_p: 0.999, temperature: 8.0, ..plain },
        Draw { min_p: 0.1, ..plain },
        Draw { top_p: 0.8, min_p: 0.02, temperature: 0.6, ..top_k(50) },
        Draw { typical_p: 0.9, ..plain },
        Draw { generator: Generator::Torch, ..top_k(40) },
    ];
    for (family, compute, devices) in [("mistral", DType::F32, 1), ("qwen2", DType::BF16, 1), ("llama3", DType::F16, 2)]
    {
        let on_cpu = OnCpu::Dense { devices };
        let tiny = Tiny::with(family, &LoadOptions { compute, on_cpu, ..LoadOptions::default() });
        let drawn = draws.iter().enumerate().map(|(index, draw)| GenerateRequest {
            sampling: Sampling { choice: Choice::Draw(*draw), ..Sampling::GREEDY },
            samples: NonZeroUsize::new(1 + index % 2).unwrap(),
            logprobs: None,
            ..request(&tiny, index, 10, 0, 0)
        });
        // Beside likeliest tokens, penalties, log-probabilities and beams.
        let others = (0..8).map(|index| request(&tiny, index, 10, index % 4, 1 - index as u64 / 4));
        let requests: Vec<GenerateRequest> = drawn.chain(others).collect();
        let heard = [false, true].map(|gives_all| {
            let limits = Limits { running: 40, ..tiny.limits(400) };
            let counts = Arc::<Mutex<(usize, usize)>>::default();
            let runner = Watched { inner: tiny.runner(limits), gives_all, counts: counts.clone() };
            let mut bench = tiny.engine_over(runner, limits);
            let mut events: Vec<Events> = requests.iter().map(|request| bench.start(request.clone())).collect();
            bench.run_to_the_end();
            let (spared, asked_again) = *counts.lock().unwrap();
            println!("{family} in {compute}: {spared} rows without all scores, {asked_again} asked again");
            assert_eq!(gives_all, spared == 0);
            assert!(asked_again * 2 < spared || gives_all, "mostly they suffice");
            assert_eq!(gives_all, asked_again == 0, "sometimes they do not");
            events.iter_mut().map(hear).collect::<Vec<_>>()
        });
        assert!(heard[0] == heard[1], "{family} in {compute}: {:?}, not {:?}", heard[0], heard[1]);
    }
}
