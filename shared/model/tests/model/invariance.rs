//! What must not change a result by a bit: how a prompt is cut in chunks, who else is in the batch, and which blocks hold
//! a sequence.

use tessera_checkpoint::Checkpoint;
use tessera_model::{BLOCK_POSITIONS, Chunk, Input, LoadOptions, Logits, VisionModel};
use tessera_tensor::DType;
use tessera_testkit::{FAMILIES, Golden, distance, family_dir, pixels};

use crate::run::{Loaded, Sequence, argmax, dense, slice, tiles_of};

/// Families, each in both ways to compute.
fn both_ways<'a>(families: &'a [&'a str]) -> impl Iterator<Item = (&'a str, Loaded)> {
    families.iter().flat_map(|family| Loaded::both_ways(family).map(|loaded| (*family, loaded)))
}

/// A sequence with room for `count` more positions than the prompt.
fn sequence(loaded: &Loaded, inputs: &[Input<'_>], count: usize) -> Sequence {
    loaded.sequence(inputs.iter().map(Input::len).sum::<usize>() + count)
}

/// A chunk whose last row gives logits.
fn last<'a>(blocks: &'a [u32], start: usize, inputs: Vec<Input<'a>>) -> Chunk<'a> {
    Chunk { blocks, start, inputs, logits: Logits::Last }
}

#[test]
fn a_prompt_in_chunks_gives_what_it_gives_whole() {
    for (family, loaded) in both_ways(&["mistral", "qwen2", "yi"]) {
        let golden = Golden::load(family, "two_images");
        let images = loaded.images("two_images", &golden);
        let embeddings = loaded.embeddings(&images);
        let ids = golden.unpadded_ids(0);
        let inputs = loaded.inputs(&ids, &mut embeddings.as_slice());
        let whole = loaded.step(&mut sequence(&loaded, &inputs, 0), inputs.clone(), Logits::All);
        for chunk in [1, 7, 64, 100] {
            let mut sequence = sequence(&loaded, &inputs, 0);
            let mut pieces = Vec::new();
            for start in (0..ids.len()).step_by(chunk) {
                let rows = start..ids.len().min(start + chunk);
                pieces.extend(loaded.step(&mut sequence, slice(&inputs, rows), Logits::All));
            }
            assert!(pieces == whole, "{family}: chunks of {chunk}, bit for bit");
        }
    }
}

/// Longer than the parts that attention goes by, in both types.
#[test]
fn a_long_prompt_in_chunks_gives_what_it_gives_whole() {
    let panels = |compute| LoadOptions { compute, ..LoadOptions::default() };
    let ways = [panels(DType::F32), panels(DType::F16), dense(DType::F32, 1), dense(DType::BF16, 2)];
    for options in ways {
        let checkpoint = Checkpoint::open(&family_dir("llama3")).unwrap();
        let language = tessera_model::LanguageModel::load(&checkpoint, &options).unwrap();
        let ids: Vec<u32> = (0..700).map(|id| id * 7 % 500).collect();
        let logits = |chunk: usize| -> Vec<f32> {
            let mut pool = language.new_pool(22).unwrap();
            let table: Vec<u32> = (0..22).map(|block| block * 5 % 22).collect();
            let mut step = |(index, ids): (usize, &[u32])| {
                let inputs = vec![Input::Tokens(ids)];
                let batch = [Chunk { blocks: &table, start: index * chunk, inputs, logits: Logits::All }];
                language.forward(&mut pool, &batch).unwrap().of(0).to_vec()
            };
            ids.chunks(chunk).enumerate().flat_map(&mut step).collect()
        };
        let whole = logits(700);
        for chunk in [1, 19, 256, 511] {
            assert!(
                logits(chunk) == whole,
                "chunks of {chunk} in {}, {:?}, bit for bit",
                options.compute,
                options.on_cpu
            );
        }
    }
}

#[test]
fn two_sequences_in_one_batch_give_what_each_gives_alone() {
    for (family, loaded) in both_ways(&FAMILIES) {
        let golden = Golden::load(family, "batch");
        let images = loaded.images("batch", &golden);
        let embeddings = loaded.embeddings(&images);
        let mut unused = embeddings.as_slice();
        let ids = [golden.unpadded_ids(0), golden.unpadded_ids(1)];
        let inputs = [loaded.inputs(&ids[0], &mut unused), loaded.inputs(&ids[1], &mut unused)];
        let mut alone = [sequence(&loaded, &inputs[0], 16), sequence(&loaded, &inputs[1], 16)];
        let mut expected: Vec<Vec<f32>> = alone
            .iter_mut()
            .zip(&inputs)
            .map(|(alone, inputs)| loaded.step(alone, inputs.clone(), Logits::Last))
            .collect();

        let (even, odd): (Vec<u32>, Vec<u32>) = (0..64).partition(|block| block % 2 == 0);
        let tables = [even, odd];
        let mut pool = loaded.language.new_pool(64).unwrap();
        let [first, second] = inputs;
        let mut logits =
            loaded.language.forward(&mut pool, &[last(&tables[0], 0, first), last(&tables[1], 0, second)]).unwrap();

        let mut tokens = [Vec::new(), Vec::new()];
        for step in 0..16 {
            assert!((0..2).all(|sequence| logits.of(sequence) == expected[sequence]), "{family}: bit for bit");
            let next = [0, 1].map(|sequence| [argmax(logits.of(sequence))]);
            tokens.iter_mut().zip(&next).for_each(|(tokens, next)| tokens.push(next[0]));
            let inputs = next.each_ref().map(|next| vec![Input::Tokens(next)]);
            let [first, second] = inputs;
            let batch = [last(&tables[0], ids[0].len() + step, first), last(&tables[1], ids[1].len() + step, second)];
            logits = loaded.language.forward(&mut pool, &batch).unwrap();
            let pairs = alone.iter_mut().zip(&next);
            expected = pairs.map(|(alone, next)| loaded.step(alone, vec![Input::Tokens(next)], Logits::Last)).collect();
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
    Loaded::both_ways("llama3").iter().for_each(beside_a_prompt);
}

fn beside_a_prompt(loaded: &Loaded) {
    let golden = Golden::load("llama3", "two_turns");
    let images = loaded.images("two_turns", &golden);
    let embeddings = loaded.embeddings(&images);
    let ids = golden.unpadded_ids(0);
    let inputs = loaded.inputs(&ids, &mut embeddings.as_slice());
    let mut alone = sequence(loaded, &inputs, 1);
    loaded.step(&mut alone, inputs.clone(), Logits::None);
    let token = [golden.greedy[0][0]];
    let expected = loaded.step(&mut alone, vec![Input::Tokens(&token)], Logits::Last);
    let whole = loaded.step(&mut sequence(loaded, &inputs, 0), inputs.clone(), Logits::All);

    let blocks = u32::try_from(ids.len().div_ceil(BLOCK_POSITIONS) + 1).unwrap();
    let (beside, other): (Vec<u32>, Vec<u32>) = ((0..blocks).rev().collect(), (blocks..2 * blocks).collect());
    let mut pool = loaded.language.new_pool(2 * blocks as usize).unwrap();
    let chunk = |blocks, start, inputs, logits| Chunk { blocks, start, inputs, logits };
    loaded.language.forward(&mut pool, &[chunk(&beside, 0, inputs.clone(), Logits::None)]).unwrap();
    let batch =
        [chunk(&beside, ids.len(), vec![Input::Tokens(&token)], Logits::Last), chunk(&other, 0, inputs, Logits::All)];
    let results = loaded.language.forward(&mut pool, &batch).unwrap();
    assert!(results.of(0) == expected && results.of(1) == whole, "bit for bit");
}

#[test]
fn a_sequence_computed_again_from_a_position_gives_what_it_gave() {
    Loaded::both_ways("vicuna").iter().for_each(again);
}

fn again(loaded: &Loaded) {
    let ids: Vec<u32> = (3..43).collect();
    let mut sequence = loaded.sequence(64);
    loaded.step(&mut sequence, vec![Input::Tokens(&ids[..20])], Logits::None);
    let fresh = loaded.step(&mut sequence, vec![Input::Tokens(&ids[20..30])], Logits::All);
    loaded.step(&mut sequence, vec![Input::Tokens(&ids[30..])], Logits::None);
    sequence.len = 20;
    assert_eq!(loaded.step(&mut sequence, vec![Input::Tokens(&ids[20..30])], Logits::All), fresh);
}

#[test]
fn shared_and_copied_blocks_give_what_fresh_ones_give() {
    Loaded::both_ways("mistral").iter().for_each(shared_and_copied);
}

fn shared_and_copied(loaded: &Loaded) {
    let prefix: Vec<u32> = (3..83).collect();
    let tails: [Vec<u32>; 2] = [(100..130).collect(), (200..250).collect()];
    let fresh: Vec<Vec<f32>> = tails
        .iter()
        .map(|tail| {
            let ids = [prefix.as_slice(), tail].concat();
            let logits = loaded.step(&mut loaded.sequence(ids.len()), vec![Input::Tokens(&ids)], Logits::All);
            logits[prefix.len() * 640..].to_vec()
        })
        .collect();

    // 80 positions: two blocks are full and shared, the third is begun and so copied.
    let mut pool = loaded.language.new_pool(12).unwrap();
    let tables: [&[u32]; 2] = [&[7, 2, 9, 0, 4], &[7, 2, 11, 5, 3]];
    let chunk = |blocks, start, ids, logits| Chunk { blocks, start, inputs: vec![Input::Tokens(ids)], logits };
    loaded.language.forward(&mut pool, &[chunk(tables[0], 0, &prefix, Logits::None)]).unwrap();
    pool.copy(9, 11).unwrap();
    let batch = [chunk(tables[0], 80, &tails[0], Logits::All), chunk(tables[1], 80, &tails[1], Logits::All)];
    let logits = loaded.language.forward(&mut pool, &batch).unwrap();
    assert!(logits.of(0) == fresh[0] && logits.of(1) == fresh[1], "bit for bit");
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
    let half = image.features.to_dtype(DType::F16);
    let exact = loaded.vision.project(&image.features, &image.plan).unwrap().to_f32();
    let rounded = loaded.vision.project(&half, &image.plan).unwrap().to_f32();
    let worst = distance(&exact, &rounded);
    assert!(worst > 0.0 && worst < 0.1, "{worst}");
}
