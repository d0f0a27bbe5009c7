//! The program of the GPUs, on the CPU: what it does beside giving the same numbers.

use half::bf16;
use safetensors::Dtype;
use tessera_checkpoint::Checkpoint;
use tessera_model::{Chunk, Input, KvPool, LanguageModel, LoadOptions, Logits, ModelError, VisionModel};
use tessera_tensor::{DType, Devices};
use tessera_testkit::{FAMILIES, Golden, distance, family_dir};

use crate::{
    copy::Copy,
    run::{Loaded, argmax, dense},
};

fn open(family: &str) -> Checkpoint {
    Checkpoint::open(&family_dir(family)).unwrap()
}

/// A token of each of some sequences, behind prompts of these lengths.
struct Decodes {
    tables: Vec<Vec<u32>>,
    lengths: Vec<usize>,
    tokens: Vec<u32>,
}

impl Decodes {
    /// Computes the prompts, each in blocks of its own.
    fn new(loaded: &Loaded, pool: &mut KvPool, lengths: &[usize]) -> Self {
        let mut free = 0..u32::MAX;
        let mut table = |length: usize| free.by_ref().take(length / 32 + 1).collect::<Vec<u32>>();
        let tables: Vec<_> = lengths.iter().map(|length| table(*length)).collect();
        for (table, length) in tables.iter().zip(lengths) {
            let ids: Vec<u32> = (0..*length as u32).map(|id| (id * 7 + *length as u32) % 500).collect();
            let inputs = vec![Input::Tokens(&ids)];
            let prompt = [Chunk { blocks: table, start: 0, inputs, logits: Logits::None }];
            loaded.language.forward(pool, &prompt).unwrap();
        }
        Self { tables, lengths: lengths.to_vec(), tokens: (0..lengths.len() as u32).map(|id| 40 + id).collect() }
    }

    /// A chunk of each.
    fn batch(&self, logits: impl Fn(usize) -> Logits) -> Vec<Chunk<'_>> {
        let chunk = |index: usize| {
            let inputs = vec![Input::Tokens(&self.tokens[index..=index])];
            Chunk { blocks: &self.tables[index], start: self.lengths[index], inputs, logits: logits(index) }
        };
        (0..self.tokens.len()).map(chunk).collect()
    }
}

#[test]
fn what_is_rounded_up_gives_what_is_not_bit_for_bit() {
    let ways = [("mistral", DType::F32, 1), ("qwen2", DType::BF16, 1), ("llama3", DType::F16, 2)];
    for (family, compute, devices) in ways {
        let loaded = Loaded::with(open(family), &dense(compute, devices));
        let mut pool = loaded.language.new_pool(64).unwrap();
        // Five rows become eight, and six parts of attention eight.
        let decodes = Decodes::new(&loaded, &mut pool, &[3, 380, 64, 63, 129]);
        // A step that gives all scores of a chunk is no decode step, even where a chunk is a row.
        let plain = loaded.language.forward(&mut pool, &decodes.batch(|_| Logits::All)).unwrap();
        for _ in 0..3 {
            let rounded = loaded.language.forward(&mut pool, &decodes.batch(|_| Logits::Last)).unwrap();
            assert!((0..5).all(|chunk| rounded.of(chunk) == plain.of(chunk)), "{family} in {compute}");
        }
        let mixed = |chunk: usize| if chunk.is_multiple_of(2) { Logits::Likeliest } else { Logits::Last };
        let mixed = loaded.language.forward(&mut pool, &decodes.batch(mixed)).unwrap();
        let greedy = loaded.language.forward(&mut pool, &decodes.batch(|_| Logits::Likeliest)).unwrap();
        for chunk in 0..5 {
            let best = Some(argmax(plain.of(chunk)));
            assert_eq!(greedy.token(chunk), best);
            assert!(greedy.of(chunk).is_empty());
            match chunk % 2 {
                0 => assert_eq!((mixed.token(chunk), mixed.of(chunk).len()), (best, 0)),
                _ => assert!(mixed.token(chunk).is_none() && mixed.of(chunk) == plain.of(chunk)),
            }
        }
    }
}

#[test]
fn likeliest_tokens_come_beside_all_else() {
    let loaded = Loaded::with(open("mistral"), &dense(DType::F32, 1));
    let mut pool = loaded.language.new_pool(8).unwrap();
    let chunk = |blocks, ids, logits| Chunk { blocks, start: 0, inputs: vec![Input::Tokens(ids)], logits };
    let batch = [
        chunk(&[0], &[5, 6, 7], Logits::Likeliest),
        chunk(&[1], &[9, 9], Logits::None),
        chunk(&[2], &[5, 6, 7], Logits::All),
        chunk(&[3], &[9, 9], Logits::Likeliest),
        chunk(&[4], &[9, 9], Logits::Last),
    ];
    let logits = loaded.language.forward(&mut pool, &batch).unwrap();
    let last = &logits.of(2)[2 * 640..];
    assert_eq!(logits.token(0), Some(argmax(last)));
    assert_eq!(logits.token(3), Some(argmax(logits.of(4))));
    assert_eq!([0, 1, 3].map(|chunk| logits.of(chunk).len()), [0; 3]);
    assert_ne!(last, logits.of(4));
}

#[test]
fn several_devices_give_what_one_gives() {
    for family in ["mistral", "vicuna_layers"] {
        let logits = [1, 2, 64].map(|devices| {
            let loaded = Loaded::with(open(family), &dense(DType::F32, devices));
            let golden = Golden::load(family, "portrait");
            let images = loaded.images("portrait", &golden);
            let embeddings = loaded.embeddings(&images);
            let ids = golden.unpadded_ids(0);
            let inputs = loaded.inputs(&ids, &mut embeddings.as_slice());
            let mut sequence = loaded.sequence(ids.len() + 4);
            let prompt = loaded.step(&mut sequence, inputs, Logits::All);
            let vocabulary = loaded.language.config().vocab_size;
            let tokens = loaded.greedy(&mut sequence, &prompt[prompt.len() - vocabulary..], 4);
            let names = loaded.language.device_name();
            assert_eq!(names.split(", ").count(), devices.min(loaded.language.config().layers));
            (prompt, tokens)
        });
        assert!(logits.iter().all(|other| *other == logits[0]), "{family}, bit for bit");
    }
}

#[test]
fn copies_that_follow_one_another_are_done_in_their_order() {
    let loaded = Loaded::with(open("mistral"), &dense(DType::F32, 2));
    let mut pool = loaded.language.new_pool(6).unwrap();
    let chunk = |blocks, start, ids, logits| Chunk { blocks, start, inputs: vec![Input::Tokens(ids)], logits };
    loaded.language.forward(&mut pool, &[chunk(&[0], 0, &[5, 6, 7], Logits::None)]).unwrap();
    loaded.language.forward(&mut pool, &[chunk(&[1], 0, &[9, 8, 7], Logits::None)]).unwrap();
    // 2 gets what 0 had, 0 what 1 had, 3 what 0 has then, 4 what 2 has, and 4 again what 3 has.
    for (from, to) in [(0, 2), (1, 0), (0, 3), (2, 4), (3, 4), (5, 5)] {
        pool.copy(from, to).unwrap();
    }
    let batch = [0, 1, 2, 3, 4].map(|block| vec![block]);
    let batch: Vec<_> = batch.iter().map(|blocks| chunk(blocks, 3, &[11], Logits::Last)).collect();
    let logits = loaded.language.forward(&mut pool, &batch).unwrap();
    assert!([0, 3, 4].iter().all(|chunk| logits.of(*chunk) == logits.of(1)));
    assert_ne!(logits.of(2), logits.of(1));
}

/// In bf16 every weight and every result of a layer keeps 8 bits. What rounding the weights alone does, computed in f32
/// the CPU's own way, is the measure: as many results are rounded as products have weights, and as coarsely, which makes it
/// 1.4 times as much, and those in between (norms, rotation, attention, sums) are rounded too. Measured are 1.5 to 1.7.
#[test]
fn sixteen_bits_cost_about_what_rounding_the_weights_does() {
    for family in FAMILIES.into_iter().filter(|family| *family != "mistral_hub_fp16") {
        let ids: Vec<u32> = (0..90).map(|id| (id * 7 + 3) % 500).collect();
        let logits = |loaded: &Loaded| loaded.step(&mut loaded.sequence(90), vec![Input::Tokens(&ids)], Logits::All);
        let exact = logits(&Loaded::family(family));
        let mut rounded = Copy::of(family);
        for tensor in rounded.tensors.values_mut().filter(|tensor| tensor.dtype == Dtype::F32) {
            let numbers = tensor.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            tensor.data = numbers.flat_map(|number| bf16::from_f32(number).to_f32().to_le_bytes()).collect();
        }
        rounded.write();
        let weights = mean_square(&exact, &logits(&Loaded::open(rounded.dir())));
        let all = logits(&Loaded::with(open(family), &dense(DType::BF16, 1)));
        let results = mean_square(&exact, &all);
        println!("{family:17} weights {weights:.2e} all {results:.2e} worst {:.2e}", distance(&exact, &all));
        assert!(weights > 0.0 && results <= 2.0 * weights, "{family}: {results:.2e}, by weights {weights:.2e}");
    }
}

/// The root of the mean square of the distances.
fn mean_square(left: &[f32], right: &[f32]) -> f64 {
    assert_eq!(left.len(), right.len());
    let squares = left.iter().zip(right).map(|(left, right)| f64::from(left - right).powi(2));
    (squares.sum::<f64>() / left.len() as f64).sqrt()
}

#[test]
fn a_gpu_that_cannot_be_used_is_refused_with_what_to_do() {
    let devices = Devices::Cuda(vec![0, 7]);
    let options = LoadOptions { device: &devices, ..LoadOptions::default() };
    let error = LanguageModel::load(&open("mistral"), &options).err().unwrap();
    let expected = "this program is built without CUDA and cannot use cuda:0,cuda:7, build it with the feature cuda or \
                    choose the device cpu";
    match error {
        ModelError::BuiltWithoutCuda { .. } => assert_eq!(error.to_string(), expected),
        other => assert!(matches!(other, ModelError::CudaUnusable { .. } | ModelError::NoSuchGpu { .. }), "{other}"),
    }
}

#[test]
fn a_model_is_shared_and_its_pool_moves_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn moves<T: Send>() {}
    shared::<LanguageModel>();
    shared::<VisionModel>();
    moves::<KvPool>();
}

#[test]
fn the_cpu_is_named_and_its_memory_is_for_the_caller_to_know() {
    for loaded in Loaded::both_ways("mistral") {
        assert_eq!((loaded.language.device_name(), loaded.vision.device_name()), ("cpu".into(), "cpu".into()));
        assert_eq!(loaded.language.free_blocks(90).unwrap(), None);
    }
}
