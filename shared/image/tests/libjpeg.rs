//! What libjpeg takes goes past Rust's allocator, so it is measured as memory of this process, in which nothing else runs.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::fs;

use mozjpeg::{ColorSpace, Compress};
use tessera_image::{DecodeOptions, Limits, decode, probe};

const SIDE: usize = 2000;

/// A progressive JPEG of four channels: libjpeg keeps every coefficient of it until the last scan.
fn costly() -> Vec<u8> {
    let mut encoder = Compress::new(ColorSpace::JCS_CMYK);
    encoder.set_size(SIDE, SIDE);
    encoder.set_fastest_defaults();
    encoder.set_progressive_mode();
    let mut encoder = encoder.start_compress(Vec::new()).unwrap();
    for y in 0..SIDE {
        let row: Vec<u8> = (0..SIDE * 4).map(|x| (x * 7 + y * 13 + x * y / 50) as u8).collect();
        encoder.write_scanlines(&row).unwrap();
    }
    encoder.finish().unwrap()
}

/// A figure of this process, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let kib: u64 = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

#[test]
fn what_libjpeg_holds_is_within_what_decoding_says_beforehand() {
    let file = costly();
    let most = probe(&file, &Limits::default()).unwrap().decoding_bytes(file.len());
    // The peak is counted from here on.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let image = decode(&file, &DecodeOptions::default()).unwrap();
    let taken = memory("VmHWM").saturating_sub(before);
    let pixels = image.size().pixels();
    println!("{:.1} bytes a pixel", taken as f64 / pixels as f64);
    // Two bytes of each coefficient show that the measure sees libjpeg's memory.
    assert!(taken > 8 * pixels && taken < most, "took {taken} bytes, {most} are said to be the most");
}
