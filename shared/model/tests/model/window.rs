//! Sliding windows, which no public checkpoint uses but its configuration class assumes.

use tessera_checkpoint::Checkpoint;
use tessera_model::{Input, Logits};
use tessera_testkit::{distance, family_dir};

use crate::run::Loaded;

fn with_window(window: Option<usize>) -> Loaded {
    let mut checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    checkpoint.model.text.sliding_window = window;
    Loaded::from_checkpoint(checkpoint)
}

/// Logits of all positions, `chunk` positions at a time.
fn logits(loaded: &Loaded, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut sequence = loaded.sequence(ids.len());
    ids.chunks(chunk).flat_map(|ids| loaded.step(&mut sequence, vec![Input::Tokens(ids)], Logits::All)).collect()
}

#[test]
fn a_window_as_long_as_the_prompt_changes_nothing() {
    let ids: Vec<u32> = (10..60).collect();
    let (free, wide) = (with_window(None), with_window(Some(50)));
    assert_eq!(logits(&free, &ids, 50), logits(&wide, &ids, 50));
    assert!(distance(&logits(&free, &ids, 50), &logits(&with_window(Some(49)), &ids, 50)) > 1e-3);
}

/// One row at a time the window leaves out blocks and parts of the context, in a chunk a mask hides them.
#[test]
fn leaving_out_positions_and_masking_them_is_the_same() {
    let ids: Vec<u32> = (10..360).collect();
    for window in [8, 40, 257] {
        let loaded = with_window(Some(window));
        let single = logits(&loaded, &ids, 1);
        for chunk in [3, 33, 200, 350] {
            assert!(logits(&loaded, &ids, chunk) == single, "window {window}, chunks of {chunk}, bit for bit");
        }
    }
}

#[test]
fn a_token_reaches_as_far_as_layers_times_window() {
    let loaded = with_window(Some(8));
    let (layers, vocab) = (loaded.language.config().layers, loaded.language.config().vocab_size);
    let ids: Vec<u32> = (10..60).collect();
    let mut changed = ids.clone();
    changed[0] = 99;
    let (before, after) = (logits(&loaded, &ids, 50), logits(&loaded, &changed, 50));
    let reach = layers * 7;
    let row = |logits: &[f32], row: usize| logits[row * vocab..(row + 1) * vocab].to_vec();
    assert_ne!(row(&before, reach), row(&after, reach));
    assert_eq!(row(&before, reach + 1), row(&after, reach + 1));
}
