//! Against the tiny checkpoints of the project and their golden values.

mod decoding;
mod goldens;
mod opening;
mod plain;
mod rendering;
mod shielding;
mod stopping;
mod templates;

use std::path::{Path, PathBuf};

use tessera_checkpoint::Checkpoint;

use crate::{Message, Part, Prompter, Role};

/// Every tiny checkpoint.
const FAMILIES: [&str; 9] = [
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

/// The folder of a tiny checkpoint.
fn tiny(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny").join(family)
}

fn open(family: &str) -> Prompter {
    let checkpoint = Checkpoint::open(&tiny(family)).unwrap();
    Prompter::open(&checkpoint).unwrap()
}

/// A message of some images and then a text.
fn message(role: Role, images: usize, text: &str) -> Message {
    let mut content = vec![Part::Image; images];
    content.push(Part::Text(text.to_owned()));
    Message { role, content }
}

fn user(images: usize, text: &str) -> Message {
    message(Role::User, images, text)
}
