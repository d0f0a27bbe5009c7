//! The tensors of a checkpoint: found under any of their spellings, checked, converted, counted.

mod convert;
mod file;
mod mapping;
pub(crate) mod names;

use std::{cell::Cell, collections::BTreeMap, path::Path, rc::Rc};

use blake3::Hasher;
use candle_core::Tensor;
use safetensors::Dtype;
use tessera_tensor::DType;

use crate::{ModelError, Progress, device::Device, layers::Matrix};
use file::{Stored, WeightFile};

/// Pieces of a large tensor that a sample of it has, and the bytes of one.
const SAMPLES: usize = 16;
const SAMPLE_BYTES: usize = 4096;

/// The tensors of a checkpoint that one model needs.
///
/// Files are memory-mapped: what is not asked for is not read, and shards that hold nothing needed are not even opened.
pub(crate) struct Weights<'a> {
    device: &'a Device,
    stored: Rc<Checkpoint<'a>>,
}

/// What is stored.
struct Checkpoint<'a> {
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
        let stored = Checkpoint { files, tensors, progress, done_bytes: Cell::new(0), total_bytes };
        Ok(Self { device, stored: Rc::new(stored) })
    }

    /// Returns the same tensors, to be loaded to another device.
    pub(crate) fn to<'b>(&self, device: &'b Device) -> Weights<'b>
    where
        'a: 'b,
    {
        Weights { device, stored: self.stored.clone() }
    }

    /// The numbers in all wanted tensors for whose normalised name `of` holds.
    pub(crate) fn count(&self, of: impl Fn(&str) -> bool) -> u64 {
        let tensors = self.stored.tensors.iter().filter(|(name, _)| of(name));
        tensors.map(|(_, entry)| entry.stored.shape.iter().product::<usize>() as u64).sum()
    }

    /// The device that tensors are loaded to.
    pub(crate) fn device(&self) -> &Device {
        self.device
    }

    /// Loads one tensor, whose shape must be this.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let named = std::iter::once((name.to_owned(), shape.to_vec()));
        self.load(named, |parts| self.device.load(parts, shape))
    }

    /// Loads a `[rows, columns]` tensor.
    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor, ModelError> {
        self.tensor(name, &[rows, columns])
    }

    /// Loads a `[width]` tensor.
    pub(crate) fn vector(&self, name: &str, width: usize) -> Result<Tensor, ModelError> {
        self.tensor(name, &[width])
    }

    /// Loads the weights of linear layers with the same input, `{name}.weight`, `[outputs, inputs]` as stored, as one
    /// layer's.
    pub(crate) fn linear(&self, parts: &[(&str, usize)], inputs: usize) -> Result<Matrix, ModelError> {
        let named = parts.iter().map(|(name, outputs)| (format!("{name}.weight"), vec![*outputs, inputs]));
        self.load(named, |parts| convert::linear(self.device, parts, inputs))
    }

    /// Loads a `[outputs, inputs]` tensor as a linear layer's weights.
    pub(crate) fn linear_tensor(&self, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, ModelError> {
        let named = std::iter::once((name.to_owned(), vec![outputs, inputs]));
        self.load(named, |parts| convert::linear(self.device, parts, inputs))
    }

    /// Loads the biases of linear layers, `{name}.bias`, one after the other.
    pub(crate) fn biases(&self, parts: &[(&str, usize)]) -> Result<Tensor, ModelError> {
        let named = parts.iter().map(|(name, outputs)| (format!("{name}.bias"), vec![*outputs]));
        let width = parts.iter().map(|(_, outputs)| outputs).sum();
        self.load(named, |parts| self.device.load(parts, &[width]))
    }

    /// Finds and checks tensors, makes one of them, and counts their bytes.
    fn load<T>(
        &self,
        named: impl Iterator<Item = (String, Vec<usize>)>,
        convert: impl FnOnce(&[convert::Part<'_>]) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        let stored = named.map(|(name, shape)| self.stored(&name, &shape)).collect::<Result<Vec<_>, _>>()?;
        let loaded = convert(&stored)?;
        let bytes: usize = stored.iter().map(|(_, bytes)| bytes.len()).sum();
        let Checkpoint { progress, done_bytes: done, total_bytes, .. } = &*self.stored;
        let done_bytes = done.get() + bytes as u64;
        done.set(done_bytes);
        progress(Progress { done_bytes, total_bytes: *total_bytes });
        Ok(loaded)
    }

    /// Hashes all wanted tensors whose normalised name begins with `prefix`, in the order of their names.
    pub(crate) fn hash(&self, hasher: &mut Hasher, prefix: &str) {
        self.hash_by(hasher, prefix, |hasher, bytes| {
            hasher.update_rayon(bytes);
        });
    }

    /// Hashes the names, types and shapes of all wanted tensors and a sample of each one's bytes, which tells checkpoints apart
    /// without reading all of one.
    pub(crate) fn hash_samples(&self, hasher: &mut Hasher) {
        self.hash_by(hasher, "", |hasher, bytes| {
            let stride = bytes.len().div_ceil(SAMPLES).max(SAMPLE_BYTES);
            for piece in bytes.chunks(stride) {
                hasher.update(&piece[..piece.len().min(SAMPLE_BYTES)]);
            }
        });
    }

    fn hash_by(&self, hasher: &mut Hasher, prefix: &str, hash: impl Fn(&mut Hasher, &[u8])) {
        for (name, Entry { file, stored }) in self.stored.tensors.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let dtype = format!("{:?}", stored.dtype);
            for text in [name.as_str(), &dtype] {
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
            hasher.update(&(stored.shape.len() as u64).to_le_bytes());
            for &side in &stored.shape {
                hasher.update(&(side as u64).to_le_bytes());
            }
            hash(hasher, self.stored.files[*file].bytes(stored));
        }
    }

    /// Finds a tensor and checks its shape and element type.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<convert::Part<'_>, ModelError> {
        let Some(Entry { file, stored }) = self.stored.tensors.get(name) else {
            return Err(ModelError::TensorMissing { name: name.to_owned(), expected: shape.to_vec() });
        };
        let Stored { name, dtype, shape: found, .. } = stored;
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(ModelError::TensorType { name: name.clone(), found: format!("{other:?}") }),
        };
        if found != shape {
            let (expected, found) = (shape.to_vec(), found.clone());
            return Err(ModelError::TensorShape { name: name.clone(), expected, found });
        }
        Ok((dtype, self.stored.files[*file].bytes(stored)))
    }
}
