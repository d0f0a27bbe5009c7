//! Attention of prompts, by the library's flash attention, straight over the blocks of the pool. Not run on a GPU yet,
//! like all of [`cuda`](super).

use candle_core::Tensor;
use candle_flash_attn::flash_attn_varlen_paged_windowed;

use super::Gpu;
use crate::{
    BLOCK_POSITIONS, ModelError,
    attention::{Extents, Prompts},
};

impl Gpu {
    /// Lets the rows of prompts attend to everything up to themselves.
    ///
    /// result: `[rows, heads * head_dim]`
    pub(crate) fn attend_prompts(&self, prompts: &Prompts<'_>) -> Result<Tensor, ModelError> {
        let Prompts { queries, pages, rows } = prompts;
        let (count, heads, head_dim) = queries.dims3()?;
        let Extents { longest_prompt, longest_context, .. } = rows.extents;
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        let attended = flash_attn_varlen_paged_windowed(
            queries,
            &pages.get(0)?,
            &pages.get(1)?,
            &rows.query_starts()?,
            &rows.key_starts()?,
            &rows.prompt_tables()?,
            None,
            longest_prompt,
            longest_context,
            scale,
            None,
            // Nothing to the right of a row: the last row of a prompt stands at the end of its positions.
            Some(0),
            BLOCK_POSITIONS,
            None,
        )?;
        Ok(attended.reshape((count, heads * head_dim))?)
    }
}
