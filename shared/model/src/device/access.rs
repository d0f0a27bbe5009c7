//! The numbers of tensors that are in the CPU's memory.

use std::{
    cell::Cell,
    marker::PhantomData,
    ops::{Deref, Range},
};

use bytemuck::Pod;
use candle_core::{
    CpuStorage, DType as CandleType, InplaceOp1, Layout, Result as CandleResult, Storage, Tensor, WithDType, bail,
};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use tessera_tensor::DType;

use crate::ModelError;

/// A type of numbers that tensors on the CPU are read and written in.
pub(super) trait Number: WithDType + Pod {
    /// All numbers of a storage of this type.
    fn all(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! number {
    ($type:ty, $variant:ident) => {
        impl Number for $type {
            fn all(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(numbers) => Some(numbers),
                    _ => None,
                }
            }
        }
    };
}

number!(f32, F32);
number!(f16, F16);
number!(bf16, BF16);
number!(u32, U32);

/// Returns the numbers of a contiguous tensor.
pub(super) fn read<'a, T: Number>(tensor: &'a Tensor) -> Result<impl Deref<Target = [T]> + use<'a, T>, ModelError> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = range(layout)?;
    match &*storage {
        Storage::Cpu(numbers) => numbers.as_slice::<T>()?,
        _ => return Err(not_here()),
    };
    Ok(Numbers { storage, range, of: PhantomData::<T> })
}

/// Lets `work` change the numbers of a contiguous tensor.
pub(super) fn write<T: Number>(tensor: &Tensor, work: impl FnOnce(&mut [T])) -> Result<(), ModelError> {
    Ok(tensor.inplace_op1(&Change { work: Cell::new(Some(work)), of: PhantomData })?)
}

/// Where the first number of a contiguous tensor is.
pub(super) fn address(tensor: &Tensor) -> Result<u64, ModelError> {
    let of = |pointer: usize| pointer as u64;
    Ok(match tensor.dtype() {
        CandleType::F32 => of(read::<f32>(tensor)?.as_ptr().addr()),
        CandleType::F16 => of(read::<f16>(tensor)?.as_ptr().addr()),
        CandleType::BF16 => of(read::<bf16>(tensor)?.as_ptr().addr()),
        _ => of(read::<u32>(tensor)?.as_ptr().addr()),
    })
}

/// Sees bytes as numbers, aligned or not.
pub(super) fn unpacked<T: Pod>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// The numbers of stored tensors, one after the other, as f32, which holds every one of them exactly.
pub(super) fn widened(parts: &[(DType, &[u8])]) -> Vec<f32> {
    let part = |(dtype, bytes): &(DType, &[u8])| match dtype {
        DType::F32 => unpacked(bytes),
        DType::F16 => unpacked::<f16>(bytes).to_f32_vec(),
        DType::BF16 => unpacked::<bf16>(bytes).to_f32_vec(),
    };
    parts.iter().flat_map(part).collect()
}

/// Numbers of a storage that is kept from changing.
struct Numbers<S, T> {
    storage: S,
    range: Range<usize>,
    of: PhantomData<T>,
}

impl<S: Deref<Target = Storage>, T: Number> Deref for Numbers<S, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(numbers) => numbers.as_slice().map_or(&[], |numbers| &numbers[self.range.clone()]),
            _ => &[],
        }
    }
}

/// An operation that changes the numbers of a tensor, once.
struct Change<T, W> {
    work: Cell<Option<W>>,
    of: PhantomData<T>,
}

impl<T: Number, W: FnOnce(&mut [T])> InplaceOp1 for Change<T, W> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> CandleResult<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("only contiguous numbers are changed") };
        match (T::all(storage), self.work.take()) {
            (Some(numbers), Some(work)) => work(&mut numbers[start..end]),
            _ => bail!("numbers of another type are to be changed"),
        }
        Ok(())
    }
}

fn range(layout: &Layout) -> Result<Range<usize>, ModelError> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => Err(candle_core::Error::Msg("only contiguous numbers are read".to_owned()).into()),
    }
}

fn not_here() -> ModelError {
    candle_core::Error::Msg("a tensor of another device is to be read on the CPU".to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_type_widens_exactly_aligned_or_not() {
        let numbers = [1.0f32, -0.5, 0.15625, 65504.0, -2.0, 3.0, 0.0, 96.0, 1.5];
        let halves: Vec<u8> = numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect();
        let brains: Vec<u8> = numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect();
        let singles: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        for shift in 0..4 {
            for (dtype, bytes) in [(DType::F32, &singles), (DType::F16, &halves), (DType::BF16, &brains)] {
                let shifted = [&vec![0; shift], bytes.as_slice()].concat();
                let values = widened(&[(DType::F32, &7f32.to_le_bytes()), (dtype, &shifted[shift..])]);
                let expected: Vec<f32> = match dtype {
                    DType::BF16 => numbers.iter().map(|&number| bf16::from_f32(number).to_f32()).collect(),
                    _ => numbers.to_vec(),
                };
                assert_eq!(values[0], 7.0);
                assert_eq!(values[1..], expected, "{dtype} at {shift}");
            }
        }
    }
}
