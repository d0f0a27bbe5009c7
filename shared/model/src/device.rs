//! The device that computes, and the way of numbers to it and back.

use candle_core::{CpuStorage, DType as CandleType, Device as CandleDevice, Storage, Tensor};
use half::slice::HalfFloatSliceExt;
use tessera_tensor::{DType, HostTensor};

use crate::ModelError;

/// Where tensors live and in which type they are computed.
#[derive(Clone)]
pub(crate) struct Device {
    inner: CandleDevice,
    compute: DType,
}

impl Device {
    /// Returns the CPU.
    pub(crate) fn new(compute: DType) -> Result<Self, ModelError> {
        if compute == DType::BF16 {
            return Err(ModelError::ComputeType { device: "CPU", compute, supported: "f32 or f16" });
        }
        Ok(Self { inner: CandleDevice::Cpu, compute })
    }

    /// The type of weights and activations.
    pub(crate) fn compute(&self) -> DType {
        self.compute
    }

    /// The number of tiles that go through the tower at once. On the CPU one tile's matrix products fill the cores, and
    /// a tile alone gives bit for bit what it gives in company.
    pub(crate) fn tiles_per_pass(&self) -> usize {
        1
    }

    /// Returns these numbers in the compute type.
    pub(crate) fn tensor(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(Tensor::from_vec(values, shape, &self.inner)?.to_dtype(self.candle_type())?)
    }

    /// Returns this host tensor in the compute type.
    pub(crate) fn upload(&self, tensor: &HostTensor) -> Result<Tensor, ModelError> {
        self.tensor(tensor.to_f32(), tensor.shape())
    }

    /// Returns this tensor to the host, in its own type.
    pub(crate) fn download(&self, tensor: &Tensor) -> Result<HostTensor, ModelError> {
        let values = self.values(tensor)?;
        Ok(HostTensor::from_f32(tensor.dims().to_vec(), values)?.to_dtype(self.compute))
    }

    /// Returns this tensor's numbers, row-major, as f32.
    pub(crate) fn values(&self, tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
        Ok(tensor.flatten_all()?.to_dtype(CandleType::F32)?.to_vec1()?)
    }

    /// Returns row numbers for a lookup.
    pub(crate) fn indices(&self, rows: &[u32]) -> Result<Tensor, ModelError> {
        Ok(Tensor::new(rows, &self.inner)?)
    }

    /// Calls `work` with the numbers of a contiguous tensor, row-major, as f32.
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
    /// waking another first.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        rayon::scope(|_| work())
    }

    fn candle_type(&self) -> CandleType {
        match self.compute {
            DType::F32 => CandleType::F32,
            DType::F16 => CandleType::F16,
            DType::BF16 => CandleType::BF16,
        }
    }
}
