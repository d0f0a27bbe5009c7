//! Fixtures for tests: tiny seeded checkpoints, the images of their cases and what the reference made of them.
//!
//! Everything is under `tests/fixtures`, made by `tests/fixtures/make_tiny.py`, but for the embedded demonstration model
//! and its questions, which are in `shared/demo-model`. A function here panics, and says why, when a fixture is missing or
//! is not what it should be: a test has nothing better to do.

mod authority;
mod cases;
mod damage;
mod demo;
mod distance;
mod golden;
mod memory;
mod program;
pub mod service;
mod tensors;

use std::path::{Path, PathBuf};

pub use authority::{Authority, Identity};
pub use cases::{CASES, Turn, conversations, picture, picture_count};
pub use damage::{damaged, default_cases};
pub use demo::{DEMO_MAX_TOKENS, DemoQuestion, DemoTurn, demo_model_dir, demo_questions};
pub use distance::distance;
pub use golden::{Golden, GoldenSampling};
pub use memory::{Counting, peak};
pub use program::Program;
pub use tensors::{Pixels, pixels};

/// The checkpoints under `tests/fixtures/tiny`. Tiles are 56 pixels wide, those of `mistral_oddgrid` 42;
/// `mistral_hub_fp16` is `mistral` in 16-bit floats, sharded and configured as the public repositories are;
/// `siglip_full` has a tower without class token, and is half as wide as the others.
pub const FAMILIES: [&str; 9] = [
    "mistral",
    "vicuna",
    "llama3",
    "qwen2",
    "yi",
    "mistral_oddgrid",
    "vicuna_layers",
    "siglip_full",
    "mistral_hub_fp16",
];

/// The folder `tests/fixtures`: of the repository that the program was built in, or, if that is not on this machine, of the
/// current folder, for a program that was carried here with the fixtures beside it.
pub fn fixtures_dir() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    if built.is_dir() { built } else { PathBuf::from("tests/fixtures") }
}

/// The folder of the checkpoint of one of [`FAMILIES`].
///
/// # Panics
/// If there is no such family.
pub fn family_dir(family: &str) -> PathBuf {
    assert!(FAMILIES.contains(&family), "{family} is not one of {FAMILIES:?}");
    fixtures_dir().join("tiny").join(family)
}

/// The file's bytes.
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
