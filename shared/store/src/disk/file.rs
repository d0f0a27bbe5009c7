//! The files of the disk tier: names, and writing so that a file is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use tessera_embedding::{Artifact, ArtifactError, ArtifactFile, ArtifactHeader, HEADER_LIMIT, ImageKey};

const SUFFIX: &str = ".safetensors";
const TEMPORARY: &str = ".tmp";
/// Disks give out room in pieces of this size.
const BLOCK_BYTES: u64 = 4096;

/// Where the files of one key are.
#[derive(Debug)]
pub(crate) struct Place {
    /// The folder of all keys with the same first byte.
    folder: PathBuf,
    /// The artifact.
    pub(crate) file: PathBuf,
    /// Where it is written before it is whole. One name for a key: nobody else writes it at the same time.
    temporary: PathBuf,
}

/// Why an artifact could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Corrupt(#[from] ArtifactError),
}

/// What a file name in a key's folder stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Artifact(ImageKey),
    /// Somebody was writing when the process ended.
    Leftover,
    /// None of ours.
    Foreign,
}

impl Place {
    pub(crate) fn of(folder: &Path, key: &ImageKey) -> Self {
        let name = key.to_string();
        let folder = folder.join(&name[..2]);
        let file = folder.join(format!("{name}{SUFFIX}"));
        let temporary = folder.join(format!(".{name}{TEMPORARY}"));
        Self { folder, file, temporary }
    }

    /// Writes an artifact whose modification time is `mark`: afterwards all of it is there, or nothing new.
    pub(crate) fn write(&self, artifact: &ArtifactFile, mark: SystemTime) -> io::Result<()> {
        let written = self.write_temporary(artifact, mark).and_then(|()| fs::rename(&self.temporary, &self.file));
        if written.is_err() {
            // Whether that worked is seen by `is_clean`; the error that counts is the first one.
            let _ = fs::remove_file(&self.temporary);
        }
        written
    }

    /// Makes the name of the artifact outlive a power cut; its bytes do already.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn write_temporary(&self, artifact: &ArtifactFile, mark: SystemTime) -> io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).open(&self.temporary)?;
        for part in &artifact.parts {
            file.write_all(part)?;
        }
        file.set_modified(mark)?;
        file.sync_all()
    }

    /// Whether nothing of a write that did not end is there.
    pub(crate) fn is_clean(&self) -> bool {
        self.temporary.symlink_metadata().is_err()
    }

    /// Reads and checks an artifact.
    pub(crate) fn read(&self, key: &ImageKey) -> Result<Artifact, ReadError> {
        let mut file = File::open(&self.file)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(io::Error::other)?;
        file.read_to_end(&mut bytes)?;
        Ok(Artifact::from_bytes(&Bytes::from(bytes), key)?)
    }

    /// Reads and checks what an artifact says of itself.
    pub(crate) fn read_header(&self, key: &ImageKey) -> Result<ArtifactHeader, ReadError> {
        let file = File::open(&self.file)?;
        let length = file.metadata()?.len();
        let mut beginning = Vec::with_capacity(HEADER_LIMIT);
        file.take(HEADER_LIMIT as u64).read_to_end(&mut beginning)?;
        let header = ArtifactHeader::read(&beginning, length)?;
        if header.key != *key {
            return Err(ArtifactError::Key { found: header.key, expected: *key }.into());
        }
        Ok(header)
    }

    /// Sets the modification time: the last use, or the end of a lease if that is later.
    pub(crate) fn mark(&self, mark: SystemTime) -> io::Result<()> {
        File::open(&self.file)?.set_modified(mark)
    }

    /// As [`Place::mark`], so that it outlives a power cut; an error if the file system cannot hold that time.
    pub(crate) fn mark_durably(&self, mark: SystemTime) -> io::Result<()> {
        let file = File::open(&self.file)?;
        file.set_modified(mark)?;
        if file.metadata()?.modified()? != mark {
            return Err(io::Error::other(format!("the file system does not hold the time {mark:?}")));
        }
        file.sync_all()
    }
}

/// What a name in a folder stands for.
pub(crate) fn name(folder: &str, name: &str) -> Name {
    if name.starts_with('.') && name.ends_with(TEMPORARY) {
        return Name::Leftover;
    }
    let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.starts_with(folder));
    // Only the very name that this program writes, not one in capitals.
    let key = digits.and_then(|digits| digits.parse().ok()).filter(|key: &ImageKey| Some(&*key.to_string()) == digits);
    key.map_or(Name::Foreign, Name::Artifact)
}

/// What a file takes of a disk.
pub(crate) fn taken(length: u64) -> u64 {
    length.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tessera_embedding::EncoderFingerprint;

    use super::*;

    #[test]
    fn only_names_that_this_program_writes_are_read() {
        let key = ImageKey::of(b"", &EncoderFingerprint::of(&[]), b"image");
        let place = Place::of(Path::new("store"), &key);
        let text = key.to_string();
        let (folder, file) = (&text[..2], format!("{text}.safetensors"));
        assert_eq!(place.file, Path::new("store").join(folder).join(&file));
        assert_eq!(name(folder, &file), Name::Artifact(key));
        assert_eq!(name(folder, &format!(".{text}.tmp")), Name::Leftover);
        let elsewhere = if folder == "00" { "01" } else { "00" };
        for (folder, file) in [
            (elsewhere, file.clone()),
            (folder, text.clone()),
            (folder, format!("{}.safetensors", text.to_uppercase())),
            (folder, "notes.txt".to_owned()),
        ] {
            assert_eq!(name(folder, &file), Name::Foreign, "{folder}/{file}");
        }
        assert_eq!([0, 1, 4096, 4097, u64::MAX].map(taken), [0, 4096, 4096, 8192, u64::MAX]);
    }
}
