//! BMP: palettes of 1, 4 and 8 bits, plain or run-length coded; 16, 24 and 32 bits, plain or with masks.

mod rle;

use tessera_anyres::ImageSize;

use super::{Decoded, colour::Palette};
use crate::read::{self, Order};
use crate::{Format, ImageError};

const FILE_HEADER: usize = 14;

/// What the headers of a BMP file say.
#[derive(Debug)]
pub(crate) struct BmpHeader {
    pub(crate) size: ImageSize,
    rows: Rows,
    pixels: Pixels,
    /// Where the pixels begin.
    data_at: usize,
}

/// Which row is stored first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    FromTop,
    FromBottom,
}

/// How pixels are stored.
#[derive(Debug)]
enum Pixels {
    /// Indices of `bits` bits into the palette at `at`: `colours` entries of `entry` bytes, blue first.
    Indexed { bits: usize, run_length: bool, at: usize, colours: usize, entry: usize },
    /// Five bits a channel, green has `green` (5 or 6).
    Packed { green: u32 },
    /// `bytes` a pixel; where in them red, green, blue and perhaps alpha stand.
    Bytes { bytes: usize, rgb: [usize; 3], alpha: Option<usize> },
}

impl BmpHeader {
    /// Reads the headers.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let truncated = || ImageError::Truncated { format: Format::Bmp };
        let long = |at| read::u32(bytes, at, Order::Little).ok_or_else(truncated);
        let short = |at| read::u16(bytes, at, Order::Little).map(u32::from).ok_or_else(truncated);
        let (data_at, header) = (long(10)? as usize, long(FILE_HEADER)? as usize);
        let (size, rows, bits, compression, colours, entry) = match header {
            12 => (ImageSize::new(short(20)?, short(18)?), Rows::FromBottom, short(24)?, 0, 0, 3),
            40 | 52 | 56 | 64 | 108 | 124 => {
                let height = long(22)?;
                // A negative height says that the top row comes first.
                let negative = height >> 24 == 0xff;
                let (rows, height) =
                    if negative { (Rows::FromTop, height.wrapping_neg()) } else { (Rows::FromBottom, height) };
                (ImageSize::new(height, long(18)?), rows, short(28)?, long(30)?, long(46)?, 4)
            }
            _ => return Err(ImageError::unsupported(Format::Bmp, format!("header of {header} bytes"))),
        };
        let colours = if colours == 0 { 1_u32.checked_shl(bits).unwrap_or(0) } else { colours } as usize;
        let mut palette_at = FILE_HEADER + header;
        if compression == 3 && header == 40 {
            palette_at += 12;
        }
        let pixels = match (bits, compression) {
            (1 | 4 | 8, 0) | (8, 1) | (4, 2) => {
                if colours > 1 << 16 {
                    return Err(ImageError::corrupt(Format::Bmp, format!("palette of {colours} colours")));
                }
                let run_length = compression != 0;
                Pixels::Indexed { bits: bits as usize, run_length, at: palette_at, colours, entry }
            }
            (16, 0) => Pixels::Packed { green: 5 },
            (24, 0) => Pixels::Bytes { bytes: 3, rgb: [2, 1, 0], alpha: None },
            (32, 0) => Pixels::Bytes { bytes: 4, rgb: [2, 1, 0], alpha: None },
            (16 | 24 | 32, 3) => {
                // The masks stand at the same place whether they belong to the header or follow it.
                let alpha = if header >= 56 { long(66)? } else { 0 };
                masked(bits, [long(54)?, long(58)?, long(62)?, alpha])?
            }
            _ => {
                let detail = format!("{bits} bits a pixel with compression {compression}");
                return Err(ImageError::unsupported(Format::Bmp, detail));
            }
        };
        let data_at = match pixels {
            // Some writers forget to count the palette.
            Pixels::Indexed { at, colours, entry, .. } if data_at == FILE_HEADER + header => at + colours * entry,
            _ if data_at == 0 => palette_at,
            _ => data_at,
        };
        Ok(Self { size, rows, pixels, data_at })
    }
}

/// The layouts of masks (red, green, blue, alpha) that the reference knows.
fn masked(bits: u32, masks: [u32; 4]) -> Result<Pixels, ImageError> {
    let bytes = |rgb, alpha| Ok(Pixels::Bytes { bytes: bits as usize / 8, rgb, alpha });
    match (bits, masks) {
        (16, [0xf800, 0x7e0, 0x1f, _]) => Ok(Pixels::Packed { green: 6 }),
        (16, [0x7c00, 0x3e0, 0x1f, _]) => Ok(Pixels::Packed { green: 5 }),
        (24, [0xff_0000, 0xff00, 0xff, _]) | (32, [0xff_0000, 0xff00, 0xff, 0]) => bytes([2, 1, 0], None),
        (32, [0xff00_0000, 0xff_0000, 0xff00, 0]) => bytes([3, 2, 1], None),
        (32, [0xff00_0000, 0xff00, 0xff, 0]) => bytes([3, 1, 0], None),
        (32, [0xff00_0000, 0xff_0000, 0xff00, 0xff]) => bytes([3, 2, 1], Some(0)),
        (32, [0xff, 0xff00, 0xff_0000, 0xff00_0000]) => bytes([0, 1, 2], Some(3)),
        (32, [0xff_0000, 0xff00, 0xff, 0xff00_0000] | [0, 0, 0, 0]) => bytes([2, 1, 0], Some(3)),
        (32, [0xff00_0000, 0xff00, 0xff, 0xff_0000]) => bytes([3, 1, 0], Some(2)),
        _ => Err(ImageError::unsupported(Format::Bmp, format!("masks {masks:x?} of {bits} bits"))),
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, ImageError> {
    let header = BmpHeader::read(bytes)?;
    let truncated = || ImageError::Truncated { format: Format::Bmp };
    let (width, height) = (header.size.width as usize, header.size.height as usize);
    let data = bytes.get(header.data_at..).ok_or_else(truncated)?;
    let row_bits = match header.pixels {
        Pixels::Indexed { bits, .. } => width * bits,
        Pixels::Packed { .. } => width * 16,
        Pixels::Bytes { bytes, .. } => width * bytes * 8,
    };
    let stride = row_bits.div_ceil(32) * 4;
    let compressed = matches!(header.pixels, Pixels::Indexed { run_length: true, .. });
    // The last row may lack its padding.
    if !compressed && data.len() < stride * (height - 1) + row_bits.div_ceil(8) {
        return Err(truncated());
    }
    let rows = (0..height).map(|y| {
        let stored = if header.rows == Rows::FromTop { y } else { height - 1 - y };
        &data[stride * stored..]
    });
    match header.pixels {
        Pixels::Indexed { bits, run_length, at, colours, entry } => {
            let stored = read::slice(bytes, at, colours * entry).ok_or_else(truncated)?;
            let palette: Vec<u8> = stored.chunks_exact(entry).flat_map(|bgr| [bgr[2], bgr[1], bgr[0]]).collect();
            let indices = if run_length {
                let indices = rle::expand(data, header.size, bits).ok_or_else(truncated)?;
                in_order(&indices, width, header.rows)
            } else {
                let mask = ((1_u16 << bits) - 1) as u8;
                let index = |row: &[u8], x: usize| row[x * bits / 8] >> (8 - bits - x * bits % 8) & mask;
                rows.flat_map(|row| (0..width).map(move |x| index(row, x))).collect()
            };
            Ok(Palette::new(&palette).decode(&indices))
        }
        Pixels::Packed { green } => {
            let rgb = rows.flat_map(|row| row[..2 * width].chunks_exact(2)).flat_map(|pair| {
                let pixel = u32::from(pair[0]) | u32::from(pair[1]) << 8;
                let top = (1 << green) - 1;
                [(pixel >> (5 + green)) & 31, (pixel >> 5) & top, pixel & 31].into_iter().zip([31, top, 31])
            });
            Ok(Decoded { rgb: rgb.map(|(channel, top)| (channel * 255 / top) as u8).collect(), alpha: None })
        }
        Pixels::Bytes { bytes, rgb, alpha } => {
            let pixels = || rows.clone().flat_map(|row| row[..bytes * width].chunks_exact(bytes));
            Ok(Decoded {
                rgb: pixels().flat_map(|pixel| rgb.map(|at| pixel[at])).collect(),
                alpha: alpha.map(|at| pixels().map(|pixel| pixel[at]).collect()),
            })
        }
    }
}

/// Puts stored rows in order from the top.
fn in_order(indices: &[u8], width: usize, rows: Rows) -> Vec<u8> {
    match rows {
        Rows::FromTop => indices.to_vec(),
        Rows::FromBottom => indices.chunks_exact(width).rev().flatten().copied().collect(),
    }
}
