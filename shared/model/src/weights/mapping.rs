//! Memory maps: the one place of this crate that needs `unsafe`.

use std::{fs::File, io, path::Path};

use memmap2::Mmap;

/// Maps a file read-only.
#[expect(
    unsafe_code,
    reason = "a mapped file must not shrink while it is mapped. Checkpoints are written once and replaced by renaming; \
              whoever truncates one under a loading process ends that process, and no copy of 14 GB can be made to \
              prevent it"
)]
pub(super) fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and private to the loading call; see the reason above for the file itself.
    unsafe { Mmap::map(&file) }
}
