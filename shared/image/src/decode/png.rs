//! PNG: samples as stored, then Pillow's modes.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Transformations};
use tessera_anyres::ImageSize;

use super::colour::{self, Palette};
use super::{Decoded, budget, check_size, unpack};
use crate::{Format, ImageError};

pub(super) fn decode(bytes: &[u8], size: ImageSize) -> Result<Decoded, ImageError> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: budget(size) });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(error)?;
    check_size(Format::Png, (reader.info().width, reader.info().height), size)?;
    let length = reader.output_buffer_size().filter(|&length| length <= budget(size));
    let mut samples = vec![0; length.ok_or(ImageError::Memory { format: Format::Png })?];
    reader.next_frame(&mut samples).map_err(error)?;

    let info = reader.info();
    let (colour_type, depth) = (info.color_type, info.bit_depth);
    let transparency = info.trns.as_deref();
    let wide = depth == BitDepth::Sixteen;
    if colour_type == ColorType::Indexed {
        let mut palette = Palette::new(info.palette.as_deref().unwrap_or_default());
        if let Some(alphas) = transparency {
            palette = palette.with_alphas(alphas);
        }
        return Ok(palette.decode(&unpack(&samples, size, depth as usize)));
    }
    let samples = match (colour_type, depth) {
        (ColorType::Grayscale, BitDepth::Sixteen) => pairs(&samples).map(colour::clip16).collect(),
        (ColorType::Grayscale, _) => {
            let white = 255 / ((1_u16 << depth as u8) - 1) as u8;
            unpack(&samples, size, depth as usize).into_iter().map(|sample| sample * white).collect()
        }
        _ if wide => pairs(&samples).map(|sample| (sample >> 8) as u8).collect(),
        _ => samples,
    };
    Ok(match colour_type {
        ColorType::Grayscale => keyed(colour::gray(samples.into_iter()), transparency),
        ColorType::Rgb => keyed(samples, transparency),
        ColorType::GrayscaleAlpha => split(&samples, 2),
        _ => split(&samples, 4),
    })
}

fn pairs(samples: &[u8]) -> impl Iterator<Item = u16> + '_ {
    samples.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// Applies the one transparent colour that a chunk names: one number for gray, three for RGB, each of one byte or two.
/// Pillow compares the low bytes, with samples that it has scaled to 8 bits.
fn keyed(rgb: Vec<u8>, chunk: Option<&[u8]>) -> Decoded {
    let key = match *chunk.unwrap_or_default() {
        [gray] | [_, gray] => Some([gray; 3]),
        [red, green, blue] | [_, red, _, green, _, blue] => Some([red, green, blue]),
        _ => None,
    };
    let alpha = key.map(|key| colour::key_alpha(&rgb, key));
    Decoded { rgb, alpha }
}

/// Takes the alpha out of pixels of two or four channels.
fn split(samples: &[u8], channels: usize) -> Decoded {
    let alpha = samples.chunks_exact(channels).map(|pixel| pixel[channels - 1]).collect();
    let rgb = match channels {
        2 => colour::gray(samples.chunks_exact(2).map(|pixel| pixel[0])),
        _ => samples.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    };
    Decoded { rgb, alpha: Some(alpha) }
}

fn error(error: DecodingError) -> ImageError {
    match error {
        DecodingError::IoError(error) => ImageError::from_io(Format::Png, &error),
        DecodingError::LimitsExceeded => ImageError::Memory { format: Format::Png },
        other => ImageError::corrupt(Format::Png, other.to_string()),
    }
}
