//! What follows from the size of one image: the tiles to cut, the features to keep, and the layout of its tokens.

use crate::ImageSize;
use crate::rules::KeptWindow;

/// How one image is cut into tiles, and which features of them remain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Plan {
    /// The image's own size, in pixels.
    pub image: ImageSize,
    /// The grid chosen for it, in pixels: what resize and padding fill.
    pub grid: ImageSize,
    /// The grid in tiles, without the base tile.
    pub tiles: Tiles,
    /// The size, in pixels, that the image is resized to before it is padded to the grid.
    pub resized: ImageSize,
    /// The black border, in pixels, between the resized image and the grid's edges.
    pub padding: Padding,
    /// Patches across a tile, and down.
    pub patches_per_side: u32,
    /// Rows of patches of the grid that un-padding cuts from its top.
    pub first_row: u32,
    /// Columns of patches of the grid that un-padding cuts from its left.
    pub first_column: u32,
    /// Rows of patches of the grid that are kept. Zero for very wide images.
    pub rows: u32,
    /// Columns of patches of the grid that are kept. Zero for very tall images.
    pub columns: u32,
}

/// A grid counted in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Rows of tiles.
    pub down: u32,
    /// Columns of tiles.
    pub across: u32,
}

/// A border in pixels. An odd pixel goes to the bottom, or to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Padding {
    /// Rows above the image.
    pub top: u32,
    /// Columns left of the image.
    pub left: u32,
    /// Rows below the image.
    pub bottom: u32,
    /// Columns right of the image.
    pub right: u32,
}

/// What shape an image is given before it is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Its own: its tiles, features and tokens tell its aspect, as in the reference.
    #[default]
    Own,
    /// That of all others: scaled and padded to the model's largest grid, so that no count tells one image from another.
    Constant,
}

/// How an image is put into the size that all of [`Shape::Constant`] have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// That size, in pixels.
    pub whole: ImageSize,
    /// The size, in pixels, that the image is resized to.
    pub resized: ImageSize,
    /// The border, in pixels, between the resized image and the edges.
    pub padding: Padding,
}

/// Where a feature comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PatchSource {
    /// The tile: 0 is the base tile, then the grid's tiles row by row.
    pub tile: usize,
    /// The patch in that tile, row by row; the tower's class position is not counted.
    pub patch: usize,
}

/// What stands at one image token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EmbeddingRow {
    /// The projected feature with this index in packing order.
    Feature(usize),
    /// The model's newline vector, at the end of each row of the grid.
    Newline,
}

impl Plan {
    /// Returns the number of tiles to encode, the base tile included.
    #[must_use]
    pub fn tile_count(&self) -> usize {
        1 + self.tiles.down as usize * self.tiles.across as usize
    }

    /// Returns the number of features: the base tile's patches and the kept window of the grid's, without newlines.
    #[must_use]
    pub fn feature_rows(&self) -> usize {
        self.base_rows() + self.rows as usize * self.columns as usize
    }

    /// Returns the number of prompt positions that the image fills: one for each feature, and one for each row of the
    /// grid's window (its newline).
    #[must_use]
    pub fn image_tokens(&self) -> usize {
        self.feature_rows() + self.rows as usize
    }

    /// Returns the source of each feature, in packing order: the base tile's patches, then the kept window of the grid
    /// row by row. [`feature_rows`](Self::feature_rows) items.
    pub fn sources(&self) -> impl Iterator<Item = PatchSource> + '_ {
        let base = (0..self.base_rows()).map(|patch| PatchSource { tile: 0, patch });
        let rows = self.first_row..self.first_row + self.rows;
        let grid = rows.flat_map(move |row| {
            let columns = self.first_column..self.first_column + self.columns;
            columns.map(move |column| self.source_of(row, column))
        });
        base.chain(grid)
    }

    /// Returns what stands at each image token, in order: the base tile's features, then each row of the grid's window
    /// followed by a newline. [`image_tokens`](Self::image_tokens) items.
    pub fn embedding_rows(&self) -> impl Iterator<Item = EmbeddingRow> + '_ {
        let (base, columns) = (self.base_rows(), self.columns as usize);
        let grid = (0..self.rows as usize).flat_map(move |row| {
            let start = base + row * columns;
            (start..start + columns).map(EmbeddingRow::Feature).chain(std::iter::once(EmbeddingRow::Newline))
        });
        (0..base).map(EmbeddingRow::Feature).chain(grid)
    }

    /// Patches of the base tile.
    fn base_rows(&self) -> usize {
        (self.patches_per_side as usize).pow(2)
    }

    /// The source of the grid's patch at `row`, `column` of the whole grid.
    fn source_of(&self, row: u32, column: u32) -> PatchSource {
        let n = self.patches_per_side;
        PatchSource {
            tile: 1 + (row / n * self.tiles.across + column / n) as usize,
            patch: (row % n * n + column % n) as usize,
        }
    }
}

/// Puts a plan together; the padding is what the resized image leaves of the grid.
pub(crate) fn assemble(
    image: ImageSize,
    grid: ImageSize,
    resized: ImageSize,
    tiles: Tiles,
    patches_per_side: u32,
    kept: KeptWindow,
) -> Plan {
    let padding = padding(grid, resized);
    let KeptWindow { first_row, first_column, rows, columns } = kept;
    Plan { image, grid, tiles, resized, padding, patches_per_side, first_row, first_column, rows, columns }
}

/// The border around an image of `resized` size in the middle of `whole`.
pub(crate) fn padding(whole: ImageSize, resized: ImageSize) -> Padding {
    let (vertical, horizontal) = (whole.height - resized.height, whole.width - resized.width);
    let (top, left) = (vertical / 2, horizontal / 2);
    Padding { top, left, bottom: vertical - top, right: horizontal - left }
}
