//! The language side: token embeddings, image embeddings, decoder, head.

mod batch;
mod block;
mod decode;
mod dense;
mod rows;
mod split;

use std::{ops::Range, sync::Arc};

use blake3::Hasher;
use rayon::prelude::*;
use tessera_anyres::Plan;
use tessera_checkpoint::{Checkpoint, ModelConfig, TextConfig};
use tessera_kernels::NONE;
use tessera_tensor::{DType, HostTensor};

pub use batch::{Chunk, Input, Logits, StepLogits};
pub(crate) use decode::Programs;
pub(crate) use dense::Kept;

use crate::{
    BLOCK_POSITIONS, ImageEmbedding, KvPool, LoadOptions, ModelError,
    attention::Rows,
    cpu::Panels,
    device::{self, Answers, Device, Phase},
    layers::{Bias, Linear, Matrix, RmsNorm},
    projector::Projector,
    rope::Rope,
    weights::{Weights, names},
};
use batch::Layout;
use block::Block;

/// Projector, newline vector and decoder. Immutable after loading; sequences keep their state in a [`KvPool`].
pub struct LanguageModel {
    config: TextConfig,
    /// A row for each token of the vocabulary; the head too if it is tied. On the first device, like the projector.
    embeddings: Matrix,
    projector: Projector,
    /// At least one.
    parts: Vec<Part>,
    /// On the last device, like the head.
    norm: RmsNorm,
    head: Linear,
    /// What its pools are told by.
    mark: Arc<()>,
    fingerprint: [u8; 32],
}

/// The layers of one device.
struct Part {
    device: Device,
    layers: Range<usize>,
    blocks: Vec<Block>,
    rope: Rope,
}

impl LanguageModel {
    /// Loads projector, newline vector and decoder. Tensors of the tower are not looked at and may be absent.
    ///
    /// # Errors
    /// If a device is not there, has not enough memory or does not compute in the type, a file is missing or damaged, or
    /// a tensor is missing, of another shape or of an unsupported element type.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions<'_>) -> Result<Self, ModelError> {
        let Checkpoint { dir, model, .. } = checkpoint;
        let config = model.text.clone();
        let devices = device::choose(options)?;
        let (first, last) = (&devices[0], &devices[devices.len().min(config.layers.max(1)) - 1]);
        let tied = model.tie_word_embeddings;
        let weights =
            Weights::open(dir, first, options.progress, |name| names::of_language(name, config.layers, tied))?;
        let fingerprint = fingerprint(&weights, model, first.compute());
        let layers = deal_out(&weights, &config, &devices)?;
        let embeddings = weights.linear_tensor(names::EMBEDDINGS, config.vocab_size, config.hidden_size)?;
        let projector = Projector::load(&weights, model)?;
        let parts = devices.iter().zip(layers).map(|(device, layers)| Part::load(&weights.to(device), &config, layers));
        let parts = parts.collect::<Result<_, _>>()?;
        let weights = weights.to(last);
        let norm = RmsNorm::load(&weights, names::FINAL_NORM, config.hidden_size, config.rms_norm_eps)?;
        let head = if tied {
            Linear::sharing(embeddings.on(last)?, last)
        } else {
            Linear::load(&weights, names::HEAD, config.hidden_size, config.vocab_size, Bias::Without)?
        };
        devices.iter().try_for_each(Device::finish_loading)?;
        Ok(Self { config, embeddings, projector, parts, norm, head, mark: Arc::new(()), fingerprint })
    }

    /// Returns what the devices that it runs on are called, as `cpu` or `cuda:0 (NVIDIA H200), cuda:1 (NVIDIA H200)`.
    #[must_use]
    pub fn device_name(&self) -> String {
        self.parts.iter().map(|part| part.device.name()).collect::<Vec<_>>().join(", ")
    }

    /// Returns what identifies the scores that this model gives: its configuration, the type that it computes in, and of every
    /// tensor its name, type, shape and a sample of its bytes.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
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
        self.projector.image_embedding(&self.first().device, features, plan)
    }

    /// Returns a pool of this many blocks, whose keys and values belong to no sequence yet.
    ///
    /// # Errors
    /// If there would be no block, or more than a GPU has memory for.
    pub fn new_pool(&self, blocks: usize) -> Result<KvPool, ModelError> {
        if blocks == 0 {
            return Err(ModelError::EmptyPool);
        }
        let shares: Vec<_> = self.parts.iter().map(|part| (part.device.clone(), part.layers.clone())).collect();
        KvPool::new(&self.config, blocks, &shares, &self.mark)
    }

    /// Returns how many blocks `percent` in a hundred of the free memory of every GPU in use hold, the scarcest deciding.
    /// `None` on the CPU, whose memory is for the caller to know.
    ///
    /// # Errors
    /// If a GPU does not tell.
    pub fn free_blocks(&self, percent: u8) -> Result<Option<usize>, ModelError> {
        let TextConfig { kv_heads, head_dim, .. } = self.config;
        let mut fewest: Option<usize> = None;
        for Part { device, layers, .. } in &self.parts {
            let Some(gpu) = device.gpu() else { continue };
            let position = 2 * layers.len() * kv_heads * head_dim * device.compute().size_bytes();
            let share = gpu.free_bytes()? / 100 * u64::from(percent.min(100));
            let blocks = (share / (position * BLOCK_POSITIONS).max(1) as u64) as usize;
            fewest = Some(fewest.map_or(blocks, |fewest| fewest.min(blocks)));
        }
        Ok(fewest)
    }

    /// Returns the bytes that one position of a [`KvPool`] takes.
    #[must_use]
    pub fn kv_bytes_per_position(&self) -> usize {
        let TextConfig { layers, kv_heads, head_dim, .. } = self.config;
        2 * layers * kv_heads * head_dim * self.first().device.compute().size_bytes()
    }

    /// Runs the decoder once over the rows of several sequences and writes their keys and values to their blocks.
    ///
    /// The rows form one flat batch without padding: every matrix product runs over all rows at once, attention runs per
    /// sequence over its own blocks. On the CPU what a row gives depends, to the bit, on nothing but its sequence: not on
    /// the rows beside it, not on how a prompt is cut in chunks, not on which blocks hold the sequence. A GPU's library
    /// chooses by the number of rows how it sums a product up, so that there the last bits may differ between batches.
    /// Sequences may share blocks that nobody writes. A GPU is to be driven from one thread at a time.
    ///
    /// # Errors
    /// If the pool is another model's, or a chunk is empty, has a table that is too short or names a block that does not
    /// exist, writes a block that another chunk writes or reads, or names a token or an image row that does not exist.
    /// Nothing has been written then.
    pub fn forward(&self, pool: &mut KvPool, batch: &[Chunk<'_>]) -> Result<StepLogits, ModelError> {
        if !pool.belongs_to(&self.mark) {
            return Err(ModelError::Pool);
        }
        let layout = Layout::new(batch, &self.config, pool.blocks())?;
        if batch.is_empty() {
            let wanted = layout.wanted_rows(batch, Logits::wish);
            return Ok(StepLogits::new(&wanted, self.config.vocab_size, Answers::default()));
        }
        let given = self.first().device.run(|| match &self.embeddings {
            Matrix::Panels(embeddings) => self.forward_panels(embeddings, pool, batch, &layout),
            Matrix::Dense(_) => self.forward_dense(pool, batch, &layout),
        })?;
        pool.end_step()?;
        Ok(given)
    }

    /// Returns all scores behind the last row of a chunk that got its largest ones from the last step over this pool.
    ///
    /// # Errors
    /// If it got none, or a device fails.
    pub fn scores(&self, pool: &KvPool, chunk: usize) -> Result<Vec<f32>, ModelError> {
        if pool.belongs_to(&self.mark) { self.kept_scores(pool, chunk) } else { Err(ModelError::Pool) }
    }

    /// A step the CPU's own way.
    fn forward_panels(
        &self,
        embeddings: &Panels,
        pool: &mut KvPool,
        batch: &[Chunk<'_>],
        layout: &Layout<'_>,
    ) -> Result<StepLogits, ModelError> {
        let (vocabulary, wanted) = (self.config.vocab_size, layout.wanted_rows(batch, Logits::wish_on_cpu));
        let Part { device, blocks, rope, .. } = self.first();
        let rows = Rows::Host { spans: &layout.spans, positions: &layout.positions };
        pool.enter(Phase::Embedding, device)?;
        let mut hidden = rows::embed(embeddings, batch, device)?;
        for (layer, block) in blocks.iter().enumerate() {
            hidden = block.forward(&hidden, layer, pool, rows, rope)?;
        }
        // The head runs only over the rows that are asked for.
        pool.enter(Phase::Head, device)?;
        if wanted.rows.is_empty() {
            return Ok(StepLogits::new(&wanted, vocabulary, Answers::default()));
        }
        let hidden = hidden.index_select(&device.indices(&wanted.rows)?, 0)?;
        let mut scores = self.head.forward_values(&self.norm.forward(&hidden)?)?;
        pool.enter(Phase::Choice, device)?;
        let scored = wanted.counts().scored;
        let mut tokens = vec![NONE; scored];
        tokens.par_extend(scores[scored * vocabulary..].par_chunks(vocabulary).map(batch::likeliest));
        scores.truncate(scored * vocabulary);
        pool.leave(device)?;
        Ok(StepLogits::new(&wanted, vocabulary, Answers { tokens, scores, ..Answers::default() }))
    }

    fn first(&self) -> &Part {
        &self.parts[0]
    }

    fn last(&self) -> &Part {
        &self.parts[self.parts.len() - 1]
    }
}

impl Part {
    fn load(weights: &Weights<'_>, config: &TextConfig, layers: Range<usize>) -> Result<Self, ModelError> {
        let device = weights.device().clone();
        let rope = Rope::new(config, &device)?;
        let blocks = layers.clone().map(|layer| Block::load(weights, config, layer)).collect::<Result<_, _>>()?;
        Ok(Self { device, layers, blocks, rope })
    }
}

/// Identifies what these weights compute; see [`LanguageModel::fingerprint`].
fn fingerprint(weights: &Weights<'_>, model: &ModelConfig, compute: DType) -> [u8; 32] {
    let text = &model.text;
    let mut hasher = Hasher::new_derive_key("tessera 2026-11 language model fingerprint");
    weights.hash_samples(&mut hasher);
    let sizes = [text.vocab_size, text.hidden_size, text.intermediate_size, text.layers, text.heads, text.kv_heads];
    let window = [text.sliding_window.unwrap_or(0), text.head_dim];
    for number in sizes.into_iter().chain(window) {
        hasher.update(&(number as u64).to_le_bytes());
    }
    for number in [text.rms_norm_eps, text.rope_theta] {
        hasher.update(&number.to_le_bytes());
    }
    let switches = [text.qkv_bias, model.projector_bias, model.tie_word_embeddings, text.sliding_window.is_some()];
    hasher.update(&switches.map(u8::from)).update(&model.image_token_id.to_le_bytes());
    for name in [text.family.name(), model.projector_activation.name(), compute.name()] {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Deals the layers out to the devices and makes sure that each has memory for what it gets.
fn deal_out(weights: &Weights<'_>, config: &TextConfig, devices: &[Device]) -> Result<Vec<Range<usize>>, ModelError> {
    let bytes = |of: &dyn Fn(&str) -> bool| weights.count(of) * weights.device().compute().size_bytes() as u64;
    let is_layer = |name: &str| name.starts_with(names::DECODER_LAYERS);
    let is_head = |name: &str| name.starts_with(names::HEAD) || name == names::FINAL_NORM;
    let layer = bytes(&is_layer) / config.layers.max(1) as u64;
    let (first, last) = (bytes(&|name| !is_layer(name) && !is_head(name)), bytes(&is_head));
    let parts = split::split(config.layers, layer, first, last, devices.len());
    for (index, (device, layers)) in devices.iter().zip(&parts).enumerate() {
        let ends = [(0, first), (parts.len() - 1, last)];
        let ends = ends.iter().filter(|(end, _)| *end == index).map(|(_, bytes)| bytes).sum::<u64>();
        if let Some(gpu) = device.gpu() {
            gpu.check_memory("the language model's weights", layer * layers.len() as u64 + ends)?;
        }
    }
    Ok(parts)
}
