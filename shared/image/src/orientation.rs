//! The eight ways in which a camera can have been held.

use tessera_anyres::ImageSize;

/// How stored pixels must be turned to be upright: the EXIF orientation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Orientation {
    /// Rows and columns change places first.
    transpose: bool,
    /// Then columns run from the right.
    flip_horizontal: bool,
    /// Then rows run from the bottom.
    flip_vertical: bool,
}

impl Orientation {
    /// Returns the orientation that the EXIF tag's `value` names; values outside of 1 to 8 name none, and turn nothing.
    #[must_use]
    pub const fn from_tag(value: u32) -> Self {
        let (transpose, flip_horizontal, flip_vertical) = match value {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, true, false),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => (false, false, false),
        };
        Self { transpose, flip_horizontal, flip_vertical }
    }

    /// Returns the size of an image of `stored` size once it is upright.
    #[must_use]
    pub const fn upright(self, stored: ImageSize) -> ImageSize {
        if self.transpose { ImageSize::new(stored.width, stored.height) } else { stored }
    }

    /// Returns the pixels of `stored` size (`height * width * 3` bytes) turned upright.
    pub(crate) fn apply(self, stored: ImageSize, pixels: Vec<u8>) -> Vec<u8> {
        if self == Self::default() {
            return pixels;
        }
        let size = self.upright(stored);
        let (height, width) = (size.height as usize, size.width as usize);
        let mut turned = Vec::with_capacity(pixels.len());
        for y in 0..height {
            let y = if self.flip_vertical { height - 1 - y } else { y };
            for x in 0..width {
                let x = if self.flip_horizontal { width - 1 - x } else { x };
                let (row, column) = if self.transpose { (x, y) } else { (y, x) };
                let at = 3 * (row * stored.width as usize + column);
                turned.extend_from_slice(&pixels[at..at + 3]);
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_orientation_turns_a_strip_as_exif_says() {
        // Stored: one row, pixels 1 2. Upright, read row by row:
        let expected =
            [(1, [1, 2]), (2, [2, 1]), (3, [2, 1]), (4, [1, 2]), (5, [1, 2]), (6, [1, 2]), (7, [2, 1]), (8, [2, 1])];
        for (tag, pixels) in expected {
            let turned = Orientation::from_tag(tag).apply(ImageSize::new(1, 2), vec![1, 1, 1, 2, 2, 2]);
            assert_eq!([turned[0], turned[3]], pixels, "orientation {tag}");
        }
        assert_eq!(Orientation::from_tag(6).upright(ImageSize::new(61, 83)), ImageSize::new(83, 61));
        assert_eq!(Orientation::from_tag(9), Orientation::from_tag(1));
    }
}
