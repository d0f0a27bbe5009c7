//! From tokens and image rows to the decoder's input.

use candle_core::Tensor;

use super::batch::{Chunk, Input, Layout};
use crate::{ModelError, device::Device};

/// Returns the decoder's input `[rows, hidden_size]`. Tokens that follow each other, also across chunks, are looked up
/// at once: a batch of decode steps is one lookup.
///
/// embeddings: `[vocab, hidden_size]`
pub(super) fn embed(
    embeddings: &Tensor,
    layout: &Layout,
    batch: &[Chunk<'_>],
    device: &Device,
) -> Result<Tensor, ModelError> {
    let mut pieces = Vec::new();
    let mut tokens: Vec<u32> = Vec::with_capacity(layout.positions.len());
    for input in batch.iter().flat_map(|chunk| &chunk.inputs) {
        match input {
            Input::Tokens(ids) => tokens.extend_from_slice(ids),
            Input::Image { rows, .. } if rows.is_empty() => {}
            Input::Image { embedding, rows } => {
                flush(embeddings, &mut tokens, &mut pieces, device)?;
                pieces.push(embedding.narrow(rows)?);
            }
        }
    }
    flush(embeddings, &mut tokens, &mut pieces, device)?;
    Ok(if let [piece] = pieces.as_slice() { piece.clone() } else { Tensor::cat(&pieces, 0)? })
}

/// Looks up the tokens gathered so far as one piece.
fn flush(
    embeddings: &Tensor,
    tokens: &mut Vec<u32>,
    pieces: &mut Vec<Tensor>,
    device: &Device,
) -> Result<(), ModelError> {
    if !tokens.is_empty() {
        pieces.push(embeddings.index_select(&device.indices(tokens)?, 0)?);
        tokens.clear();
    }
    Ok(())
}
