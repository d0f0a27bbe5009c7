//! Weight files: one `model.safetensors`, or shards and their index.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::mapping;
use crate::ModelError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Length of the number in front of the header.
const PREFIX_BYTES: usize = 8;

/// A mapped weight file.
pub(super) struct WeightFile {
    path: PathBuf,
    map: Mmap,
    /// Names that the index promises of this file.
    promised: Vec<String>,
}

/// A tensor as it is stored.
pub(super) struct Stored {
    /// The name in the file.
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub(super) bytes: Range<usize>,
}

/// Opens the weight files in `dir`; of shards those that hold a tensor that is `wanted` by its stored name.
pub(super) fn open(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<WeightFile>, ModelError> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(vec![WeightFile::open(single, Vec::new())?]);
    }
    let index = dir.join(INDEX);
    if !index.exists() {
        return Err(ModelError::NoWeights { dir: dir.to_owned() });
    }
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, shard) in read_index(&index)? {
        if wanted(&name) {
            shards.entry(shard).or_default().push(name);
        }
    }
    let mut files = Vec::with_capacity(shards.len());
    for (shard, promised) in shards {
        let path = dir.join(&shard);
        if !path.exists() {
            return Err(ModelError::ShardMissing { index, shard });
        }
        files.push(WeightFile::open(path, promised)?);
    }
    Ok(files)
}

/// Reads the index: which tensor is in which shard.
fn read_index(path: &Path) -> Result<Vec<(String, String)>, ModelError> {
    let invalid = |problem: String| ModelError::Index { path: path.to_owned(), problem };
    let text = fs::read(path).map_err(|source| read_error(path, source))?;
    let index: Value = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| invalid("it has no object weight_map".to_owned()))?;
    let shard_of = |(name, shard): (&String, &Value)| match shard.as_str() {
        Some(shard) if is_file_name(shard) => Ok((name.clone(), shard.to_owned())),
        _ => Err(invalid(format!("tensor {name} is said to be in {shard}, which is no file name"))),
    };
    map.iter().map(shard_of).collect()
}

/// Shards stand beside their index: a path could lead out of the checkpoint.
fn is_file_name(shard: &str) -> bool {
    Path::new(shard).file_name().is_some_and(|name| name == shard)
}

fn read_error(path: &Path, source: io::Error) -> ModelError {
    ModelError::Read { path: path.to_owned(), source }
}

impl WeightFile {
    fn open(path: PathBuf, promised: Vec<String>) -> Result<Self, ModelError> {
        let map = mapping::map(&path).map_err(|source| read_error(&path, source))?;
        Ok(Self { path, map, promised })
    }

    /// Reads the header, which is checked to describe exactly the bytes that there are.
    pub(super) fn tensors(&self) -> Result<Vec<Stored>, ModelError> {
        let invalid = |problem: String| ModelError::WeightFile { path: self.path.clone(), problem };
        let (header_bytes, metadata) =
            SafeTensors::read_metadata(&self.map).map_err(|error| invalid(error.to_string()))?;
        let data = PREFIX_BYTES + header_bytes;
        let tensors: Vec<_> = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (start, end) = info.data_offsets;
                Stored { name, dtype: info.dtype, shape: info.shape.clone(), bytes: data + start..data + end }
            })
            .collect();
        let names: BTreeSet<&str> = tensors.iter().map(|stored| stored.name.as_str()).collect();
        match self.promised.iter().find(|name| !names.contains(name.as_str())) {
            Some(name) => Err(invalid(format!("the index says that it holds {name}, it does not"))),
            None => Ok(tensors),
        }
    }

    /// Returns the bytes of a tensor of this file.
    pub(super) fn bytes(&self, stored: &Stored) -> &[u8] {
        &self.map[stored.bytes.clone()]
    }
}
