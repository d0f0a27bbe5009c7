//! A GPU's memory, and weights on their way there. Not run on a GPU yet, like all of [`cuda`](super).

use std::ptr;

use candle_core::{
    DType as CandleType, Tensor,
    cuda_backend::cudarc::driver::{
        CudaContext,
        result::mem_pool,
        sys::{CUmemPool_attribute_enum, CUmemoryPool, cuDeviceGetDefaultMemPool},
    },
};
use rayon::prelude::*;
use tessera_tensor::DType;

use super::{Gpu, Pinned, failed, is_out_of_memory, lock};
use crate::ModelError;

/// Bytes that are sent at once.
const STAGE_BYTES: usize = 16 << 20;
/// Buffers that are filled and sent in turn: while one is on its way, the next is read from the file.
const STAGES: usize = 4;
/// Bytes that one core reads from the file at once.
const READ_BYTES: usize = 1 << 20;

/// Buffers that weights leave from.
#[derive(Default)]
pub(super) struct Staging {
    buffers: Vec<Pinned<u8>>,
    /// The one to be filled next.
    next: usize,
}

impl Gpu {
    /// Returns the bytes that are free, after what was freed is given back.
    pub(crate) fn free_bytes(&self) -> Result<u64, ModelError> {
        self.stream.synchronize().map_err(failed)?;
        let context = self.stream.context();
        give_freed_memory_back(context)?;
        let (free, _) = context.mem_get_info().map_err(failed)?;
        Ok(free as u64)
    }

    /// Makes sure that there is memory for something.
    pub(crate) fn check_memory(&self, what: &'static str, wanted: u64) -> Result<(), ModelError> {
        let free = self.free_bytes()?;
        if wanted > free { Err(ModelError::GpuMemory { gpu: self.number, what, wanted, free }) } else { Ok(()) }
    }

    /// Returns the tensor of this shape and type whose numbers are the parts', one after the other. They travel as they
    /// are stored and are converted here.
    pub(in crate::device) fn load(
        &self,
        parts: &[(DType, &[u8])],
        shape: &[usize],
        compute: DType,
    ) -> Result<Tensor, ModelError> {
        self.load_parts(parts, shape, compute).map_err(|error| match error {
            ModelError::Compute(source) if is_out_of_memory(&*source) => {
                let wanted = (shape.iter().product::<usize>() * compute.size_bytes()) as u64;
                let free = self.free_bytes().unwrap_or(0);
                ModelError::GpuMemory { gpu: self.number, what: "the numbers of a tensor", wanted, free }
            }
            other => other,
        })
    }

    fn load_parts(&self, parts: &[(DType, &[u8])], shape: &[usize], compute: DType) -> Result<Tensor, ModelError> {
        let out = self.room(shape, candle_type(compute))?;
        let flat = out.flatten_all()?;
        let mut start = 0;
        for (dtype, bytes) in parts {
            let count = bytes.len() / dtype.size_bytes();
            if *dtype == compute {
                self.send(bytes, self.address(&flat.narrow(0, start, count)?)?)?;
            } else {
                let stored = self.room(&[count], candle_type(*dtype))?;
                self.send(bytes, self.address(&stored)?)?;
                flat.slice_set(&stored.to_dtype(candle_type(compute))?, 0, start)?;
            }
            start += count;
        }
        Ok(out)
    }

    /// Sends bytes to an address, which has room for them.
    fn send(&self, bytes: &[u8], address: u64) -> Result<(), ModelError> {
        let mut staging = lock(&self.staging);
        for (index, bytes) in bytes.chunks(STAGE_BYTES).enumerate() {
            let next = staging.next;
            if next == staging.buffers.len() {
                staging.buffers.push(Pinned::new(&self.stream, STAGE_BYTES)?);
            }
            let read = |buffer: &mut [u8]| {
                let parts = buffer.par_chunks_mut(READ_BYTES).zip(bytes.par_chunks(READ_BYTES));
                parts.for_each(|(to, from)| to.copy_from_slice(from));
            };
            let address = address + (index * STAGE_BYTES) as u64;
            staging.buffers[next].send(bytes.len(), read, address)?;
            staging.next = (next + 1) % STAGES;
        }
        Ok(())
    }

    /// Waits for what was loaded and lets go of the buffers that it came through.
    pub(in crate::device) fn finish_loading(&self) -> Result<(), ModelError> {
        self.stream.synchronize().map_err(failed)?;
        *lock(&self.staging) = Staging::default();
        Ok(())
    }
}

/// Has the driver keep what is freed for what is taken next: it would give it back at every wait.
#[expect(unsafe_code, reason = "the driver's memory pool has no safe interface")]
pub(super) fn keep_freed_memory(context: &CudaContext) -> Result<(), ModelError> {
    let Some(pool) = pool(context)? else { return Ok(()) };
    let mut threshold = u64::MAX;
    let attribute = CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own, and the attribute is a number of 64 bits.
    unsafe { mem_pool::set_attribute(pool, attribute, ptr::from_mut(&mut threshold).cast()) }.map_err(failed)
}

#[expect(unsafe_code, reason = "the driver's memory pool has no safe interface")]
fn give_freed_memory_back(context: &CudaContext) -> Result<(), ModelError> {
    let Some(pool) = pool(context)? else { return Ok(()) };
    // SAFETY: the pool is the device's own.
    unsafe { mem_pool::trim_to(pool, 0) }.map_err(failed)
}

/// The pool that the device's memory is taken from, if it has one.
#[expect(unsafe_code, reason = "the driver's memory pool has no safe interface")]
fn pool(context: &CudaContext) -> Result<Option<CUmemoryPool>, ModelError> {
    if !context.has_async_alloc() {
        return Ok(None);
    }
    let mut pool = ptr::null_mut();
    // SAFETY: the device is the context's, and the pool is written to a place for one.
    unsafe { cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()) }.result().map_err(failed)?;
    Ok(Some(pool))
}

fn candle_type(dtype: DType) -> CandleType {
    match dtype {
        DType::F32 => CandleType::F32,
        DType::F16 => CandleType::F16,
        DType::BF16 => CandleType::BF16,
    }
}
