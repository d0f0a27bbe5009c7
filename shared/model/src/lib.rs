//! The model: checkpoint loading, vision tower, projector, decoder, attention.
//!
//! The one user of candle; nothing of candle is in the public interface. Two models load from one checkpoint and
//! touch only their own tensors: [`VisionModel`] turns tiles into features, [`LanguageModel`] turns features and tokens
//! into logits. Each part is written once and configured: one tower, one projector, one decoder, one attention.

mod attention;
mod cpu;
mod device;
mod error;
mod language;
mod layers;
mod projector;
mod rope;
mod vision;
mod weights;

use tessera_tensor::{DType, Devices};

pub use attention::{BLOCK_POSITIONS, KvPool};
pub use device::{OnCpu, Phase, resolve};
pub use error::ModelError;
pub use language::{Chunk, Input, LanguageModel, Logits, StepLogits};
pub use projector::ImageEmbedding;
pub use tessera_kernels::TopScores;
pub use vision::{Pass, VisionModel};

/// How to load a model.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Where the model runs.
    pub device: &'a Devices,
    /// The type that weights are converted to and in which the model computes. On the CPU: f32, or f16 for half the
    /// memory and less accuracy. On a GPU: any.
    pub compute: DType,
    /// How it computes where that is on the CPU.
    pub on_cpu: OnCpu,
    /// Told after every tensor how far loading is.
    pub progress: &'a dyn Fn(Progress),
}

/// The CPU, in f32, without a word about progress.
impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self { device: &Devices::Cpu, compute: DType::F32, on_cpu: OnCpu::Panels, progress: &|_| {} }
    }
}

/// How far loading is, in bytes as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of tensors loaded so far.
    pub done_bytes: u64,
    /// Bytes of the tensors that this model needs; other tensors of the checkpoint do not count.
    pub total_bytes: u64,
}
