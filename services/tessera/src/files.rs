//! Files that the user names.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use tessera_client::ImageSize;
use tessera_image::Limits;

/// Reads a whole file.
///
/// # Errors
/// Names the file and what the system says.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a file of text.
///
/// # Errors
/// Names the file and what the system says.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads an image file, with the size that its headers say.
///
/// # Errors
/// Names the file and what the system says, or why it is no image.
pub(crate) fn read_image(path: &Path) -> anyhow::Result<(Bytes, ImageSize)> {
    let limits = Limits::default();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limits.bytes as u64 + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    let probed = tessera_image::probe(&bytes, &limits).with_context(|| path.display().to_string())?;
    Ok((bytes.into(), probed.size))
}
