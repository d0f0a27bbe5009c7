//! The devices that compute, and the way of numbers to them and back.
//!
//! There are two ways to compute. The CPU's own keeps weights in panels and keys and values in the order in which its
//! kernels read them ([`crate::cpu`]). The *dense* way keeps everything in candle's tensors and computes with candle's
//! products and the [`kernels`] in between: that is how a GPU computes, and, slowly, the CPU in tests of it.

mod access;
mod choice;
#[cfg_attr(not(feature = "cuda"), path = "device/no_cuda.rs")]
mod cuda;
pub(crate) mod kernels;
mod passes;
mod phases;
mod results;

use std::sync::Arc;

use candle_core::{CpuStorage, DType as CandleType, Device as CandleDevice, Storage, Tensor};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use tessera_kernels::Kind;
use tessera_tensor::{DType, HostTensor};

pub use choice::resolve;
pub(crate) use choice::{choose, first};
pub(crate) use cuda::{Gpu, Graph};
pub(crate) use passes::Fetch;
pub use phases::Phase;
pub(crate) use phases::Stopwatch;
pub(crate) use results::{Answers, Results, Wanted};

use crate::ModelError;

/// How a model computes on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCpu {
    /// With the CPU's own kernels.
    #[default]
    Panels,
    /// With the program of the GPUs, every kernel as a plain loop: slow. That is how this program is tested where there is
    /// no GPU.
    Dense {
        /// The layers are dealt out to so many devices, all of which are this CPU.
        devices: usize,
    },
}

/// Where tensors live and in which type they are computed.
#[derive(Clone)]
pub(crate) struct Device {
    place: Place,
    compute: DType,
}

#[derive(Clone)]
enum Place {
    /// The CPU, in its own way.
    Panels,
    /// The CPU, in the way of a GPU.
    Dense,
    Gpu(Arc<Gpu>),
}

impl Device {
    /// Returns the CPU, which computes with its own kernels.
    pub(crate) fn cpu(compute: DType) -> Result<Self, ModelError> {
        if compute == DType::BF16 {
            return Err(ModelError::ComputeType { device: "CPU", compute, supported: "f32 or f16" });
        }
        Ok(Self { place: Place::Panels, compute })
    }

    /// Returns the CPU, which computes as a GPU does.
    fn dense_cpu(compute: DType) -> Self {
        Self { place: Place::Dense, compute }
    }

    fn of_gpu(gpu: Gpu, compute: DType) -> Self {
        Self { place: Place::Gpu(Arc::new(gpu)), compute }
    }

    /// The type of weights and activations.
    pub(crate) fn compute(&self) -> DType {
        self.compute
    }

    /// The type of weights and activations, as kernels name it.
    pub(crate) fn kind(&self) -> Kind {
        match self.compute {
            DType::F32 => Kind::F32,
            DType::F16 => Kind::F16,
            DType::BF16 => Kind::Bf16,
        }
    }

    /// Tells whether weights, keys and values are candle's tensors, and not the CPU's panels.
    pub(crate) fn is_dense(&self) -> bool {
        !matches!(self.place, Place::Panels)
    }

    /// The GPU, if it is one.
    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        match &self.place {
            Place::Gpu(gpu) => Some(gpu),
            Place::Panels | Place::Dense => None,
        }
    }

    /// What it is called: `cpu`, or as `cuda:0 (NVIDIA H200)`.
    pub(crate) fn name(&self) -> String {
        self.gpu().map_or_else(|| "cpu".to_owned(), |gpu| gpu.name().to_owned())
    }

    /// Returns these numbers in the compute type.
    pub(crate) fn tensor(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(Tensor::from_vec(values, shape, self.candle())?.to_dtype(self.candle_type())?)
    }

    /// Returns these numbers in f32, whatever the compute type.
    pub(crate) fn singles(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(Tensor::from_vec(values, shape, self.candle())?)
    }

    /// Returns this host tensor in the compute type.
    pub(crate) fn upload(&self, tensor: &HostTensor) -> Result<Tensor, ModelError> {
        if !self.is_dense() {
            return self.tensor(tensor.to_f32(), tensor.shape());
        }
        // It travels as it is, in half the bytes if it has 16 bits, and is converted where it arrives.
        let (shape, device) = (tensor.shape(), self.candle());
        let uploaded = match tensor.dtype() {
            DType::F32 => Tensor::from_vec(tensor.to_f32(), shape, device)?,
            DType::F16 => Tensor::from_vec(access::unpacked::<f16>(tensor.data()), shape, device)?,
            DType::BF16 => Tensor::from_vec(access::unpacked::<bf16>(tensor.data()), shape, device)?,
        };
        Ok(uploaded.to_dtype(self.candle_type())?)
    }

    /// Returns this tensor to the host, in the compute type.
    pub(crate) fn download(&self, tensor: &Tensor) -> Result<HostTensor, ModelError> {
        let values = self.values(tensor)?;
        Ok(HostTensor::from_f32(tensor.dims().to_vec(), values)?.to_dtype(self.compute))
    }

    /// Returns this tensor's numbers, row-major, as f32. They are widened behind the copy, for most of its time is the
    /// bytes'.
    pub(crate) fn values(&self, tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
        // From a GPU the library copies all memory of a tensor, of which this one may be a part.
        let flat =
            if self.gpu().is_some() { tensor.force_contiguous()?.flatten_all()? } else { tensor.flatten_all()? };
        Ok(match flat.dtype() {
            CandleType::F16 => flat.to_vec1::<f16>()?.to_f32_vec(),
            CandleType::BF16 => flat.to_vec1::<bf16>()?.to_f32_vec(),
            _ => flat.to_dtype(CandleType::F32)?.to_vec1()?,
        })
    }

    /// Returns row numbers for a lookup.
    pub(crate) fn indices(&self, rows: &[u32]) -> Result<Tensor, ModelError> {
        Ok(Tensor::new(rows, self.candle())?)
    }

    /// Calls `work` with the numbers of a contiguous tensor, row-major, as f32. Of the CPU's own way.
    pub(crate) fn read<R>(&self, tensor: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R, ModelError> {
        let (storage, layout) = tensor.storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(work(&values[start..end])),
            (Storage::Cpu(CpuStorage::F16(values)), Some((start, end))) => Ok(work(&values[start..end].to_f32_vec())),
            _ => {
                drop(storage);
                Ok(work(&self.values(tensor)?))
            }
        }
    }

    /// Does work whose parallel parts follow closely: on one of the threads that they run on, so that they begin without
    /// waking another first. A GPU is driven from the calling thread.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.gpu().is_some() { work() } else { rayon::scope(|_| work()) }
    }

    /// Returns room for numbers of the compute type, which whoever asks for it writes.
    pub(crate) fn room(&self, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.room_of(shape, self.candle_type())
    }

    /// Returns room for numbers of any type, which whoever asks for it writes.
    pub(crate) fn room_of(&self, shape: &[usize], dtype: CandleType) -> Result<Tensor, ModelError> {
        match self.gpu() {
            Some(gpu) => gpu.room(shape, dtype),
            None => Ok(Tensor::zeros(shape, dtype, self.candle())?),
        }
    }

    /// Returns zeros of the compute type. `what` they are for is told if there is no memory for them.
    pub(crate) fn zeros(&self, what: &'static str, shape: &[usize]) -> Result<Tensor, ModelError> {
        if let Some(gpu) = self.gpu() {
            gpu.check_memory(what, shape.iter().product::<usize>() as u64 * self.compute.size_bytes() as u64)?;
        }
        Ok(Tensor::zeros(shape, self.candle_type(), self.candle())?)
    }

    /// Returns the tensor of this shape whose numbers are those of stored tensors, one after the other.
    pub(crate) fn load(&self, parts: &[(DType, &[u8])], shape: &[usize]) -> Result<Tensor, ModelError> {
        match self.gpu() {
            Some(gpu) => gpu.load(parts, shape, self.compute),
            None => self.tensor(access::widened(parts), shape),
        }
    }

    /// Waits for what was loaded.
    pub(crate) fn finish_loading(&self) -> Result<(), ModelError> {
        self.gpu().map_or(Ok(()), Gpu::finish_loading)
    }

    /// Returns this tensor, which may be another device's.
    pub(crate) fn hand_over(&self, tensor: &Tensor) -> Result<Tensor, ModelError> {
        match self.gpu() {
            Some(gpu) => gpu.hand_over(tensor),
            None => Ok(tensor.clone()),
        }
    }

    /// Writes words over a tensor of as many or more, in the order of what the device was given to do before.
    ///
    /// to: `[count]`, u32
    pub(crate) fn write_words(&self, words: &[u32], to: &Tensor) -> Result<(), ModelError> {
        match self.gpu() {
            Some(gpu) => gpu.write_words(words, to),
            None => access::write::<u32>(to, |to| to[..words.len()].copy_from_slice(words)),
        }
    }

    /// Returns the first words of a contiguous tensor, behind all that the device was given to do before.
    ///
    /// words: at least `[count]`, u32
    pub(crate) fn read_words(&self, words: &Tensor, count: usize) -> Result<Vec<u32>, ModelError> {
        match self.gpu() {
            Some(gpu) => gpu.read_words(words, count),
            None => Ok(access::read::<u32>(words)?[..count].to_vec()),
        }
    }

    /// Where the first number of a contiguous tensor is in the device's memory.
    pub(crate) fn address(&self, tensor: &Tensor) -> Result<u64, ModelError> {
        match self.gpu() {
            Some(gpu) => gpu.address(tensor),
            None => access::address(tensor),
        }
    }

    pub(crate) fn candle(&self) -> &CandleDevice {
        self.gpu().map_or(&CandleDevice::Cpu, Gpu::candle)
    }

    pub(crate) fn candle_type(&self) -> CandleType {
        match self.compute {
            DType::F32 => CandleType::F32,
            DType::F16 => CandleType::F16,
            DType::BF16 => CandleType::BF16,
        }
    }
}
