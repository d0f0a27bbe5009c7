//! Rotary position embedding, halves layout (Su et al. 2021; `apply_rotary_pos_emb` of the reference).

use candle_core::Tensor;
use candle_nn::rotary_emb;
use tessera_checkpoint::TextConfig;

use crate::{ModelError, device::Device};

/// Cosines and sines of every position.
pub(crate) struct Rope {
    /// `[max_positions, head_dim / 2]`
    cos: Tensor,
    /// `[max_positions, head_dim / 2]`
    sin: Tensor,
    device: Device,
}

/// Cosines and sines of the rows of one batch.
pub(crate) struct Angles {
    /// `[rows, head_dim / 2]`
    cos: Tensor,
    /// `[rows, head_dim / 2]`
    sin: Tensor,
}

impl Rope {
    /// Computes the tables. Frequencies and angles are f32 as the reference's: that decides which angle position
    /// 30 000 gets.
    pub(crate) fn new(config: &TextConfig, device: &Device) -> Result<Self, ModelError> {
        let TextConfig { head_dim, max_positions, rope_theta, .. } = *config;
        let frequencies: Vec<f32> = (0..head_dim)
            .step_by(2)
            .map(|index| 1.0 / (rope_theta as f32).powf(index as f32 / head_dim as f32))
            .collect();
        let angles = || (0..max_positions).flat_map(|p| frequencies.iter().map(move |frequency| p as f32 * frequency));
        let shape = [max_positions, head_dim / 2];
        let cos = device.tensor(angles().map(f32::cos).collect(), &shape)?;
        let sin = device.tensor(angles().map(f32::sin).collect(), &shape)?;
        Ok(Self { cos, sin, device: device.clone() })
    }

    /// Returns the angles of these positions, each below `max_positions`.
    pub(crate) fn at(&self, positions: &[u32]) -> Result<Angles, ModelError> {
        let rows = self.device.indices(positions)?;
        Ok(Angles { cos: self.cos.index_select(&rows, 0)?, sin: self.sin.index_select(&rows, 0)? })
    }
}

impl Angles {
    /// Turns every head of every row. x: `[rows, heads, head_dim]`, contiguous
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(rotary_emb::rope_thd(&x.unsqueeze(0)?, &self.cos, &self.sin)?.squeeze(0)?)
    }
}
