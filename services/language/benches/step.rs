//! What a step costs beside the model: schedule, choose, tell. 64 sequences that decode, and a model that takes no time:
//! greedy ones, for which the model says the likeliest token, and ones that draw by its scores.
//! `cargo bench -p tessera-language`

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_api::language::{Choice, Draw, GenerateRequest, Generator, Sampling};
use tessera_embedding::{ImageFeatures, ImageKey};
use tessera_kernels::TopScores;
use tessera_language::engine::{
    BlockId, Command, Engine, Events, Limits, ModelRunner, RunError, Scores, Sequence, SequenceId, Slice,
};
use tessera_rpc::Deadline;
use tokio::sync::{Semaphore, mpsc};

const SEQUENCES: usize = 64;
const PROMPT: usize = 300;
const STEPS: usize = 600;
/// What the model says is the likeliest, whatever its scores are.
const LIKELIEST: u32 = 7;

/// As somebody asks who wants an answer with some life in it.
const DRAW: Draw = Draw {
    temperature: 0.7,
    top_k: None,
    top_p: 0.95,
    min_p: 0.0,
    typical_p: 1.0,
    seed: 1,
    generator: Generator::Counter,
};

/// A model whose scores are always the same.
struct Idle(Arc<Vec<f32>>);

/// The same scores for every slice.
struct Same(Arc<Vec<f32>>);

impl Scores for Same {
    fn of(&self, _: usize) -> &[f32] {
        &self.0
    }

    fn token(&self, _: usize) -> Option<u32> {
        Some(LIKELIEST)
    }

    fn top(&self, _: usize) -> Option<&TopScores> {
        None
    }
}

impl ModelRunner for Idle {
    type Scores = Same;

    fn place(&mut self, _: ImageKey, _: &ImageFeatures) -> Result<(), RunError> {
        Ok(())
    }

    fn release(&mut self, _: ImageKey) {}

    fn copy(&mut self, _: BlockId, _: BlockId) -> Result<(), RunError> {
        Ok(())
    }

    fn run(&mut self, _: &[Slice<'_>]) -> Result<Same, RunError> {
        Ok(Same(self.0.clone()))
    }

    fn scores(&mut self, _: usize) -> Result<Vec<f32>, RunError> {
        Ok(self.0.to_vec())
    }
}

/// Times of steps in which every sequence gets a token, and somebody reads it.
fn measure(vocabulary: usize, choice: Choice) -> Vec<Duration> {
    let limits = Limits {
        max_positions: 4096,
        vocabulary,
        blocks: SEQUENCES * 40,
        running: SEQUENCES,
        waiting: SEQUENCES,
        step_rows: SEQUENCES * PROMPT,
    };
    let scores = (0..vocabulary).map(|id| (id * 7919 % 10_007) as f32 / 1000.0).collect();
    let mut engine = Engine::new(Idle(Arc::new(scores)), limits, Box::new(|_| {}));
    let admission = Arc::new(Semaphore::new(SEQUENCES));
    let mut listeners: Vec<Events> = (0..SEQUENCES).map(|n| start(&mut engine, n, choice, &admission)).collect();
    engine.step();
    let mut times = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let began = Instant::now();
        engine.step();
        times.push(began.elapsed());
        for events in &mut listeners {
            while events.try_recv().is_ok() {}
        }
    }
    times.sort_unstable();
    times
}

fn start(engine: &mut Engine<Idle>, number: usize, choice: Choice, admission: &Arc<Semaphore>) -> Events {
    // Prompts that differ from the first token on.
    let ids = (0..PROMPT).map(|n| ((number * 31 + n) % 1000) as u32).collect();
    let sampling = Sampling { choice, ..Sampling::GREEDY };
    let request =
        GenerateRequest { sampling, ..GenerateRequest::greedy(ids, NonZeroUsize::MIN.saturating_add(STEPS + 1)) };
    let (sender, events) = mpsc::channel(Sequence::most_events(&request));
    let permit = admission.clone().try_acquire_owned().expect("there is a permit for each");
    let sequence = Sequence::new(SequenceId(number as u64), request, Deadline::default(), sender, permit);
    engine.take(Command::Start(Box::new(sequence)));
    events
}

fn main() {
    println!("a step of {SEQUENCES} sequences without a model, in microseconds, of {STEPS} steps");
    println!("{:>7} {:>10} {:>8} {:>8} {:>8} {:>8}", "choice", "vocabulary", "least", "median", "99 %", "most");
    let drawn = [1_024, 32_064, 152_064].map(|vocabulary| ("drawn", vocabulary, Choice::Draw(DRAW)));
    for (name, vocabulary, choice) in [("greedy", 32_064, Choice::Greedy)].into_iter().chain(drawn) {
        let times = measure(vocabulary, choice);
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
        println!("{name:>7} {vocabulary:>10} {:>8.1} {:>8.1} {:>8.1} {:>8.1}", at(0), at(50), at(99), at(100));
    }
}
