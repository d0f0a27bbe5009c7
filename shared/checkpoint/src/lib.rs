//! The files of a checkpoint: configurations with the reference's class defaults.
//!
//! [`Checkpoint::open`] reads `config.json`, the processor files and `generation_config.json` of one folder, fills in
//! what sparse files leave out exactly as the reference's configuration classes do, and checks that the parts agree.
//! Whoever holds a [`Checkpoint`] need not check again. Unknown keys are ignored, as the reference does; a key that
//! would change the arithmetic in a way that Tessera has no code for is an error that names file, key and value.

mod error;
mod generation;
mod json;
mod model;
mod processor;
mod text;
mod vision;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use tessera_anyres::Geometry;

pub use crate::error::{CheckpointError, Setting};
pub use crate::generation::{EarlyStopping, GenerationDefaults};
pub use crate::model::{FeatureSelect, ModelConfig};
pub use crate::processor::{ImageProcessorConfig, ProcessorConfig};
pub use crate::text::{Family, TextConfig};
pub use crate::vision::{Activation, VisionConfig};

use crate::json::File;

/// The configuration of one checkpoint folder, complete and consistent.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The folder; weights, tokenizer and chat template are read from it by other crates.
    pub dir: PathBuf,
    /// `config.json`: tower, projector and decoder.
    pub model: ModelConfig,
    /// `processor_config.json` and `preprocessor_config.json`: pixels and image tokens.
    pub processor: ProcessorConfig,
    /// `generation_config.json`: what a request means that leaves its sampling parameters out.
    pub generation: GenerationDefaults,
    geometry: Geometry,
}

impl Checkpoint {
    /// Reads and checks the configuration files in `dir`.
    ///
    /// # Errors
    /// A file that is missing, unreadable or not JSON; a key with a value that is wrong or not supported; parts that
    /// contradict each other. Each names the file, the key and the value.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let config = File::require(dir, "config.json")?;
        let model = ModelConfig::read(&config)?;
        let processor = ProcessorConfig::read(dir, &model)?;
        let generation = GenerationDefaults::read(dir, &config, model.text.family)?;
        processor.check_against(&model)?;
        let geometry = Geometry::new(model.pinpoints.clone(), processor.image.tile, model.vision.patch_size)
            .map_err(|source| CheckpointError::Geometry { file: config.path().to_path_buf(), source })?;
        Ok(Self { dir: dir.to_path_buf(), model, processor, generation, geometry })
    }

    /// Returns the AnyRes geometry that tower and processor agree on.
    pub fn geometry(&self) -> Geometry {
        self.geometry.clone()
    }
}
