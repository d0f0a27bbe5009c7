//! The runner over the real model.

use std::collections::HashMap;
use std::sync::Arc;

use tessera_anyres::Geometry;
use tessera_embedding::{ImageFeatures, ImageKey};
use tessera_kernels::TopScores;
use tessera_model::{Chunk, ImageEmbedding, Input, KvPool, LanguageModel, Logits, ModelError, StepLogits};

use super::{ModelRunner, RunError, Scores, Slice};
use crate::engine::blocks::BlockId;
use crate::engine::chain::Run;
use crate::engine::scheduler::Wanted;

/// Model, geometry, the blocks, and the images that are being computed.
pub struct CandleRunner {
    model: Arc<LanguageModel>,
    geometry: Geometry,
    pool: KvPool,
    /// Each with how many sequences need it.
    images: HashMap<ImageKey, (ImageEmbedding, usize)>,
}

impl CandleRunner {
    /// Makes a runner and the memory of `blocks` blocks.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(model: Arc<LanguageModel>, geometry: Geometry, blocks: usize) -> Result<Self, ModelError> {
        let pool = model.new_pool(blocks)?;
        Ok(Self { model, geometry, pool, images: HashMap::new() })
    }
}

fn failed(error: impl std::fmt::Display) -> RunError {
    RunError::Model(error.to_string())
}

/// What the rows of a run are to the model.
fn input<'a>(images: &'a HashMap<ImageKey, (ImageEmbedding, usize)>, run: &Run<'a>) -> Result<Input<'a>, RunError> {
    match run {
        Run::Tokens(tokens) => Ok(Input::Tokens(tokens)),
        Run::Image(key, rows) => {
            let (embedding, _) =
                images.get(key).ok_or_else(|| failed("an image is scheduled before its features came"))?;
            Ok(Input::Image { embedding, rows: rows.clone() })
        }
    }
}

impl Scores for StepLogits {
    fn of(&self, slice: usize) -> &[f32] {
        self.of(slice)
    }

    fn token(&self, slice: usize) -> Option<u32> {
        self.token(slice)
    }

    fn top(&self, slice: usize) -> Option<&TopScores> {
        self.top(slice)
    }
}

impl ModelRunner for CandleRunner {
    type Scores = StepLogits;

    fn place(&mut self, key: ImageKey, features: &ImageFeatures) -> Result<(), RunError> {
        if let Some((_, needed)) = self.images.get_mut(&key) {
            *needed += 1;
            return Ok(());
        }
        let plan = self.geometry.plan(features.image_size);
        let embedding = self.model.image_embedding(&features.rows, &plan);
        let embedding = embedding.map_err(|error| RunError::Features(error.to_string()))?;
        self.images.insert(key, (embedding, 1));
        Ok(())
    }

    fn release(&mut self, key: ImageKey) {
        if let Some((_, needed)) = self.images.get_mut(&key) {
            *needed -= 1;
            if *needed == 0 {
                self.images.remove(&key);
            }
        }
    }

    fn copy(&mut self, from: BlockId, to: BlockId) -> Result<(), RunError> {
        self.pool.copy(from, to).map_err(failed)
    }

    fn run(&mut self, step: &[Slice<'_>]) -> Result<StepLogits, RunError> {
        let mut batch = Vec::with_capacity(step.len());
        for slice in step {
            let inputs = slice.runs.iter().map(|run| input(&self.images, run)).collect::<Result<_, RunError>>()?;
            let logits = match slice.scores {
                Wanted::None => Logits::None,
                Wanted::Likeliest => Logits::Likeliest,
                Wanted::Draw { temperature, number } => Logits::Draw { temperature, number },
                Wanted::Top { temperature } => Logits::Top { temperature },
                Wanted::Last => Logits::Last,
                Wanted::All => Logits::All,
            };
            batch.push(Chunk { blocks: slice.blocks, start: slice.positions.start, inputs, logits });
        }
        self.model.forward(&mut self.pool, &batch).map_err(failed)
    }

    fn scores(&mut self, slice: usize) -> Result<Vec<f32>, RunError> {
        self.model.scores(&self.pool, slice).map_err(failed)
    }
}
