//! What a model fixes for all its images: the grids it was trained on, its tile and its patch.

use crate::plan::padding;
use crate::{Frame, ImageSize, Plan, Shape, Tiles, plan, rules};

/// The longest side, in pixels, that a grid may have. The shipped models stop at 1008; the bound keeps every count that
/// follows from a grid far away from overflow, whatever a config says.
pub const MAX_GRID_SIDE: u32 = 1 << 15;

/// The AnyRes geometry of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Grids in pixels; never empty. The order matters: ties go to the earlier one.
    pinpoints: Vec<ImageSize>,
    /// Side of a tile in pixels; divides every side of every grid.
    tile: u32,
    /// Side of a patch in pixels, at most the tile's. What is left of a tile at the right and at the bottom is no patch.
    patch: u32,
}

/// Why a set of grids, a tile and a patch are no geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// There is no grid to choose from.
    NoPinpoints,
    /// The tile or the patch has no pixels.
    ZeroSide {
        /// Side of the tile in pixels.
        tile: u32,
        /// Side of the patch in pixels.
        patch: u32,
    },
    /// A grid is no whole number of tiles, or has none.
    RaggedPinpoint {
        /// The grid.
        pinpoint: ImageSize,
        /// Side of the tile in pixels.
        tile: u32,
    },
    /// A grid is larger than [`MAX_GRID_SIDE`].
    PinpointTooLarge {
        /// The grid.
        pinpoint: ImageSize,
    },
    /// The patch is larger than the tile.
    PatchTooLarge {
        /// Side of the tile in pixels.
        tile: u32,
        /// Side of the patch in pixels.
        patch: u32,
    },
}

impl Geometry {
    /// Returns the geometry of a model with the grids `pinpoints` (pixels, in the order of the model's config), square
    /// tiles of `tile` pixels a side and square patches of `patch` pixels a side.
    ///
    /// # Errors
    /// When there are no grids, when a side is zero, when a tile does not divide a grid, when a patch is larger than the
    /// tile, and when a grid is larger than [`MAX_GRID_SIDE`].
    pub fn new(pinpoints: Vec<ImageSize>, tile: u32, patch: u32) -> Result<Self, GeometryError> {
        if pinpoints.is_empty() {
            return Err(GeometryError::NoPinpoints);
        }
        if tile == 0 || patch == 0 {
            return Err(GeometryError::ZeroSide { tile, patch });
        }
        if patch > tile {
            return Err(GeometryError::PatchTooLarge { tile, patch });
        }
        for &pinpoint in &pinpoints {
            let ImageSize { height, width } = pinpoint;
            if height == 0 || width == 0 || !height.is_multiple_of(tile) || !width.is_multiple_of(tile) {
                return Err(GeometryError::RaggedPinpoint { pinpoint, tile });
            }
            if height.max(width) > MAX_GRID_SIDE {
                return Err(GeometryError::PinpointTooLarge { pinpoint });
            }
        }
        Ok(Self { pinpoints, tile, patch })
    }

    /// Plans an image of `size`: its grid, its resize and padding, and what is kept of it.
    ///
    /// Total: any size has a plan. An image has at least one row and one column; a size that says zero describes no
    /// image (the decoder refuses such files) and is planned as if the side were one pixel, so that nothing divides by
    /// zero.
    #[must_use]
    pub fn plan(&self, size: ImageSize) -> Plan {
        let image = ImageSize::new(size.height.max(1), size.width.max(1));
        let grid = rules::best_grid(image, &self.pinpoints);
        let resized = rules::resized(image, grid);
        let n = self.patches_per_side();
        let tiles = Tiles { down: grid.height / self.tile, across: grid.width / self.tile };
        let kept = rules::kept_window(image, tiles.down * n, tiles.across * n);
        plan::assemble(image, grid, resized, tiles, n, kept)
    }

    /// Plans an image of `size` that is given this shape before it is cut.
    #[must_use]
    pub fn plan_of(&self, size: ImageSize, shape: Shape) -> Plan {
        match shape {
            Shape::Own => self.plan(size),
            Shape::Constant => self.plan(self.constant_size()),
        }
    }

    /// Returns the size that every image of [`Shape::Constant`] has: the grid with most pixels; of several, the one whose
    /// sides differ least, then the earliest. It fills its own grid, so nothing of it is padded again or cut.
    #[must_use]
    pub fn constant_size(&self) -> ImageSize {
        let rank = |grid: &ImageSize| (grid.pixels(), std::cmp::Reverse(grid.height.abs_diff(grid.width)));
        // Of equal ones `max_by_key` takes the last.
        let largest = self.pinpoints.iter().rev().max_by_key(|grid| rank(grid));
        largest.copied().unwrap_or(ImageSize::new(self.tile, self.tile))
    }

    /// Says how an image of `size` is put into [`constant_size`](Self::constant_size): as large as fits with its aspect
    /// kept, in the middle.
    #[must_use]
    pub fn frame(&self, size: ImageSize) -> Frame {
        let image = ImageSize::new(size.height.max(1), size.width.max(1));
        let whole = self.constant_size();
        let resized = rules::resized(image, whole);
        Frame { whole, resized, padding: padding(whole, resized) }
    }

    /// Returns the grids to choose from, in pixels.
    #[must_use]
    pub fn pinpoints(&self) -> &[ImageSize] {
        &self.pinpoints
    }

    /// Returns the side of a tile in pixels.
    #[must_use]
    pub fn tile(&self) -> u32 {
        self.tile
    }

    /// Returns the side of a patch in pixels.
    #[must_use]
    pub fn patch(&self) -> u32 {
        self.patch
    }

    /// Returns how many patches a tile has across, and down.
    #[must_use]
    pub fn patches_per_side(&self) -> u32 {
        self.tile / self.patch
    }

    /// Returns how many tiles an image can have at most, the base tile included.
    #[must_use]
    pub fn max_tiles(&self) -> usize {
        let tiles = |grid: &ImageSize| (grid.height / self.tile) as usize * (grid.width / self.tile) as usize;
        1 + self.pinpoints.iter().map(tiles).max().unwrap_or(0)
    }

    /// Returns an upper bound of the image tokens of one image: no image, whatever its size, has more.
    #[must_use]
    pub fn max_image_tokens(&self) -> usize {
        let n = self.patches_per_side() as usize;
        let grid_tokens = |grid: &ImageSize| {
            let [rows, columns] = [grid.height, grid.width].map(|side| (side / self.tile) as usize * n);
            rows * columns + rows
        };
        n * n + self.pinpoints.iter().map(grid_tokens).max().unwrap_or(0)
    }
}

impl std::fmt::Display for GeometryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoPinpoints => write!(f, "the list of grids is empty"),
            Self::ZeroSide { tile, patch } => {
                write!(f, "tile is {tile} pixels and patch is {patch}, both must be positive")
            }
            Self::RaggedPinpoint { pinpoint, tile } => {
                write!(f, "grid {pinpoint} is no whole number of tiles of {tile}x{tile}")
            }
            Self::PinpointTooLarge { pinpoint } => {
                write!(f, "grid {pinpoint} is larger than {MAX_GRID_SIDE}x{MAX_GRID_SIDE}")
            }
            Self::PatchTooLarge { tile, patch } => {
                write!(f, "patch of {patch} pixels is larger than a tile of {tile}")
            }
        }
    }
}

impl std::error::Error for GeometryError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_geometry_is_refused_by_name() {
        let square = |side| vec![ImageSize::new(side, side)];
        assert_eq!(Geometry::new(vec![], 336, 14), Err(GeometryError::NoPinpoints));
        assert_eq!(Geometry::new(square(672), 0, 14), Err(GeometryError::ZeroSide { tile: 0, patch: 14 }));
        assert_eq!(Geometry::new(square(672), 336, 0), Err(GeometryError::ZeroSide { tile: 336, patch: 0 }));
        assert_eq!(
            Geometry::new(square(672), 336, 16 * 3),
            Ok(Geometry { pinpoints: square(672), tile: 336, patch: 48 })
        );
        assert_eq!(Geometry::new(square(672), 336, 337), Err(GeometryError::PatchTooLarge { tile: 336, patch: 337 }));
        for side in [0, 335, 700] {
            let pinpoint = ImageSize::new(672, side);
            assert_eq!(
                Geometry::new(vec![ImageSize::new(672, 672), pinpoint], 336, 14),
                Err(GeometryError::RaggedPinpoint { pinpoint, tile: 336 })
            );
        }
        let pinpoint = ImageSize::new(1 << 16, 1 << 16);
        assert_eq!(Geometry::new(vec![pinpoint], 256, 16), Err(GeometryError::PinpointTooLarge { pinpoint }));
    }

    #[test]
    fn the_constant_size_is_the_largest_grid_and_of_several_the_squarest_then_the_earliest() {
        let of = |grids: &[(u32, u32)]| {
            let grids = grids.iter().map(|&(down, across)| ImageSize::new(16 * down, 16 * across)).collect();
            let size = Geometry::new(grids, 16, 4).unwrap().constant_size();
            (size.height / 16, size.width / 16)
        };
        assert_eq!(of(&[(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]), (2, 2));
        assert_eq!(of(&[(1, 4), (2, 2), (4, 1)]), (2, 2));
        assert_eq!(of(&[(2, 3), (3, 2)]), (2, 3));
        assert_eq!(of(&[(3, 2), (2, 3)]), (3, 2));
        assert_eq!(of(&[(2, 2), (1, 5)]), (1, 5));
    }
}
