//! Host memory that a GPU copies from by itself. Not run on a GPU yet, like all of [`cuda`](super).

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DeviceRepr, PinnedHostSlice, ValidAsZeroBits, result::memcpy_htod_async,
};

use super::failed;
use crate::ModelError;

/// A buffer that is written here and read by the GPU, one after the other.
pub(super) struct Pinned<T> {
    buffer: PinnedHostSlice<T>,
    stream: Arc<CudaStream>,
    /// Set off when the last copy was read.
    read: CudaEvent,
}

impl<T: DeviceRepr + ValidAsZeroBits + Copy> Pinned<T> {
    /// Takes memory for so many numbers.
    #[expect(unsafe_code, reason = "such memory is not cleared")]
    pub(super) fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self, ModelError> {
        let context = stream.context();
        // SAFETY: the numbers are plain ones, which any bits are, and are written before they are sent.
        let buffer = unsafe { context.alloc_pinned::<T>(len) }.map_err(failed)?;
        Ok(Self { buffer, stream: stream.clone(), read: context.new_event(None).map_err(failed)? })
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Fills the first `len` numbers, once nobody reads them any more, and has them copied to an address of the GPU, in the
    /// order of its stream.
    #[expect(unsafe_code, reason = "the copy is to an address and goes on after the call")]
    pub(super) fn send(&mut self, len: usize, fill: impl FnOnce(&mut [T]), address: u64) -> Result<(), ModelError> {
        self.read.synchronize().map_err(failed)?;
        let numbers = &mut self.buffer.as_mut_slice().map_err(failed)?[..len];
        fill(numbers);
        // SAFETY: the caller's tensor has room for so many numbers at the address, and its memory is freed in the order of
        // the same stream; the buffer is neither written nor freed before the event.
        unsafe { memcpy_htod_async(address, numbers, self.stream.cu_stream()) }.map_err(failed)?;
        self.read.record(&self.stream).map_err(failed)
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // If the driver cannot even wait, it has failed as a whole, and the next call says so.
        self.stream.context().record_err(self.read.synchronize());
    }
}
