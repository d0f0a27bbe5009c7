//! What a step costs beside the model: schedule, choose, tell. 64 greedy sequences that decode, and a model that takes no
//! time. `cargo bench -p tessera-language`

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_api::language::GenerateRequest;
use tessera_embedding::{ImageFeatures, ImageKey};
use tessera_language::engine::{
    BlockId, Command, Engine, Events, Limits, ModelRunner, RunError, Scores, Sequence, SequenceId, Slice,
};
use tessera_rpc::Deadline;
use tokio::sync::{Semaphore, mpsc};

const SEQUENCES: usize = 64;
const PROMPT: usize = 300;
const STEPS: usize = 600;

/// A model whose scores are always the same.
struct Idle(Arc<Vec<f32>>);

/// The same scores for every slice.
struct Same(Arc<Vec<f32>>);

impl Scores for Same {
    fn of(&self, _: usize) -> &[f32] {
        &self.0
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
}

/// Times of steps in which every sequence gets a token, and somebody reads it.
fn measure(vocabulary: usize) -> Vec<Duration> {
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
    let mut listeners: Vec<Events> = (0..SEQUENCES).map(|n| start(&mut engine, n, &admission)).collect();
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

fn start(engine: &mut Engine<Idle>, number: usize, admission: &Arc<Semaphore>) -> Events {
    // Prompts that differ from the first token on.
    let ids = (0..PROMPT).map(|n| ((number * 31 + n) % 1000) as u32).collect();
    let request = GenerateRequest::greedy(ids, NonZeroUsize::MIN.saturating_add(STEPS + 1));
    let (sender, events) = mpsc::channel(Sequence::most_events(&request));
    let permit = admission.clone().try_acquire_owned().expect("there is a permit for each");
    let sequence = Sequence::new(SequenceId(number as u64), request, Deadline::default(), sender, permit);
    engine.take(Command::Start(Box::new(sequence)));
    events
}

fn main() {
    println!("a step of {SEQUENCES} greedy sequences without a model, in microseconds, of {STEPS} steps");
    println!("{:>10} {:>8} {:>8} {:>8} {:>8}", "vocabulary", "least", "median", "99 %", "most");
    for vocabulary in [1_024, 32_064, 152_064] {
        let times = measure(vocabulary);
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
        println!("{vocabulary:>10} {:>8.1} {:>8.1} {:>8.1} {:>8.1}", at(0), at(50), at(99), at(100));
    }
}
