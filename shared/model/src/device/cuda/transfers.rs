//! Numbers on their way to a GPU and back while it computes: on streams of their own, through page-locked memory, which its
//! copy engines read and write by themselves. Not run on a GPU yet, like all of [`cuda`](super).

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use candle_core::{
    CudaDevice, CudaStorage, DType as CandleType, Storage, Tensor,
    cuda_backend::{
        CudaDType,
        cudarc::driver::{CudaEvent, CudaStream, DeviceRepr, PinnedHostSlice, sys::CUevent_flags},
    },
    op::BackpropOp,
};
use half::{bf16, f16};
use rayon::prelude::*;
use tessera_tensor::{DType, HostTensor};

use super::{Gpu, failed, failed_with, lock};
use crate::ModelError;

/// Bytes that a thread copies at once.
const COPIED_AT_ONCE: usize = 1 << 20;
/// Buffers that are kept: for the pixels and the features of the two passes that are on a GPU at once.
const KEPT: usize = 4;
/// Whoever waits for a copy sleeps.
const ASLEEP: Option<CUevent_flags> = Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC);

/// The ways to a GPU and back.
pub(super) struct Transfers {
    device: CudaDevice,
    compute: Arc<CudaStream>,
    up: Arc<CudaStream>,
    down: Arc<CudaStream>,
    buffers: Arc<Buffers>,
}

/// A tensor that is on its way to the host.
pub(crate) struct Arriving {
    /// Waits for the copy when it is dropped, and so goes before what is copied.
    buffer: Buffer,
    tensor: Tensor,
    buffers: Arc<Buffers>,
}

/// Page-locked memory that is used again: to lock it takes longer than to copy through it.
#[derive(Default)]
struct Buffers(Mutex<Vec<Buffer>>);

struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// Behind the last copy from or to it.
    copied: Option<CudaEvent>,
}

impl Gpu {
    /// Sends images of one size, one below the other. What is computed from now on waits for them; they are to be kept
    /// until that is done, for their memory is another stream's.
    ///
    /// images: each `[tiles, ...]`; result: f32, `[all tiles, ...]`
    pub(in crate::device) fn send_images(&self, images: &[HostTensor]) -> Result<Tensor, ModelError> {
        self.transfers.send(images)
    }

    /// Begins to bring a contiguous tensor to the host, as soon as it is computed.
    pub(in crate::device) fn fetch(&self, tensor: &Tensor) -> Result<Arriving, ModelError> {
        self.transfers.fetch(tensor)
    }
}

impl Transfers {
    pub(super) fn new(device: &CudaDevice) -> Result<Self, ModelError> {
        let compute = device.cuda_stream();
        let stream = || compute.context().new_stream().map_err(failed);
        let (up, down) = (stream()?, stream()?);
        Ok(Self { device: device.clone(), compute, up, down, buffers: Arc::default() })
    }

    fn send(&self, images: &[HostTensor]) -> Result<Tensor, ModelError> {
        let images: Vec<HostTensor> = images.iter().map(|image| image.to_dtype(DType::F32)).collect();
        let mut shape = images.first().map(|image| image.shape().to_vec()).unwrap_or_default();
        if let Some(tiles) = shape.first_mut() {
            *tiles = images.iter().filter_map(|image| image.shape().first()).sum();
        }
        let bytes = images.iter().map(|image| image.data().len()).sum();
        let mut buffer = self.buffers.take(bytes, &self.compute)?;
        let mut room = &mut buffer.memory.as_mut_slice().map_err(failed)?[..bytes];
        for image in &images {
            let (to, rest) = std::mem::take(&mut room).split_at_mut(image.data().len());
            copy(to, image.data());
            room = rest;
        }
        // Made on the way up: on the stream that computes, it would be there only behind all that is on it already.
        let mut numbers = self.up.alloc_zeros::<f32>(bytes / size_of::<f32>()).map_err(failed)?;
        {
            #[expect(unsafe_code, reason = "numbers are seen as the bytes that they are made of")]
            // SAFETY: so many bytes are all of the numbers, and any bits are one.
            let to = unsafe { numbers.transmute_mut::<u8>(bytes) };
            let from = &buffer.memory.as_slice().map_err(failed)?[..bytes];
            self.up.memcpy_htod(from, &mut to.ok_or_else(misfit)?).map_err(failed)?;
        }
        buffer.copied = Some(self.up.record_event(ASLEEP).map_err(failed)?);
        self.compute.join(&self.up).map_err(failed)?;
        self.buffers.give_back(buffer);
        let storage = CudaStorage::wrap_cuda_slice(numbers, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    fn fetch(&self, tensor: &Tensor) -> Result<Arriving, ModelError> {
        let mut buffer = self.buffers.take(tensor.elem_count() * tensor.dtype().size_in_bytes(), &self.compute)?;
        self.down.join(&self.compute).map_err(failed)?;
        {
            let (storage, layout) = tensor.storage_and_layout();
            let (start, end) = layout.contiguous_offsets().ok_or_else(misfit)?;
            let Storage::Cuda(storage) = &*storage else { return Err(misfit()) };
            match tensor.dtype() {
                CandleType::F32 => self.bring::<f32>(storage, start..end, &mut buffer),
                CandleType::F16 => self.bring::<f16>(storage, start..end, &mut buffer),
                CandleType::BF16 => self.bring::<bf16>(storage, start..end, &mut buffer),
                _ => Err(misfit()),
            }?;
        }
        buffer.copied = Some(self.down.record_event(ASLEEP).map_err(failed)?);
        Ok(Arriving { buffer, tensor: tensor.clone(), buffers: Arc::clone(&self.buffers) })
    }

    fn bring<T: CudaDType + DeviceRepr>(
        &self,
        storage: &CudaStorage,
        numbers: Range<usize>,
        buffer: &mut Buffer,
    ) -> Result<(), ModelError> {
        let bytes = numbers.len() * size_of::<T>();
        let from = storage.as_cuda_slice::<T>()?.slice(numbers);
        #[expect(unsafe_code, reason = "numbers are seen as the bytes that they are made of")]
        // SAFETY: so many bytes are all of the numbers.
        let from = unsafe { from.transmute::<u8>(bytes) };
        let to = &mut buffer.memory.as_mut_slice().map_err(failed)?[..bytes];
        self.down.memcpy_dtoh(&from.ok_or_else(misfit)?, to).map_err(failed)
    }
}

impl Arriving {
    /// Waits for the numbers.
    pub(crate) fn finish(mut self) -> Result<HostTensor, ModelError> {
        self.buffer.wait()?;
        let dtype = match self.tensor.dtype() {
            CandleType::F16 => DType::F16,
            CandleType::BF16 => DType::BF16,
            _ => DType::F32,
        };
        let mut data = vec![0; self.tensor.elem_count() * dtype.size_bytes()];
        let arrived = &self.buffer.memory.as_slice().map_err(failed)?[..data.len()];
        copy(&mut data, arrived);
        self.buffers.give_back(self.buffer);
        Ok(HostTensor::new(dtype, self.tensor.dims().to_vec(), data.into())?)
    }
}

impl Buffers {
    /// Returns a buffer with room for so many bytes, which nothing is copied from or to any more.
    fn take(&self, bytes: usize, stream: &CudaStream) -> Result<Buffer, ModelError> {
        let kept = {
            let mut kept = lock(&self.0);
            let fits = kept.iter().position(|buffer| buffer.memory.len() >= bytes);
            fits.map(|index| kept.remove(index))
        };
        let mut buffer = match kept {
            Some(buffer) => buffer,
            None => {
                // Without flags: memory that the host reads as fast as any other.
                #[expect(unsafe_code, reason = "such memory is not cleared")]
                // SAFETY: the bytes are plain ones, and written before they are read, here or by a copy.
                let memory = unsafe { stream.context().alloc_pinned_with_flags::<u8>(bytes.max(1), 0) };
                Buffer { memory: memory.map_err(failed)?, copied: None }
            }
        };
        buffer.wait()?;
        Ok(buffer)
    }

    /// Keeps a buffer for later, in the place of the one that was not used for longest.
    fn give_back(&self, buffer: Buffer) {
        let mut kept = lock(&self.0);
        kept.push(buffer);
        if kept.len() > KEPT {
            kept.remove(0);
        }
    }
}

impl Buffer {
    fn wait(&mut self) -> Result<(), ModelError> {
        self.copied.take().map_or(Ok(()), |copied| copied.synchronize()).map_err(failed)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // What went wrong with the device is told to whoever waits for what it computes.
        let _ = self.wait();
    }
}

/// Copies bytes on all cores: one alone is slower than the way to the GPU.
fn copy(to: &mut [u8], from: &[u8]) {
    let parts = to.par_chunks_mut(COPIED_AT_ONCE).zip(from.par_chunks(COPIED_AT_ONCE));
    parts.for_each(|(to, from)| to.copy_from_slice(from));
}

fn misfit() -> ModelError {
    failed_with("a tensor on its way from or to a GPU is not laid out as it has to be")
}
