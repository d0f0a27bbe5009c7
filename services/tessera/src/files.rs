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
