//! Files that the user names.

use std::path::Path;

use anyhow::Context;

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
