//! The vision side: tiles in, features out.

mod patches;
mod tower;

use tessera_anyres::Plan;
use tessera_checkpoint::{Checkpoint, ModelConfig};
use tessera_tensor::HostTensor;

use crate::{
    LoadOptions, ModelError,
    device::Device,
    projector::Projector,
    weights::{Weights, names},
};
use tower::{Selection, Tower};

/// Tower, projector and newline vector. Immutable after loading.
pub struct VisionModel {
    config: ModelConfig,
    device: Device,
    tower: Tower,
    projector: Projector,
    fingerprint: [u8; 32],
}

impl VisionModel {
    /// Loads the tower up to the last selected layer, the projector and the newline vector. Tensors of the decoder are
    /// not looked at and may be absent.
    ///
    /// # Errors
    /// If the compute type is not for this device, a file is missing or damaged, or a tensor is missing, of another
    /// shape or of an unsupported element type.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions<'_>) -> Result<Self, ModelError> {
        let config = checkpoint.model.clone();
        let selection = Selection::new(&config);
        let device = Device::new(options.compute)?;
        let blocks = selection.blocks();
        let weights = Weights::open(&checkpoint.dir, &device, options.progress, |name| {
            names::of_vision(name, &config.vision, blocks)
        })?;
        let tower = Tower::load(&weights, &config.vision, selection)?;
        let projector = Projector::load(&weights, &config)?;
        let fingerprint = tower.fingerprint(&weights, &config, device.compute());
        Ok(Self { config, device, tower, projector, fingerprint })
    }

    /// Returns the selected hidden states of all tiles, without the class token's, several layers side by side.
    ///
    /// `pixels`: `[tiles, channels, side, side]` of any element type, normalised, `side` the tile's.
    /// The result is `[tiles * patches, tower channels]` in the compute type, patches row-major within a tile.
    /// A tile's result does not depend on the others.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn encode(&self, pixels: &HostTensor) -> Result<HostTensor, ModelError> {
        let vision = &self.config.vision;
        let [tiles, channels, height, width] = pixels.shape() else {
            return Err(self.bad_pixels(pixels));
        };
        let side = vision.image_size as usize;
        if *tiles == 0 || (*channels, *height, *width) != (vision.channels, side, side) {
            return Err(self.bad_pixels(pixels));
        }
        self.device.run(|| self.tower.forward(&self.device, pixels))
    }

    /// Picks the rows of one image's features, in packing order: base tile first, then the grid without its padding.
    ///
    /// `encoded`: `[plan.tile_count() * patches, channels]`. The result is `[plan.feature_rows(), channels]`.
    ///
    /// # Errors
    /// If the number of rows is another.
    pub fn pack(&self, encoded: &HostTensor, plan: &Plan) -> Result<HostTensor, ModelError> {
        let patches = self.tower.patches();
        let expected = plan.tile_count() * patches;
        match encoded.dims2() {
            Ok((rows, _)) if rows == expected => {}
            _ => {
                let wanted = format!("[{expected}, channels]");
                return Err(ModelError::Input { what: "encoded tiles", wanted, found: encoded.shape().to_vec() });
            }
        }
        Ok(encoded.gather_rows(plan.sources().map(|source| source.tile * patches + source.patch))?)
    }

    /// Returns the rows that the decoder sees of an image: projector applied, newline vectors inserted.
    ///
    /// `features`: `[plan.feature_rows(), channels]`. The result is `[plan.image_tokens(), decoder width]` in the compute
    /// type.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn project(&self, features: &HostTensor, plan: &Plan) -> Result<HostTensor, ModelError> {
        self.projector.image_embedding(&self.device, features, plan)?.to_host(&self.device)
    }

    /// Returns what identifies the encoder: BLAKE3 over the tower's tensors (names, element types, shapes, bytes as
    /// stored), selected layers, strategy, all of the vision configuration and the compute type. The four
    /// spellings of a tensor's name count as one.
    ///
    /// What happens before the tower (processor configuration, preprocessing) is for the caller to mix in.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    fn bad_pixels(&self, pixels: &HostTensor) -> ModelError {
        let vision = &self.config.vision;
        let wanted = format!("[tiles, {}, {}, {}]", vision.channels, vision.image_size, vision.image_size);
        ModelError::Input { what: "pixels", wanted, found: pixels.shape().to_vec() }
    }
}
