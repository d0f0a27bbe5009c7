//! The vision side: tiles in, features out.

mod embedding;
mod tower;

use candle_core::Tensor;
use tessera_anyres::Plan;
use tessera_checkpoint::{Checkpoint, ModelConfig};
use tessera_tensor::HostTensor;

use crate::{
    LoadOptions, ModelError,
    device::{self, Device, Fetch},
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

/// A forward pass of the tower that a device works on.
pub struct Pass {
    /// `[tiles * patches, tower channels]`
    features: Fetch,
    /// Kept while the device may still read them.
    pixels: Vec<Tensor>,
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
        let device = device::first(options)?;
        let blocks = selection.blocks();
        let weights = Weights::open(&checkpoint.dir, &device, options.progress, |name| {
            names::of_vision(name, &config.vision, blocks)
        })?;
        let tower = Tower::load(&weights, &config.vision, selection)?;
        let projector = Projector::load(&weights, &config)?;
        let fingerprint = tower.fingerprint(&weights, &config, device.compute());
        device.finish_loading()?;
        Ok(Self { config, device, tower, projector, fingerprint })
    }

    /// Returns what the device that it runs on is called, as `cpu` or `cuda:0 (NVIDIA H200)`.
    #[must_use]
    pub fn device_name(&self) -> String {
        self.device.name()
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
        self.start(std::slice::from_ref(pixels))?.finish()
    }

    /// Puts a pass over the tiles of some images, each as [`encode`](Self::encode) takes them, on the device. A GPU works on
    /// it behind what it was given before, while the caller goes on; the CPU is done with it when this returns.
    ///
    /// # Errors
    /// If a shape is another, or there is no tile.
    pub fn start(&self, images: &[HostTensor]) -> Result<Pass, ModelError> {
        let vision = &self.config.vision;
        let side = vision.image_size as usize;
        for pixels in images {
            match pixels.shape() {
                [tiles, rest @ ..] if *tiles > 0 && rest == [vision.channels, side, side] => {}
                shape => return Err(self.bad_pixels(shape)),
            }
        }
        if images.is_empty() {
            return Err(self.bad_pixels(&[]));
        }
        let pixels = self.device.send(images)?;
        let features = self.device.run(|| self.tower.forward(&self.device, &pixels))?;
        Ok(Pass { features: self.device.fetch(&features)?, pixels })
    }

    /// Returns how many passes to have on the device at once: one on the CPU; on a GPU two, so that features come down and
    /// pixels go up while it computes.
    #[must_use]
    pub fn passes_at_once(&self) -> usize {
        self.device.passes_at_once()
    }

    /// Returns how many tiles a pass should have where many wait.
    #[must_use]
    pub fn usual_tiles(&self) -> usize {
        self.device.usual_tiles()
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

    fn bad_pixels(&self, shape: &[usize]) -> ModelError {
        let vision = &self.config.vision;
        let wanted = format!("[tiles, {}, {}, {}]", vision.channels, vision.image_size, vision.image_size);
        ModelError::Input { what: "pixels", wanted, found: shape.to_vec() }
    }
}

impl Pass {
    /// Waits for the selected hidden states of the tiles of all images, one below the other:
    /// `[tiles * patches, tower channels]`.
    ///
    /// # Errors
    /// If the device failed.
    pub fn finish(self) -> Result<HostTensor, ModelError> {
        let features = self.features.finish();
        drop(self.pixels);
        features
    }
}
