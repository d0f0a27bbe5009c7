//! What the tower begins with: tiles cut in patches, each a row with its position. The patch convolution has stride and
//! kernel equal, so it is a matrix product.

use candle_core::{DType as CandleType, Tensor};
use tessera_checkpoint::VisionConfig;
use tessera_kernels::{UnfoldShape, reference};

use crate::{
    ModelError,
    device::{
        Device,
        kernels::{self, EmbedTiles},
    },
    weights::{Weights, names},
};

/// Patch convolution, class vector and positions.
pub(super) struct Embedding {
    channels: usize,
    /// Pixels of a tile's side.
    side: usize,
    /// Pixels of a patch's side.
    patch: usize,
    kernel: Kernel,
    /// `[hidden_size]`, in the type of the kernel.
    bias: Option<Tensor>,
    /// `[1, hidden_size]`
    class: Option<Tensor>,
    /// `[positions, hidden_size]`
    positions: Tensor,
}

/// The convolution's kernel.
enum Kernel {
    /// `[channels * patch * patch, hidden_size]` in f64, on the CPU: its sums are the longest and everything after starts from
    /// them. Of the tiny checkpoints it takes a third off the error of features and logits (root mean square, against f64).
    /// It costs some 10 ms a tile where the whole tower takes seconds.
    Wide(Tensor),
    /// `[hidden_size, channels * patch * patch]` in the compute type. A GPU adds the products up in f32.
    Dense(Tensor),
}

impl Embedding {
    pub(super) fn load(weights: &Weights<'_>, config: &VisionConfig) -> Result<Self, ModelError> {
        let VisionConfig { hidden_size, channels, .. } = *config;
        let (side, patch) = (config.image_size as usize, config.patch_size as usize);
        let when = |present: bool, name| present.then(|| weights.vector(name, hidden_size)).transpose();
        let kernel = weights.tensor(names::PATCH_EMBEDDING, &[hidden_size, channels, patch, patch])?;
        let (kernel, bias) = (kernel.reshape((hidden_size, ()))?, when(config.patch_bias, names::PATCH_BIAS)?);
        let (kernel, bias) = if weights.device().is_dense() {
            (Kernel::Dense(kernel), bias)
        } else {
            let wide = kernel.to_dtype(CandleType::F64)?.t()?.contiguous()?;
            (Kernel::Wide(wide), bias.map(|bias| bias.to_dtype(CandleType::F64)).transpose()?)
        };
        let class = when(config.has_cls, names::CLASS_EMBEDDING)?;
        let class = class.map(|class| class.unsqueeze(0)).transpose()?;
        let positions = weights.matrix(names::POSITION_EMBEDDING, config.positions(), hidden_size)?;
        Ok(Self { channels, side, patch, kernel, bias, class, positions })
    }

    /// Returns patch vectors with their positions, the class vector, if there is one, in front:
    /// `[tiles * positions, hidden_size]`.
    ///
    /// pixels: f32, `[tiles, channels, side, side]`
    pub(super) fn forward(&self, device: &Device, pixels: &Tensor) -> Result<Tensor, ModelError> {
        let Self { kernel, bias, class, positions: table, .. } = self;
        let tiles = pixels.dim(0)?;
        match kernel {
            Kernel::Wide(kernel) => self.forward_wide(device, pixels, kernel),
            Kernel::Dense(kernel) => {
                let unfolded = kernels::unfold(device, pixels, self.patch)?;
                let patches = &kernels::product(device, &unfolded, kernel)?;
                let (bias, class) = (bias.as_ref(), class.as_ref());
                kernels::embed_tiles(device, &EmbedTiles { patches, bias, class, table, tiles })
            }
        }
    }

    fn forward_wide(&self, device: &Device, pixels: &Tensor, kernel: &Tensor) -> Result<Tensor, ModelError> {
        let (inputs, hidden_size) = kernel.dims2()?;
        let tiles = pixels.dim(0)?;
        let shape = UnfoldShape { tiles, channels: self.channels, side: self.side, patch: self.patch };
        let mut unfolded = vec![0.0f32; shape.rows() * inputs];
        device.read(pixels, |pixels| reference::unfold(&mut unfolded, pixels, shape))?;
        let unfolded = device.tensor(unfolded, &[shape.rows(), inputs])?.to_dtype(CandleType::F64)?;
        let mut patches = unfolded.matmul(kernel)?;
        if let Some(bias) = &self.bias {
            patches = patches.broadcast_add(bias)?;
        }
        let patches = patches.to_dtype(self.positions.dtype())?;
        let mut embedded = patches.reshape((tiles, (), hidden_size))?;
        if let Some(class) = &self.class {
            let class = class.broadcast_as((tiles, 1, hidden_size))?;
            embedded = Tensor::cat(&[&class, &embedded], 1)?;
        }
        Ok(embedded.broadcast_add(&self.positions)?.reshape(((), hidden_size))?)
    }
}
