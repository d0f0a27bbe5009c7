//! JPEG by libjpeg, whose arithmetic (slow integer DCT, fancy upsampling) is the reference's.
//!
//! libjpeg reports a fatal error by unwinding and a premature end by a mere warning; both become errors here.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Decompress};
use tessera_anyres::ImageSize;

use super::{Decoded, check_size, colour};
use crate::{Format, ImageError};

pub(super) fn decode(bytes: &[u8], size: ImageSize) -> Result<Decoded, ImageError> {
    let ran_dry = Cell::new(false);
    let input = Input { rest: bytes, ran_dry: &ran_dry };
    // Nothing that the closure touches is looked at after it unwinds, but for the flag.
    let rgb = catch_unwind(AssertUnwindSafe(|| decode_from(input, size, &ran_dry)));
    match rgb {
        Ok(Ok(rgb)) => Ok(Decoded { rgb, alpha: None }),
        _ if ran_dry.get() => Err(ImageError::Truncated { format: Format::Jpeg }),
        Ok(Err(error)) => Err(error),
        Err(payload) => {
            let detail = payload.downcast_ref::<String>().map_or("libjpeg gave up", String::as_str);
            Err(ImageError::corrupt(Format::Jpeg, detail.trim_start_matches("libjpeg fatal error: ")))
        }
    }
}

fn decode_from(input: Input<'_>, size: ImageSize, ran_dry: &Cell<bool>) -> Result<Vec<u8>, ImageError> {
    let io_error = |error: io::Error| ImageError::from_io(Format::Jpeg, &error);
    let image = Decompress::builder().from_reader(input).map_err(io_error)?;
    check_size(Format::Jpeg, (image.width() as u32, image.height() as u32), size)?;
    let space = match image.components().len() {
        1 => ColorSpace::JCS_GRAYSCALE,
        4 => ColorSpace::JCS_CMYK,
        _ => ColorSpace::JCS_RGB,
    };
    let mut image = image.to_colorspace(space).map_err(io_error)?;
    let mut samples: Vec<u8> = image.read_scanlines().map_err(io_error)?;
    // The reference needs no end marker once it has every row, so `finish` may run dry. Before that it may not.
    if ran_dry.get() {
        return Err(ImageError::Truncated { format: Format::Jpeg });
    }
    Ok(match space {
        ColorSpace::JCS_GRAYSCALE => colour::gray(samples.into_iter()),
        ColorSpace::JCS_CMYK => {
            // By Adobe's convention, which the reference assumes, 255 is no ink.
            samples.iter_mut().for_each(|sample| *sample = 255 - *sample);
            colour::cmyk(&samples)
        }
        _ => samples,
    })
}

/// The file, and whether libjpeg has asked for more than there is.
struct Input<'a> {
    rest: &'a [u8],
    ran_dry: &'a Cell<bool>,
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.ran_dry.set(true);
        }
        Ok(self.rest)
    }

    fn consume(&mut self, amount: usize) {
        self.rest = &self.rest[amount..];
    }
}
