//! How fast the model computes: products alone, a tower, and a decoder of real shape with made-up weights. Run alone, on a
//! quiet machine: `cargo bench -p tessera-model`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends at the first error and prints its figures")]

#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/model/copy.rs"]
mod copy;
#[path = "speed/shapes.rs"]
mod shapes;

use std::time::Instant;

use tessera_anyres::ImageSize;
use tessera_model::{BLOCK_POSITIONS, Chunk, Input, KvPool, LanguageModel, LoadOptions, Logits, VisionModel};
use tessera_tensor::HostTensor;

/// What a run computes and reads: its rates follow from the time.
#[derive(Clone, Copy)]
struct Work {
    flops: f64,
    bytes: f64,
}

/// Prints the fastest, the median and the slowest of some runs, and the rates of the median.
fn time<T>(what: &str, runs: usize, work: Option<Work>, mut run: impl FnMut() -> T) -> T {
    let mut timed = || {
        let start = Instant::now();
        let result = run();
        (start.elapsed().as_secs_f64(), result)
    };
    let (first, mut result) = timed();
    let mut times = vec![first];
    for _ in 1..runs {
        let (time, latest) = timed();
        times.push(time);
        result = latest;
    }
    times.sort_by(f64::total_cmp);
    let [min, median, max] = [0, runs / 2, runs - 1].map(|index| times[index] * 1e3);
    let rates = work.map_or_else(String::new, |Work { flops, bytes }| {
        format!(" {:8.1} GFLOP/s {:7.2} GB/s", flops / median / 1e6, bytes / median / 1e6)
    });
    println!("{what:40} {min:9.2} {median:9.2} {max:9.2} ms{rates}");
    result
}

/// A decoder with one sequence after another in its pool.
struct Decoder<'a> {
    model: &'a LanguageModel,
    pool: KvPool,
    /// The blocks of each sequence.
    tables: Vec<Vec<u32>>,
    ids: Vec<u32>,
}

impl<'a> Decoder<'a> {
    fn new(model: &'a LanguageModel, sequences: usize, positions: usize) -> Self {
        let blocks = positions.div_ceil(BLOCK_POSITIONS);
        let table = |sequence: usize| (0..blocks).map(|block| (block * sequences + sequence) as u32).collect();
        let pool = model.new_pool(blocks * sequences).unwrap();
        let vocabulary = model.config().vocab_size as u32;
        let ids = (0..positions as u32).map(|id| id * 17 % vocabulary).collect();
        Self { model, pool, tables: (0..sequences).map(table).collect(), ids }
    }

    /// Computes `rows` rows from `start` on, of each of the first sequences.
    fn step(&mut self, sequences: usize, start: usize, rows: usize, logits: Logits) {
        let inputs = vec![Input::Tokens(&self.ids[start..start + rows])];
        let batch: Vec<Chunk<'_>> = self.tables[..sequences]
            .iter()
            .map(|table| Chunk { blocks: table, start, inputs: inputs.clone(), logits })
            .collect();
        self.model.forward(&mut self.pool, &batch).unwrap();
    }

    /// What such a step computes and reads.
    fn work(&self, sequences: usize, start: usize, rows: usize, logits: Logits) -> Work {
        let text = self.model.config();
        let (queries, keys) = (text.heads * text.head_dim, text.kv_heads * text.head_dim);
        let attention = text.hidden_size * (2 * queries + 2 * keys);
        let layers = text.layers * (attention + 3 * text.hidden_size * text.intermediate_size);
        let head = text.hidden_size * text.vocab_size;
        let (all, wanted) = (sequences * rows, if logits == Logits::None { 0 } else { sequences });
        let pairs: usize = (start + 1..=start + rows).sum();
        let flops = 2 * all * layers + 2 * wanted * head + 4 * text.layers * queries * sequences * pairs;
        let weights = 4 * (layers + if wanted > 0 { head } else { 0 });
        let bytes = weights + sequences * self.model.kv_bytes_per_position() * (start + rows);
        Work { flops: flops as f64, bytes: bytes as f64 }
    }

    fn time(&mut self, what: &str, runs: usize, (sequences, start, rows): (usize, usize, usize), logits: Logits) {
        let work = self.work(sequences, start, rows, logits);
        time(what, runs, Some(work), || self.step(sequences, start, rows, logits));
    }
}

/// One layer of Mistral 7B: almost nothing but products.
fn products() {
    let (copy, checkpoint) = shapes::checkpoint(1, shapes::one_layer_of_mistral);
    let load = || LanguageModel::load(&checkpoint, &LoadOptions::default()).unwrap();
    let language = time("load a 7B layer, f16 to f32", 1, None, load);
    drop(copy);
    let mut decoder = Decoder::new(&language, 1, 1024);
    for rows in [1, 8, 512] {
        decoder.time(&format!("7B layer, {rows} rows"), 9, (1, 0, rows), Logits::None);
    }
    let geometry = tessera_anyres::Geometry::new(vec![ImageSize { height: 672, width: 672 }], 336, 14).unwrap();
    let plan = geometry.plan(ImageSize { height: 672, width: 672 });
    let features = HostTensor::from_f32(vec![2880, 1024], vec![0.1; 2880 * 1024]).unwrap();
    let work = Work { flops: 2.0 * 2880.0 * 4096.0 * (1024.0 + 4096.0), bytes: 4.0 * 4096.0 * (1024.0 + 4096.0) };
    time("7B projector, 672x672", 3, Some(work), || language.image_embedding(&features, &plan).unwrap());
}

/// Four blocks of CLIP ViT-L/14-336.
fn tower() {
    let (_copy, checkpoint) = shapes::checkpoint(4, shapes::one_layer_of_mistral);
    let load = || VisionModel::load(&checkpoint, &LoadOptions::default()).unwrap();
    let vision = time("load tower, 4 blocks, f16 to f32", 1, None, load);
    let pixels = HostTensor::from_f32(vec![1, 3, 336, 336], vec![0.5; 3 * 336 * 336]).unwrap();
    let block = 2.0 * 577.0 * 12.0 * 1024.0 * 1024.0 + 4.0 * 577.0 * 577.0 * 1024.0;
    let work = Work { flops: 4.0 * block, bytes: 4.0 * 12.0 * 1024.0 * 1024.0 * 4.0 };
    time("tower, one tile, 4 blocks", 9, Some(work), || vision.encode(&pixels).unwrap());
}

/// SmolLM2-135M.
fn decoder() {
    let (copy, checkpoint) = shapes::checkpoint(1, shapes::smol);
    let load = || LanguageModel::load(&checkpoint, &LoadOptions::default()).unwrap();
    let language = time("load SmolLM2-135M, f16 to f32", 1, None, load);
    drop(copy);
    let mut decoder = Decoder::new(&language, 1, 2432);
    decoder.time("prefill of 2000, whole", 3, (1, 0, 2000), Logits::Last);
    let work = decoder.work(1, 0, 2000, Logits::Last);
    time("prefill of 2000, in chunks of 512", 3, Some(work), || {
        for start in (0..2000).step_by(512) {
            decoder.step(1, start, 512.min(2000 - start), if start == 1536 { Logits::Last } else { Logits::None });
        }
    });
    decoder.step(1, 2000, 400, Logits::None);
    decoder.time("512 rows after 1888", 3, (1, 1888, 512), Logits::Last);
    decoder.time("one row after 2400", 21, (1, 2400, 1), Logits::Last);
    let mut decoder = Decoder::new(&language, 8, 544);
    decoder.step(8, 0, 512, Logits::None);
    for sequences in [1, 2, 4, 8] {
        decoder.time(&format!("{sequences} sequences, a row each after 512"), 21, (sequences, 512, 1), Logits::Last);
    }
}

fn main() {
    decoder();
    tower();
    products();
}
