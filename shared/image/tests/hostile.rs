//! Files that lie: nothing panics, nothing takes more memory than an image of its size needs, and what the headers say is
//! what decoding gives.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::fs;
use std::io::Cursor;

use proptest::prelude::*;
use tessera_anyres::ImageSize;
use tessera_image::{DecodeOptions, ImageError, Limits, Source, decode, probe};
use tessera_testkit::{Counting, damaged, default_cases, fixtures_dir, peak};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures_dir().join(name)).unwrap()
}

const LIMITS: Limits = Limits { bytes: 1 << 20, pixels: 1 << 22, side: 1 << 13 };

/// Checks what must hold for any bytes at all.
fn check(bytes: &[u8]) {
    let (probed, taken) = peak(|| probe(bytes, &LIMITS));
    assert!(taken < 256 << 10, "a probe took {taken} bytes");
    for source in [Source::File, Source::Opened] {
        let (decoded, taken) = peak(|| decode(bytes, &DecodeOptions { limits: LIMITS, source }));
        match (&probed, decoded) {
            (Ok(probed), Ok(image)) => {
                assert_eq!(probed.size_for(source), image.size());
                let (size, most) = (image.size(), probed.decoding_bytes(bytes.len()));
                assert!((taken as u64) < most, "{size} took {taken} bytes, {most} are said to be the most");
            }
            (Ok(probed), Err(error)) => {
                assert!(!error.to_string().contains("panicked"), "{error}");
                assert!(error.reason().starts_with("IMAGE_"), "{error}");
                let (size, most) = (probed.size, probed.decoding_bytes(bytes.len()));
                assert!((taken as u64) < most, "{size} took {taken} bytes, {most} are said to be the most: {error}");
            }
            (Err(expected), decoded) => assert_eq!(decoded.as_ref().err(), Some(expected)),
        }
    }
}

fn patched(name: &str, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = fixture(name);
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// Finds the value of a tag of a little-endian TIFF.
fn tiff_value(file: &[u8], tag: u16) -> usize {
    let directory = u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize;
    let entries = u16::from_le_bytes(file[directory..directory + 2].try_into().unwrap()) as usize;
    let entry = (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| file[at..at + 2] == tag.to_le_bytes());
    entry.unwrap() + 8
}

#[test]
fn a_header_that_claims_a_huge_image_is_refused_without_memory() {
    let sixty = 60_000_u32;
    let (big, little, short) = (sixty.to_be_bytes(), sixty.to_le_bytes(), (sixty as u16).to_le_bytes());
    let mut tiff = fixture("images/raw.tif");
    for tag in [0x100, 0x101] {
        let at = tiff_value(&tiff, tag);
        tiff[at - 6..at + 4].copy_from_slice(&[&[4, 0, 1, 0, 0, 0][..], &little].concat());
    }
    let mut jpeg = fixture("images/64x48_420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    let mut webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0".to_vec();
    webp.extend([&(sixty - 1).to_le_bytes()[..3], &(sixty - 1).to_le_bytes()[..3]].concat());
    let bombs = [
        patched("images/rgb.png", 16, &[big, big].concat()),
        patched("images/plain.gif", 6, &[short, short].concat()),
        patched("images/rgb.bmp", 18, &[little, little].concat()),
        tiff,
        jpeg,
        webp,
    ];
    for bomb in bombs {
        for limits in [LIMITS, Limits { side: u32::MAX, ..LIMITS }] {
            let (error, taken) = peak(|| decode(&bomb, &DecodeOptions { limits, source: Source::File }).unwrap_err());
            assert_eq!(error.reason(), "IMAGE_TOO_LARGE", "{error}");
            assert!(taken < 4096, "{error}: took {taken} bytes");
            match error {
                ImageError::SideTooLong { size, .. } | ImageError::TooManyPixels { size, .. } => {
                    assert_eq!(size, ImageSize::new(sixty, sixty));
                }
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn limits_are_exact() {
    let file = fixture("images/rgb.png");
    let exact = Limits { bytes: file.len(), pixels: 23 * 17, side: 23 };
    assert!(probe(&file, &exact).is_ok());
    let reason = |limits| probe(&file, &limits).unwrap_err().reason();
    assert_eq!(reason(Limits { bytes: file.len() - 1, ..exact }), "IMAGE_TOO_MANY_BYTES");
    assert_eq!(reason(Limits { pixels: 23 * 17 - 1, ..exact }), "IMAGE_TOO_LARGE");
    assert_eq!(reason(Limits { side: 22, ..exact }), "IMAGE_TOO_LARGE");
    assert_eq!(probe(b"", &exact).unwrap_err().reason(), "IMAGE_EMPTY");
}

/// A PNG chunk.
fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for &byte in name.iter().chain(data) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    [&(data.len() as u32).to_be_bytes()[..], name, data, &(!crc).to_be_bytes()].concat()
}

/// A deflate stream of very many zeros: `blocks` copies of one block of runs of the longest length.
fn zeros(blocks: usize) -> Vec<u8> {
    // Fixed codes: the literal 0, then 258 zeros from one byte back: 8 bits of 0x30 + 0, then 0b11000101 and 5 zero bits.
    let mut bits: Vec<bool> = vec![true, true, false];
    let huffman = |bits: &mut Vec<bool>, code: u32, length: u32| {
        bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
    };
    huffman(&mut bits, 0x30, 8);
    for _ in 0..blocks {
        huffman(&mut bits, 0b1100_0101, 8);
        huffman(&mut bits, 0, 5);
    }
    huffman(&mut bits, 0, 7);
    let bytes = bits.chunks(8).map(|byte| byte.iter().enumerate().map(|(i, &bit)| u8::from(bit) << i).sum());
    [0x78, 0x9c].into_iter().chain(bytes).collect()
}

#[test]
fn compressed_metadata_is_not_expanded() {
    let file = fixture("images/rgb.png");
    let bomb = zeros(200_000); // 51 MB in 325 kB
    for (name, start) in [(b"iCCP", &b"profile\0\0"[..]), (b"zTXt", b"comment\0\0"), (b"iTXt", b"comment\0\x01\0\0\0")]
    {
        let data = [start, &bomb].concat();
        let hostile = [&file[..33], &chunk(name, &data), &file[33..]].concat();
        let (image, taken) = peak(|| decode(&hostile, &DecodeOptions::default()).unwrap());
        assert_eq!(image, decode(&file, &DecodeOptions::default()).unwrap());
        assert!(taken < 2 << 20, "took {taken} bytes");
        check(&hostile);
    }
}

#[test]
fn pixel_data_beyond_the_image_is_not_expanded() {
    let header = chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0]);
    let file = [b"\x89PNG\r\n\x1a\n", &header[..], &chunk(b"IDAT", &zeros(200_000)), &chunk(b"IEND", b"")].concat();
    let (_, taken) = peak(|| decode(&file, &DecodeOptions::default()));
    assert!(taken < 2 << 20, "took {taken} bytes");
    check(&file);
}

/// A picture of `side` x `side` pixels in the form of each format that takes most memory: all channels, 16 bits where there
/// are any, transparency. Nothing in it repeats, or everything is zero.
fn costly(side: u16, noisy: bool) -> Vec<(&'static str, Vec<u8>)> {
    let (width, pixels) = (u32::from(side), usize::from(side) * usize::from(side));
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if noisy { (state >> 24) as u8 } else { 0 }
    };
    let wide: Vec<u8> = (0..8 * pixels).map(|_| noise()).collect();
    let narrow = &wide[..4 * pixels];

    let mut png_file = Vec::new();
    let mut encoder = png::Encoder::new(&mut png_file, width, width);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.write_header().unwrap().write_image_data(&wide).unwrap();

    let mut gif_file = Vec::new();
    let frame = gif::Frame::from_indexed_pixels(side, side, &wide[..pixels], Some(0));
    gif::Encoder::new(&mut gif_file, side, side, &[7; 768]).unwrap().write_frame(&frame).unwrap();

    let mut tiff_file = Cursor::new(Vec::new());
    let samples: Vec<u16> = wide.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let encoder = tiff::encoder::TiffEncoder::new(&mut tiff_file).unwrap();
    let mut encoder = encoder.with_compression(tiff::encoder::Compression::Lzw);
    let mut image = encoder.new_image::<tiff::encoder::colortype::RGBA16>(width, width).unwrap();
    image.rows_per_strip(width).unwrap();
    image.write_data(&samples).unwrap();

    let mut webp_file = Vec::new();
    let encoder = image_webp::WebPEncoder::new(&mut webp_file);
    encoder.encode(narrow, width, width, image_webp::ColorType::Rgba8).unwrap();

    let mut bmp_file = b"BM".to_vec();
    let header =
        [54 + 12 + 4 * pixels as u32, 0, 122, 108, width, width, 1 | 32 << 16, 3, 4 * pixels as u32, 0, 0, 0, 0];
    let masks = [0xff_0000, 0xff00, 0xff, 0xff00_0000_u32];
    let rest = [0; 13];
    for number in header.into_iter().chain(masks).chain(rest) {
        bmp_file.extend_from_slice(&number.to_le_bytes());
    }
    bmp_file.extend_from_slice(narrow);
    vec![("png", png_file), ("gif", gif_file), ("tiff", tiff_file.into_inner()), ("webp", webp_file), ("bmp", bmp_file)]
}

#[test]
fn what_decoding_holds_is_no_more_than_what_it_says_beforehand() {
    for noisy in [true, false] {
        for (name, file) in costly(1024, noisy) {
            let limits = Limits { bytes: 1 << 24, ..LIMITS };
            let most =
                probe(&file, &limits).unwrap_or_else(|error| panic!("{name}: {error}")).decoding_bytes(file.len());
            for source in [Source::File, Source::Opened] {
                let (decoded, taken) = peak(|| decode(&file, &DecodeOptions { limits, source }));
                decoded.unwrap_or_else(|error| panic!("{name}: {error}"));
                println!("{name}, {source:?}: {:.1} bytes a pixel", taken as f64 / f64::from(1 << 20));
                assert!((taken as u64) < most, "{name} took {taken} bytes, {most} are said to be the most");
            }
        }
    }
    let most = Limits::default().decoding_bytes();
    assert!(most >= 24 * Limits::default().pixels && most < 2 << 30, "{most}");
}

#[test]
fn pixels_beyond_a_small_image_are_not_expanded_in_any_format() {
    let one = 1_u16.to_le_bytes();
    for (name, mut file) in costly(2048, false) {
        match name {
            "png" => {
                file[16..24].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
                let header = chunk(b"IHDR", &file[16..29]);
                file[8..33].copy_from_slice(&header);
            }
            "gif" => {
                file[6..10].copy_from_slice(&[one, one].concat());
                // Behind the palette: an extension, and then the frame.
                let frame = 13 + 768 + file[13 + 768..].iter().position(|&byte| byte == b',').unwrap();
                file[frame + 5..frame + 9].copy_from_slice(&[one, one].concat());
            }
            "tiff" => {
                for tag in [0x100, 0x101, 0x116] {
                    let at = tiff_value(&file, tag);
                    file[at..at + 2].copy_from_slice(&one);
                }
            }
            "bmp" => file[18..26].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]),
            // Its size is part of what is compressed: here a frame is larger than the canvas that it is for.
            _ => {
                let image = file[12..].to_vec();
                let flags = [0b10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                let frame = [&[0; 6][..], &2047_u32.to_le_bytes()[..3], &2047_u32.to_le_bytes()[..3], &[0; 4], &image];
                let frame = frame.concat();
                let part = |tag: &[u8; 4], data: &[u8]| [tag, &(data.len() as u32).to_le_bytes()[..], data].concat();
                let parts = [part(b"VP8X", &flags), part(b"ANIM", &[0; 6]), part(b"ANMF", &frame)].concat();
                file = [&b"RIFF"[..], &(4 + parts.len() as u32).to_le_bytes(), b"WEBP", &parts].concat();
            }
        }
        let limits = Limits { bytes: 1 << 25, ..LIMITS };
        let probed = probe(&file, &limits).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(probed.size, ImageSize::new(1, 1), "{name}");
        let (_, taken) = peak(|| decode(&file, &DecodeOptions { limits, source: Source::Opened }));
        let most = probed.decoding_bytes(file.len());
        assert!((taken as u64) < most, "{name} took {taken} bytes, {most} are said to be the most");
    }
}

#[test]
fn of_many_frames_only_the_first_is_decoded() {
    let (side, frames) = (512, 200);
    let mut file = Vec::new();
    let mut encoder = gif::Encoder::new(&mut file, side, side, &[7; 768]).unwrap();
    for _ in 0..frames {
        let pixels = vec![0; usize::from(side) * usize::from(side)];
        encoder.write_frame(&gif::Frame::from_indexed_pixels(side, side, pixels, None)).unwrap();
    }
    drop(encoder);
    let (image, taken) = peak(|| decode(&file, &DecodeOptions::default()).unwrap());
    assert_eq!(image.size(), ImageSize::new(512, 512));
    assert!(taken < 12 << 20, "took {taken} bytes");
}

#[test]
fn strips_that_lie_are_refused() {
    let file = fixture("images/lzw.tif");
    // offsets, rows a strip, byte counts: the value, then the number of values
    for tag in [0x111, 0x116, 0x117] {
        let at = tiff_value(&file, tag);
        for (place, lie) in [(at, u32::MAX), (at, 0), (at, 1), (at - 4, u32::MAX), (at - 4, 1 << 28), (at - 4, 0)] {
            let mut hostile = file.clone();
            hostile[place..place + 4].copy_from_slice(&lie.to_le_bytes());
            check(&hostile);
        }
    }
}

#[test]
fn a_jpeg_of_very_many_scans_is_refused() {
    let file = fixture("images/progressive.jpg");
    let scan = file.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let length = 2 + usize::from(file[scan + 2]) * 256 + usize::from(file[scan + 3]);
    let scans = file[scan..scan + length].repeat(300);
    let hostile = [&file[..scan], &scans, &file[scan..]].concat();
    assert_eq!(probe(&hostile, &LIMITS).unwrap_err().reason(), "IMAGE_UNSUPPORTED");
}

#[test]
fn every_prefix_of_a_small_file_of_each_format_is_handled() {
    let names = [
        "64x48_420.jpg",
        "progressive.jpg",
        "p4.png",
        "lossy_37x29.webp",
        "lossless_37x29.webp",
        "plain.gif",
        "rle8.bmp",
        "lzw.tif",
    ];
    for name in names {
        let file = fixture(&format!("images/{name}"));
        for length in 0..file.len() {
            check(&file[..length]);
        }
    }
}

/// The image files of the test kit that a mutation can be told from: photographs are only more of the same.
fn corpus() -> Vec<Vec<u8>> {
    let entries = fs::read_dir(fixtures_dir().join("images")).unwrap().map(|entry| entry.unwrap().path());
    let images = entries.filter(|path| path.extension().is_some_and(|end| end != "json"));
    let mut files: Vec<Vec<u8>> = images.map(|path| fs::read(path).unwrap()).collect();
    files.sort();
    files
}

const MAGIC: [&[u8]; 8] = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0\x08\0\0\0",
    b"MM\0+\0\x08\0\0\0\0\0\0\0\x10",
    b"RIFF\x40\0\0\0WEBPVP8 ",
];

proptest! {
    #![proptest_config(default_cases(3000))]

    #[test]
    fn random_bytes_are_handled(magic in 0..MAGIC.len(), rest in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&[MAGIC[magic], &rest].concat());
    }

    #[test]
    fn changed_files_are_handled(file in damaged(corpus())) {
        check(&file);
    }
}
