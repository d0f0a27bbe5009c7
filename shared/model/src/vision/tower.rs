//! The vision tower, CLIP's or SigLIP's, up to the last hidden state that is asked for.

use blake3::Hasher;
use candle_core::Tensor;
use tessera_checkpoint::{Activation, ModelConfig, VisionConfig};
use tessera_tensor::DType;

use super::embedding::Embedding;
use crate::{
    ModelError, attention,
    device::Device,
    layers::{Bias, LayerNorm, Linear},
    weights::{Weights, names},
};

/// The hidden states that make up the features.
///
/// State 0 is the input of the first block, state i the output of block i (counted from 1).
pub(super) struct Selection {
    /// In the order in which they stand side by side.
    states: Vec<usize>,
}

/// Patch embedding and transformer blocks.
pub(super) struct Tower {
    config: VisionConfig,
    selection: Selection,
    embedding: Embedding,
    input_norm: Option<LayerNorm>,
    blocks: Vec<Block>,
}

/// One transformer block: attention and feed-forward network, each behind a norm and added to what came in.
struct Block {
    norm_1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm_2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
    heads: usize,
}

impl Selection {
    pub(super) fn new(config: &ModelConfig) -> Self {
        Self { states: config.feature_states() }
    }

    /// The number of blocks that are needed.
    pub(super) fn blocks(&self) -> usize {
        self.states.iter().copied().max().unwrap_or(0)
    }
}

impl Tower {
    pub(super) fn load(weights: &Weights<'_>, config: &VisionConfig, selection: Selection) -> Result<Self, ModelError> {
        let input_norm = || LayerNorm::load(weights, names::INPUT_NORM, config.hidden_size, config.layer_norm_eps);
        let blocks = (0..selection.blocks()).map(|layer| Block::load(weights, config, layer));
        Ok(Self {
            embedding: Embedding::load(weights, config)?,
            input_norm: config.input_norm.then(input_norm).transpose()?,
            blocks: blocks.collect::<Result<_, _>>()?,
            config: config.clone(),
            selection,
        })
    }

    /// The number of feature rows of one tile.
    pub(super) fn patches(&self) -> usize {
        patches_of(&self.config)
    }

    /// Returns the features of all tiles, `[tiles * patches, hidden_size * selected states]`.
    ///
    /// images: pixels in f32, each `[tiles, channels, side, side]`
    pub(super) fn forward(&self, device: &Device, images: &[Tensor]) -> Result<Tensor, ModelError> {
        let most = device.tiles_at_once();
        let mut outputs = Vec::new();
        for pixels in images {
            let tiles = pixels.dim(0)?;
            for start in (0..tiles).step_by(most) {
                outputs.push(self.forward_tiles(device, &pixels.narrow(0, start, most.min(tiles - start))?)?);
            }
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }

    /// pixels: f32, `[tiles, channels, side, side]`; result: `[tiles * patches, hidden_size * selected states]`
    fn forward_tiles(&self, device: &Device, pixels: &Tensor) -> Result<Tensor, ModelError> {
        let tiles = pixels.dim(0)?;
        let mut hidden = self.embedding.forward(device, pixels)?;
        if let Some(norm) = &self.input_norm {
            hidden = norm.forward(&hidden)?;
        }
        let mut selected = vec![None; self.selection.states.len()];
        for state in 0..=self.blocks.len() {
            if let Some(block) = state.checked_sub(1).and_then(|index| self.blocks.get(index)) {
                hidden = block.forward(device, &hidden, self.config.positions())?;
            }
            for (slot, _) in selected.iter_mut().zip(&self.selection.states).filter(|(_, wanted)| **wanted == state) {
                *slot = Some(self.patch_rows(&hidden, tiles)?);
            }
        }
        let selected: Vec<Tensor> = selected.into_iter().flatten().collect();
        Ok(Tensor::cat(&selected, 1)?)
    }

    /// hidden: `[tiles * positions, hidden_size]`; result: `[tiles * patches, hidden_size]`
    fn patch_rows(&self, hidden: &Tensor, tiles: usize) -> Result<Tensor, ModelError> {
        if !self.config.has_cls {
            return Ok(hidden.clone());
        }
        let (patches, width) = (self.patches(), self.config.hidden_size);
        let patches = hidden.reshape((tiles, patches + 1, width))?.narrow(1, 1, patches)?;
        Ok(patches.reshape(((), width))?)
    }

    /// Identifies what this tower computes; see [`VisionModel::fingerprint`](super::VisionModel::fingerprint).
    pub(super) fn fingerprint(&self, weights: &Weights<'_>, config: &ModelConfig, compute: DType) -> [u8; 32] {
        let vision = &self.config;
        let mut hasher = Hasher::new_derive_key("tessera 2026-11 vision tower fingerprint");
        weights.hash(&mut hasher, names::TOWER);
        let sides = [vision.image_size, vision.patch_size].map(|side| side as usize);
        let sizes = [vision.hidden_size, vision.intermediate_size, vision.layers, vision.heads, vision.channels];
        for number in sizes.into_iter().chain(sides) {
            hasher.update(&(number as u64).to_le_bytes());
        }
        hasher.update(&vision.layer_norm_eps.to_le_bytes());
        hasher.update(&[vision.has_cls, vision.patch_bias, vision.input_norm].map(u8::from));
        for name in [vision.activation.name(), config.select.name()] {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
        hasher.update(&(self.selection.states.len() as u64).to_le_bytes());
        for &state in &self.selection.states {
            hasher.update(&(state as u64).to_le_bytes());
        }
        hasher.update(compute.name().as_bytes());
        *hasher.finalize().as_bytes()
    }
}

impl Block {
    fn load(weights: &Weights<'_>, config: &VisionConfig, layer: usize) -> Result<Self, ModelError> {
        let VisionConfig { hidden_size, intermediate_size, heads, layer_norm_eps, .. } = *config;
        let name = |part: &str| names::tower_layer(layer, part);
        let norm = |part: &str| LayerNorm::load(weights, &name(part), hidden_size, layer_norm_eps);
        let linear = |part: &str, inputs, outputs| Linear::load(weights, &name(part), inputs, outputs, Bias::With);
        let (q, k, v) = (name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj"));
        let parts = [(q.as_str(), hidden_size), (&k, hidden_size), (&v, hidden_size)];
        Ok(Self {
            norm_1: norm("layer_norm1")?,
            qkv: Linear::load_stacked(weights, &parts, hidden_size, Bias::With)?,
            out: linear("self_attn.out_proj", hidden_size, hidden_size)?,
            norm_2: norm("layer_norm2")?,
            fc1: linear("mlp.fc1", hidden_size, intermediate_size)?,
            activation: config.activation,
            fc2: linear("mlp.fc2", intermediate_size, hidden_size)?,
            heads,
        })
    }

    /// hidden: `[tiles * positions, hidden_size]`, and so the result
    fn forward(&self, device: &Device, hidden: &Tensor, positions: usize) -> Result<Tensor, ModelError> {
        let qkv = self.qkv.forward(&self.norm_1.forward(hidden)?)?;
        let attended = attention::attend_all(device, &qkv, positions, self.heads)?;
        let hidden = self.out.forward_added(&attended, hidden)?;
        let fed = self.fc1.forward_activated(&self.norm_2.forward(&hidden)?, self.activation)?;
        self.fc2.forward_added(&fed, &hidden)
    }
}

/// The number of patches of one tile.
fn patches_of(config: &VisionConfig) -> usize {
    (config.patches_per_side() as usize).pow(2)
}
