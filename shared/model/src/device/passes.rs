//! Passes through the vision tower: what suits a device, and how pixels get there and features back while it computes.

use candle_core::Tensor;
use tessera_tensor::HostTensor;

use super::{Device, cuda::Arriving};
use crate::ModelError;

/// Tiles of a pass where many wait, on the CPU: two images of a 2 x 2 grid, so that none waits long for the others.
const TILES: usize = 10;
/// The same on a GPU. 64 tiles of CLIP-L are 36,928 rows: its narrowest product, to 1,024 outputs, is 1,156 pieces of 128 x 256
/// for the 132 multiprocessors of an H100 or H200, nearly nine rounds of which the last is three quarters full, where 10 tiles
/// are one round and a third. Of pixels that are 87 MB, of activations in 16 bits at most 0.6 GB at a time, and of arithmetic 23
/// TFLOP: some tens of milliseconds, against which what is done once a pass (weights read, kernels started) does not count.
const TILES_ON_GPU: usize = 64;

/// Numbers on their way from a device.
pub(crate) enum Fetch {
    /// They are here.
    Here(HostTensor),
    /// A GPU brings them when it has computed them.
    Arriving(Arriving),
}

impl Device {
    /// The number of passes to have on the device at once: the CPU has done one before it is asked for the next.
    pub(crate) fn passes_at_once(&self) -> usize {
        if self.gpu().is_some() { 2 } else { 1 }
    }

    /// The number of tiles to put in a pass where many wait.
    pub(crate) fn usual_tiles(&self) -> usize {
        if self.gpu().is_some() { TILES_ON_GPU } else { TILES }
    }

    /// The number of tiles that are computed at once. On the CPU one tile's matrix products fill the cores, and a tile alone
    /// gives bit for bit what it gives in company.
    pub(crate) fn tiles_at_once(&self) -> usize {
        if self.is_dense() { TILES_ON_GPU } else { 1 }
    }

    /// Returns the pixels of images in f32: a tensor for each image on the CPU, one for all, one below the other, on a GPU.
    /// There they are on their way when this returns, and are to be kept until what is computed from them has come back.
    ///
    /// images: each `[tiles, channels, side, side]`, and so the result
    pub(crate) fn send(&self, images: &[HostTensor]) -> Result<Vec<Tensor>, ModelError> {
        match self.gpu() {
            Some(gpu) => Ok(vec![gpu.send_images(images)?]),
            None => images.iter().map(|image| self.singles(image.to_f32(), image.shape())).collect(),
        }
    }

    /// Begins to bring a contiguous tensor to the host, behind all that its numbers need.
    pub(crate) fn fetch(&self, tensor: &Tensor) -> Result<Fetch, ModelError> {
        match self.gpu() {
            Some(gpu) => Ok(Fetch::Arriving(gpu.fetch(tensor)?)),
            None => Ok(Fetch::Here(self.download(tensor)?)),
        }
    }
}

impl Fetch {
    /// Waits for the numbers.
    pub(crate) fn finish(self) -> Result<HostTensor, ModelError> {
        match self {
            Self::Here(tensor) => Ok(tensor),
            Self::Arriving(arriving) => arriving.finish(),
        }
    }
}
