//! The first GPU against the CPU, and how fast it is. Run where there is one:
//! `cargo bench -p tessera-model --features cuda --bench gpu`.
//!
//! Every comparison has a limit and ends the program beyond it, so that this is also the test of what the CPU cannot test:
//! the kernels as compiled, the library's products, attention of prompts, and recorded decode steps.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends at the first error and prints its figures")]

#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/model/copy.rs"]
mod copy;
#[path = "speed/shapes.rs"]
mod shapes;

use std::time::Instant;

use tessera_checkpoint::Checkpoint;
use tessera_model::{BLOCK_POSITIONS, Chunk, Input, KvPool, LanguageModel, LoadOptions, Logits, OnCpu};
use tessera_tensor::{DType, Devices};
use tessera_testkit::{FAMILIES, family_dir};

/// Rows that the GPU computes alone: fewer than attend together.
const FEW: usize = 8;

fn load(checkpoint: &Checkpoint, device: &Devices, compute: DType) -> LanguageModel {
    let options = LoadOptions { device, compute, on_cpu: OnCpu::Dense { devices: 1 }, ..LoadOptions::default() };
    LanguageModel::load(checkpoint, &options).unwrap()
}

/// A model with sequences in its pool, each in blocks that lie apart.
struct Running<'a> {
    model: &'a LanguageModel,
    pool: KvPool,
    tables: Vec<Vec<u32>>,
    ids: Vec<u32>,
}

impl<'a> Running<'a> {
    fn new(model: &'a LanguageModel, sequences: usize, positions: usize) -> Self {
        let blocks = positions.div_ceil(BLOCK_POSITIONS);
        let table = |sequence: usize| (0..blocks).map(|block| (block * sequences + sequence) as u32).collect();
        let vocabulary = model.config().vocab_size as u32;
        Self {
            model,
            pool: model.new_pool(blocks * sequences).unwrap(),
            tables: (0..sequences).map(table).collect(),
            ids: (0..positions as u32).map(|id| (id * 17 + 3) % vocabulary).collect(),
        }
    }

    /// Computes rows of every sequence; gives all scores that were asked for.
    fn step(&mut self, start: usize, rows: usize, logits: Logits) -> Vec<f32> {
        let inputs = vec![Input::Tokens(&self.ids[start..start + rows])];
        let batch: Vec<Chunk<'_>> =
            self.tables.iter().map(|blocks| Chunk { blocks, start, inputs: inputs.clone(), logits }).collect();
        let given = self.model.forward(&mut self.pool, &batch).unwrap();
        (0..batch.len()).flat_map(|chunk| given.of(chunk).to_vec()).collect()
    }

    /// A prompt, so many rows at a time, then decode steps of the same tokens: all scores.
    fn scores(&mut self, prompt: usize, at_once: usize, decodes: usize) -> Vec<f32> {
        let mut scores = Vec::new();
        for start in (0..prompt).step_by(at_once) {
            scores.extend(self.step(start, at_once.min(prompt - start), Logits::All));
        }
        for start in prompt..prompt + decodes {
            scores.extend(self.step(start, 1, Logits::Last));
        }
        scores
    }
}

/// How far `found` is from `expected`: the root of the mean square, in those of `expected`.
fn relative(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    assert!(found.iter().all(|number| number.is_finite()), "not a number among the scores");
    let square = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>();
    let away = square(&mut expected.iter().zip(found).map(|(left, right)| f64::from(left - right)));
    (away / square(&mut expected.iter().map(|number| f64::from(*number)))).sqrt()
}

fn check(what: &str, expected: &[f32], found: &[f32], limit: f64) {
    let away = relative(expected, found);
    println!("{what:60} {away:9.2e} of {limit:.0e}");
    assert!(away <= limit, "{what}: {away:.2e} is beyond {limit:.0e}");
}

/// What one rounding of a type does is its precision; sums over layers grow it by little. Both sides round at other places.
fn limit(compute: DType) -> f64 {
    match compute {
        DType::F32 => 1e-4,
        DType::F16 => 1e-2,
        DType::BF16 => 8e-2,
    }
}

/// Small models of every family, whole, in pieces and in decode steps, against the same program on the CPU.
fn families(gpu: &Devices) {
    for family in FAMILIES {
        let checkpoint = Checkpoint::open(&family_dir(family)).unwrap();
        for compute in DType::ALL {
            let (expected, found) = (load(&checkpoint, &Devices::Cpu, compute), load(&checkpoint, gpu, compute));
            let expected = Running::new(&expected, 3, 140).scores(100, 100, 40);
            for at_once in [100, 33, FEW] {
                let found = Running::new(&found, 3, 140).scores(100, at_once, 40);
                if at_once == 100 {
                    check(&format!("{family} in {compute}"), &expected, &found, limit(compute));
                }
                // Within a step sequences stand one after the other, so that pieces of a prompt come in another order.
                let decodes = expected.len() - 40 * 3 * checkpoint.model.text.vocab_size;
                let what = format!("{family} in {compute}, {at_once} rows at once, decoding");
                check(&what, &expected[decodes..], &found[decodes..], limit(compute));
            }
        }
    }
}

/// Attention of prompts, which the small models' heads are too narrow for, against attention of single rows.
fn prompts(gpu: &Devices) {
    let (_copy, checkpoint) = shapes::checkpoint(1, shapes::smol);
    for compute in [DType::F16, DType::BF16] {
        let model = load(&checkpoint, gpu, compute);
        let rows = |at_once: usize| {
            let mut running = Running::new(&model, 1, 700);
            let pieces = (0..640).step_by(at_once);
            for start in pieces {
                running.step(start, at_once, Logits::None);
            }
            running.step(640, 1, Logits::Last)
        };
        let single = rows(FEW);
        for at_once in [16, 64, 320, 640] {
            check(
                &format!("prompt of 640 in {compute}, {at_once} rows at once"),
                &single,
                &rows(at_once),
                limit(compute),
            );
        }
    }
}

/// A decode step launched, recorded and replayed.
fn replays(gpu: &Devices) {
    let (_copy, checkpoint) = shapes::checkpoint(1, shapes::smol);
    let model = load(&checkpoint, gpu, DType::BF16);
    for sequences in [1, 5, 64] {
        let mut running = Running::new(&model, sequences, 320);
        running.step(0, 300, Logits::None);
        let launched = running.step(300, 1, Logits::Last);
        for replay in 1..4 {
            assert!(running.step(300, 1, Logits::Last) == launched, "{sequences} sequences, replay {replay}");
        }
        println!("{:60} equal", format!("decode step of {sequences}, launched and replayed"));
    }
}

/// Prints the fastest and the median of some runs.
fn time(what: &str, runs: usize, mut run: impl FnMut()) {
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what:60} {:9.3} {:9.3} ms", times[0], times[runs / 2]);
}

/// SmolLM2-135M, and four layers of Mistral 7B, in bf16.
fn speed(gpu: &Devices) {
    let four_layers = |checkpoint: &mut Checkpoint| {
        shapes::one_layer_of_mistral(checkpoint);
        checkpoint.model.text.layers = 4;
    };
    for (name, (_copy, checkpoint)) in
        [("SmolLM2-135M", shapes::checkpoint(1, shapes::smol)), ("4 layers of 7B", shapes::checkpoint(1, four_layers))]
    {
        let model = load(&checkpoint, gpu, DType::BF16);
        let mut running = Running::new(&model, 1, 3200);
        time(&format!("{name}, prompt of 3072"), 9, || drop(running.step(0, 3072, Logits::Likeliest)));
        time(&format!("{name}, one row after 3072"), 51, || drop(running.step(3072, 1, Logits::Likeliest)));
        for sequences in [8, 64] {
            let mut running = Running::new(&model, sequences, 1088);
            (0..1024).step_by(64).for_each(|start| drop(running.step(start, 64, Logits::None)));
            let top = Logits::Top { temperature: Some(1.0) };
            let draw = Logits::Draw { temperature: 1.0, number: 0.5 };
            for logits in [Logits::Likeliest, draw, top, Logits::Last] {
                let what = format!("{name}, a row each of {sequences} after 1024, {logits:?}");
                time(&what, 51, || drop(running.step(1024, 1, logits)));
            }
        }
    }
}

fn main() {
    let gpu = Devices::Cuda(vec![0]);
    families(&gpu);
    prompts(&gpu);
    replays(&gpu);
    speed(&gpu);
}
