//! The runner over the real model.

use std::collections::HashMap;

use tessera_anyres::Geometry;
use tessera_embedding::Artifact;
use tessera_model::{Chunk, ImageEmbedding, KvCache, LanguageModel, Logits};

use super::{Input, ModelRunner, RunError, Slice};
use crate::engine::SequenceId;

/// Model, geometry, and what each sequence keeps on the device.
pub struct CandleRunner {
    model: LanguageModel,
    geometry: Geometry,
    sequences: HashMap<SequenceId, State>,
}

/// What a sequence keeps on the device. The cache is made when the sequence is first computed, so that those who wait
/// hold no memory.
struct State {
    positions: usize,
    cache: Option<KvCache>,
    images: Vec<Option<ImageEmbedding>>,
}

impl CandleRunner {
    /// Makes a runner without sequences.
    pub fn new(model: LanguageModel, geometry: Geometry) -> Self {
        Self { model, geometry, sequences: HashMap::new() }
    }
}

fn failed(error: impl std::fmt::Display) -> RunError {
    RunError::Model(error.to_string())
}

impl ModelRunner for CandleRunner {
    fn open(&mut self, id: SequenceId, positions: usize, images: usize) -> Result<(), RunError> {
        let images = std::iter::repeat_with(|| None).take(images).collect();
        self.sequences.insert(id, State { positions, cache: None, images });
        Ok(())
    }

    fn place(&mut self, id: SequenceId, index: usize, features: &Artifact) -> Result<(), RunError> {
        let plan = self.geometry.plan(features.image_size);
        let embedding = self.model.image_embedding(&features.features, &plan);
        let embedding = embedding.map_err(|error| RunError::Features(error.to_string()))?;
        if let Some(slot) = self.sequences.get_mut(&id).and_then(|state| state.images.get_mut(index)) {
            *slot = Some(embedding);
        }
        Ok(())
    }

    fn release(&mut self, id: SequenceId, index: usize) {
        if let Some(slot) = self.sequences.get_mut(&id).and_then(|state| state.images.get_mut(index)) {
            *slot = None;
        }
    }

    fn run(&mut self, step: &[Slice<'_>]) -> Result<Vec<Option<Vec<f32>>>, RunError> {
        // Every slice needs its own cache mutably: the states leave the map for the time of the step.
        let mut states = Vec::with_capacity(step.len());
        for slice in step {
            states.push(self.sequences.remove(&slice.id).ok_or_else(|| failed("a sequence is not open"))?);
        }
        let result = forward(&self.model, step, &mut states);
        self.sequences.extend(step.iter().map(|slice| slice.id).zip(states));
        result
    }

    fn close(&mut self, id: SequenceId) {
        self.sequences.remove(&id);
    }
}

fn forward(model: &LanguageModel, step: &[Slice<'_>], states: &mut [State]) -> Result<Vec<Option<Vec<f32>>>, RunError> {
    let mut batch = Vec::with_capacity(step.len());
    for (slice, state) in step.iter().zip(states) {
        let State { positions, cache, images } = state;
        let cache = match cache {
            Some(cache) => cache,
            None => cache.insert(model.new_cache(*positions).map_err(failed)?),
        };
        let inputs = slice.inputs.iter().map(|input| match input {
            Input::Tokens(tokens) => Ok(tessera_model::Input::Tokens(tokens)),
            Input::Image { index, rows } => {
                let embedding = images.get(*index).and_then(Option::as_ref);
                let embedding = embedding.ok_or_else(|| failed("an image is scheduled before its features came"))?;
                Ok(tessera_model::Input::Image { embedding, rows: rows.clone() })
            }
        });
        let inputs = inputs.collect::<Result<Vec<_>, RunError>>()?;
        let logits = if slice.wants_logits { Logits::Last } else { Logits::None };
        batch.push(Chunk { cache, start: slice.start, inputs, logits });
    }
    model.forward(&mut batch).map_err(failed)
}
