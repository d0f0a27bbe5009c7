//! Decoding and resizing against Pillow: every colour mode, both sources, and what Pillow refuses.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tessera_anyres::ImageSize;
use tessera_image::{DecodeOptions, ImageError, Limits, Resizer, RgbImage, Source, decode, probe};

/// Files that Pillow reads and we refuse, with the reason that we give.
const REFUSED: [(&str, &str); 4] = [
    // Floats, and JPEG inside of TIFF.
    ("f32.tif", "IMAGE_UNSUPPORTED"),
    ("jpeg.tif", "IMAGE_UNSUPPORTED"),
    // Pillow makes up a gray palette.
    ("no_palette.gif", "IMAGE_CORRUPT"),
    // Pillow is content with every row and no end.
    ("no_end.png", "IMAGE_TRUNCATED"),
];

fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "tests", "fixtures"].iter().collect()
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("images/expected.json")).unwrap()).unwrap()
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Says how `file` differs from Pillow; nothing when it does not.
fn difference(folder: &str, file: &str, expected: &Value) -> Option<String> {
    let bytes = fs::read(fixtures().join(folder).join(file)).unwrap();
    for (source, name) in [(Source::File, "file"), (Source::Opened, "opened")] {
        let result = decode(&bytes, &DecodeOptions { limits: Limits::default(), source });
        let golden = &expected[name];
        match (result, golden.is_null()) {
            (Err(_), true) => {}
            (Ok(_), true) => return Some(format!("{name}: read, Pillow says {}", expected["error"])),
            (Err(error), false) => {
                let known = REFUSED.contains(&(file, error.reason()));
                return (!known).then(|| format!("{name}: {error} ({})", error.reason()));
            }
            (Ok(image), false) => {
                let probed = probe(&bytes, &Limits::default()).unwrap();
                assert_eq!(probed.size_for(source), image.size(), "{file}: probed and decoded size");
                let size = [image.size().width, image.size().height].map(u64::from);
                if [golden["width"].as_u64(), golden["height"].as_u64()] != size.map(Some) {
                    return Some(format!("{name}: size is {}", image.size()));
                }
                if golden["blake3"] != hash(image.data()) {
                    return Some(format!("{name}: other pixels, mode {}", expected["mode"]));
                }
            }
        }
    }
    None
}

fn check(folder: &str, least: usize) {
    let expected = expected();
    let files = expected[folder].as_object().unwrap();
    let differences: Vec<String> = files
        .iter()
        .filter_map(|(file, golden)| difference(folder, file, golden).map(|how| format!("{file}: {how}")))
        .collect();
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), files.len(), differences.join("\n"));
    assert!(files.len() >= least, "{} files", files.len());
}

#[test]
fn every_colour_mode_is_decoded_as_pillow_does() {
    check("images", 140);
}

#[test]
fn photographs_and_documents_are_decoded_as_pillow_does() {
    check("photos", 8);
}

#[test]
fn what_pillow_refuses_is_refused_by_name() {
    let reasons = [
        ("broken.png", "IMAGE_CORRUPT"),
        ("cut.bmp", "IMAGE_TRUNCATED"),
        ("cut.gif", "IMAGE_TRUNCATED"),
        ("cut.jpg", "IMAGE_TRUNCATED"),
        ("cut.png", "IMAGE_TRUNCATED"),
        ("cut.tif", "IMAGE_TRUNCATED"),
        ("cut.webp", "IMAGE_TRUNCATED"),
        ("half_end.jpg", "IMAGE_TRUNCATED"),
        ("header_only.jpg", "IMAGE_TRUNCATED"),
        ("no_end.jpg", "IMAGE_TRUNCATED"),
        ("progressive_cut.jpg", "IMAGE_TRUNCATED"),
        ("progressive_no_end.jpg", "IMAGE_TRUNCATED"),
        ("text.jpg", "IMAGE_FORMAT_UNKNOWN"),
    ];
    let expected = expected();
    let files = expected["images"].as_object().unwrap();
    let refused: BTreeSet<&str> =
        files.iter().filter(|(_, golden)| !golden["error"].is_null()).map(|(file, _)| file.as_str()).collect();
    assert_eq!(refused, reasons.iter().map(|(file, _)| *file).collect());
    for (file, reason) in reasons {
        let bytes = fs::read(fixtures().join("images").join(file)).unwrap();
        let error: ImageError = decode(&bytes, &DecodeOptions::default()).unwrap_err();
        assert_eq!(error.reason(), reason, "{file}: {error}");
    }
}

/// The noise of `make_images.py`: black or white.
fn noise(size: ImageSize) -> RgbImage {
    let mut state = 12345_u32;
    let mut next = || {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12345) & 0x7fff_ffff;
        if state >> 16 & 1 == 1 { 255 } else { 0 }
    };
    RgbImage::new(size, (0..size.pixels() * 3).map(|_| next()).collect()).unwrap()
}

#[test]
fn hard_noise_is_resized_as_pillow_does() {
    let expected = expected();
    let cases = expected["resized"].as_array().unwrap();
    assert_eq!(cases.len(), 17);
    let mut other_order = 0;
    for case in cases {
        let side = |name: &str, index: usize| case[name][index].as_u64().unwrap() as u32;
        let from = ImageSize::new(side("from", 1), side("from", 0));
        let to = ImageSize::new(side("to", 1), side("to", 0));
        let image = noise(from);
        let resized = Resizer::Pillow.resize(&image, to).unwrap();
        assert_eq!(case["blake3"], hash(resized.data()), "{from} to {to}");
        other_order += usize::from(Resizer::Pillow12.resize(&image, to).unwrap() != resized);
    }
    assert!(other_order > 0, "no case tells the two orders of passes apart");
}
