//! The tensors of a checkpoint: found under any of their spellings, checked, converted, counted.

mod convert;
mod file;
mod mapping;
pub(crate) mod names;

use std::{cell::Cell, collections::BTreeMap, path::Path};

use blake3::Hasher;
use candle_core::Tensor;
use safetensors::Dtype;

use crate::{ModelError, Progress, device::Device};
use file::{Stored, WeightFile};

/// The tensors of a checkpoint that one model needs.
///
/// Files are memory-mapped: what is not asked for is not read, and shards that hold nothing needed are not even opened.
pub(crate) struct Weights<'a> {
    device: &'a Device,
    files: Vec<WeightFile>,
    /// By normalised name; sorted, because the fingerprint goes over them in this order.
    tensors: BTreeMap<String, Entry>,
    progress: &'a dyn Fn(Progress),
    done_bytes: Cell<u64>,
    total_bytes: u64,
}

/// Where a tensor is.
struct Entry {
    file: usize,
    stored: Stored,
}

impl<'a> Weights<'a> {
    /// Opens the weight files in `dir` that hold tensors for whose normalised name `wanted` holds.
    pub(crate) fn open(
        dir: &Path,
        device: &'a Device,
        progress: &'a dyn Fn(Progress),
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, ModelError> {
        let files = file::open(dir, |stored| wanted(&names::normalised(stored)))?;
        let mut tensors: BTreeMap<String, Entry> = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for stored in file.tensors()? {
                let name = names::normalised(&stored.name);
                if !wanted(&name) {
                    continue;
                }
                if let Some(first) = tensors.get(&name) {
                    let (first, second) = (first.stored.name.clone(), stored.name);
                    return Err(ModelError::TensorTwice { name, first, second });
                }
                tensors.insert(name, Entry { file: index, stored });
            }
        }
        let total_bytes = tensors.values().map(|entry| entry.stored.bytes.len() as u64).sum();
        Ok(Self { device, files, tensors, progress, done_bytes: Cell::new(0), total_bytes })
    }

    /// Loads one tensor, whose shape must be this.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.stacked(&[(name.to_owned(), shape.to_vec())])
    }

    /// Loads a `[rows, columns]` tensor.
    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor, ModelError> {
        self.tensor(name, &[rows, columns])
    }

    /// Loads a `[width]` tensor.
    pub(crate) fn vector(&self, name: &str, width: usize) -> Result<Tensor, ModelError> {
        self.tensor(name, &[width])
    }

    /// Loads several tensors, which must have these shapes, one below the other: the first axes add up, the others
    /// are the same.
    pub(crate) fn stacked(&self, parts: &[(String, Vec<usize>)]) -> Result<Tensor, ModelError> {
        let entries = parts.iter().map(|(name, shape)| self.entry(name, shape)).collect::<Result<Vec<_>, _>>()?;
        let mut shape = parts.first().map(|(_, shape)| shape.clone()).unwrap_or_default();
        if let Some(rows) = shape.first_mut() {
            *rows = parts.iter().filter_map(|(_, shape)| shape.first()).sum();
        }
        let stored: Vec<_> =
            entries.iter().map(|(entry, dtype)| (*dtype, self.files[entry.file].bytes(&entry.stored))).collect();
        let tensor = convert::tensor(self.device, &stored, &shape)?;
        let bytes: usize = stored.iter().map(|(_, bytes)| bytes.len()).sum();
        let done_bytes = self.done_bytes.get() + bytes as u64;
        self.done_bytes.set(done_bytes);
        (self.progress)(Progress { done_bytes, total_bytes: self.total_bytes });
        Ok(tensor)
    }

    /// Hashes all wanted tensors whose normalised name begins with `prefix`, in the order of their names.
    pub(crate) fn hash(&self, hasher: &mut Hasher, prefix: &str) {
        for (name, Entry { file, stored }) in self.tensors.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let dtype = format!("{:?}", stored.dtype);
            for text in [name.as_str(), &dtype] {
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
            hasher.update(&(stored.shape.len() as u64).to_le_bytes());
            for &side in &stored.shape {
                hasher.update(&(side as u64).to_le_bytes());
            }
            hasher.update_rayon(self.files[*file].bytes(stored));
        }
    }

    /// Finds a tensor and checks its shape and element type.
    fn entry(&self, name: &str, shape: &[usize]) -> Result<(&Entry, tessera_tensor::DType), ModelError> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(ModelError::TensorMissing { name: name.to_owned(), expected: shape.to_vec() });
        };
        let Stored { name, dtype, shape: found, .. } = &entry.stored;
        let dtype = match dtype {
            Dtype::F32 => tessera_tensor::DType::F32,
            Dtype::F16 => tessera_tensor::DType::F16,
            Dtype::BF16 => tessera_tensor::DType::BF16,
            other => return Err(ModelError::TensorType { name: name.clone(), found: format!("{other:?}") }),
        };
        if found != shape {
            let (expected, found) = (shape.to_vec(), found.clone());
            return Err(ModelError::TensorShape { name: name.clone(), expected, found });
        }
        Ok((entry, dtype))
    }
}
