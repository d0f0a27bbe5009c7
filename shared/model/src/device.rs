//! The device that computes, and the way of numbers to it and back.

use candle_core::{DType as CandleType, Device as CandleDevice, Tensor};
use half::f16;
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

    /// Returns these 16-bit numbers in the compute type.
    pub(crate) fn tensor_f16(&self, values: Vec<f16>, shape: &[usize]) -> Result<Tensor, ModelError> {
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

    /// Returns zeros in the compute type.
    pub(crate) fn zeros(&self, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(Tensor::zeros(shape, self.candle_type(), &self.inner)?)
    }

    fn candle_type(&self) -> CandleType {
        match self.compute {
            DType::F32 => CandleType::F32,
            DType::F16 => CandleType::F16,
            DType::BF16 => CandleType::BF16,
        }
    }
}

/// Returns `x` times `weight`.
///
/// On the CPU a single row is computed as two: the library's product of a vector and a matrix runs on one core and sums
/// in another order. So one row is no slower, and gives bit for bit what it gives among others.
///
/// x: `[rows, in]`, weight: `[in, out]`, result: `[rows, out]`
pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
    if x.device().is_cpu() && x.dims2()?.0 == 1 {
        return Ok(Tensor::cat(&[x, x], 0)?.matmul(weight)?.narrow(0, 0, 1)?);
    }
    Ok(x.matmul(weight)?)
}
