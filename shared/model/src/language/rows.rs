//! From tokens and image rows to the decoder's input.

use candle_core::Tensor;

use super::batch::{Chunk, Input};
use crate::{ModelError, cpu::Panels, device::Device};

/// Returns the decoder's input `[rows, hidden_size]`, on the CPU.
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

/// Where the rows of the decoder's input are in a device's memory.
pub(super) struct Sources<'a> {
    /// One a row.
    pub(super) addresses: Vec<u64>,
    /// The tensors that hold them.
    pub(super) origins: Vec<&'a Tensor>,
}

impl<'a> Sources<'a> {
    /// embeddings: `[vocabulary, hidden_size]`
    pub(super) fn new(embeddings: &'a Tensor, batch: &[Chunk<'a>], device: &Device) -> Result<Self, ModelError> {
        let (_, width) = embeddings.dims2()?;
        let row_bytes = (width * device.compute().size_bytes()) as u64;
        let vocabulary = device.address(embeddings)?;
        let mut sources = Self { addresses: Vec::new(), origins: vec![embeddings] };
        for input in batch.iter().flat_map(|chunk| &chunk.inputs) {
            match input {
                Input::Tokens(tokens) => {
                    let address = |token: &u32| vocabulary + u64::from(*token) * row_bytes;
                    sources.addresses.extend(tokens.iter().map(address));
                }
                Input::Image { embedding, rows } => {
                    let image = device.address(embedding.tensor())?;
                    sources.addresses.extend(rows.clone().map(|row| image + row as u64 * row_bytes));
                    sources.origins.push(embedding.tensor());
                }
            }
        }
        Ok(sources)
    }
}
