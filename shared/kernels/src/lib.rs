//! The CUDA kernels that the model computes with, three times over: their source (`cuda/`), how each is launched
//! ([`launch`]), and the same functions in plain Rust ([`mod@reference`]), which is what tests hold the source to and what
//! the model computes with where it has no GPU.
//!
//! Nothing here knows candle or a CUDA driver. `README.md` beside this crate lists every kernel with its parameters.

mod activation;
mod element;
mod fatbin;
pub mod launch;
pub mod powers;
pub mod reference;
mod shapes;
mod wish;

pub use activation::Activation;
pub use element::{Element, Kind};
pub use fatbin::fatbin;
pub use shapes::{AttendShape, CopyShape, MergeShape, RopeShape, UnfoldShape};
pub use wish::{MOST_EQUAL, TOP, TOP_WORDS, TopScores, Wish};

/// Positions of a block of the KV cache.
pub const BLOCK_POSITIONS: usize = 32;

/// Positions that one thread block attends to.
///
/// A question about one picture is one row over some 3,000 positions with 8 heads of keys and values, and it must fill
/// the chip alone. Parts of 64 make 47 * 8 = 376 thread blocks, 2.8 for each of the 132 multiprocessors of an H100 or
/// H200. Each asks for all of its keys and values at once, 64 * 128 * 2 * 2 bytes = 32 KiB in 16-bit with heads of 128:
/// 90 KiB in flight on a multiprocessor, where 3.3 TB/s (4.3 TB/s) at some 700 ns of latency need 17 KiB (22 KiB).
/// Parts of 128 would leave 1.45 thread blocks for a multiprocessor: half of them would work twice as long as the
/// others. Parts of 32 would double what the parts themselves cost: a part of one head is 128 sums of 4 bytes written
/// and read again, against 32 KiB of keys and values that its group of heads shares (3 % for a group of one head, 12 %
/// for one of four).
///
/// Parts never move: what a sum's order is depends on it, so a change changes the last bits of every answer.
pub const SPLIT_POSITIONS: usize = 64;

/// The slot of a row that is padding, and the id where no logit is finite.
pub const NONE: u32 = u32::MAX;

/// The most queries that may share a head of keys and values.
pub const MOST_GROUP: usize = 16;

/// The widest head that attention takes; every head is a multiple of [`HEAD_STEP`] wide.
pub const MOST_HEAD_DIM: usize = 256;

/// What the width of a head is a multiple of.
pub const HEAD_STEP: usize = 8;

/// Returns the number of parts in which a row that sees `length` positions is attended to.
pub const fn splits(length: usize) -> usize {
    length.div_ceil(SPLIT_POSITIONS)
}
