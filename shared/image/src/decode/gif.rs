//! GIF: the first frame on its canvas.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use tessera_anyres::ImageSize;

use super::{Decoded, budget, colour::Palette};
use crate::{Format, ImageError};

pub(super) fn decode(bytes: &[u8], size: ImageSize) -> Result<Decoded, ImageError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(NonZeroU64::new(budget(size) as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(bytes).map_err(error)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(error)?.ok_or(ImageError::Truncated { format: Format::Gif })?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let (width, height) = (size.width as usize, size.height as usize);
    if frame_width == 0 || left + frame_width > width || top + frame_height > height {
        return Err(ImageError::corrupt(Format::Gif, "its frame is not where its header says"));
    }
    if frame.buffer.len() < frame_width * frame_height {
        return Err(ImageError::Truncated { format: Format::Gif });
    }
    let mut indices = vec![frame.transparent.unwrap_or(0); width * height];
    for (y, row) in frame.buffer.chunks_exact(frame_width).take(frame_height).enumerate() {
        let at = (top + y) * width + left;
        indices[at..at + frame_width].copy_from_slice(row);
    }
    let mut palette = Palette::new(frame.palette.as_deref().or(global.as_deref()).unwrap_or_default());
    if let Some(index) = frame.transparent {
        palette = palette.with_transparent(index);
    }
    Ok(palette.decode(&indices))
}

fn error(error: DecodingError) -> ImageError {
    match error {
        DecodingError::UnexpectedEof => ImageError::Truncated { format: Format::Gif },
        DecodingError::Io(error) => ImageError::from_io(Format::Gif, &error),
        DecodingError::OutOfMemory | DecodingError::MemoryLimit => ImageError::Memory { format: Format::Gif },
        other => ImageError::corrupt(Format::Gif, other.to_string()),
    }
}
