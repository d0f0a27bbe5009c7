//! What can be wrong with a checkpoint's configuration.

use std::fmt;
use std::path::PathBuf;

use tessera_anyres::GeometryError;

/// A problem with the configuration files of a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file that every checkpoint has is not there.
    #[error("{} is missing", file.display())]
    MissingFile {
        /// The file.
        file: PathBuf,
    },
    /// A file is there but cannot be read.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file holds no JSON object.
    #[error("{} is not a JSON object", file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// Where the text stops being JSON; nothing if it is JSON of another kind.
        source: Option<serde_json::Error>,
    },
    /// A key holds a value of the wrong kind or out of range.
    #[error("{}: {key} is {value}, expected {expected}", file.display())]
    InvalidValue {
        /// The file.
        file: PathBuf,
        /// The key, with the sections around it: `text_config.hidden_size`.
        key: String,
        /// The value as it stands in the file.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A key asks for arithmetic that Tessera does not have.
    #[error("{}: {key} is {value}, supported: {supported}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The key, with the sections around it.
        key: String,
        /// The value as it stands in the file.
        value: String,
        /// What is supported.
        supported: &'static str,
    },
    /// Two keys that must agree do not.
    #[error("{left}, but {right}")]
    Disagreement {
        /// One of them.
        left: Box<Setting>,
        /// The other.
        right: Box<Setting>,
    },
    /// The selected rows of one tile do not form the square that packing needs.
    #[error(
        "{}: vision_feature_select_strategy {strategy:?} keeps {rows} rows of a tile, but {side}x{side} patches are {patches}",
        file.display()
    )]
    FeatureRows {
        /// The file.
        file: PathBuf,
        /// The strategy.
        strategy: &'static str,
        /// Rows that it keeps.
        rows: u32,
        /// Patches along one side of a tile.
        side: u32,
        /// Patches of a tile.
        patches: u32,
    },
    /// Pinpoints, tile and patch make no geometry.
    #[error("{}: image_grid_pinpoints make no usable geometry", file.display())]
    Geometry {
        /// The file.
        file: PathBuf,
        /// What is wrong with them.
        source: GeometryError,
    },
}

/// A key of a file with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The file.
    pub file: PathBuf,
    /// The key, with the sections around it.
    pub key: String,
    /// The value.
    pub value: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} is {}", self.key, self.file.display(), self.value)
    }
}
