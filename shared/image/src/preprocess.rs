//! From RGB to the tiles that the vision tower reads.

use rayon::prelude::*;
use tessera_anyres::{Frame, Geometry, ImageSize, Plan};
use tessera_checkpoint::ImageProcessorConfig;
use tessera_tensor::HostTensor;

use crate::{ImageError, Resizer, RgbImage};

/// Changes whenever the same file gives other pixels than before; part of the encoder's fingerprint, so that nothing that
/// was encoded by other arithmetic is taken for the same.
pub const PREPROCESSING_REVISION: u32 = 1;

const CHANNELS: usize = 3;

/// Makes tiles of images: one for each model.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    geometry: Geometry,
    resizer: Resizer,
    /// For each channel, the number that stands for each byte.
    tables: Box<[[f32; 256]; CHANNELS]>,
    /// What surrounds an image that is put into a frame.
    background: [u8; CHANNELS],
}

/// The tiles of one image.
#[derive(Clone, Debug)]
pub struct Preprocessed {
    /// How the image was cut.
    pub plan: Plan,
    /// f32 `[tiles, 3, tile, tile]`: the base tile, then the grid's tiles row by row.
    pub pixels: HostTensor,
}

impl Preprocessor {
    /// Returns the preprocessor of a model with this image configuration and geometry. The tile is the geometry's; the
    /// configuration's sizes agree with it, which its reader checks.
    #[must_use]
    pub fn new(config: &ImageProcessorConfig, geometry: Geometry, resizer: Resizer) -> Self {
        let table = |channel| std::array::from_fn(|byte| normalised(config, resizer, channel, byte as u8));
        let tables = Box::new([table(0), table(1), table(2)]);
        // As the model's authors do it (`expand2square`): cut to whole numbers, not rounded.
        let background = config.mean.map(|mean| (mean * 255.0) as u8);
        Self { geometry, resizer, tables, background }
    }

    /// Makes the tiles of `image`: the whole image squashed to the base tile, and the image resized with its aspect kept,
    /// padded with black to its grid, and cut.
    ///
    /// # Errors
    /// None that an image can cause: those of [`Resizer::resize`] and of [`HostTensor`] for sizes that a plan never has.
    pub fn run(&self, image: &RgbImage) -> Result<Preprocessed, ImageError> {
        let plan = self.geometry.plan(image.size());
        let side = self.geometry.tile();
        let base = self.resizer.resize(image, ImageSize::new(side, side))?;
        let resized = self.resizer.resize(image, plan.resized)?;
        let length = side as usize;
        let mut pixels = vec![0.0; plan.tile_count() * CHANNELS * length * length];
        let corner = Corner { top: i64::from(plan.padding.top), left: i64::from(plan.padding.left) };
        pixels.par_chunks_exact_mut(CHANNELS * length * length).enumerate().for_each(|(index, tile)| match index {
            0 => self.fill(tile, &base, Corner { top: 0, left: 0 }),
            _ => {
                let (down, across) = ((index - 1) as u32 / plan.tiles.across, (index - 1) as u32 % plan.tiles.across);
                let (top, left) = (i64::from(down * side), i64::from(across * side));
                self.fill(tile, &resized, Corner { top: corner.top - top, left: corner.left - left });
            }
        });
        let pixels = HostTensor::from_f32(vec![plan.tile_count(), CHANNELS, length, length], pixels)?;
        Ok(Preprocessed { plan, pixels })
    }

    /// Puts `image` into the size that all images of a constant shape have: resized with its aspect kept, by Pillow's
    /// bicubic whatever resizer the tiles are made with, in the middle of a background of the processor's mean colour.
    /// Whoever does that to a picture beforehand, and sends the result, gets the same features.
    ///
    /// # Errors
    /// None that an image can cause, as of [`run`](Self::run).
    pub fn frame(&self, image: &RgbImage) -> Result<RgbImage, ImageError> {
        let Frame { whole, resized, padding } = self.geometry.frame(image.size());
        let resized = Resizer::Pillow.resize(image, resized)?;
        let row = CHANNELS * whole.width as usize;
        let mut data = self.background.repeat(whole.height as usize * whole.width as usize);
        let (top, left) = (padding.top as usize, CHANNELS * padding.left as usize);
        let inner = CHANNELS * resized.size().width as usize;
        for (target, source) in data.chunks_exact_mut(row).skip(top).zip(resized.data().chunks_exact(inner)) {
            target[left..left + inner].copy_from_slice(source);
        }
        RgbImage::new(whole, data)
    }

    /// Returns the most bytes that making the tiles of an image of so many `pixels`, whose longest side is `side`, holds at
    /// once: the image between its two passes, resized, in a frame, and its tiles.
    #[must_use]
    pub fn most_bytes(&self, pixels: u64, side: u32) -> u64 {
        let tile = u64::from(self.geometry.tile());
        let tiles = self.geometry.max_tiles() as u64 * tile * tile;
        // Three bytes a pixel of the image and of its one pass to the base tile; of the grid three as bytes (twice in a
        // frame, twice between passes) and twelve as numbers.
        (3 * pixels).saturating_add(3 * u64::from(side) * tile).saturating_add(24 * tiles)
    }

    /// Returns the geometry that images are cut by.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns whose arithmetic is followed.
    #[must_use]
    pub fn resizer(&self) -> Resizer {
        self.resizer
    }

    /// Writes one tile, `[3, tile, tile]`: the part of `image`, whose corner lies at `corner` of the tile, that falls
    /// into it, and black around it.
    fn fill(&self, tile: &mut [f32], image: &RgbImage, corner: Corner) {
        let side = self.geometry.tile() as usize;
        let width = image.size().width as usize;
        let rows = overlap(corner.top, image.size().height, side);
        let columns = overlap(corner.left, image.size().width, side);
        for ((channel, plane), table) in tile.chunks_exact_mut(side * side).enumerate().zip(self.tables.iter()) {
            for (y, row) in plane.chunks_exact_mut(side).enumerate() {
                row.fill(table[0]);
                if !rows.contains(&y) || columns.is_empty() {
                    continue;
                }
                let image_y = (y as i64 - corner.top) as usize;
                let image_x = (columns.start as i64 - corner.left) as usize;
                let source = &image.data()[CHANNELS * (image_y * width + image_x)..];
                for (value, pixel) in row[columns.clone()].iter_mut().zip(source.chunks_exact(CHANNELS)) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
        }
    }
}

/// Where an image's top left pixel lies in a tile, in pixels; negative when it lies in an earlier tile.
#[derive(Clone, Copy)]
struct Corner {
    top: i64,
    left: i64,
}

/// The pixels of a tile's axis that an image of `length`, which begins at `start`, covers.
fn overlap(start: i64, length: u32, side: usize) -> std::ops::Range<usize> {
    let clamp = |at: i64| at.clamp(0, side as i64) as usize;
    clamp(start)..clamp(start + i64::from(length))
}

/// The number that stands for `byte`, in the order of operations of the backend whose resizer is used.
fn normalised(config: &ImageProcessorConfig, resizer: Resizer, channel: usize, byte: u8) -> f32 {
    let (mean, std) = (config.mean[channel], config.std[channel]);
    let factor = config.rescale_factor;
    match (resizer, config.do_rescale, config.do_normalize) {
        // torchvision folds the scale into mean and deviation.
        (Resizer::Torchvision, true, true) => {
            let inverse = (1.0 / factor) as f32;
            let (mean, std) = ((mean as f32) * inverse, (std as f32) * inverse);
            (f32::from(byte) - mean) / std
        }
        (Resizer::Torchvision, true, false) => f32::from(byte) * factor as f32,
        (Resizer::Pillow | Resizer::Pillow12, true, true) => (pillow_scaled(byte, factor) - mean as f32) / std as f32,
        (Resizer::Pillow | Resizer::Pillow12, true, false) => pillow_scaled(byte, factor),
        (_, false, true) => (f32::from(byte) - mean as f32) / std as f32,
        (_, false, false) => f32::from(byte),
    }
}

/// A byte rescaled as NumPy does: in 64 bits, then cut to 32.
fn pillow_scaled(byte: u8, factor: f64) -> f32 {
    (f64::from(byte) * factor) as f32
}
