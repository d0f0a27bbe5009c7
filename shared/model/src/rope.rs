//! Rotary position embedding, halves layout (Su et al. 2021; `apply_rotary_pos_emb` of the reference).

use candle_core::Tensor;
use tessera_checkpoint::TextConfig;

use crate::{ModelError, cpu, device::Device};

/// Cosines and sines of every position.
pub(crate) struct Rope {
    tables: Tables,
    /// Half the width of a head.
    half: usize,
    device: Device,
}

/// Cosines and sines, each `[max_positions, head_dim / 2]` in f32.
enum Tables {
    Host { cos: Vec<f32>, sin: Vec<f32> },
    Dense { cos: Tensor, sin: Tensor },
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
        let (cos, sin): (Vec<f32>, Vec<f32>) = (angles().map(f32::cos).collect(), angles().map(f32::sin).collect());
        let half = head_dim / 2;
        let tables = if device.is_dense() {
            let shape = [max_positions, half];
            Tables::Dense { cos: device.singles(cos, &shape)?, sin: device.singles(sin, &shape)? }
        } else {
            Tables::Host { cos, sin }
        };
        Ok(Self { tables, half, device: device.clone() })
    }

    /// The device that turns.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The tables on the device, for the kernel that turns there.
    pub(crate) fn dense(&self) -> Option<(&Tensor, &Tensor)> {
        match &self.tables {
            Tables::Dense { cos, sin } => Some((cos, sin)),
            Tables::Host { .. } => None,
        }
    }

    /// Turns the first `heads` heads of every row and leaves what is beside them. Of the CPU's own way.
    ///
    /// x: `[rows, width]`, and so the result; positions: one a row, each below `max_positions`
    pub(crate) fn turn(&self, x: &Tensor, heads: usize, positions: &[u32]) -> Result<Tensor, ModelError> {
        let Tables::Host { cos, sin } = &self.tables else { return Ok(x.clone()) };
        let half = self.half;
        let (rows, width) = x.dims2()?;
        let turned = self.device.read(x, |x| {
            let mut out = x.to_vec();
            cpu::each_row(&mut out, width, |row, out| {
                let position = positions[row] as usize * half;
                let (cos, sin) = (&cos[position..position + half], &sin[position..position + half]);
                for head in out.chunks_exact_mut(2 * half).take(heads) {
                    let (left, right) = head.split_at_mut(half);
                    for (((left, right), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                        (*left, *right) = (*left * cos - *right * sin, *left * sin + *right * cos);
                    }
                }
            });
            out
        })?;
        self.device.tensor(turned, &[rows, width])
    }
}
