//! NVIDIA GPUs, through candle and the driver's interface below it.
//!
//! This was written where there is no GPU: it is type-checked, and the program that it executes is tested on the CPU, but
//! **nothing in this module has run yet**. Every call's return code is looked at. One stream does all of a GPU's work, so
//! that what is given to it later sees what was done before, and memory is freed and taken in that order too; therefore
//! the library's own event for every tensor is switched off. Beside it are only the copies of [`transfers`], each with an
//! event of its own.

mod event;
mod graph;
mod memory;
mod pinned;
mod prompts;
mod tiles;
mod transfers;

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{
    CudaDevice, DType as CandleType, Device as CandleDevice, Storage, Tensor,
    cuda_backend::{
        CudaDType,
        cudarc::{
            driver::{
                CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig,
                PushKernelArg, sys::CUresult,
            },
            nvrtc::Ptx,
        },
    },
};
use half::{bf16, f16};
use tessera_kernels::launch::Launch;

use super::kernels::Argument;
use crate::ModelError;
pub(crate) use event::Event;
pub(crate) use graph::Graph;
use memory::Staging;
use pinned::Pinned;
pub(crate) use transfers::Arriving;
use transfers::Transfers;

/// The first generation that has bf16 and that attention of prompts is made for: Ampere.
const OLDEST: ((i32, i32), &str) = ((8, 0), "8.0");
/// The room that the library's products work in, as it recommends for Hopper. Given to it once, so that it takes none
/// while work is recorded.
const WORKSPACE_BYTES: usize = 32 << 20;

/// A GPU.
pub(crate) struct Gpu {
    number: usize,
    /// As `cuda:0 (NVIDIA H200)`.
    name: String,
    candle: CandleDevice,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    /// Kernels that were launched before, by their names.
    functions: Mutex<HashMap<&'static str, CudaFunction>>,
    /// Host memory that the words of a step leave from.
    words: Mutex<Option<Pinned<u32>>>,
    /// Host memory that weights leave from, while a model is loaded.
    staging: Mutex<Staging>,
    /// The ways of what is neither a step's words nor weights.
    transfers: Transfers,
    /// The library holds its address.
    _workspace: CudaSlice<u8>,
}

impl Gpu {
    /// Tells whether the program can use GPUs at all.
    pub(super) fn is_built_in() -> bool {
        true
    }

    /// Returns how many GPUs there are; none where there is no driver.
    pub(super) fn count() -> Result<usize, ModelError> {
        Ok(Self::require().unwrap_or(0))
    }

    /// Returns how many GPUs there are.
    pub(super) fn require() -> Result<usize, ModelError> {
        match CudaContext::device_count() {
            Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
            Err(error) => Err(ModelError::CudaUnusable { problem: error.to_string() }),
        }
    }

    /// Makes a GPU ready.
    pub(super) fn open(number: usize) -> Result<Self, ModelError> {
        let unusable = |error: candle_core::Error| ModelError::CudaUnusable { problem: error.to_string() };
        let device = CudaDevice::new_with_stream(number).map_err(unusable)?;
        without_events(&device);
        let stream = device.cuda_stream();
        let context = stream.context();
        let name = context.name().map_err(failed)?;
        let (major, minor) = context.compute_capability().map_err(failed)?;
        let found = format!("{major}.{minor}");
        if (major, minor) < OLDEST.0 {
            return Err(ModelError::GpuTooOld { gpu: number, name, found, needed: OLDEST.1 });
        }
        let unfit = |problem: String| ModelError::GpuKernels { gpu: number, name: name.clone(), found, problem };
        let module = match tessera_kernels::fatbin() {
            Some(kernels) => context.load_module(Ptx::from_binary(kernels.to_vec())).map_err(|error| error.to_string()),
            None => Err("nvcc did not compile them".to_owned()),
        };
        let module = module.map_err(unfit)?;
        memory::keep_freed_memory(context)?;
        let (workspace, transfers) = (workspace(&device, &stream)?, Transfers::new(&device)?);
        Ok(Self {
            number,
            name: format!("cuda:{number} ({name})"),
            candle: CandleDevice::Cuda(device),
            stream,
            module,
            functions: Mutex::default(),
            words: Mutex::default(),
            staging: Mutex::default(),
            transfers,
            _workspace: workspace,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn candle(&self) -> &CandleDevice {
        &self.candle
    }

    /// Returns a tensor with whatever is in its memory.
    #[expect(unsafe_code, reason = "a GPU's memory is not cleared before all of it is written")]
    pub(super) fn room(&self, shape: &[usize], dtype: CandleType) -> Result<Tensor, ModelError> {
        // SAFETY: the numbers are plain ones, which any bits are, and whoever asks for room writes all of it first.
        Ok(unsafe { Tensor::empty(shape, dtype, &self.candle) }?)
    }

    /// Writes words over a tensor, in the order of the stream, without waiting for it.
    pub(super) fn write_words(&self, words: &[u32], to: &Tensor) -> Result<(), ModelError> {
        let address = self.address(to)?;
        let mut pinned = lock(&self.words);
        if pinned.as_ref().is_none_or(|pinned| pinned.len() < words.len()) {
            *pinned = Some(Pinned::new(&self.stream, words.len().next_power_of_two())?);
        }
        match pinned.as_mut() {
            Some(pinned) => pinned.send(words.len(), |to| to.copy_from_slice(words), address),
            None => Ok(()),
        }
    }

    /// Returns the first words of a contiguous tensor, in the order of the stream, for which it waits.
    pub(super) fn read_words(&self, words: &Tensor, count: usize) -> Result<Vec<u32>, ModelError> {
        let (storage, layout) = words.storage_and_layout();
        let (Storage::Cuda(numbers), Some((start, _))) = (&*storage, layout.contiguous_offsets()) else {
            return Err(failed_with("a tensor is not contiguous, or not on a GPU"));
        };
        let words = numbers.as_cuda_slice::<u32>()?.slice(start..start + count);
        self.stream.clone_dtoh(&words).map_err(failed)
    }

    /// Returns a copy of another GPU's tensor, or this one's own as it is. The other's memory is not used for anything
    /// else before the copy is done.
    pub(super) fn hand_over(&self, tensor: &Tensor) -> Result<Tensor, ModelError> {
        if tensor.device().same_device(&self.candle) {
            return Ok(tensor.clone());
        }
        let copy = tensor.to_device(&self.candle)?;
        if let CandleDevice::Cuda(other) = tensor.device() {
            other.cuda_stream().join(&self.stream).map_err(failed)?;
        }
        Ok(copy)
    }

    /// Where the first number of a contiguous tensor of this GPU is.
    pub(super) fn address(&self, tensor: &Tensor) -> Result<u64, ModelError> {
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cuda(numbers), Some((start, _))) = (&*storage, layout.contiguous_offsets()) else {
            return Err(failed_with("a tensor is not contiguous, or not on a GPU"));
        };
        match tensor.dtype() {
            CandleType::F32 => self.pointer(numbers.as_cuda_slice::<f32>()?, start),
            CandleType::F16 => self.pointer(numbers.as_cuda_slice::<f16>()?, start),
            CandleType::BF16 => self.pointer(numbers.as_cuda_slice::<bf16>()?, start),
            CandleType::U32 => self.pointer(numbers.as_cuda_slice::<u32>()?, start),
            _ => Err(failed_with("kernels are given numbers of another type")),
        }
    }

    fn pointer<T: CudaDType>(&self, numbers: &CudaSlice<T>, start: usize) -> Result<u64, ModelError> {
        let (pointer, _) = numbers.device_ptr(&self.stream);
        Ok(pointer + (start * size_of::<T>()) as u64)
    }

    /// Launches a kernel.
    #[expect(unsafe_code, reason = "what a kernel does to its arguments is not for Rust to check")]
    pub(super) fn launch(&self, launch: Launch, arguments: &[Argument<'_>]) -> Result<(), ModelError> {
        let function = self.function(launch.function)?;
        let values = arguments.iter().map(|argument| self.value(argument)).collect::<Result<Vec<_>, _>>()?;
        let mut builder = self.stream.launch_builder(&function);
        for value in &values {
            match value {
                Value::Address(address) => builder.arg(address),
                Value::Number(number) => builder.arg(number),
                Value::Real(real) => builder.arg(real),
            };
        }
        let ([x, y, z], [threads_x, threads_y, threads_z]) = (launch.grid, launch.block);
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (threads_x, threads_y, threads_z),
            shared_mem_bytes: launch.shared_bytes,
        };
        // SAFETY: `kernels` hands over what the kernel of this name takes, in its order, with the extents of the tensors;
        // these live until the call returns, and their memory is freed in the order of the same stream.
        unsafe { builder.launch(config) }.map_err(failed)?;
        Ok(())
    }

    fn function(&self, name: &'static str) -> Result<CudaFunction, ModelError> {
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let function = self.module.load_function(name).map_err(failed)?;
        functions.insert(name, function.clone());
        Ok(function)
    }

    fn value(&self, argument: &Argument<'_>) -> Result<Value, ModelError> {
        Ok(match argument {
            Argument::Tensor(tensor) | Argument::Maybe(Some(tensor)) => Value::Address(self.address(tensor)?),
            Argument::Maybe(None) => Value::Address(0),
            Argument::Number(number) => {
                Value::Number(u32::try_from(*number).map_err(|_| failed_with("an extent needs more than 32 bits"))?)
            }
            Argument::Real(real) => Value::Real(*real),
        })
    }
}

/// An argument as the driver passes it on.
enum Value {
    Address(u64),
    Number(u32),
    Real(f32),
}

#[expect(unsafe_code, reason = "one stream does all of a device's work, which nothing but its owner can promise")]
fn without_events(device: &CudaDevice) {
    // SAFETY: tensors of a device are used on its one stream alone; where two devices meet, one waits for the other.
    unsafe { device.disable_event_tracking() };
}

/// Gives the library room to work in.
#[expect(unsafe_code, reason = "the library takes its workspace as an address")]
fn workspace(device: &CudaDevice, stream: &Arc<CudaStream>) -> Result<CudaSlice<u8>, ModelError> {
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasSetWorkspace_v2;

    let workspace = stream.alloc_zeros::<u8>(WORKSPACE_BYTES).map_err(failed)?;
    let (address, _) = workspace.device_ptr(stream);
    let library = device.cublas_handle();
    // SAFETY: the memory is as large, is this device's, and lives as long as the `Gpu` does, which makes all products.
    let set = unsafe { cublasSetWorkspace_v2(*library.handle(), address as *mut _, WORKSPACE_BYTES) };
    set.result().map_err(|error| ModelError::Compute(Box::new(error)))?;
    Ok(workspace)
}

/// What a lock guards stays whole if somebody panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: DriverError) -> ModelError {
    ModelError::Compute(Box::new(error))
}

fn failed_with(problem: &'static str) -> ModelError {
    ModelError::Compute(Box::<dyn Error + Send + Sync>::from(problem))
}

/// Tells whether the driver had no memory.
fn is_out_of_memory(error: &(dyn Error + 'static)) -> bool {
    let here = error.downcast_ref::<DriverError>().is_some_and(|error| error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    here || error.source().is_some_and(is_out_of_memory)
}
