//! Tensors out of fixture files.

use std::path::Path;

use bytes::Bytes;
use safetensors::SafeTensors;
use tessera_tensor::{DType, HostTensor};

use crate::{fixtures_dir, read};

/// What the reference's two image processors make of the images of a case:
/// f32 `[images, tiles, 3, tile, tile]`, padded with zero tiles to the image of the case that has the most.
#[derive(Clone, Debug)]
pub struct Pixels {
    /// Resized by torchvision.
    pub torchvision: HostTensor,
    /// Resized by Pillow.
    pub pillow: HostTensor,
}

/// The pixel values of a case, for tiles of 56 or of 42 pixels.
///
/// # Panics
/// If the case has no images or the tile is another.
pub fn pixels(tile: u32, case: &str) -> Pixels {
    let path = fixtures_dir().join(format!("tiny/pixels_{tile}.safetensors"));
    let tensors = TensorFile::open(&path);
    Pixels {
        torchvision: tensors.require(&format!("{case}.pixel_values")),
        pillow: tensors.require(&format!("{case}.pixel_values_pil")),
    }
}

/// A safetensors file in memory.
pub(crate) struct TensorFile {
    bytes: Vec<u8>,
    name: String,
}

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Self {
        Self { bytes: read(path), name: path.display().to_string() }
    }

    pub(crate) fn require(&self, name: &str) -> HostTensor {
        self.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.name))
    }

    pub(crate) fn get(&self, name: &str) -> Option<HostTensor> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let view = file.tensor(name).ok()?;
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => panic!("{}: {name} is {other:?}", self.name),
        };
        let tensor = HostTensor::new(dtype, view.shape().to_vec(), Bytes::copy_from_slice(view.data()));
        Some(tensor.unwrap_or_else(|error| panic!("{}: {name}: {error}", self.name)))
    }
}
