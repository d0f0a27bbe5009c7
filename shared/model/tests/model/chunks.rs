//! Batches that are not valid.

use tessera_checkpoint::Checkpoint;
use tessera_model::{BLOCK_POSITIONS, Chunk, Input, KvPool, LanguageModel, LoadOptions, Logits, ModelError};
use tessera_testkit::{Golden, family_dir};

use crate::run::{Loaded, argmax};

fn tokens<'a>(blocks: &'a [u32], start: usize, ids: &'a [u32]) -> Chunk<'a> {
    Chunk { blocks, start, inputs: vec![Input::Tokens(ids)], logits: Logits::Last }
}

fn refusal(language: &LanguageModel, pool: &mut KvPool, batch: &[Chunk<'_>]) -> String {
    language.forward(pool, batch).unwrap_err().to_string()
}

#[test]
fn wrong_chunks_are_refused_with_their_numbers() {
    let loaded = Loaded::family("mistral");
    let language = &loaded.language;
    let mut pool = language.new_pool(4).unwrap();
    let mut refused = |chunk: Chunk<'_>| refusal(language, &mut pool, &[chunk]);
    let nothing = Chunk { blocks: &[0], start: 0, inputs: vec![], logits: Logits::Last };
    assert_eq!(refused(nothing), "chunk 0 of the batch has no rows");
    let message = "chunk 0 of the batch has token 640, the vocabulary has 640";
    assert_eq!(refused(tokens(&[0], 0, &[640])), message);
    let message = "chunk 0 of the batch has 2 rows from position 63 on and a table of 2 blocks, 3 are needed";
    assert_eq!(refused(tokens(&[0, 1], 63, &[5, 5])), message);
    assert_eq!(refused(tokens(&[0, 4], 32, &[5])), "chunk 0 of the batch names block 4, the pool has 4");
    let message = "chunk 0 of the batch has 2 rows from position 4095 on, the model has 4096 positions";
    assert_eq!(refused(tokens(&[0], 4095, &[5, 5])), message);
    let message =
        format!("chunk 0 of the batch has 1 rows from position {} on, the model has 4096 positions", usize::MAX);
    assert_eq!(refused(tokens(&[0], usize::MAX, &[5])), message);

    let image = loaded.images("portrait", &Golden::load("mistral", "portrait")).remove(0);
    let embedding = loaded.embeddings(&[image]).remove(0);
    let rows = embedding.rows()..embedding.rows() + 1;
    let inputs = vec![Input::Image { embedding: &embedding, rows }];
    let message = refused(Chunk { blocks: &[0], start: 0, inputs, logits: Logits::Last });
    assert_eq!(message, "chunk 0 of the batch asks for image rows 52..53, there are 52");
}

#[test]
fn a_block_has_one_writer_and_then_no_other_reader() {
    let language = Loaded::family("mistral").language;
    let mut pool = language.new_pool(4).unwrap();
    let mut refused = |batch: &[Chunk<'_>]| refusal(&language, &mut pool, batch);
    let message = "chunk 1 of the batch writes block 2, which chunk 0 writes";
    assert_eq!(refused(&[tokens(&[2], 0, &[5]), tokens(&[1, 2], 40, &[5])]), message);
    let message = "chunk 0 of the batch reads block 2, which chunk 1 writes";
    assert_eq!(refused(&[tokens(&[2, 3], 32, &[5]), tokens(&[2], 9, &[5])]), message);
    let message = "chunk 0 of the batch writes block 3, which chunk 0 writes";
    assert_eq!(refused(&[tokens(&[3, 3], 0, &[5; BLOCK_POSITIONS + 1])]), message);
    let message = "chunk 0 of the batch reads block 3, which chunk 0 writes";
    assert_eq!(refused(&[tokens(&[3, 3], 32, &[5])]), message);

    let shared = [tokens(&[0, 1], 32, &[5]), tokens(&[0, 2], 33, &[5, 6])];
    let logits = language.forward(&mut pool, &shared).unwrap();
    assert_eq!((logits.of(0).len(), logits.of(1).len(), logits.vocabulary()), (640, 640, 640));
}

#[test]
fn scores_are_those_asked_for() {
    let loaded = Loaded::family("mistral");
    let mut pool = loaded.language.new_pool(3).unwrap();
    let chunk = |blocks, logits| Chunk { blocks, start: 0, inputs: vec![Input::Tokens(&[5, 6, 7])], logits };
    let batch = [chunk(&[0], Logits::All), chunk(&[1], Logits::None), chunk(&[2], Logits::Last)];
    let logits = loaded.language.forward(&mut pool, &batch).unwrap();
    assert_eq!(logits.of(0).len(), 3 * 640);
    assert!(logits.of(1).is_empty());
    assert_eq!(logits.of(2), &logits.of(0)[2 * 640..]);
    assert!((0..3).all(|chunk| logits.token(chunk).is_none()));
    let nothing = loaded.language.forward(&mut pool, &[]).unwrap();
    assert_eq!(nothing.vocabulary(), 640);
}

#[test]
fn the_likeliest_token_comes_without_the_scores() {
    let loaded = Loaded::family("mistral");
    let mut pool = loaded.language.new_pool(4).unwrap();
    let chunk = |blocks, logits| Chunk { blocks, start: 0, inputs: vec![Input::Tokens(&[5, 6, 7])], logits };
    let other = Chunk { inputs: vec![Input::Tokens(&[9, 9])], ..chunk(&[3], Logits::Last) };
    let batch = [chunk(&[0], Logits::Likeliest), chunk(&[1], Logits::None), chunk(&[2], Logits::Last), other];
    let logits = loaded.language.forward(&mut pool, &batch).unwrap();
    assert!(logits.of(0).is_empty() && logits.of(1).is_empty());
    assert_eq!((logits.of(2).len(), logits.of(3).len()), (640, 640));
    assert_ne!(logits.of(2), logits.of(3));
    assert_eq!(logits.token(0), Some(argmax(logits.of(2))));
}

#[test]
fn pools_of_no_blocks_and_of_other_models_are_refused() {
    let mistral = Loaded::family("mistral").language;
    assert!(matches!(mistral.new_pool(0), Err(ModelError::EmptyPool)));
    let mut checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    checkpoint.model.text.layers -= 1;
    let shorter = LanguageModel::load(&checkpoint, &LoadOptions::default()).unwrap();
    let message = refusal(&mistral, &mut shorter.new_pool(1).unwrap(), &[tokens(&[0], 0, &[5])]);
    assert_eq!(message, "the pool of keys and values is that of another model");
}

#[test]
fn only_blocks_that_exist_are_copied() {
    let mut pool = Loaded::family("mistral").language.new_pool(2).unwrap();
    assert!(pool.copy(0, 1).is_ok());
    assert_eq!(pool.copy(0, 2).unwrap_err().to_string(), "block 2 does not exist, the pool has 2");
    assert!(pool.copy(2, 0).is_err());
    assert_eq!(pool.blocks(), 2);
}
