//! What every kernel computes, in plain Rust over slices: sums in f32, one number after the other, rounded once at the
//! end except where a doc comment says otherwise.
//!
//! These are written to be read. Lengths of slices are the caller's promise; a broken one panics.

mod attend;
mod cache;
mod choose;
mod norms;
mod pointwise;
mod rows;

pub use attend::{Attend, Parts, PartsMut, paged_attend, paged_merge};
pub use cache::{Angles, RopeCache, copy_blocks, rope_cache};
pub use choose::{Found, choose};
pub use norms::{layer_norm, rms_norm};
pub use pointwise::{bias_act, silu_mul};
pub use rows::{EmbedTiles, embed_tiles, gather, unfold};
