//! The file that says what became of every image. It is only ever added to, a line at a time, so that a run that is cut
//! off loses nothing; the next run goes on where it stopped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tessera_embedding::EncoderFingerprint;

use super::line::{Header, ImageFile, Stamp, VERSION};

/// Longest line: the longest path that a system takes, every byte of it written as six, and the rest.
const MAX_LINE: u64 = 64 << 10;
/// How a line may begin.
const STARTS: [&[u8]; 2] = [br#"{"tessera_manifest":"#, br#"{"path":""#];

/// A manifest that is open to be added to.
#[derive(Debug)]
pub(super) struct Manifest {
    path: PathBuf,
    file: File,
    /// What is stored, by a digest of its path: the paths of millions of images would take ten times the memory.
    done: HashMap<[u8; 16], Stamp>,
    /// What encoded its images, if that is known.
    encoder: Option<EncoderFingerprint>,
}

/// A line, as far as it matters here.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Header(Header),
    Done {
        path: String,
        #[serde(rename = "handle")]
        _handle: String,
        #[serde(flatten)]
        stamp: Stamp,
    },
    Failed {
        path: String,
        #[serde(rename = "error")]
        _error: String,
    },
}

impl Manifest {
    /// Opens a manifest, or begins one. A last line that was cut off is taken away.
    ///
    /// # Errors
    /// When it cannot be read and written, another run writes it, or it is something else.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("cannot open the manifest {name}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("the manifest {name} is being written by another run"),
            // A file system without locks.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock the manifest {name}"));
            }
        }
        let Content { done, encoder, whole, cut } = read(&mut file).with_context(|| format!("the manifest {name}"))?;
        if cut {
            file.set_len(whole).with_context(|| format!("cannot repair the manifest {name}"))?;
        }
        Ok(Self { path: path.to_owned(), file, done, encoder })
    }

    /// True when it says that the file, as it is now, is stored.
    pub(super) fn has(&self, file: &ImageFile) -> bool {
        self.done.get(&digest(&file.path)) == Some(&file.stamp)
    }

    /// Takes note of what encodes the images of this run, before the first of them is added.
    ///
    /// # Errors
    /// When the images of the manifest were encoded by something else.
    pub(super) fn encoded_by(&mut self, encoder: EncoderFingerprint) -> anyhow::Result<()> {
        if let Some(before) = self.encoder {
            ensure!(
                before == encoder,
                "the images of the manifest {} were encoded by another model or with other settings (encoder {before}, \
                 now {encoder}): give that model, or another --manifest",
                self.path.display()
            );
        } else if self.done.is_empty() {
            self.add(&Header { tessera_manifest: VERSION, encoder: encoder.to_string() })?;
        }
        self.encoder = Some(encoder);
        Ok(())
    }

    /// Adds a line. It is there when this returns, whatever becomes of the program then.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn add(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let written = self.file.write_all(&text);
        written.with_context(|| format!("cannot write to the manifest {}", self.path.display()))?;
        Ok(())
    }
}

/// What a manifest holds.
#[derive(Debug, Default)]
struct Content {
    done: HashMap<[u8; 16], Stamp>,
    encoder: Option<EncoderFingerprint>,
    /// Bytes of whole lines.
    whole: u64,
    /// True when something follows them.
    cut: bool,
}

fn read(file: &mut File) -> anyhow::Result<Content> {
    let (mut reader, mut content, mut bytes) = (BufReader::new(file), Content::default(), Vec::new());
    for number in 1_u64.. {
        bytes.clear();
        let length = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)?;
        if length == 0 {
            break;
        }
        let not_ours = || format!("has no line of a manifest as line {number}: it is left as it is");
        if bytes.last() != Some(&b'\n') {
            // What is taken away must have been ours.
            let begun = |start: &&[u8]| bytes.starts_with(start) || start.starts_with(&bytes);
            ensure!(length < MAX_LINE as usize && STARTS.iter().any(begun), not_ours());
            content.cut = true;
            break;
        }
        match serde_json::from_slice(&bytes).with_context(not_ours)? {
            Line::Header(header) => {
                let version = header.tessera_manifest;
                ensure!(version == VERSION, "has version {version}, this program knows version {VERSION}");
                content.encoder = Some(header.encoder.parse().with_context(not_ours)?);
            }
            Line::Done { path, stamp, .. } => _ = content.done.insert(digest(&path), stamp),
            Line::Failed { path, .. } => _ = content.done.remove(&digest(&path)),
        }
        content.whole += length as u64;
    }
    Ok(content)
}

/// 128 bits: no two paths of anybody meet.
fn digest(path: &str) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(path.as_bytes()).as_bytes()[..16]);
    digest
}

#[cfg(test)]
mod tests;
