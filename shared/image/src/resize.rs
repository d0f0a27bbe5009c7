//! Bicubic resizing, bit for bit as the reference's two backends do it.
//!
//! Both are the same algorithm: separable, antialiased (the window grows when shrinking), 8-bit pixels between the two
//! passes, fixed-point weights. They differ in the precision of the weights, in how the cubic is evaluated, and in which
//! pass comes first. Sources: Pillow, `src/libImaging/Resample.c`; PyTorch, `aten/src/ATen/native/cpu/UpSampleKernel.cpp`.

mod weights;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tessera_anyres::ImageSize;

use crate::{ImageError, RgbImage};
use weights::Weights;

const CHANNELS: usize = 3;

/// Whose arithmetic is followed, in resizing and in normalisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resizer {
    /// torchvision on the CPU: the reference's default.
    #[default]
    Torchvision,
    /// Pillow 13 and later.
    Pillow,
    /// Pillow up to 12, which always resizes rows first.
    Pillow12,
}

/// Which pass comes first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Horizontal,
    Vertical,
}

impl Resizer {
    /// Returns `image` resized to `size`. A side that does not change is copied and not filtered.
    ///
    /// # Errors
    /// [`ImageError::PixelCount`] when `size` has no pixels.
    pub fn resize(self, image: &RgbImage, size: ImageSize) -> Result<RgbImage, ImageError> {
        if size.pixels() == 0 {
            return Err(ImageError::PixelCount { size, bytes: 0 });
        }
        let from = image.size();
        let horizontal = (from.width != size.width).then(|| Weights::new(self, from.width, size.width));
        let vertical = (from.height != size.height).then(|| Weights::new(self, from.height, size.height));
        let (width, new_width) = (from.width as usize, size.width as usize);
        let data = image.data();
        let resized = match (horizontal, vertical) {
            (None, None) => data.to_vec(),
            (Some(columns), None) => resize_rows(data, width, &columns),
            (None, Some(rows)) => resize_columns(data, width, &rows),
            (Some(columns), Some(rows)) => match self.first(from, size) {
                First::Horizontal => resize_columns(&resize_rows(data, width, &columns), new_width, &rows),
                First::Vertical => resize_rows(&resize_columns(data, width, &rows), width, &columns),
            },
        };
        RgbImage::new(size, resized)
    }

    /// Pillow 13 begins with the columns when the height shrinks by more than twice what the width does.
    fn first(self, from: ImageSize, to: ImageSize) -> First {
        let height_lost = i64::from(from.height) - i64::from(to.height);
        let width_lost = i64::from(from.width) - i64::from(to.width);
        if self == Self::Pillow && height_lost > 0 && height_lost > 2 * width_lost {
            First::Vertical
        } else {
            First::Horizontal
        }
    }
}

/// Resizes each row of `data`, rows of `width` pixels.
fn resize_rows(data: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    let height = data.len() / (CHANNELS * width);
    let new_width = weights.outputs();
    let mut resized = vec![0; height * new_width * CHANNELS];
    resized.par_chunks_exact_mut(CHANNELS * new_width).zip(data.par_chunks_exact(CHANNELS * width)).for_each(
        |(output, input)| {
            for (pixel, (start, taps)) in output.chunks_exact_mut(CHANNELS).zip(weights.windows()) {
                let mut sums = [weights.half(); CHANNELS];
                let window = input[CHANNELS * start..].chunks_exact(CHANNELS);
                for (source, &weight) in window.zip(taps) {
                    for (sum, &channel) in sums.iter_mut().zip(source) {
                        *sum += i32::from(channel) * weight;
                    }
                }
                for (channel, sum) in pixel.iter_mut().zip(sums) {
                    *channel = weights.finish(sum);
                }
            }
        },
    );
    resized
}

/// Resizes each column of `data`, rows of `width` pixels.
fn resize_columns(data: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    let stride = CHANNELS * width;
    let mut resized = vec![0; weights.outputs() * stride];
    resized.par_chunks_exact_mut(stride).enumerate().for_each_init(
        || vec![0_i32; stride],
        |sums, (y, output)| {
            let (start, taps) = weights.window(y);
            sums.fill(weights.half());
            for (input, &weight) in data[start * stride..].chunks_exact(stride).zip(taps) {
                for (sum, &channel) in sums.iter_mut().zip(input) {
                    *sum += i32::from(channel) * weight;
                }
            }
            for (channel, &sum) in output.iter_mut().zip(sums.iter()) {
                *channel = weights.finish(sum);
            }
        },
    );
    resized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_size_is_a_copy_and_no_size_is_refused() {
        let image = RgbImage::new(ImageSize::new(2, 3), (0..18).collect()).unwrap();
        for resizer in [Resizer::Torchvision, Resizer::Pillow, Resizer::Pillow12] {
            assert_eq!(resizer.resize(&image, image.size()).unwrap(), image);
            assert!(resizer.resize(&image, ImageSize::new(0, 3)).is_err());
        }
    }

    #[test]
    fn one_colour_stays_one_colour() {
        for value in [0, 1, 127, 254, 255] {
            let image = RgbImage::new(ImageSize::new(31, 17), vec![value; 31 * 17 * 3]).unwrap();
            for size in [ImageSize::new(7, 60), ImageSize::new(100, 3), ImageSize::new(1, 1)] {
                for resizer in [Resizer::Torchvision, Resizer::Pillow, Resizer::Pillow12] {
                    assert!(resizer.resize(&image, size).unwrap().data().iter().all(|&got| got == value));
                }
            }
        }
    }

    #[test]
    fn only_pillow_13_begins_with_columns() {
        let (from, to) = (ImageSize::new(1000, 100), ImageSize::new(100, 50));
        assert!(Resizer::Pillow.first(from, to) == First::Vertical);
        assert!(Resizer::Pillow12.first(from, to) == First::Horizontal);
        assert!(Resizer::Torchvision.first(from, to) == First::Horizontal);
        // Signed: a height that shrinks beside a width that grows.
        assert!(Resizer::Pillow.first(ImageSize::new(90, 1200), ImageSize::new(76, 1300)) == First::Vertical);
        assert!(Resizer::Pillow.first(ImageSize::new(100, 100), ImageSize::new(60, 80)) == First::Horizontal);
    }
}
