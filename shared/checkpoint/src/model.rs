//! The model's configuration (`config.json`, reference: `LlavaNextConfig`).

use tessera_anyres::ImageSize;

use crate::CheckpointError;
use crate::json::{File, Section};
use crate::text::TextConfig;
use crate::vision::{Activation, VisionConfig};

/// Pinpoints that the reference's classes assume: (height, width) in pixels.
pub(crate) const DEFAULT_PINPOINTS: [(u32, u32); 5] = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];

/// Image token id that `LlavaNextConfig` assumes.
const DEFAULT_IMAGE_TOKEN_ID: u32 = 32_000;

/// Which rows of a hidden state are image features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FeatureSelect {
    /// All but row 0, the class token.
    Default,
    /// All rows.
    Full,
}

/// Tower, projector and decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The vision tower.
    pub vision: VisionConfig,
    /// The decoder.
    pub text: TextConfig,
    /// The id that stands for one row of an image.
    pub image_token_id: u32,
    /// Hidden states that make the features, as written: 0 is the tower's input to block 1, -1 its last output. Several
    /// are concatenated along the channels in this order. Never empty, each in range; see [`Self::feature_states`].
    pub feature_layers: Vec<i32>,
    /// Which rows of those states are kept.
    pub select: FeatureSelect,
    /// Grids that an image may be cut into: sizes in pixels, multiples of a tile.
    pub pinpoints: Vec<ImageSize>,
    /// Whether the projector's two layers have a bias.
    pub projector_bias: bool,
    /// Activation between the projector's two layers.
    pub projector_activation: Activation,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Type of the stored weights, if the file says so: `float16`, `bfloat16`, `float32`.
    pub dtype: Option<String>,
}

impl FeatureSelect {
    /// Returns the strategy's name in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Full => "full",
        }
    }

    /// Reads the strategy, if the section names one.
    pub(crate) fn read(section: &Section<'_>) -> Result<Option<Self>, CheckpointError> {
        const KEY: &str = "vision_feature_select_strategy";
        match section.string(KEY)?.as_deref() {
            None => Ok(None),
            Some("default") => Ok(Some(Self::Default)),
            Some("full") => Ok(Some(Self::Full)),
            Some(_) => Err(section.unsupported(KEY, "default, full")),
        }
    }
}

impl ModelConfig {
    /// Reads `config.json`.
    pub(crate) fn read(file: &File) -> Result<Self, CheckpointError> {
        let root = file.root();
        if root.string("model_type")?.is_some_and(|name| name != "llava_next") {
            return Err(root.unsupported("model_type", "llava_next"));
        }
        refuse_other_quantization(&root)?;
        let vision = VisionConfig::read(root.section("vision_config")?.as_ref())?;
        let text = TextConfig::read(root.section("text_config")?.as_ref())?;
        let select = FeatureSelect::read(&root)?.unwrap_or(FeatureSelect::Default);
        let config = Self {
            image_token_id: read_image_token_id(&root, text.vocab_size)?,
            feature_layers: read_feature_layers(&root, vision.layers)?,
            select,
            pinpoints: root.pinpoints("image_grid_pinpoints")?.unwrap_or_else(default_pinpoints),
            projector_bias: root.boolean("multimodal_projector_bias")?.unwrap_or(true),
            projector_activation: Activation::read(&root, "projector_hidden_act", Activation::Gelu)?,
            tie_word_embeddings: root.boolean("tie_word_embeddings")?.unwrap_or(false),
            dtype: match root.string("dtype")? {
                None => root.string("torch_dtype")?,
                found => found,
            },
            vision,
            text,
        };
        config.check_feature_rows(file)?;
        Ok(config)
    }

    /// Returns the selected hidden states as indices into `0..=vision.layers`, in the order of `feature_layers`.
    pub fn feature_states(&self) -> Vec<usize> {
        let states = self.vision.layers + 1;
        self.feature_layers
            .iter()
            .map(|&layer| match usize::try_from(layer) {
                Ok(index) => index,
                Err(_) => states - layer.unsigned_abs() as usize,
            })
            .collect()
    }

    /// Returns the channels of one feature row: the tower's width times the number of selected states.
    pub fn feature_channels(&self) -> usize {
        self.vision.hidden_size * self.feature_layers.len()
    }

    /// Returns how many rows of one tile the strategy keeps.
    pub(crate) fn selected_rows(&self) -> u32 {
        let patches = self.vision.patches_per_side().pow(2);
        match (self.select, self.vision.has_cls) {
            (FeatureSelect::Default, true) | (FeatureSelect::Full, false) => patches,
            (FeatureSelect::Default, false) => patches - 1,
            (FeatureSelect::Full, true) => patches + 1,
        }
    }

    /// The reference fails while packing, on the first image; here it is known before any weight is read.
    fn check_feature_rows(&self, file: &File) -> Result<(), CheckpointError> {
        let side = self.vision.patches_per_side();
        let (rows, patches) = (self.selected_rows(), side.pow(2));
        if rows == patches {
            return Ok(());
        }
        let strategy = self.select.name();
        Err(CheckpointError::FeatureRows { file: file.path().to_path_buf(), strategy, rows, side, patches })
    }
}

/// Returns the pinpoints that the reference's classes assume.
pub(crate) fn default_pinpoints() -> Vec<ImageSize> {
    DEFAULT_PINPOINTS.iter().map(|&(height, width)| ImageSize { height, width }).collect()
}

/// The key has two names, of which the first is the usual one.
fn read_image_token_id(root: &Section<'_>, vocab_size: usize) -> Result<u32, CheckpointError> {
    let usual = root.id("image_token_index")?;
    let alias = root.id("image_token_id")?;
    if let (Some(left), Some(right)) = (usual, alias)
        && left != right
    {
        return Err(root.invalid("image_token_id", &right.to_string(), &format!("image_token_index, {left}")));
    }
    let id = usual.or(alias).unwrap_or(DEFAULT_IMAGE_TOKEN_ID);
    if id as usize >= vocab_size {
        let expected = format!("below text_config.vocab_size, {vocab_size}");
        return Err(root.invalid("image_token_index", &id.to_string(), &expected));
    }
    Ok(id)
}

fn read_feature_layers(root: &Section<'_>, layers: usize) -> Result<Vec<i32>, CheckpointError> {
    const KEY: &str = "vision_feature_layer";
    let Some(selected) = root.integers(KEY)? else { return Ok(vec![-2]) };
    let top = i32::try_from(layers).unwrap_or(i32::MAX - 1);
    let expected = || format!("one or more layers from {} to {top}", -top - 1);
    if selected.is_empty() {
        return Err(root.invalid(KEY, "[]", &expected()));
    }
    selected
        .into_iter()
        .map(|layer| match i32::try_from(layer) {
            Ok(layer) if (-top - 1..=top).contains(&layer) => Ok(layer),
            _ => Err(root.invalid(KEY, &layer.to_string(), &expected())),
        })
        .collect()
}

/// Whether a tensor is quantised is seen from its file; only schemes with other tensors are refused here.
fn refuse_other_quantization(root: &Section<'_>) -> Result<(), CheckpointError> {
    let Some(quantization) = root.section("quantization_config")? else { return Ok(()) };
    if quantization.string("quant_method")?.is_some_and(|name| name != "bitsandbytes") {
        return Err(quantization.unsupported("quant_method", "bitsandbytes"));
    }
    if quantization.boolean("load_in_8bit")?.unwrap_or(false) {
        return Err(quantization.unsupported("load_in_8bit", "false"));
    }
    Ok(())
}
