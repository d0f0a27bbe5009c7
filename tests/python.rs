//! Python reads what Tessera stores, as `shared/embedding/FORMAT.md` says that it can.
//!
//! Not among the tests that a Rust toolchain is enough for: `.ci/run` installs what it needs and runs it. By hand:
//! `TESSERA_TEST_PYTHON=python3 cargo test -p tessera-tests --test python`, where that Python has `safetensors` and `numpy`.

use std::path::Path;
use std::process::Command;

use tessera_anyres::ImageSize;
use tessera_embedding::{Artifact, EncoderFingerprint, ImageKey, Origin, Provenance, TenantId};
use tessera_tensor::{DType, HostTensor};

const FORMAT: &str = include_str!("../shared/embedding/FORMAT.md");
/// Appended to the page's example: what the test wants to know besides.
const MORE: &str = "\nprint(about['key'], about['origin'], *features.astype('float64').ravel())\n";

/// The page's example, reading this file.
fn example(file: &Path) -> String {
    let (_, rest) = FORMAT.split_once("```python\n").expect("the page has an example");
    let (example, _) = rest.split_once("```").expect("the example ends");
    let named = example.replace("0a1b….safetensors", file.to_str().expect("the path is text"));
    assert_ne!(named, example, "the example opens a file by this name");
    named + MORE
}

fn python(script: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "a test that needs a program of the machine is told where it is")]
    let python = std::env::var("TESSERA_TEST_PYTHON")
        .expect("TESSERA_TEST_PYTHON must name a Python that has safetensors and numpy: pip install safetensors numpy");
    let ran = Command::new(&python).args(["-c", script]).output().expect("TESSERA_TEST_PYTHON can be started");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("it prints text")
}

#[test]
fn the_formats_example_reads_an_artifact_of_each_type() {
    let values: Vec<f32> = (0..12u8).map(|index| f32::from(index) / 4.0 - 1.0).collect();
    let rows = HostTensor::from_f32(vec![3, 4], values.clone()).expect("twelve numbers");
    let (image_size, grid) = (ImageSize { height: 48, width: 64 }, ImageSize { height: 96, width: 192 });
    let encoder = EncoderFingerprint::of(&[b"an encoder"]);
    let key = ImageKey::of(b"salt", &encoder, b"an image");
    let provenance = Provenance::now(encoder, TenantId::of(b"salt"), Origin::Encoded, grid);
    let sealed = |dtype| Artifact::seal(image_size, rows.to_dtype(dtype), provenance);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let eight = sealed(DType::F32).quantize();
    for (artifact, dtype, error) in [
        (sealed(DType::F32), "float32", 0.0),
        (sealed(DType::F16), "float16", 0.0),
        // Half of the scale of a row whose largest number is 1.75.
        (eight, "float32", 1.75 / 127.0 / 2.0 + 1e-6),
    ] {
        let file = folder.path().join(format!("{dtype}-{error}.safetensors"));
        std::fs::write(&file, artifact.to_bytes(&key)).expect("the file can be written");
        let said = python(&example(&file));
        let (first, second) = said.trim_end().split_once('\n').expect("two lines");
        assert_eq!(first, format!("48 64 {encoder} (3, 4) {dtype}"));
        let mut words = second.split(' ');
        assert_eq!((words.next(), words.next()), (Some(key.to_string().as_str()), Some("encoded")));
        let read: Vec<f32> = words.map(|word| word.parse().expect("a number")).collect();
        let largest = read.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(read.len() == 12 && largest <= error, "{dtype}: {largest}");
    }
}
