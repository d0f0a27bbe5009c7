//! Rotary position embedding, halves layout (Su et al. 2021; `apply_rotary_pos_emb` of the reference).

use candle_core::Tensor;
use tessera_checkpoint::TextConfig;

use crate::{ModelError, cpu, device::Device};

/// Cosines and sines of every position.
pub(crate) struct Rope {
    /// `[max_positions, head_dim / 2]`
    cos: Vec<f32>,
    /// `[max_positions, head_dim / 2]`
    sin: Vec<f32>,
    /// Half the width of a head.
    half: usize,
    device: Device,
}

/// Cosines and sines of the rows of one batch.
pub(crate) struct Angles<'a> {
    rope: &'a Rope,
    /// The position of each row.
    positions: &'a [u32],
}

impl Rope {
    /// Computes the tables. Frequencies and angles are f32 as the reference's: that decides which angle position
    /// 30 000 gets.
    pub(crate) fn new(config: &TextConfig, device: &Device) -> Self {
        let TextConfig { head_dim, max_positions, rope_theta, .. } = *config;
        let frequencies: Vec<f32> = (0..head_dim)
            .step_by(2)
            .map(|index| 1.0 / (rope_theta as f32).powf(index as f32 / head_dim as f32))
            .collect();
        let angles = || (0..max_positions).flat_map(|p| frequencies.iter().map(move |frequency| p as f32 * frequency));
        let (cos, sin) = (angles().map(f32::cos).collect(), angles().map(f32::sin).collect());
        Self { cos, sin, half: head_dim / 2, device: device.clone() }
    }

    /// Returns the angles of these positions, each below `max_positions`.
    pub(crate) fn at<'a>(&'a self, positions: &'a [u32]) -> Angles<'a> {
        Angles { rope: self, positions }
    }
}

impl Angles<'_> {
    /// Turns the first `heads` heads of every row and leaves what is beside them.
    ///
    /// x: `[rows, width]`, and so the result
    pub(crate) fn apply(&self, x: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
        let Rope { cos, sin, half, device } = self.rope;
        let half = *half;
        let (rows, width) = x.dims2()?;
        let turned = device.read(x, |x| {
            let mut out = x.to_vec();
            cpu::each_row(&mut out, width, |row, out| {
                let position = self.positions[row] as usize * half;
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
        device.tensor(turned, &[rows, width])
    }
}
