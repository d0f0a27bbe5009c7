//! The checkpoint to use: the user's, or the embedded one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// Says what the embedded checkpoint is good for. Shown once, on standard error, in front of the answer or the addresses.
pub(crate) const EMBEDDED_NOTE: &str =
    "the embedded model knows drawn shapes, printed words and charts only; --model DIR takes a llava-v1.6 checkpoint";

/// What clients call the embedded checkpoint, whose folder has another name each time.
const EMBEDDED_NAME: &str = "tessera-demo";

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../shared/demo-model/", $name)).as_slice())),*]
    };
}

/// The embedded checkpoint, file by file.
const EMBEDDED: [(&str, &[u8]); 7] = embedded![
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// A checkpoint on disk. The embedded one lies in a folder that goes when this is dropped.
#[derive(Debug)]
pub(crate) enum Model {
    Given(PathBuf),
    Embedded(TempDir),
}

impl Model {
    /// Takes the folder that the user named, or unpacks the embedded checkpoint.
    ///
    /// # Errors
    /// When the folder is none, or nothing can be written.
    pub(crate) fn open(given: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(dir) = given {
            anyhow::ensure!(
                dir.is_dir(),
                "{} is not a folder: --model takes the folder of a checkpoint",
                dir.display()
            );
            return Ok(Self::Given(dir.to_owned()));
        }
        let dir = tempfile::Builder::new().prefix("tessera-").tempdir();
        let dir =
            dir.context("cannot make a folder for the embedded model; set TMPDIR to a place that can be written")?;
        for (name, bytes) in EMBEDDED {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self::Embedded(dir))
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        match self {
            Self::Given(dir) => dir,
            Self::Embedded(dir) => dir.path(),
        }
    }

    /// What clients call it; empty for one that its folder names.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Given(_) => "",
            Self::Embedded(_) => EMBEDDED_NAME,
        }
    }

    /// True for the embedded one.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }
}
