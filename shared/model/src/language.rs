//! The language side: token embeddings, image embeddings, decoder, head.

mod batch;
mod block;
mod rows;

use candle_core::Tensor;
use tessera_anyres::Plan;
use tessera_checkpoint::{Checkpoint, TextConfig};
use tessera_tensor::HostTensor;

pub use batch::{Chunk, Input, Logits};

use crate::{
    ImageEmbedding, KvCache, LoadOptions, ModelError,
    device::Device,
    layers::{Bias, Linear, RmsNorm},
    projector::Projector,
    rope::Rope,
    weights::{Weights, names},
};
use batch::Layout;
use block::Block;

/// Projector, newline vector and decoder. Immutable after loading; sequences keep their state in a [`KvCache`].
pub struct LanguageModel {
    config: TextConfig,
    device: Device,
    embeddings: Tensor,
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
        let embeddings = weights.matrix(names::EMBEDDINGS, config.vocab_size, config.hidden_size)?;
        let projector = Projector::load(&weights, model)?;
        let blocks =
            (0..config.layers).map(|layer| Block::load(&weights, &config, layer)).collect::<Result<Vec<_>, _>>()?;
        let norm = RmsNorm::load(&weights, names::FINAL_NORM, config.hidden_size, config.rms_norm_eps)?;
        let head = if tied {
            Linear::from_tensors(&embeddings, None)?
        } else {
            Linear::load(&weights, names::HEAD, config.hidden_size, config.vocab_size, Bias::Without)?
        };
        let rope = Rope::new(&config, &device)?;
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

    /// Returns an empty cache for one sequence of at most `capacity` positions. All its memory is reserved at once.
    ///
    /// # Errors
    /// If the capacity is zero or more than the model has positions.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache, ModelError> {
        let limit = self.config.max_positions;
        if capacity == 0 || capacity > limit {
            return Err(ModelError::CacheCapacity { capacity, limit });
        }
        KvCache::new(&self.config, capacity, &self.device)
    }

    /// Returns the bytes that one position of a [`KvCache`] takes.
    #[must_use]
    pub fn kv_bytes_per_position(&self) -> usize {
        let TextConfig { layers, kv_heads, head_dim, .. } = self.config;
        2 * layers * kv_heads * head_dim * self.device.compute().size_bytes()
    }

    /// Runs the decoder once over the rows of several sequences and appends their keys and values to the caches.
    ///
    /// The rows form one flat batch without padding: every matrix product runs over all rows at once, attention runs per
    /// sequence over its own cache. The result has one entry per chunk: what its [`Logits`] asks for, as f32,
    /// `[vocab]` for `Last` and `[rows * vocab]` for `All`.
    ///
    /// # Errors
    /// If a chunk is empty, does not start where its cache ends, does not fit its cache, or names a token or an image row
    /// that does not exist. No cache has changed its length then.
    pub fn forward(&self, batch: &mut [Chunk<'_>]) -> Result<Vec<Option<Vec<f32>>>, ModelError> {
        let layout = Layout::new(batch, &self.config)?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let rope = self.rope.at(&layout.positions)?;
        let mut hidden = rows::embed(&self.embeddings, &layout, batch, &self.device)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            hidden = block.forward(&hidden, layer, &layout, batch, &rope)?;
        }
        let logits = self.logits(&hidden, &layout, batch)?;
        for (chunk, rows) in batch.iter_mut().zip(&layout.rows) {
            chunk.cache.advance(rows.len());
        }
        Ok(logits)
    }

    /// hidden: `[rows, hidden_size]`. The head runs only over the rows that are asked for.
    fn logits(
        &self,
        hidden: &Tensor,
        layout: &Layout,
        batch: &[Chunk<'_>],
    ) -> Result<Vec<Option<Vec<f32>>>, ModelError> {
        let wanted = layout.wanted_rows(batch);
        if wanted.is_empty() {
            return Ok(vec![None; batch.len()]);
        }
        let hidden = hidden.index_select(&self.device.indices(&wanted)?, 0)?;
        let logits = self.head.forward(&self.norm.forward(&hidden)?)?;
        let values = self.device.values(&logits)?;
        let mut rest = values.as_slice();
        let mut results = Vec::with_capacity(batch.len());
        for (chunk, rows) in batch.iter().zip(&layout.rows) {
            let count = chunk.logits.count(rows.len());
            let (own, after) = rest.split_at(count * self.config.vocab_size);
            rest = after;
            results.push((count > 0).then(|| own.to_vec()));
        }
        Ok(results)
    }
}
