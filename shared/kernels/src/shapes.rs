//! Shapes of the kernels that have many extents, shared by [`launch`](crate::launch) and
//! [`reference`](crate::reference).

/// The shape of [`rope_cache`](crate::reference::rope_cache).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeShape {
    /// Rows of the batch.
    pub rows: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
}

impl RopeShape {
    /// The width of a row of queries, keys and values.
    pub const fn row_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// The shape of [`paged_attend`](crate::reference::paged_attend).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttendShape {
    /// Rows of the batch.
    pub rows: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub kv_heads: usize,
    /// The width of a head: a multiple of 8, at most 256.
    pub head_dim: usize,
    /// Blocks that a table has room for.
    pub table_width: usize,
    /// Parts that every row has room for: [`splits`](crate::splits) of the longest row, or more.
    pub splits: usize,
}

impl AttendShape {
    /// The number of queries that share a head of keys and values.
    pub const fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The shape of the step that adds the parts up.
    pub const fn merge(&self) -> MergeShape {
        MergeShape { rows: self.rows, heads: self.heads, head_dim: self.head_dim, splits: self.splits }
    }
}

/// The shape of [`paged_merge`](crate::reference::paged_merge).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeShape {
    /// Rows of the batch.
    pub rows: usize,
    /// Heads of queries.
    pub heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// Parts that every row has room for.
    pub splits: usize,
}

impl MergeShape {
    /// The length of `maxima` and of `sums`.
    pub const fn parts(&self) -> usize {
        self.rows * self.heads * self.splits
    }

    /// The length of `partials`.
    pub const fn partials(&self) -> usize {
        self.parts() * self.head_dim
    }
}

/// The shape of [`copy_blocks`](crate::reference::copy_blocks).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyShape {
    /// Blocks to copy.
    pub pairs: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Blocks of a layer's pages.
    pub blocks: usize,
    /// Numbers of a block: `32 * kv_heads * head_dim`.
    pub block_len: usize,
}

/// The shape of [`unfold`](crate::reference::unfold).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnfoldShape {
    /// Tiles.
    pub tiles: usize,
    /// Channels of a pixel.
    pub channels: usize,
    /// Pixels of a tile's side.
    pub side: usize,
    /// Pixels of a patch's side.
    pub patch: usize,
}

impl UnfoldShape {
    /// Whole patches along a side; pixels that fill none are left out.
    pub const fn per_side(&self) -> usize {
        self.side / self.patch
    }

    /// Patches of all tiles: rows of the result.
    pub const fn rows(&self) -> usize {
        self.tiles * self.per_side() * self.per_side()
    }

    /// Numbers of a patch: the width of the result.
    pub const fn width(&self) -> usize {
        self.channels * self.patch * self.patch
    }
}
