//! Files that lie: nothing panics, nothing takes more memory than an image of its size needs, and what the headers say is
//! what decoding gives.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]
#![expect(unsafe_code, reason = "a counting allocator is the only way to see what a codec takes")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tessera_anyres::ImageSize;
use tessera_image::{DecodeOptions, Format, ImageError, Limits, Source, decode, probe};

/// Counts what each thread holds. (libjpeg takes memory past this; what it takes follows from the size alone.)
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(taken: usize, given: usize) {
    let held = HELD.get().saturating_add(taken).saturating_sub(given);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call is the system allocator's own; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and says how many bytes more than before it held at most.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get() - before)
}

fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "tests", "fixtures"].iter().collect()
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

const LIMITS: Limits = Limits { bytes: 1 << 20, pixels: 1 << 22, side: 1 << 13 };

/// The most bytes that decoding may hold at once. A lossy WebP names the length of a part of itself in 24 bits, and the
/// codec makes room for one such part before it finds out that the file is shorter.
fn most(format: Format, pixels: usize, bytes: &[u8]) -> usize {
    let part = if format == Format::WebP { 1 << 24 } else { 0 };
    40 * pixels + bytes.len() + (8 << 20) + part
}

/// Checks what must hold for any bytes at all.
fn check(bytes: &[u8]) {
    let (probed, taken) = peak(|| probe(bytes, &LIMITS));
    assert!(taken < 256 << 10, "a probe took {taken} bytes");
    for source in [Source::File, Source::Opened] {
        let (decoded, taken) = peak(|| decode(bytes, &DecodeOptions { limits: LIMITS, source }));
        match (&probed, decoded) {
            (Ok(probed), Ok(image)) => {
                assert_eq!(probed.size_for(source), image.size());
                let pixels = image.size().pixels() as usize;
                assert!(taken < most(probed.format, pixels, bytes), "{pixels} pixels took {taken} bytes");
            }
            (Ok(probed), Err(error)) => {
                assert!(!error.to_string().contains("panicked"), "{error}");
                let pixels = probed.size.pixels() as usize;
                assert!(taken < most(probed.format, pixels, bytes), "{pixels} pixels took {taken} bytes: {error}");
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

fn all_files() -> Vec<Vec<u8>> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(fixtures().join("images")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end != "json"))
        .map(|path| fs::read(path).unwrap())
        .collect()
}

const MAGIC: [&[u8]; 7] =
    [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0\x08\0\0\0", b"RIFF\x40\0\0\0WEBPVP8 "];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_handled(magic in 0..MAGIC.len(), rest in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&[MAGIC[magic], &rest].concat());
    }

    #[test]
    fn changed_files_are_handled(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        early in any::<bool>(),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        thread_local! {
            static FILES: Vec<Vec<u8>> = all_files();
        }
        let mut file = FILES.with(|files| which.get(files).clone());
        for (place, value) in changes {
            let range = if early { file.len().min(96) } else { file.len() };
            let at = place.index(range);
            file[at] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        check(&file);
    }
}
