//! What our models made of a fixed prompt and tile of the large checkpoint, for transformers to be compared with.

use serde_json::json;
use tessera_model::{BLOCK_POSITIONS, Chunk, Input, LanguageModel, Logits, ModelError, VisionModel};
use tessera_tensor::{HostTensor, TensorError};

use super::Task;

/// Positions of the prompt.
const PROMPT: usize = 64;
/// Numbers of the tile's features that are written.
const FEATURES: usize = 8192;

/// The tile's pixels and those of others, from a formula that the other side has too: f32 `[tiles, 3, side, side]`.
pub(crate) fn pixels(tiles: usize, side: usize) -> Result<HostTensor, TensorError> {
    let count = tiles * 3 * side * side;
    let values = (0..count).map(|index| (index * 7919 % 2003) as f32 / 1001.0 - 1.0).collect();
    HostTensor::from_f32(vec![tiles, 3, side, side], values)
}

/// Writes a prompt and the scores behind it.
pub(crate) fn write(task: &Task, model: &LanguageModel) -> Result<(), ModelError> {
    let ids: Vec<u32> = (0..PROMPT).map(|index| (index * 7919 % 500) as u32 + 3).collect();
    let blocks = PROMPT.div_ceil(BLOCK_POSITIONS);
    let mut pool = model.new_pool(blocks)?;
    let table: Vec<u32> = (0..).take(blocks).collect();
    let chunk = Chunk { blocks: &table, start: 0, inputs: vec![Input::Tokens(&ids)], logits: Logits::Last };
    let step = model.forward(&mut pool, &[chunk])?;
    put(task, "scores", &json!({ "ids": ids, "scores": step.of(0) }));
    Ok(())
}

/// Writes the first features of a tile.
pub(crate) fn write_features(task: &Task, model: &VisionModel, side: usize) -> Result<(), ModelError> {
    let features = model.encode(&pixels(1, side)?)?.to_f32();
    put(task, "features", &json!(features[..features.len().min(FEATURES)]));
    Ok(())
}

fn put(task: &Task, name: &str, value: &serde_json::Value) {
    std::fs::write(task.results.join(format!("agreement-{name}.json")), value.to_string()).unwrap();
}
