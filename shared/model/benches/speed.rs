//! How long one layer of the real shapes takes. Run alone, on a quiet machine:
//! `cargo bench -p tessera-model`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends at the first error and prints its figures")]

#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/model/copy.rs"]
mod copy;

use std::time::Instant;

use safetensors::Dtype;
use tessera_anyres::ImageSize;
use tessera_checkpoint::Checkpoint;
use tessera_model::{Chunk, Input, KvCache, LanguageModel, LoadOptions, Logits, VisionModel};
use tessera_tensor::HostTensor;
use tessera_testkit::family_dir;

use copy::{Copy, Stored};

/// Mistral 7B behind CLIP ViT-L/14-336, one layer each, with a small vocabulary.
fn real_shapes() -> (Copy, Checkpoint) {
    let mut checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    let (vision, text) = (&mut checkpoint.model.vision, &mut checkpoint.model.text);
    (vision.hidden_size, vision.intermediate_size, vision.heads, vision.layers) = (1024, 4096, 16, 2);
    vision.image_size = 336;
    (text.hidden_size, text.intermediate_size, text.heads, text.kv_heads) = (4096, 14336, 32, 8);
    (text.head_dim, text.layers) = (128, 1);
    let size = |name: &str, tiny: usize| match (name, tiny) {
        (_, 588 | 3 | 14 | 640) => tiny,
        (_, 17) => 577,
        (name, 128) if name.contains("vision_tower") => 4096,
        (name, _) if name.contains("vision_tower") => 1024,
        (name, 64) if name.contains("linear_1.weight") => 4096,
        (_, 112) => 14336,
        (_, 32) => 1024,
        _ => 4096,
    };
    let mut copy = Copy::of("mistral");
    copy.tensors.retain(|name, _| !name.contains("layers.1.") && !name.contains("layers.2."));
    for (name, stored) in &mut copy.tensors {
        let shape: Vec<usize> = stored.shape.iter().map(|&side| size(name, side)).collect();
        let shape = if name.contains("linear_1.weight") { vec![4096, 1024] } else { shape };
        let count = shape.iter().product::<usize>();
        let number = |index: usize| half::f16::from_f32((index % 251) as f32 / 6000.0 - 0.02).to_le_bytes();
        let data = (0..count).flat_map(number).collect();
        *stored = Stored { dtype: Dtype::F16, shape, data };
    }
    copy.write();
    checkpoint.dir = copy.dir().to_owned();
    (copy, checkpoint)
}

/// Prints the fastest, the median and the slowest of some runs.
fn time<T>(what: &str, runs: usize, mut run: impl FnMut() -> T) -> T {
    let timed = |run: &mut dyn FnMut() -> T| {
        let start = Instant::now();
        let result = run();
        (start.elapsed().as_secs_f64() * 1e3, result)
    };
    let (first, mut result) = timed(&mut run);
    let mut times = vec![first];
    for _ in 1..runs {
        let (time, latest) = timed(&mut run);
        times.push(time);
        result = latest;
    }
    times.sort_by(f64::total_cmp);
    println!("{what:45} {:9.1} {:9.1} {:9.1} ms", times[0], times[runs / 2], times[runs - 1]);
    result
}

fn main() {
    let (_copy, checkpoint) = real_shapes();
    let load = LoadOptions::default();
    let vision = time("load tower (1 block), f16 to f32", 1, || VisionModel::load(&checkpoint, &load).unwrap());
    let language = time("load decoder (1 layer), f16 to f32", 1, || LanguageModel::load(&checkpoint, &load).unwrap());

    let pixels = HostTensor::from_f32(vec![1, 3, 336, 336], vec![0.5; 3 * 336 * 336]).unwrap();
    time("tower, one tile, 1 block", 5, || vision.encode(&pixels).unwrap());
    let geometry = tessera_anyres::Geometry::new(vec![ImageSize { height: 672, width: 672 }], 336, 14).unwrap();
    let plan = geometry.plan(ImageSize { height: 672, width: 672 });
    let features = HostTensor::from_f32(vec![2880, 1024], vec![0.1; 2880 * 1024]).unwrap();
    time("projector, 672x672", 2, || language.image_embedding(&features, &plan).unwrap());

    let ids: Vec<u32> = (0..512).map(|id| id % 600).collect();
    for before in [0, 2560] {
        let mut cache = language.new_cache(4000).unwrap();
        fill(&language, &mut cache, before);
        for rows in [512, 32, 1] {
            time(&format!("decoder layer, {rows} rows after {before}"), 5, || {
                cache.truncate(before);
                let inputs = vec![Input::Tokens(&ids[..rows])];
                let mut batch = [Chunk { cache: &mut cache, start: before, inputs, logits: Logits::None }];
                language.forward(&mut batch).unwrap()
            });
        }
    }
    let mut caches: Vec<KvCache> = (0..8).map(|_| language.new_cache(2600).unwrap()).collect();
    caches.iter_mut().for_each(|cache| fill(&language, cache, 512));
    time("decoder layer, 8 sequences, 1 row after 512", 5, || {
        let mut batch: Vec<Chunk<'_>> = Vec::new();
        for cache in &mut caches {
            cache.truncate(512);
            batch.push(Chunk { cache, start: 512, inputs: vec![Input::Tokens(&ids[..1])], logits: Logits::None });
        }
        language.forward(&mut batch).unwrap()
    });
}

fn fill(language: &LanguageModel, cache: &mut KvCache, count: usize) {
    let ids = vec![1; 512];
    while cache.len() < count {
        let start = cache.len();
        let mut batch = [Chunk { cache, start, inputs: vec![Input::Tokens(&ids)], logits: Logits::None }];
        language.forward(&mut batch).unwrap();
    }
}
