//! The processor's configuration (`processor_config.json`, `preprocessor_config.json`; reference:
//! `LlavaNextProcessor`, `LlavaNextImageProcessor`).

use std::path::{Path, PathBuf};

use tessera_anyres::ImageSize;

use crate::error::{CheckpointError, Setting};
use crate::json::{File, Section};
use crate::model::{FeatureSelect, ModelConfig, default_pinpoints};

const PROCESSOR_FILE: &str = "processor_config.json";
const IMAGE_PROCESSOR_FILE: &str = "preprocessor_config.json";

/// Tile side that the image processor's class assumes.
const DEFAULT_TILE: u32 = 224;

/// The reference's number for bicubic resampling.
const BICUBIC: usize = 3;

/// How prompts are expanded and images become pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessorConfig {
    /// How images become pixels.
    pub image: ImageProcessorConfig,
    /// The text that stands for an image in a prompt.
    pub image_token: String,
    /// Rows of a tile beside its patches; derived from the tower if the file is silent.
    pub num_additional_image_tokens: u32,
    /// Side of a patch in pixels; the tower's if the file is silent.
    pub patch_size: u32,
    /// Which rows are kept; the model's if the file is silent.
    pub select: FeatureSelect,
    /// Where these values come from, for messages.
    file: PathBuf,
    /// Where the image section comes from, for messages.
    image_file: PathBuf,
    image_prefix: String,
}

/// How images become pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessorConfig {
    /// Side of a tile in pixels (`crop_size`).
    pub tile: u32,
    /// Size that the whole image is squashed to for the base tile (`size`); equal to the tile on both sides.
    pub base: ImageSize,
    /// Grids that an image may be cut into: sizes in pixels.
    pub pinpoints: Vec<ImageSize>,
    /// What a byte is multiplied with: 1/255.
    pub rescale_factor: f64,
    /// Mean of each colour channel after rescaling.
    pub mean: [f64; 3],
    /// Standard deviation of each colour channel after rescaling; none is zero.
    pub std: [f64; 3],
    /// Whether bytes are rescaled.
    pub do_rescale: bool,
    /// Whether rescaled values are normalised.
    pub do_normalize: bool,
    /// Whether tiles are resized to `base`; they have that size already.
    pub do_resize: bool,
    /// Whether tiles are cropped to `tile`; they have that size already.
    pub do_center_crop: bool,
    /// Whether images are converted to RGB; Tessera always does.
    pub do_convert_rgb: bool,
    /// Whether the images of a batch are padded to one number of tiles; Tessera never needs to.
    pub do_pad: bool,
}

impl ProcessorConfig {
    /// Reads both processor files: the image section inside `processor_config.json` goes before the older file.
    pub(crate) fn read(dir: &Path, model: &ModelConfig) -> Result<Self, CheckpointError> {
        let outer = File::find(dir, PROCESSOR_FILE)?;
        let root = outer.as_ref().map(File::root);
        let nested = match &root {
            Some(root) => root.section("image_processor")?,
            None => None,
        };
        let separate;
        let section = match nested {
            Some(section) => section,
            None => {
                separate = File::require(dir, IMAGE_PROCESSOR_FILE)?;
                separate.root()
            }
        };
        let image = ImageProcessorConfig::read(&section)?;
        let mut config = Self {
            image,
            image_token: "<image>".to_owned(),
            num_additional_image_tokens: u32::from(model.vision.has_cls),
            patch_size: model.vision.patch_size,
            select: model.select,
            file: dir.join(PROCESSOR_FILE),
            image_file: section.file().to_path_buf(),
            image_prefix: section.full_key(""),
        };
        if let Some(root) = &root {
            config.read_tokens(root)?;
        }
        Ok(config)
    }

    /// Checks that the pixels suit the tower and that the tokens suit its features.
    pub(crate) fn check_against(&self, model: &ModelConfig) -> Result<(), CheckpointError> {
        if self.image.pinpoints != model.pinpoints {
            let (left, right) = (shown(&model.pinpoints), shown(&self.image.pinpoints));
            return Err(self.image_disagreement("image_grid_pinpoints", left, "image_grid_pinpoints", right));
        }
        if self.image.tile != model.vision.image_size {
            let (left, right) = (model.vision.image_size.to_string(), self.image.tile.to_string());
            return Err(self.image_disagreement("vision_config.image_size", left, "crop_size", right));
        }
        if self.patch_size != model.vision.patch_size {
            let (left, right) = (model.vision.patch_size.to_string(), self.patch_size.to_string());
            return Err(self.disagreement("vision_config.patch_size", left, "patch_size", right));
        }
        let patches = self.image.tile / self.patch_size;
        let dropped = u32::from(self.select == FeatureSelect::Default);
        let tokens = (patches * patches + self.num_additional_image_tokens).checked_sub(dropped);
        if tokens != Some(model.selected_rows()) {
            let left = format!("{:?} ({} features of a tile)", model.select.name(), model.selected_rows());
            let right = format!(
                "{} with strategy {:?} ({} tokens of a tile)",
                self.num_additional_image_tokens,
                self.select.name(),
                tokens.unwrap_or(0)
            );
            return Err(self.disagreement(
                "vision_feature_select_strategy",
                left,
                "num_additional_image_tokens",
                right,
            ));
        }
        Ok(())
    }

    fn read_tokens(&mut self, root: &Section<'_>) -> Result<(), CheckpointError> {
        if let Some(token) = root.string("image_token")? {
            if token.is_empty() {
                return Err(root.invalid("image_token", "\"\"", "a token's text"));
            }
            self.image_token = token;
        }
        if let Some(count) = root.value("num_additional_image_tokens") {
            self.num_additional_image_tokens = count.as_u64().and_then(|count| u8::try_from(count).ok()).map_or_else(
                || Err(root.invalid("num_additional_image_tokens", &count.to_string(), "a small number")),
                |count| Ok(u32::from(count)),
            )?;
        }
        if let Some(patch_size) = root.pixels("patch_size")? {
            self.patch_size = patch_size;
        }
        if let Some(select) = FeatureSelect::read(root)? {
            self.select = select;
        }
        Ok(())
    }

    fn disagreement(&self, model_key: &str, model_value: String, key: &str, value: String) -> CheckpointError {
        let right = Setting { file: self.file.clone(), key: key.to_owned(), value };
        self.disagreement_with(model_key, model_value, right)
    }

    fn image_disagreement(&self, model_key: &str, model_value: String, key: &str, value: String) -> CheckpointError {
        let right = Setting { file: self.image_file.clone(), key: format!("{}{key}", self.image_prefix), value };
        self.disagreement_with(model_key, model_value, right)
    }

    fn disagreement_with(&self, key: &str, value: String, right: Setting) -> CheckpointError {
        let left = Setting { file: self.file.with_file_name("config.json"), key: key.to_owned(), value };
        CheckpointError::Disagreement { left: Box::new(left), right: Box::new(right) }
    }
}

impl ImageProcessorConfig {
    /// Returns these values as JSON with a fixed order of keys, for fingerprints: equal text, equal pixels.
    pub fn canonical_json(&self) -> String {
        let pinpoints: Vec<[u32; 2]> = self.pinpoints.iter().map(|size| [size.height, size.width]).collect();
        let flag = |name: &str, value: bool| format!("\"{name}\":{value}");
        [
            format!("{{\"tile\":{}", self.tile),
            format!("\"base\":[{},{}]", self.base.height, self.base.width),
            format!("\"pinpoints\":{pinpoints:?}").replace(' ', ""),
            format!("\"rescale_factor\":{:?}", self.rescale_factor),
            format!("\"mean\":{:?}", self.mean).replace(' ', ""),
            format!("\"std\":{:?}", self.std).replace(' ', ""),
            flag("do_rescale", self.do_rescale),
            flag("do_normalize", self.do_normalize) + "}",
        ]
        .join(",")
    }

    fn read(section: &Section<'_>) -> Result<Self, CheckpointError> {
        if section.count("resample")?.is_some_and(|number| number != BICUBIC) {
            return Err(section.unsupported("resample", "3 (bicubic)"));
        }
        let config = Self {
            tile: read_tile(section)?,
            base: read_base(section)?,
            pinpoints: section.pinpoints("image_grid_pinpoints")?.unwrap_or_else(default_pinpoints),
            rescale_factor: section.positive("rescale_factor")?.unwrap_or(1.0 / 255.0),
            mean: section.channels("image_mean")?.unwrap_or([0.481_454_66, 0.457_827_5, 0.408_210_73]),
            std: section.channels("image_std")?.unwrap_or([0.268_629_54, 0.261_302_58, 0.275_777_11]),
            do_rescale: section.boolean("do_rescale")?.unwrap_or(true),
            do_normalize: section.boolean("do_normalize")?.unwrap_or(true),
            do_resize: section.boolean("do_resize")?.unwrap_or(true),
            do_center_crop: section.boolean("do_center_crop")?.unwrap_or(true),
            do_convert_rgb: section.boolean("do_convert_rgb")?.unwrap_or(true),
            do_pad: section.boolean("do_pad")?.unwrap_or(true),
        };
        if config.std.contains(&0.0) {
            return Err(section.invalid("image_std", &format!("{:?}", config.std), "numbers other than 0"));
        }
        let ImageSize { height, width } = config.base;
        if (height, width) != (config.tile, config.tile) {
            let expected = format!("crop_size, [{0}, {0}]", config.tile);
            return Err(section.invalid("size", &format!("[{height}, {width}]"), &expected));
        }
        Ok(config)
    }
}

/// `crop_size` is a number or `{height, width}`; tiles are square.
fn read_tile(section: &Section<'_>) -> Result<u32, CheckpointError> {
    const KEY: &str = "crop_size";
    if section.value(KEY).is_none_or(serde_json::Value::is_number) {
        return Ok(section.pixels(KEY)?.unwrap_or(DEFAULT_TILE));
    }
    let sides = section.section(KEY)?;
    let (height, width) = match &sides {
        Some(sides) => (sides.pixels("height")?, sides.pixels("width")?),
        None => (None, None),
    };
    match (height, width) {
        (Some(height), Some(width)) if height == width => Ok(height),
        _ => Err(section.unsupported(KEY, "equal height and width")),
    }
}

/// `size` is a number, `{shortest_edge}` (both make a square base tile) or `{height, width}`.
fn read_base(section: &Section<'_>) -> Result<ImageSize, CheckpointError> {
    const KEY: &str = "size";
    let square = |side| ImageSize { height: side, width: side };
    if section.value(KEY).is_none_or(serde_json::Value::is_number) {
        return Ok(square(section.pixels(KEY)?.unwrap_or(DEFAULT_TILE)));
    }
    let Some(sides) = section.section(KEY)? else { return Ok(square(DEFAULT_TILE)) };
    if let Some(side) = sides.pixels("shortest_edge")? {
        return Ok(square(side));
    }
    match (sides.pixels("height")?, sides.pixels("width")?) {
        (Some(height), Some(width)) => Ok(ImageSize { height, width }),
        _ => Err(section.unsupported(KEY, "{shortest_edge} or {height, width}")),
    }
}

/// The list as the files write it: (height, width).
fn shown(pinpoints: &[ImageSize]) -> String {
    let sizes: Vec<[u32; 2]> = pinpoints.iter().map(|size| [size.height, size.width]).collect();
    format!("{sizes:?}")
}
