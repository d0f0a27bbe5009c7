//! AnyRes geometry: best grid, tiles, un-padding, token counts, layout.
//!
//! LLaVA-NeXT looks at an image twice: squashed to one base tile, and resized with its aspect kept into the best of a
//! few grids of tiles. How many features come out of that, and which patch of which tile each of them is, follows from
//! the image's size alone. This crate is that function, for every side of the system that needs it:
//!
//! * [`Geometry`] is the model's part: the grids it knows, its tile and its patch;
//! * [`Geometry::plan`] gives the [`Plan`] of one image size: grid, resize, padding, counts;
//! * [`Plan::sources`] and [`Plan::embedding_rows`] give the layout of features and of image tokens.
//! * [`Geometry::frame`] is ours and not the reference's: how an image is given a [`Shape`] that tells nothing of it.
//!
//! The reference (`transformers`, `models/llava_next`) computes in floating point and rounds, so the results are those
//! of its order of operations and not of exact arithmetic; `rules` follows it operation by operation.

mod geometry;
mod plan;
mod rules;

pub use geometry::{Geometry, GeometryError, MAX_GRID_SIDE};
pub use plan::{EmbeddingRow, Frame, Padding, PatchSource, Plan, Shape, Tiles};

/// The size of an image, of a tile or of a grid, in pixels. The reference writes (height, width), and so does this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: u32,
    /// Columns of pixels.
    pub width: u32,
}

impl ImageSize {
    /// Returns the size of `height` rows and `width` columns of pixels.
    #[must_use]
    pub const fn new(height: u32, width: u32) -> Self {
        Self { height, width }
    }

    /// Returns the number of pixels.
    #[must_use]
    pub const fn pixels(self) -> u64 {
        self.height as u64 * self.width as u64
    }
}

impl std::fmt::Display for ImageSize {
    /// Writes `width x height` the way people say it: `640x480`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}
