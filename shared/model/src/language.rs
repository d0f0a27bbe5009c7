//! The language side: token embeddings, image embeddings, decoder, head.

mod batch;
mod block;
mod rows;

use std::sync::Arc;

use tessera_anyres::Plan;
use tessera_checkpoint::{Checkpoint, TextConfig};
use tessera_tensor::HostTensor;

pub use batch::{Chunk, Input, Logits, StepLogits};

use crate::{
    ImageEmbedding, KvPool, LoadOptions, ModelError,
    cpu::Panels,
    device::Device,
    layers::{Bias, Linear, RmsNorm},
    projector::Projector,
    rope::Rope,
    weights::{Weights, names},
};
use batch::Layout;
use block::Block;

/// Projector, newline vector and decoder. Immutable after loading; sequences keep their state in a [`KvPool`].
pub struct LanguageModel {
    config: TextConfig,
    device: Device,
    /// A row for each token of the vocabulary; the head too if it is tied.
    embeddings: Arc<Panels>,
    projector: Projector,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    rope: Rope,
}

impl LanguageModel {
    /// Loads projector, newline vector and decoder. Tensors of the tower are not looked at and may be absent.
    ///
    /// # Errors
    /// If the compute type is not for this device, a file is missing or damaged, or a tensor is missing, of another
    /// shape or of an unsupported element type.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions<'_>) -> Result<Self, ModelError> {
        let Checkpoint { dir, model, .. } = checkpoint;
        let config = model.text.clone();
        let device = Device::new(options.compute)?;
        let tied = model.tie_word_embeddings;
        let weights =
            Weights::open(dir, &device, options.progress, |name| names::of_language(name, config.layers, tied))?;
        let embeddings = Arc::new(weights.linear_tensor(names::EMBEDDINGS, config.vocab_size, config.hidden_size)?);
        let projector = Projector::load(&weights, model)?;
        let blocks =
            (0..config.layers).map(|layer| Block::load(&weights, &config, layer)).collect::<Result<Vec<_>, _>>()?;
        let norm = RmsNorm::load(&weights, names::FINAL_NORM, config.hidden_size, config.rms_norm_eps)?;
        let head = if tied {
            Linear::sharing(embeddings.clone(), &device)
        } else {
            Linear::load(&weights, names::HEAD, config.hidden_size, config.vocab_size, Bias::Without)?
        };
        let rope = Rope::new(&config, &device);
        Ok(Self { config, device, embeddings, projector, blocks, norm, head, rope })
    }

    /// Returns the configuration of the decoder.
    #[must_use]
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Returns the rows that the decoder sees of an image.
    ///
    /// `features`: `[plan.feature_rows(), channels]` of any element type, as [`VisionModel::pack`] makes them.
    /// The result has `plan.image_tokens()` rows.
    ///
    /// # Errors
    /// If the shape is another.
    ///
    /// [`VisionModel::pack`]: crate::VisionModel::pack
    pub fn image_embedding(&self, features: &HostTensor, plan: &Plan) -> Result<ImageEmbedding, ModelError> {
        self.projector.image_embedding(&self.device, features, plan)
    }

    /// Returns a pool of this many blocks, whose keys and values belong to no sequence yet.
    ///
    /// # Errors
    /// If there would be no block.
    pub fn new_pool(&self, blocks: usize) -> Result<KvPool, ModelError> {
        if blocks == 0 {
            return Err(ModelError::EmptyPool);
        }
        Ok(KvPool::new(&self.config, blocks, &self.device))
    }

    /// Returns the bytes that one position of a [`KvPool`] takes.
    #[must_use]
    pub fn kv_bytes_per_position(&self) -> usize {
        let TextConfig { layers, kv_heads, head_dim, .. } = self.config;
        2 * layers * kv_heads * head_dim * self.device.compute().size_bytes()
    }

    /// Runs the decoder once over the rows of several sequences and writes their keys and values to their blocks.
    ///
    /// The rows form one flat batch without padding: every matrix product runs over all rows at once, attention runs per
    /// sequence over its own blocks. What a row gives depends, to the bit, on nothing but its sequence: not on the rows
    /// beside it, not on how a prompt is cut in chunks, not on which blocks hold the sequence. Sequences may share blocks
    /// that nobody writes.
    ///
    /// # Errors
    /// If the pool is another model's, or a chunk is empty, has a table that is too short or names a block that does not
    /// exist, writes a block that another chunk writes or reads, or names a token or an image row that does not exist.
    /// Nothing has been written then.
    pub fn forward(&self, pool: &mut KvPool, batch: &[Chunk<'_>]) -> Result<StepLogits, ModelError> {
        if !pool.fits(&self.config, &self.device) {
            return Err(ModelError::Pool);
        }
        let layout = Layout::new(batch, &self.config, pool.blocks())?;
        self.device.run(|| self.forward_valid(pool, batch, &layout))
    }

    fn forward_valid(
        &self,
        pool: &mut KvPool,
        batch: &[Chunk<'_>],
        layout: &Layout<'_>,
    ) -> Result<StepLogits, ModelError> {
        let mut logits = layout.logits(batch, self.config.vocab_size);
        if batch.is_empty() {
            return Ok(logits);
        }
        let angles = self.rope.at(&layout.positions);
        let mut hidden = rows::embed(&self.embeddings, batch, &self.device)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            hidden = block.forward(&hidden, layer, pool, &layout.spans, &angles)?;
        }
        // The head runs only over the rows that are asked for.
        let wanted = layout.wanted_rows(batch);
        if !wanted.is_empty() {
            let hidden = hidden.index_select(&self.device.indices(&wanted)?, 0)?;
            logits.fill(self.head.forward_values(&self.norm.forward(&hidden)?)?);
        }
        Ok(logits)
    }
}
