//! From tokens and image rows to the decoder's input.

use candle_core::Tensor;

use super::batch::{Chunk, Input};
use crate::{ModelError, cpu::Panels, device::Device};

/// Returns the decoder's input `[rows, hidden_size]`.
///
/// embeddings: the vocabulary's, as the weights of a layer with as many outputs
pub(super) fn embed(embeddings: &Panels, batch: &[Chunk<'_>], device: &Device) -> Result<Tensor, ModelError> {
    let width = embeddings.inputs();
    let mut values = Vec::new();
    for input in batch.iter().flat_map(|chunk| &chunk.inputs) {
        match input {
            Input::Tokens(tokens) => {
                let start = values.len();
                values.resize(start + tokens.len() * width, 0.0);
                for (row, token) in values[start..].chunks_exact_mut(width).zip(*tokens) {
                    embeddings.read_output(*token as usize, row);
                }
            }
            Input::Image { embedding, rows } => {
                device.read(&embedding.narrow(rows)?, |rows| values.extend_from_slice(rows))?;
            }
        }
    }
    let rows = values.len() / width;
    device.tensor(values, &[rows, width])
}
