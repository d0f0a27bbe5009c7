//! Numbers that are kept for long: weights, keys and values. In f32, or in f16 and widened when they are read.

use std::ops::Range;

use bytemuck::Pod;
use half::{f16, slice::HalfFloatSliceExt};
use memmap2::MmapMut;
use tessera_tensor::DType;

/// Bytes of a cache line, where the numbers begin: a vector read across two lines takes two reads.
const LINE_BYTES: usize = 64;
/// Bytes of a large page. A decode step reads all weights once, and finding small pages takes up to a third of its time
/// (SmolLM2-135M, two cores: 31 ms a row without large pages, 23 to 28 with them).
const PAGE_BYTES: usize = 2 << 20;

/// Numbers in f32 or f16.
pub(super) enum Store {
    F32(Aligned<f32>),
    F16(Aligned<f16>),
}

/// Numbers that begin at a cache line; many of them stand in large pages, where the system has such.
pub(super) struct Aligned<T> {
    memory: Memory<T>,
    start: usize,
    len: usize,
}

enum Memory<T> {
    Heap(Vec<T>),
    Pages(MmapMut),
}

impl<T: Pod> Aligned<T> {
    fn zeros(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        // The heap takes what is small, and says what there is to say when there is no memory.
        let pages = if bytes < PAGE_BYTES { None } else { MmapMut::map_anon(bytes + PAGE_BYTES).ok() };
        match pages {
            Some(pages) => {
                let first = pages.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
                in_large_pages(&pages, first, bytes / PAGE_BYTES * PAGE_BYTES);
                Self { memory: Memory::Pages(pages), start: first / size_of::<T>(), len }
            }
            None => {
                let values = vec![T::zeroed(); len + LINE_BYTES / size_of::<T>()];
                let start = values.as_ptr().align_offset(LINE_BYTES).min(values.len() - len);
                Self { memory: Memory::Heap(values), start, len }
            }
        }
    }

    #[inline(always)]
    pub(super) fn as_slice(&self) -> &[T] {
        let values = match &self.memory {
            Memory::Heap(values) => values.as_slice(),
            Memory::Pages(pages) => bytemuck::cast_slice(pages),
        };
        &values[self.start..self.start + self.len]
    }

    #[inline(always)]
    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        let values = match &mut self.memory {
            Memory::Heap(values) => values.as_mut_slice(),
            Memory::Pages(pages) => bytemuck::cast_slice_mut(pages),
        };
        &mut values[self.start..self.start + self.len]
    }
}

/// Asks for large pages in whole ones of a part of memory; what is left over stays in small ones, so that nothing is wasted.
fn in_large_pages(pages: &MmapMut, first: usize, bytes: usize) {
    // A system without large pages refuses, and is slower; nothing else depends on it.
    #[cfg(target_os = "linux")]
    let _ = pages.advise_range(memmap2::Advice::HugePage, first, bytes);
    #[cfg(not(target_os = "linux"))]
    let _ = (pages, first, bytes);
}

impl Store {
    /// Returns zeros. Anything but f32 is kept as f16.
    pub(super) fn zeros(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::F32 => Self::F32(Aligned::zeros(len)),
            DType::F16 | DType::BF16 => Self::F16(Aligned::zeros(len)),
        }
    }

    /// Returns a part as f32; `scratch` holds it if it had to be widened.
    #[inline(always)]
    pub(super) fn read<'a>(&'a self, part: Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::F32(values) => &values.as_slice()[part],
            Self::F16(values) => {
                scratch.resize(part.len(), 0.0);
                values.as_slice()[part].convert_to_f32_slice(scratch);
                scratch
            }
        }
    }

    /// Returns one number.
    pub(super) fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(values) => values.as_slice()[index],
            Self::F16(values) => values.as_slice()[index].to_f32(),
        }
    }

    /// Writes `values` from `start` on, each `stride` numbers behind the one before.
    pub(super) fn scatter(&mut self, start: usize, stride: usize, values: &[f32]) {
        match self {
            Self::F32(store) => {
                let places = store.as_mut_slice()[start..].iter_mut().step_by(stride);
                places.zip(values).for_each(|(place, value)| *place = *value);
            }
            Self::F16(store) => {
                let places = store.as_mut_slice()[start..].iter_mut().step_by(stride);
                places.zip(values).for_each(|(place, value)| *place = f16::from_f32(*value));
            }
        }
    }

    /// Copies a part over another.
    pub(super) fn copy(&mut self, from: Range<usize>, to: usize) {
        match self {
            Self::F32(values) => values.as_mut_slice().copy_within(from, to),
            Self::F16(values) => values.as_mut_slice().copy_within(from, to),
        }
    }

    /// Writes `values` from `start` on.
    pub(super) fn write(&mut self, start: usize, values: &[f32]) {
        match self {
            Self::F32(store) => store.as_mut_slice()[start..start + values.len()].copy_from_slice(values),
            Self::F16(store) => store.as_mut_slice()[start..start + values.len()].convert_from_f32_slice(values),
        }
    }
}
