//! Typed reading of JSON objects; every failure names file, key and value.
//!
//! A key that is `null` counts as absent, as it does for most keys of the reference; the one exception has its own
//! method, [`Section::size_or_null`].

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tessera_anyres::ImageSize;

use crate::CheckpointError;

/// Longest value that an error message repeats.
const LONGEST_SHOWN: usize = 120;
/// What a size may be.
const SIZES: RangeInclusive<usize> = 1..=i32::MAX as usize;

/// A JSON file whose top level is an object.
pub(crate) struct File {
    path: PathBuf,
    object: Map<String, Value>,
}

/// One object of a file, with the path to it.
pub(crate) struct Section<'a> {
    file: &'a Path,
    prefix: String,
    object: &'a Map<String, Value>,
}

impl File {
    /// Reads a file that may be missing.
    pub(crate) fn find(dir: &Path, name: &str) -> Result<Option<Self>, CheckpointError> {
        let path = dir.join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CheckpointError::Unreadable { file: path, source }),
        };
        match serde_json::from_slice(&text) {
            Ok(Value::Object(object)) => Ok(Some(Self { path, object })),
            Ok(_) => Err(CheckpointError::NotJson { file: path, source: None }),
            Err(source) => Err(CheckpointError::NotJson { file: path, source: Some(source) }),
        }
    }

    /// Reads a file that must be there.
    pub(crate) fn require(dir: &Path, name: &str) -> Result<Self, CheckpointError> {
        Self::find(dir, name)?.ok_or_else(|| CheckpointError::MissingFile { file: dir.join(name) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn root(&self) -> Section<'_> {
        Section { file: &self.path, prefix: String::new(), object: &self.object }
    }
}

impl<'a> Section<'a> {
    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// Returns the key with the sections around it.
    pub(crate) fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Returns the value unless it is absent or `null`.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Says whether the key is there, `null` included.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    pub(crate) fn section(&self, key: &str) -> Result<Option<Section<'a>>, CheckpointError> {
        self.read(key, "an object", |value| {
            let object = value.as_object()?;
            Some(Section { file: self.file, prefix: format!("{}{key}.", self.prefix), object })
        })
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<String>, CheckpointError> {
        self.read(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<String>>, CheckpointError> {
        self.read(key, "a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// Reads a number of things, which may be none.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        self.read(key, "a number that is not negative", as_size)
    }

    /// Reads a size: at least 1, and so small that no product of two overflows.
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        self.read(key, "a number from 1 to 2147483647", |value| as_size(value).filter(|size| SIZES.contains(size)))
    }

    /// Reads a size for which `null` means "none" and absence means `absent`.
    pub(crate) fn size_or_null(&self, key: &str, absent: Option<usize>) -> Result<Option<usize>, CheckpointError> {
        if self.mentions(key) { self.size(key) } else { Ok(absent) }
    }

    /// Reads a length in pixels: at least 1.
    pub(crate) fn pixels(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        self.read(key, "pixels, at least 1", as_pixels)
    }

    /// Reads a token id.
    pub(crate) fn id(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        self.read(key, "a token id", as_id)
    }

    /// Reads token ids: one, or a list.
    pub(crate) fn ids(&self, key: &str) -> Result<Option<Vec<u32>>, CheckpointError> {
        self.read(key, "a token id or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(as_id).collect(),
            single => as_id(single).map(|id| vec![id]),
        })
    }

    /// Reads runs of token ids, none of them empty.
    pub(crate) fn token_runs(&self, key: &str) -> Result<Option<Vec<Vec<u32>>>, CheckpointError> {
        self.read(key, "a list of lists of token ids", |value| {
            let run = |run: &Value| run.as_array().filter(|ids| !ids.is_empty())?.iter().map(as_id).collect();
            value.as_array()?.iter().map(run).collect()
        })
    }

    /// Reads integers: one, or a list.
    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, CheckpointError> {
        self.read(key, "an integer or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(Value::as_i64).collect(),
            single => single.as_i64().map(|integer| vec![integer]),
        })
    }

    /// Reads a finite number greater than zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        self.number(key, "a number greater than 0", |number| number > 0.0)
    }

    /// Reads a finite number that `accept` takes.
    pub(crate) fn number(
        &self,
        key: &str,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, CheckpointError> {
        self.read(key, expected, |value| value.as_f64().filter(|&number| number.is_finite() && accept(number)))
    }

    /// Reads one finite number per colour channel.
    pub(crate) fn channels(&self, key: &str) -> Result<Option<[f64; 3]>, CheckpointError> {
        self.read(key, "three numbers", |value| {
            let numbers: Option<Vec<f64>> = value.as_array()?.iter().map(Value::as_f64).collect();
            <[f64; 3]>::try_from(numbers?).ok()
        })
    }

    /// Reads `[[height, width], ...]` in pixels.
    pub(crate) fn pinpoints(&self, key: &str) -> Result<Option<Vec<ImageSize>>, CheckpointError> {
        self.read(key, "a list of [height, width] in pixels", |value| {
            value
                .as_array()?
                .iter()
                .map(|pair| match pair.as_array()?.as_slice() {
                    [height, width] => Some(ImageSize { height: as_pixels(height)?, width: as_pixels(width)? }),
                    _ => None,
                })
                .collect()
        })
    }

    /// The error for a value that asks for something Tessera has no code for.
    pub(crate) fn unsupported(&self, key: &str, supported: &'static str) -> CheckpointError {
        let value = self.object.get(key).map_or_else(|| "absent".to_owned(), shown);
        self.unsupported_value(key, &value, supported)
    }

    /// The same for a value that is a default.
    pub(crate) fn unsupported_value(&self, key: &str, value: &str, supported: &'static str) -> CheckpointError {
        CheckpointError::Unsupported {
            file: self.file.to_path_buf(),
            key: self.full_key(key),
            value: value.to_owned(),
            supported,
        }
    }

    /// The error for a value that is wrong.
    pub(crate) fn invalid(&self, key: &str, value: &str, expected: &str) -> CheckpointError {
        CheckpointError::InvalidValue {
            file: self.file.to_path_buf(),
            key: self.full_key(key),
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }

    /// The error for a value that should divide another one.
    pub(crate) fn invalid_pair<N: std::fmt::Display>(
        &self,
        key: &str,
        value: N,
        other_key: &str,
        other: N,
    ) -> CheckpointError {
        self.invalid(key, &value.to_string(), &format!("a divisor of {other_key}, {other}"))
    }

    /// Reads a value that `convert` understands.
    pub(crate) fn read<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.invalid(key, &shown(value), expected))
    }
}

fn as_size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}

fn as_pixels(value: &Value) -> Option<u32> {
    as_id(value).filter(|&pixels| pixels > 0)
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// The value as it stands in the file, cut if it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
