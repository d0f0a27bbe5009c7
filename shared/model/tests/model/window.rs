//! Sliding windows, which no public checkpoint uses but its configuration class assumes.

use tessera_checkpoint::Checkpoint;
use tessera_model::{Input, Logits};
use tessera_testkit::{distance, family_dir};

use crate::run::Loaded;

fn with_window(window: Option<usize>) -> [Loaded; 2] {
    let mut checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    checkpoint.model.text.sliding_window = window;
    Loaded::both_ways_of(&checkpoint)
}

/// Logits of all positions, `chunk` positions at a time.
fn logits(loaded: &Loaded, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut sequence = loaded.sequence(ids.len());
    ids.chunks(chunk).flat_map(|ids| loaded.step(&mut sequence, vec![Input::Tokens(ids)], Logits::All)).collect()
}

#[test]
fn a_window_as_long_as_the_prompt_changes_nothing() {
    let ids: Vec<u32> = (10..60).collect();
    let (wide, narrow) = (with_window(Some(50)), with_window(Some(49)));
    for ((free, wide), narrow) in with_window(None).iter().zip(&wide).zip(&narrow) {
        let free = logits(free, &ids, 50);
        assert_eq!(free, logits(wide, &ids, 50));
        assert!(distance(&free, &logits(narrow, &ids, 50)) > 1e-3);
    }
}

/// One row at a time the window leaves out blocks and parts of the context, in a chunk a mask hides them.
#[test]
fn leaving_out_positions_and_masking_them_is_the_same() {
    let ids: Vec<u32> = (10..360).collect();
    for (window, loaded) in [8, 40, 257].iter().flat_map(|window| with_window(Some(*window)).map(|way| (window, way))) {
        let single = logits(&loaded, &ids, 1);
        for chunk in [3, 33, 200, 350] {
            assert!(logits(&loaded, &ids, chunk) == single, "window {window}, chunks of {chunk}, bit for bit");
        }
    }
}

#[test]
fn a_token_reaches_as_far_as_layers_times_window() {
    with_window(Some(8)).iter().for_each(reach);
}

fn reach(loaded: &Loaded) {
    let (layers, vocab) = (loaded.language.config().layers, loaded.language.config().vocab_size);
    let ids: Vec<u32> = (10..60).collect();
    let mut changed = ids.clone();
    changed[0] = 99;
    let (before, after) = (logits(loaded, &ids, 50), logits(loaded, &changed, 50));
    let reach = layers * 7;
    let row = |logits: &[f32], row: usize| logits[row * vocab..(row + 1) * vocab].to_vec();
    assert_ne!(row(&before, reach), row(&after, reach));
    assert_eq!(row(&before, reach + 1), row(&after, reach + 1));
}
