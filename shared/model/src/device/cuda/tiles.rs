//! Attention within tiles, by the library's flash attention. Not run on a GPU yet, like all of [`cuda`](super).

use candle_core::Tensor;
use candle_flash_attn::flash_attn;

use super::Gpu;
use crate::ModelError;

/// The widths of heads that the library's kernel is built for.
const WIDTHS: [usize; 3] = [64, 96, 128];

impl Gpu {
    /// Lets every row of a tile attend to every other of it, in 16 bits. Narrower heads than the library's kernel is built for
    /// are filled up with zeros, which change no sum.
    ///
    /// qkv: `[tiles, positions, 3 * heads, head_dim]`, heads at most as wide as the widest; result:
    /// `[tiles, positions, heads, head_dim]`
    pub(crate) fn attend_tiles(&self, qkv: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
        let head_dim = qkv.dim(3)?;
        let width = WIDTHS.into_iter().find(|width| *width >= head_dim).unwrap_or(head_dim);
        let filled = if width == head_dim { qkv.clone() } else { qkv.pad_with_zeros(3, 0, width - head_dim)? };
        let part = |index: usize| filled.narrow(2, index * heads, heads);
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        let attended = flash_attn(&part(0)?, &part(1)?, &part(2)?, scale, false)?;
        Ok(attended.narrow(3, 0, head_dim)?.contiguous()?)
    }
}
