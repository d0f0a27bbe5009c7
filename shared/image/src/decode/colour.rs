//! Pillow's colour conversions (`Convert.c`, `AlphaComposite.c`), in its integers.

use super::Decoded;

/// A palette: 256 colours. Entries that a file leaves out are black.
pub(super) struct Palette {
    colours: [[u8; 3]; 256],
    alpha: Option<[u8; 256]>,
}

impl Palette {
    /// Returns the palette of these colours, three bytes each; what is beyond 256 is left out.
    pub(super) fn new(rgb: &[u8]) -> Self {
        let mut colours = [[0; 3]; 256];
        for (entry, colour) in colours.iter_mut().zip(rgb.chunks_exact(3)) {
            entry.copy_from_slice(colour);
        }
        Self { colours, alpha: None }
    }

    /// Gives the first entries these alphas, and all others 255.
    pub(super) fn with_alphas(mut self, alphas: &[u8]) -> Self {
        let mut table = [255; 256];
        for (entry, &alpha) in table.iter_mut().zip(alphas) {
            *entry = alpha;
        }
        self.alpha = Some(table);
        self
    }

    /// Makes one entry transparent.
    pub(super) fn with_transparent(mut self, index: u8) -> Self {
        self.alpha.get_or_insert([255; 256])[usize::from(index)] = 0;
        self
    }

    /// Looks every index up.
    pub(super) fn decode(&self, indices: &[u8]) -> Decoded {
        let rgb = indices.iter().flat_map(|&index| self.colours[usize::from(index)]).collect();
        let alpha = self.alpha.map(|table| indices.iter().map(|&index| table[usize::from(index)]).collect());
        Decoded { rgb, alpha }
    }
}

/// Gray to RGB.
pub(super) fn gray(samples: impl Iterator<Item = u8>) -> Vec<u8> {
    samples.flat_map(|sample| [sample; 3]).collect()
}

/// A 16-bit gray sample to 8 bits: clipped, not scaled.
pub(super) fn clip16(sample: u16) -> u8 {
    sample.min(255) as u8
}

/// CMYK to RGB: `samples` are four bytes a pixel, 0 is no ink.
pub(super) fn cmyk(samples: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(samples.len() / 4 * 3);
    for pixel in samples.chunks_exact(4) {
        let paper = 255 - pixel[3];
        rgb.extend(pixel[..3].iter().map(|&ink| paper.saturating_sub(multiply(ink, paper))));
    }
    rgb
}

/// `a * b / 255`, rounded (`MULDIV255`).
fn multiply(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// Marks the pixels of the one colour `key` as transparent.
pub(super) fn key_alpha(rgb: &[u8], key: [u8; 3]) -> Vec<u8> {
    rgb.chunks_exact(3).map(|pixel| if pixel == key { 0 } else { 255 }).collect()
}

/// Lays the pixels over opaque white (`ImagingAlphaComposite`).
pub(super) fn lay_over_white(rgb: &mut [u8], alpha: &[u8]) {
    for (pixel, &alpha) in rgb.chunks_exact_mut(3).zip(alpha) {
        let source = u32::from(alpha) * 255 * 255 * 128 / (255 * 255);
        let white = 255 * 128 - source;
        for channel in pixel {
            let blend = u32::from(*channel) * source + 255 * white + (0x80 << 7);
            *channel = ((((blend >> 8) + blend) >> 8) >> 7) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_pixels_stay_and_transparent_ones_are_white() {
        for value in 0..=255 {
            let mut pixel = [value; 6];
            lay_over_white(&mut pixel, &[255, 0]);
            assert_eq!(pixel, [value, value, value, 255, 255, 255]);
        }
    }

    #[test]
    fn ink_on_black_paper_is_black() {
        assert_eq!(cmyk(&[0, 128, 255, 255, 0, 128, 255, 0]), [0, 0, 0, 255, 127, 0]);
    }
}
