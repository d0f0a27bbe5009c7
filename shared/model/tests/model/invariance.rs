//! What must not change a result: how a prompt is cut in chunks (but for the last bits), and who else is in the batch
//! (not a bit).

use tessera_checkpoint::Checkpoint;
use tessera_model::{Chunk, Input, KvCache, LoadOptions, Logits, VisionModel};
use tessera_testkit::{FAMILIES, Golden, distance, family_dir, pixels};

use crate::run::{Loaded, argmax, slice, tiles_of};

/// Attention over another number of keys sums in another order.
const TOLERANCE: f32 = 1e-5;

/// A cache with room for `count` more positions than the prompt.
fn cache(loaded: &Loaded, inputs: &[Input<'_>], count: usize) -> KvCache {
    loaded.language.new_cache(inputs.iter().map(Input::len).sum::<usize>() + count).unwrap()
}

#[test]
fn a_prompt_in_chunks_gives_what_it_gives_whole() {
    for family in ["mistral", "qwen2", "yi"] {
        let loaded = Loaded::family(family);
        let golden = Golden::load(family, "two_images");
        let images = loaded.images("two_images", &golden);
        let embeddings = loaded.embeddings(&images);
        let ids = golden.unpadded_ids(0);
        let inputs = loaded.inputs(&ids, &mut embeddings.as_slice());
        let whole = loaded.step(&mut cache(&loaded, &inputs, 0), inputs.clone(), Logits::All);
        for chunk in [1, 7, 64, 100] {
            let mut cache = cache(&loaded, &inputs, 0);
            let mut pieces = Vec::new();
            for start in (0..ids.len()).step_by(chunk) {
                let rows = start..ids.len().min(start + chunk);
                pieces.extend(loaded.step(&mut cache, slice(&inputs, rows), Logits::All));
            }
            let worst = distance(&pieces, &whole);
            println!("{family}: chunks of {chunk:3}: {worst:.2e}");
            assert!(worst <= TOLERANCE, "{family}: chunks of {chunk}: {worst}");
        }
    }
}

#[test]
fn two_sequences_in_one_batch_give_what_each_gives_alone() {
    for family in FAMILIES {
        let loaded = Loaded::family(family);
        let golden = Golden::load(family, "batch");
        let images = loaded.images("batch", &golden);
        let embeddings = loaded.embeddings(&images);
        let mut unused = embeddings.as_slice();
        let ids = [golden.unpadded_ids(0), golden.unpadded_ids(1)];
        let inputs = [loaded.inputs(&ids[0], &mut unused), loaded.inputs(&ids[1], &mut unused)];
        let alone: Vec<Vec<f32>> = inputs
            .iter()
            .map(|inputs| loaded.step(&mut cache(&loaded, inputs, 0), inputs.clone(), Logits::Last))
            .collect();

        let mut caches = [cache(&loaded, &inputs[0], 16), cache(&loaded, &inputs[1], 16)];
        let [first, second] = &mut caches;
        let [inputs_0, inputs_1] = inputs;
        let mut batch = [
            Chunk { cache: first, start: 0, inputs: inputs_0, logits: Logits::Last },
            Chunk { cache: second, start: 0, inputs: inputs_1, logits: Logits::Last },
        ];
        let mut logits: Vec<Vec<f32>> =
            loaded.language.forward(&mut batch).unwrap().into_iter().map(Option::unwrap).collect();
        assert_eq!(logits, alone, "{family}: bit for bit");

        let mut tokens = [Vec::new(), Vec::new()];
        for _ in 0..16 {
            let next: Vec<[u32; 1]> = logits.iter().map(|logits| [argmax(logits)]).collect();
            tokens.iter_mut().zip(&next).for_each(|(tokens, next)| tokens.push(next[0]));
            let mut batch: Vec<Chunk<'_>> = caches
                .iter_mut()
                .zip(&next)
                .map(|(cache, next)| Chunk {
                    start: cache.len(),
                    cache,
                    inputs: vec![Input::Tokens(next)],
                    logits: Logits::Last,
                })
                .collect();
            logits = loaded.language.forward(&mut batch).unwrap().into_iter().map(Option::unwrap).collect();
        }
        for (tokens, expected) in tokens.iter().zip(&golden.greedy) {
            let eos = |token: &u32| loaded.checkpoint.generation.eos_ids.contains(token);
            let end = tokens.iter().position(eos).map_or(tokens.len(), |end| end + 1);
            assert_eq!(tokens[..end], expected[..end], "{family}");
        }
    }
}

#[test]
fn a_decode_row_beside_a_prompt_gives_what_it_gives_alone() {
    let loaded = Loaded::family("llama3");
    let golden = Golden::load("llama3", "two_turns");
    let images = loaded.images("two_turns", &golden);
    let embeddings = loaded.embeddings(&images);
    let ids = golden.unpadded_ids(0);
    let inputs = loaded.inputs(&ids, &mut embeddings.as_slice());
    let mut alone = cache(&loaded, &inputs, 1);
    let mut beside = cache(&loaded, &inputs, 1);
    let mut other = cache(&loaded, &inputs, 0);
    for cache in [&mut alone, &mut beside] {
        loaded.step(cache, inputs.clone(), Logits::None);
    }
    let token = [golden.greedy[0][0]];
    let expected = loaded.step(&mut alone, vec![Input::Tokens(&token)], Logits::Last);
    let whole = loaded.step(&mut cache(&loaded, &inputs, 0), inputs.clone(), Logits::All);
    let mut batch = [
        Chunk { start: beside.len(), cache: &mut beside, inputs: vec![Input::Tokens(&token)], logits: Logits::Last },
        Chunk { start: 0, cache: &mut other, inputs, logits: Logits::All },
    ];
    let results = loaded.language.forward(&mut batch).unwrap();
    assert_eq!(results, [Some(expected), Some(whole)], "bit for bit");
    assert_eq!((beside.len(), other.len()), (ids.len() + 1, ids.len()));
}

#[test]
fn a_truncated_cache_goes_on_as_if_nothing_had_followed() {
    let loaded = Loaded::family("vicuna");
    let ids: Vec<u32> = (3..43).collect();
    let mut cache = loaded.language.new_cache(64).unwrap();
    loaded.step(&mut cache, vec![Input::Tokens(&ids[..20])], Logits::None);
    let fresh = loaded.step(&mut cache, vec![Input::Tokens(&ids[20..30])], Logits::All);
    loaded.step(&mut cache, vec![Input::Tokens(&ids[30..])], Logits::None);
    cache.truncate(20);
    assert_eq!(cache.len(), 20);
    assert_eq!(loaded.step(&mut cache, vec![Input::Tokens(&ids[20..30])], Logits::All), fresh);
}

#[test]
fn a_tile_does_not_depend_on_the_others() {
    let checkpoint = Checkpoint::open(&family_dir("vicuna_layers")).unwrap();
    let vision = VisionModel::load(&checkpoint, &LoadOptions::default()).unwrap();
    let tiles = tiles_of(&pixels(56, "one_image").torchvision, 0, 5);
    let together = vision.encode(&tiles).unwrap();
    assert_eq!(together.shape(), [5 * 16, 2 * 64]);
    for tile in 0..5 {
        let alone = vision.encode(&tiles.narrow(tile, 1).unwrap()).unwrap();
        assert_eq!(alone, together.narrow(tile * 16, 16).unwrap(), "bit for bit");
    }
}

#[test]
fn an_image_embedding_may_be_read_from_any_float_type() {
    let loaded = Loaded::family("mistral");
    let golden = Golden::load("mistral", "one_image");
    let image = &loaded.images("one_image", &golden)[0];
    let half = image.features.to_dtype(tessera_tensor::DType::F16);
    let exact = loaded.vision.project(&image.features, &image.plan).unwrap().to_f32();
    let rounded = loaded.vision.project(&half, &image.plan).unwrap().to_f32();
    let worst = distance(&exact, &rounded);
    assert!(worst > 0.0 && worst < 0.1, "{worst}");
}
