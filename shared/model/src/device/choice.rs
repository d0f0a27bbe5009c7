//! From the devices that somebody asks for to those that there are.

use tessera_tensor::{DType, Devices};

use super::{Device, Gpu, OnCpu};
use crate::{LoadOptions, ModelError};

/// Returns the devices that these stand for: where the choice is left open, the first GPU if this build can use one and the
/// machine has one, else the CPU.
///
/// # Errors
/// If a build that can use GPUs cannot ask for them.
pub fn resolve(devices: &Devices) -> Result<Devices, ModelError> {
    match devices {
        Devices::Auto if Gpu::count()? > 0 => Ok(Devices::Cuda(vec![0])),
        Devices::Auto => Ok(Devices::Cpu),
        chosen => Ok(chosen.clone()),
    }
}

/// Returns the devices that a model's layers are dealt out to, in order.
pub(crate) fn choose(options: &LoadOptions<'_>) -> Result<Vec<Device>, ModelError> {
    let compute = options.compute;
    match resolve(options.device)? {
        Devices::Auto | Devices::Cpu => match options.on_cpu {
            OnCpu::Panels => Ok(vec![Device::cpu(compute)?]),
            OnCpu::Dense { devices } => Ok(vec![Device::dense_cpu(compute); devices.max(1)]),
        },
        devices @ Devices::Cuda(_) if !Gpu::is_built_in() => Err(ModelError::BuiltWithoutCuda { devices }),
        Devices::Cuda(numbers) => gpus(&numbers, compute),
    }
}

/// Returns the first of the devices that are asked for: what is not dealt out runs there.
pub(crate) fn first(options: &LoadOptions<'_>) -> Result<Device, ModelError> {
    let first = match options.device {
        Devices::Cuda(numbers) => &Devices::Cuda(numbers.iter().copied().take(1).collect()),
        other => other,
    };
    let devices = choose(&LoadOptions { device: first, ..*options })?;
    devices.into_iter().next().ok_or(ModelError::NoSuchGpu { gpu: 0, count: 0 })
}

fn gpus(numbers: &[usize], compute: DType) -> Result<Vec<Device>, ModelError> {
    let count = Gpu::require()?;
    let gpu = |&gpu: &usize| match gpu < count {
        true => Ok(Device::of_gpu(Gpu::open(gpu)?, compute)),
        false => Err(ModelError::NoSuchGpu { gpu, count }),
    };
    numbers.iter().map(gpu).collect()
}
