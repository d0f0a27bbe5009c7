//! WebP: lossy and lossless; of an animation, the first frame.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};
use tessera_anyres::ImageSize;

use super::{Decoded, budget, check_size};
use crate::{Format, ImageError};

pub(super) fn decode(bytes: &[u8], size: ImageSize) -> Result<Decoded, ImageError> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(error)?;
    check_size(Format::WebP, decoder.dimensions(), size)?;
    decoder.set_memory_limit(budget(size));
    let length = decoder.output_buffer_size().filter(|&length| length <= budget(size));
    let mut samples = vec![0; length.ok_or(ImageError::Memory { format: Format::WebP })?];
    if decoder.is_animated() {
        decoder.read_frame(&mut samples).map_err(error)?;
    } else {
        decoder.read_image(&mut samples).map_err(error)?;
    }
    if !decoder.has_alpha() {
        return Ok(Decoded { rgb: samples, alpha: None });
    }
    let rgb = samples.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let alpha = samples.chunks_exact(4).map(|pixel| pixel[3]).collect();
    Ok(Decoded { rgb, alpha: Some(alpha) })
}

fn error(error: DecodingError) -> ImageError {
    match error {
        DecodingError::IoError(error) => ImageError::from_io(Format::WebP, &error),
        DecodingError::MemoryLimitExceeded => ImageError::Memory { format: Format::WebP },
        DecodingError::NoMoreFrames => ImageError::Truncated { format: Format::WebP },
        other => ImageError::corrupt(Format::WebP, other.to_string()),
    }
}
