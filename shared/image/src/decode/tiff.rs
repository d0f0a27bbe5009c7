//! TIFF: the first page; chunky samples of 1, 8 or 16 bits.

use std::io::{self, Cursor};

use tessera_anyres::ImageSize;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::colour::{self, Palette};
use super::{Decoded, budget, check_size, unpack};
use crate::exif::Directory;
use crate::{Format, ImageError};

const PHOTOMETRIC: u16 = 0x0106;
/// The photometric interpretation of samples that are indices.
const PALETTE: u32 = 3;

/// What a gray sample means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Colour,
    Index,
}

/// What the first extra sample of a pixel is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    Unspecified,
    Associated,
    Alpha,
}

pub(super) fn decode(bytes: &[u8], size: ImageSize) -> Result<Decoded, ImageError> {
    match indexed(bytes) {
        Some(as_gray) => decode_page(&as_gray, size, Meaning::Index),
        None => decode_page(bytes, size, Meaning::Colour),
    }
}

/// Returns a copy of a file with a palette that says it is gray: the codec reads no palettes, but gray samples as stored
/// are the indices.
fn indexed(bytes: &[u8]) -> Option<Vec<u8>> {
    let directory = Directory::open(bytes)?;
    if directory.number(PHOTOMETRIC) != Some(PALETTE) {
        return None;
    }
    let mut copy = bytes.to_vec();
    // The value is one 16-bit number: one of its two bytes is the 3 that becomes a 1.
    let value = copy.get_mut(directory.value_at(PHOTOMETRIC)?..)?.get_mut(..2)?;
    value.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
    Some(copy)
}

fn decode_page(bytes: &[u8], size: ImageSize, meaning: Meaning) -> Result<Decoded, ImageError> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = budget(size);
    limits.intermediate_buffer_size = budget(size);
    limits.ifd_value_size = 1 << 20;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(error)?.with_limits(limits);
    check_size(Format::Tiff, decoder.dimensions().map_err(error)?, size)?;
    let colour_type = decoder.colortype().map_err(error)?;
    if colour_type.num_samples() > 1 && tag(&mut decoder, Tag::PlanarConfiguration)?.unwrap_or(1) != 1 {
        return Err(ImageError::unsupported(Format::Tiff, "its channels are stored one after the other"));
    }
    let extra = match tag(&mut decoder, Tag::ExtraSamples)? {
        Some(1) => Extra::Associated,
        Some(2) => Extra::Alpha,
        _ => Extra::Unspecified,
    };
    let samples = match decoder.read_image().map_err(error)? {
        DecodingResult::U8(samples) => samples,
        DecodingResult::U16(samples) if matches!(colour_type, ColorType::Gray(16)) => {
            samples.into_iter().map(colour::clip16).collect()
        }
        DecodingResult::U16(samples) => samples.into_iter().map(|sample| (sample >> 8) as u8).collect(),
        _ => return Err(unsupported(colour_type)),
    };
    let pixels = size.height as usize * size.width as usize;
    let decoded = match colour_type {
        ColorType::Gray(depth @ (1 | 2 | 4 | 8)) if meaning == Meaning::Index => {
            palette(&mut decoder)?.decode(&unpack(&samples, size, depth.into()))
        }
        _ if meaning == Meaning::Index => return Err(unsupported(colour_type)),
        ColorType::Gray(1) => {
            let bits = unpack(&samples, size, 1).into_iter().map(|bit| bit * 255);
            Decoded { rgb: colour::gray(bits), alpha: None }
        }
        ColorType::Gray(8 | 16) => Decoded { rgb: colour::gray(samples.into_iter()), alpha: None },
        ColorType::RGB(8 | 16) => Decoded { rgb: samples, alpha: None },
        ColorType::GrayA(8) | ColorType::Multiband { bit_depth: 8, num_samples: 2 } if extra != Extra::Associated => {
            let alpha = (extra == Extra::Alpha).then(|| samples.chunks_exact(2).map(|pixel| pixel[1]).collect());
            Decoded { rgb: colour::gray(samples.chunks_exact(2).map(|pixel| pixel[0])), alpha }
        }
        ColorType::RGBA(8 | 16) => rgba(&samples, extra),
        ColorType::CMYK(8 | 16) => Decoded { rgb: colour::cmyk(&samples), alpha: None },
        other => return Err(unsupported(other)),
    };
    if decoded.rgb.len() != 3 * pixels {
        return Err(ImageError::Truncated { format: Format::Tiff });
    }
    Ok(decoded)
}

/// Four channels; associated alpha is divided out, an unspecified fourth channel is none.
fn rgba(samples: &[u8], extra: Extra) -> Decoded {
    let mut rgb = Vec::with_capacity(samples.len() / 4 * 3);
    for pixel in samples.chunks_exact(4) {
        let alpha = u32::from(pixel[3]);
        rgb.extend(pixel[..3].iter().map(|&channel| match (extra, alpha) {
            (Extra::Associated, 0) => 0,
            (Extra::Associated, 1..=254) => (255 * u32::from(channel) / alpha).min(255) as u8,
            _ => channel,
        }));
    }
    let alpha = (extra != Extra::Unspecified).then(|| samples.chunks_exact(4).map(|pixel| pixel[3]).collect());
    Decoded { rgb, alpha }
}

/// The colour map: all reds, all greens, all blues, in 16 bits.
fn palette(decoder: &mut Decoder<Cursor<&[u8]>>) -> Result<Palette, ImageError> {
    let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(error)?;
    let colours = map.len() / 3;
    let rgb: Vec<u8> =
        (0..colours).flat_map(|i| [0, 1, 2].map(|channel| (map[channel * colours + i] >> 8) as u8)).collect();
    Ok(Palette::new(&rgb))
}

/// The first number of a tag.
fn tag(decoder: &mut Decoder<Cursor<&[u8]>>, tag: Tag) -> Result<Option<u32>, ImageError> {
    let values: Option<Vec<u32>> = decoder.find_tag_unsigned_vec(tag).map_err(error)?;
    Ok(values.and_then(|values| values.first().copied()))
}

fn unsupported(colour_type: ColorType) -> ImageError {
    ImageError::unsupported(Format::Tiff, format!("pixels of type {colour_type:?}"))
}

fn error(error: TiffError) -> ImageError {
    match error {
        // Its readers of compressed data name their complaints so, too.
        TiffError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            ImageError::Truncated { format: Format::Tiff }
        }
        TiffError::LimitsExceeded => ImageError::Memory { format: Format::Tiff },
        TiffError::UnsupportedError(error) => ImageError::unsupported(Format::Tiff, error.to_string()),
        other => ImageError::corrupt(Format::Tiff, other.to_string()),
    }
}
