//! How each kernel is launched: pure functions of shapes, which also check what the kernel and the GPU demand of them.
//!
//! Extents are given to the kernels as 32-bit numbers, which loops must be able to step past; the sizes of tensors may be
//! larger.

use thiserror::Error;

use crate::{
    AttendShape, CopyShape, HEAD_STEP, Kind, MOST_GROUP, MOST_HEAD_DIM, MergeShape, RopeShape, SPLIT_POSITIONS,
    UnfoldShape, powers::LANES,
};

/// The largest extent.
const MOST: usize = i32::MAX as usize;
/// The most thread blocks along the first axis of a grid, and along the others.
const MOST_BLOCKS: [usize; 3] = [MOST, 65_535, 65_535];
/// Threads that step together.
const WARP: usize = 32;
/// Numbers that a thread takes at once: 16 bytes of a 16-bit type.
const PACK: usize = 8;
/// Threads of a block where it makes no difference to what a kernel computes.
const THREADS: usize = 256;
/// Threads of a block that copies a row: rows of 4,096 numbers are 512 vectors of 16 bytes.
const ROW_THREADS: usize = 128;
/// The most threads that a norm's row is given.
const NORM_THREADS: usize = 512;
/// Threads that look through the scores of a row, as many as a block can have: each adds up a lane of powers.
const CHOOSE_THREADS: usize = LANES;
/// The most scores of a row: a lane has a thread for each.
const MOST_SCORES: usize = CHOOSE_THREADS * LANES;
/// Numbers of a block of the cache that a thread block copies: 4 packs a thread.
const COPY_NUMBERS: usize = 4 * PACK * THREADS;
/// Warps that share the parts of a head; the order in which parts are added up depends on it.
const MERGE_WARPS: usize = 4;
/// Queries whose sums of values are added up over the warps together.
const QUERIES_AT_ONCE: usize = 4;
/// Positions that a group of threads attends to: it keeps all their keys and values in registers.
const POSITIONS_A_LINE: usize = 8;

/// A kernel's name and geometry, as the CUDA driver wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The name of its entry point.
    pub function: &'static str,
    /// Thread blocks along each axis.
    pub grid: [u32; 3],
    /// Threads of a block along each axis.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block; never more than the 48 KiB that need no asking.
    pub shared_bytes: u32,
}

/// Why a kernel cannot be launched with a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LaunchError {
    /// There is nothing to compute.
    #[error("{kernel}: {what} is 0, do not launch it")]
    Empty {
        /// The kernel.
        kernel: &'static str,
        /// The extent that is zero.
        what: &'static str,
    },
    /// An extent is too large for the kernel or the GPU.
    #[error("{kernel}: {what} is {found}, the limit is {limit}")]
    TooLarge {
        /// The kernel.
        kernel: &'static str,
        /// The extent.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The largest that there may be.
        limit: usize,
    },
    /// An extent is no multiple of what it has to be a multiple of.
    #[error("{kernel}: {what} is {found}, which is no multiple of {step}")]
    Uneven {
        /// The kernel.
        kernel: &'static str,
        /// The extent.
        what: &'static str,
        /// Its value.
        found: usize,
        /// What it has to be a multiple of.
        step: usize,
    },
}

type Result = std::result::Result<Launch, LaunchError>;

/// The entry point's name for each kind, without an allocation for each launch.
macro_rules! names {
    ($kernel:literal) => {
        Kernel {
            name: $kernel,
            functions: [concat!($kernel, "_f32"), concat!($kernel, "_f16"), concat!($kernel, "_bf16")],
        }
    };
}

/// Rows of `width` numbers.
pub fn gather(kind: Kind, rows: usize, width: usize) -> Result {
    let kernel = names!("gather");
    kernel.extents(&[("rows", rows), ("width", width)])?;
    kernel.launch(kind, [rows, 1, 1], ROW_THREADS, 0)
}

/// Rows of `width` numbers.
pub fn rms_norm(kind: Kind, rows: usize, width: usize) -> Result {
    norm(names!("rms_norm"), kind, rows, width)
}

/// Rows of `width` numbers.
pub fn layer_norm(kind: Kind, rows: usize, width: usize) -> Result {
    norm(names!("layer_norm"), kind, rows, width)
}

/// Rows of `width` numbers.
pub fn bias_act(kind: Kind, rows: usize, width: usize) -> Result {
    names!("bias_act").over_packs(kind, ("rows", rows), width)
}

/// Rows of `width` numbers of the result.
pub fn silu_mul(kind: Kind, rows: usize, width: usize) -> Result {
    names!("silu_mul").over_packs(kind, ("rows", rows), width)
}

/// See [`RopeShape`]; heads are an even number wide.
pub fn rope_cache(kind: Kind, shape: RopeShape) -> Result {
    let RopeShape { rows, heads, kv_heads, head_dim } = shape;
    let kernel = names!("rope_cache");
    kernel.extents(&[("rows", rows), ("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)])?;
    kernel.multiple("head_dim", head_dim, 2)?;
    kernel.at_most("width of a row", shape.row_width(), MOST)?;
    // A thread turns a pack of each half of a head, or copies two packs of values.
    let tasks = (heads + 2 * kv_heads) * (head_dim / 2).div_ceil(PACK);
    kernel.launch(kind, [rows, tasks.div_ceil(ROW_THREADS), 1], ROW_THREADS, 0)
}

/// See [`AttendShape`].
pub fn paged_attend(kind: Kind, shape: AttendShape) -> Result {
    let AttendShape { rows, heads, kv_heads, head_dim, table_width, splits } = shape;
    let kernel = names!("paged_attend");
    kernel.extents(&[("rows", rows), ("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)])?;
    kernel.extents(&[("table_width", table_width), ("splits", splits)])?;
    kernel.multiple("heads", heads, kv_heads)?;
    kernel.multiple("head_dim", head_dim, HEAD_STEP)?;
    kernel.at_most("head_dim", head_dim, MOST_HEAD_DIM)?;
    kernel.at_most("heads for each head of keys", shape.group(), MOST_GROUP)?;
    let threads = attend_lanes(head_dim) * SPLIT_POSITIONS / POSITIONS_A_LINE;
    kernel.launch(kind, [kv_heads, splits, rows], threads, attend_shared_bytes(head_dim, shape.group()))
}

/// See [`MergeShape`].
pub fn paged_merge(kind: Kind, shape: MergeShape) -> Result {
    let MergeShape { rows, heads, head_dim, splits } = shape;
    let kernel = names!("paged_merge");
    kernel.extents(&[("rows", rows), ("heads", heads), ("head_dim", head_dim), ("splits", splits)])?;
    kernel.at_most("head_dim", head_dim, MOST_HEAD_DIM)?;
    // The sums of values and of weights of every warp, and its largest score.
    let shared = MERGE_WARPS * (head_dim + 2) * size_of::<f32>();
    kernel.launch(kind, [heads, rows, 1], MERGE_WARPS * WARP, shared)
}

/// Rows of scores; `stride` numbers of each are kept.
pub fn choose(kind: Kind, rows: usize, vocabulary: usize, stride: usize) -> Result {
    let kernel = names!("choose");
    kernel.extents(&[("rows", rows), ("vocabulary", vocabulary), ("stride", stride)])?;
    kernel.at_most("vocabulary", vocabulary, MOST_SCORES)?;
    kernel.at_most("vocabulary", vocabulary, stride)?;
    // Lanes of powers, whose place is also that of the largest scores and their ids; groups of lanes; what warps tell each
    // other; and what one thread tells all.
    let shared = (CHOOSE_THREADS + WARP) * size_of::<f64>() + (2 * WARP + 4) * size_of::<u32>();
    kernel.launch(kind, [rows, 1, 1], CHOOSE_THREADS, shared)
}

/// See [`CopyShape`].
pub fn copy_blocks(kind: Kind, shape: CopyShape) -> Result {
    let CopyShape { pairs, layers, blocks, block_len } = shape;
    let kernel = names!("copy_blocks");
    kernel.extents(&[("pairs", pairs), ("layers", layers), ("blocks", blocks), ("block_len", block_len)])?;
    kernel.launch(kind, [block_len.div_ceil(COPY_NUMBERS), pairs, 2 * layers], THREADS, 0)
}

/// See [`UnfoldShape`].
pub fn unfold(kind: Kind, shape: UnfoldShape) -> Result {
    let UnfoldShape { tiles, channels, side, patch } = shape;
    let kernel = names!("unfold");
    kernel.extents(&[("tiles", tiles), ("channels", channels), ("side", side), ("patch", patch)])?;
    kernel.extents(&[("patches along a side", shape.per_side())])?;
    kernel.at_most("pixels of a patch", shape.width(), MOST)?;
    kernel.launch(kind, [shape.rows(), 1, 1], THREADS, 0)
}

/// Tiles of `positions` rows of `width` numbers.
pub fn embed_tiles(kind: Kind, tiles: usize, positions: usize, width: usize) -> Result {
    let kernel = names!("embed_tiles");
    kernel.extents(&[("tiles", tiles), ("positions", positions)])?;
    kernel.over_packs(kind, ("tiles * positions", tiles * positions), width)
}

fn norm(kernel: Kernel, kind: Kind, rows: usize, width: usize) -> Result {
    kernel.extents(&[("rows", rows), ("width", width)])?;
    kernel.launch(kind, [rows, 1, 1], warps_for(width, NORM_THREADS), WARP * size_of::<f32>())
}

/// Threads that take a row in packs, in whole warps.
fn warps_for(width: usize, most: usize) -> usize {
    width.div_ceil(PACK).next_multiple_of(WARP).min(most)
}

/// Threads that share a position: each takes a pack of its key. The kernel is made for 8, 16 and 32.
fn attend_lanes(head_dim: usize) -> usize {
    head_dim.div_ceil(PACK).next_power_of_two().max(8)
}

/// First the group's queries lie there, then, in the same place, the sums of values of every warp, of some queries at
/// once; behind both the scores of all queries, which become weights.
fn attend_shared_bytes(head_dim: usize, group: usize) -> usize {
    let lanes = attend_lanes(head_dim);
    let warps = lanes * SPLIT_POSITIONS / POSITIONS_A_LINE / WARP;
    let room = group.max(warps * group.min(QUERIES_AT_ONCE)) * lanes * PACK;
    (room + group * SPLIT_POSITIONS) * size_of::<f32>()
}

/// A kernel of all kinds.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    functions: [&'static str; 3],
}

impl Kernel {
    /// A thread for each pack of the rows of a matrix.
    fn over_packs(self, kind: Kind, (what, rows): (&'static str, usize), width: usize) -> Result {
        self.extents(&[(what, rows), ("width", width)])?;
        let packs = rows * width.div_ceil(PACK);
        // Threads divide their number by that of the packs of a row, which is fast in 32 bits only.
        self.at_most("packs of all rows", packs, u32::MAX as usize - THREADS)?;
        self.launch(kind, [packs.div_ceil(THREADS), 1, 1], THREADS, 0)
    }

    /// Checks that no extent is zero and none too large.
    fn extents(self, extents: &[(&'static str, usize)]) -> std::result::Result<(), LaunchError> {
        extents.iter().try_for_each(|(what, found)| match found {
            0 => Err(LaunchError::Empty { kernel: self.name, what }),
            found => self.at_most(what, *found, MOST),
        })
    }

    fn at_most(self, what: &'static str, found: usize, limit: usize) -> std::result::Result<(), LaunchError> {
        let too_large = LaunchError::TooLarge { kernel: self.name, what, found, limit };
        if found > limit { Err(too_large) } else { Ok(()) }
    }

    fn multiple(self, what: &'static str, found: usize, step: usize) -> std::result::Result<(), LaunchError> {
        let uneven = LaunchError::Uneven { kernel: self.name, what, found, step };
        if found.is_multiple_of(step) { Ok(()) } else { Err(uneven) }
    }

    fn launch(self, kind: Kind, grid: [usize; 3], threads: usize, shared_bytes: usize) -> Result {
        let axes = ["thread blocks along x", "thread blocks along y", "thread blocks along z"];
        for ((blocks, limit), what) in grid.into_iter().zip(MOST_BLOCKS).zip(axes) {
            self.at_most(what, blocks, limit)?;
        }
        let function = match kind {
            Kind::F32 => self.functions[0],
            Kind::F16 => self.functions[1],
            Kind::Bf16 => self.functions[2],
        };
        let grid = grid.map(|blocks| blocks as u32);
        Ok(Launch { function, grid, block: [threads as u32, 1, 1], shared_bytes: shared_bytes as u32 })
    }
}

#[cfg(test)]
mod tests;
