//! Tiles against the reference, bit by bit: torchvision's and Pillow's, of every picture of the tiny checkpoints.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::fs;
use std::path::PathBuf;

use safetensors::SafeTensors;
use tessera_anyres::Geometry;
use tessera_checkpoint::Checkpoint;
use tessera_image::{DecodeOptions, Preprocessor, Resizer, decode};

/// The cases, and how many pictures each has.
const CASES: [(&str, usize); 5] =
    [("batch", 2), ("one_image", 1), ("portrait", 1), ("two_images", 2), ("two_turns", 1)];

fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "tests", "fixtures", "tiny"].iter().collect()
}

fn check(family: &str, pixels_file: &str, tile: usize) {
    let checkpoint = Checkpoint::open(&fixtures().join(family)).unwrap();
    let geometry: Geometry = checkpoint.geometry();
    assert_eq!(geometry.tile() as usize, tile);
    let file = fs::read(fixtures().join(pixels_file)).unwrap();
    let goldens = SafeTensors::deserialize(&file).unwrap();
    for (resizer, name) in [(Resizer::Torchvision, "pixel_values"), (Resizer::Pillow, "pixel_values_pil")] {
        let preprocessor = Preprocessor::new(&checkpoint.processor.image, geometry.clone(), resizer);
        for (case, count) in CASES {
            let golden = goldens.tensor(&format!("{case}.{name}")).unwrap();
            assert_eq!(golden.shape()[0], count);
            let image_bytes = golden.data().len() / count;
            for index in 0..count {
                let picture = fs::read(fixtures().join(format!("pictures/{case}_{index}.png"))).unwrap();
                let image = decode(&picture, &DecodeOptions::default()).unwrap();
                let tiles = preprocessor.run(&image).unwrap();
                assert_eq!(tiles.pixels.shape(), [tiles.plan.tile_count(), 3, tile, tile]);
                let got = tiles.pixels.data();
                let expected = &golden.data()[index * image_bytes..(index + 1) * image_bytes];
                let differing = got.chunks_exact(4).zip(expected.chunks_exact(4)).filter(|(a, b)| a != b).count();
                assert_eq!(differing, 0, "{family}, {case} {index}, {name}: of {} numbers", got.len() / 4);
                assert!(expected[got.len()..].iter().all(|&byte| byte == 0), "the rest pads the reference's batch");
            }
        }
    }
}

#[test]
fn tiles_of_56_pixels_equal_the_references() {
    check("mistral", "pixels_56.safetensors", 56);
}

#[test]
fn tiles_of_42_pixels_equal_the_references() {
    check("mistral_oddgrid", "pixels_42.safetensors", 42);
}

#[test]
fn a_frame_is_the_picture_that_pillow_pads() {
    for (family, names) in [
        ("mistral", &["one_image_0", "portrait_0", "two_images_0", "two_images_1"][..]),
        ("mistral_oddgrid", &["one_image_0"]),
    ] {
        let checkpoint = Checkpoint::open(&fixtures().join(family)).unwrap();
        let read = |path: PathBuf| decode(&fs::read(path).unwrap(), &DecodeOptions::default()).unwrap();
        for resizer in [Resizer::Torchvision, Resizer::Pillow, Resizer::Pillow12] {
            let preprocessor = Preprocessor::new(&checkpoint.processor.image, checkpoint.geometry(), resizer);
            for name in names {
                let framed = preprocessor.frame(&read(fixtures().join(format!("pictures/{name}.png")))).unwrap();
                let expected = read(fixtures().join(format!("framed/{family}/{name}.png")));
                assert_eq!(framed.size(), expected.size());
                let differing = framed.data().iter().zip(expected.data()).filter(|(a, b)| a != b).count();
                assert_eq!(differing, 0, "{family}, {name}: of {} bytes", framed.data().len());
                // What fills its grid is left as it is.
                assert_eq!(preprocessor.frame(&framed).unwrap(), framed);
            }
        }
    }
}
