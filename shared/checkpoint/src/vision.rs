//! The vision tower's configuration (`vision_config`, reference: `CLIPVisionConfig`).

use crate::CheckpointError;
use crate::json::Section;

/// An activation function of tower or projector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * Φ(x)`, with the error function.
    Gelu,
}

/// A CLIP vision tower.
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
    /// Side of a patch in pixels; divides `image_size`.
    pub patch_size: u32,
    /// Colour channels: always 3.
    pub channels: usize,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f64,
    /// Activation of the blocks' MLPs.
    pub activation: Activation,
    /// Whether row 0 of a hidden state is a class token in front of the patches.
    pub has_cls: bool,
}

/// What a configuration class assumes for keys that the file leaves out.
struct Defaults {
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    heads: usize,
    image_size: u32,
    patch_size: u32,
}

/// `CLIPVisionConfig` itself: a base-size tower.
const CLASS: Defaults =
    Defaults { hidden_size: 768, intermediate_size: 3072, layers: 12, heads: 12, image_size: 224, patch_size: 32 };

/// What `LlavaNextConfig` builds when there is no `vision_config` at all: the large tower at 336 pixels.
const WHOLE_SECTION: Defaults =
    Defaults { hidden_size: 1024, intermediate_size: 4096, layers: 24, heads: 16, image_size: 336, patch_size: 14 };

impl Activation {
    /// Reads the activation named under `key`.
    pub(crate) fn read(section: &Section<'_>, key: &str, default: Self) -> Result<Self, CheckpointError> {
        match section.string(key)?.as_deref() {
            None => Ok(default),
            Some("quick_gelu") => Ok(Self::QuickGelu),
            Some("gelu") => Ok(Self::Gelu),
            Some(_) => Err(section.unsupported(key, "quick_gelu, gelu")),
        }
    }
}

impl VisionConfig {
    /// Reads `vision_config`, or the defaults if the section is missing.
    pub(crate) fn read(section: Option<&Section<'_>>) -> Result<Self, CheckpointError> {
        let Some(section) = section else { return Ok(Self::from_defaults(&WHOLE_SECTION)) };
        if section.string("model_type")?.is_some_and(|name| name != "clip_vision_model") {
            return Err(section.unsupported("model_type", "clip_vision_model"));
        }
        let default = Self::from_defaults(&CLASS);
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
        if !config.image_size.is_multiple_of(config.patch_size) {
            return Err(section.invalid_pair("patch_size", config.patch_size, "image_size", config.image_size));
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

    fn from_defaults(defaults: &Defaults) -> Self {
        Self {
            hidden_size: defaults.hidden_size,
            intermediate_size: defaults.intermediate_size,
            layers: defaults.layers,
            heads: defaults.heads,
            image_size: defaults.image_size,
            patch_size: defaults.patch_size,
            channels: 3,
            layer_norm_eps: 1e-5,
            activation: Activation::QuickGelu,
            has_cls: true,
        }
    }
}
