//! The vision tower's configuration (`vision_config`, reference: `CLIPVisionConfig`, `SiglipVisionConfig`).

use tessera_anyres::MAX_GRID_SIDE;

use crate::CheckpointError;
use crate::json::Section;

/// An activation function of tower or projector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * Φ(x)`, with the error function.
    Gelu,
    /// `x * Φ(x)`, with Φ approximated by the hyperbolic tangent.
    GeluTanh,
}

/// A vision tower: patch embedding, then transformer blocks. CLIP's and SigLIP's differ in a few options.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Channels of a hidden state.
    pub hidden_size: usize,
    /// Width of a block's MLP.
    pub intermediate_size: usize,
    /// Number of blocks; there is one hidden state more.
    pub layers: usize,
    /// Attention heads; they divide `hidden_size`.
    pub heads: usize,
    /// Side of a tile in pixels.
    pub image_size: u32,
    /// Side of a patch in pixels, at most `image_size`. Pixels to the right and at the bottom that fill no patch are not
    /// looked at.
    pub patch_size: u32,
    /// Colour channels: always 3.
    pub channels: usize,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f64,
    /// Activation of the blocks' MLPs.
    pub activation: Activation,
    /// Whether row 0 of a hidden state is a class token in front of the patches.
    pub has_cls: bool,
    /// Whether the patch convolution has a bias.
    pub patch_bias: bool,
    /// Whether a LayerNorm stands between the embedding and the first block.
    pub input_norm: bool,
}

/// What `CLIPVisionConfig` assumes for keys that the file leaves out: a base-size tower.
const CLIP: VisionConfig = VisionConfig {
    hidden_size: 768,
    intermediate_size: 3072,
    layers: 12,
    heads: 12,
    image_size: 224,
    patch_size: 32,
    channels: 3,
    layer_norm_eps: 1e-5,
    activation: Activation::QuickGelu,
    has_cls: true,
    patch_bias: false,
    input_norm: true,
};

/// The same of `SiglipVisionConfig`. Its pooling head and final norm come after every state that can be selected.
const SIGLIP: VisionConfig = VisionConfig {
    patch_size: 16,
    layer_norm_eps: 1e-6,
    activation: Activation::GeluTanh,
    has_cls: false,
    patch_bias: true,
    input_norm: false,
    ..CLIP
};

/// What `LlavaNextConfig` builds when there is no `vision_config` at all: the large CLIP tower at 336 pixels.
const WHOLE_SECTION: VisionConfig = VisionConfig {
    hidden_size: 1024,
    intermediate_size: 4096,
    layers: 24,
    heads: 16,
    image_size: 336,
    patch_size: 14,
    ..CLIP
};

impl Activation {
    const ALL: [Self; 3] = [Self::QuickGelu, Self::Gelu, Self::GeluTanh];

    /// Returns the activation's name in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::QuickGelu => "quick_gelu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_pytorch_tanh",
        }
    }

    /// Reads the activation named under `key`.
    pub(crate) fn read(section: &Section<'_>, key: &str, default: Self) -> Result<Self, CheckpointError> {
        let Some(name) = section.string(key)? else { return Ok(default) };
        let found = Self::ALL.into_iter().find(|activation| activation.name() == name);
        found.ok_or_else(|| section.unsupported(key, "quick_gelu, gelu, gelu_pytorch_tanh"))
    }
}

impl VisionConfig {
    /// Reads `vision_config`, or the defaults if the section is missing.
    pub(crate) fn read(section: Option<&Section<'_>>) -> Result<Self, CheckpointError> {
        let Some(section) = section else { return Ok(WHOLE_SECTION) };
        let default = match section.string("model_type")?.as_deref() {
            None | Some("clip_vision_model") => CLIP,
            Some("siglip_vision_model") => SIGLIP,
            Some(_) => return Err(section.unsupported("model_type", "clip_vision_model, siglip_vision_model")),
        };
        let config = Self {
            hidden_size: section.size("hidden_size")?.unwrap_or(default.hidden_size),
            intermediate_size: section.size("intermediate_size")?.unwrap_or(default.intermediate_size),
            layers: section.size("num_hidden_layers")?.unwrap_or(default.layers),
            heads: section.size("num_attention_heads")?.unwrap_or(default.heads),
            image_size: section.pixels("image_size")?.unwrap_or(default.image_size),
            patch_size: section.pixels("patch_size")?.unwrap_or(default.patch_size),
            layer_norm_eps: section.positive("layer_norm_eps")?.unwrap_or(default.layer_norm_eps),
            activation: Activation::read(section, "hidden_act", default.activation)?,
            ..default
        };
        if section.size("num_channels")?.is_some_and(|channels| channels != config.channels) {
            return Err(section.unsupported("num_channels", "3"));
        }
        if !config.hidden_size.is_multiple_of(config.heads) {
            return Err(section.invalid_pair("num_attention_heads", config.heads, "hidden_size", config.hidden_size));
        }
        if config.image_size > MAX_GRID_SIDE {
            let expected = format!("at most {MAX_GRID_SIDE}, the longest side of a grid");
            return Err(section.invalid("image_size", &config.image_size.to_string(), &expected));
        }
        if config.patch_size > config.image_size {
            let expected = format!("at most image_size, {}", config.image_size);
            return Err(section.invalid("patch_size", &config.patch_size.to_string(), &expected));
        }
        Ok(config)
    }

    /// Returns how many patches lie along one side of a tile.
    pub fn patches_per_side(&self) -> u32 {
        self.image_size / self.patch_size
    }

    /// Returns how many rows a hidden state of one tile has, the class token included.
    pub fn positions(&self) -> usize {
        let side = self.patches_per_side() as usize;
        side * side + usize::from(self.has_cls)
    }
}
