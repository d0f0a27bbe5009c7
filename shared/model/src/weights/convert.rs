//! From stored bytes to a tensor in the compute type.

use std::borrow::Cow;

use bytemuck::Pod;
use candle_core::Tensor;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;
use tessera_tensor::DType;

use crate::{ModelError, device::Device};

/// Side of a block that is transposed at once.
const BLOCK: usize = 32;

/// A stored tensor: element type and bytes.
pub(super) type Part<'a> = (DType, &'a [u8]);

/// Returns the tensor of this shape whose numbers are the parts' one after the other.
pub(super) fn stacked(device: &Device, parts: &[Part<'_>], shape: &[usize]) -> Result<Tensor, ModelError> {
    let count = shape.iter().product();
    if stays_half(device, parts) {
        let mut values: Vec<f16> = Vec::with_capacity(count);
        parts.iter().for_each(|(_, bytes)| values.extend_from_slice(&aligned(bytes)));
        return device.tensor_f16(values, shape);
    }
    let mut values = Vec::with_capacity(count);
    parts.iter().for_each(|(dtype, bytes)| widen(*dtype, bytes, &mut values));
    device.tensor(values, shape)
}

/// Returns the `[inputs, sum of outputs]` matrix whose columns are the rows of the parts, each `[outputs, inputs]`.
pub(super) fn transposed(device: &Device, parts: &[Part<'_>], inputs: usize) -> Result<Tensor, ModelError> {
    let outputs_of = |(dtype, bytes): &Part<'_>| bytes.len() / dtype.size_bytes() / inputs;
    let outputs = parts.iter().map(outputs_of).sum();
    let mut first = 0;
    if stays_half(device, parts) {
        let mut values = vec![f16::ZERO; inputs * outputs];
        for (_, bytes) in parts {
            first += transpose(&aligned(bytes), inputs, &mut values, outputs, first);
        }
        return device.tensor_f16(values, &[inputs, outputs]);
    }
    let mut values = vec![0.0f32; inputs * outputs];
    for (dtype, bytes) in parts {
        let mut widened = Vec::new();
        let source = match dtype {
            DType::F32 => aligned(bytes),
            DType::F16 | DType::BF16 => {
                widen(*dtype, bytes, &mut widened);
                Cow::Borrowed(widened.as_slice())
            }
        };
        first += transpose(&source, inputs, &mut values, outputs, first);
    }
    device.tensor(values, &[inputs, outputs])
}

/// Whether the file's numbers are used as they are, without a detour over f32.
fn stays_half(device: &Device, parts: &[Part<'_>]) -> bool {
    device.compute() == DType::F16 && parts.iter().all(|(dtype, _)| *dtype == DType::F16)
}

/// Writes the rows of `source`, `[rows, inputs]`, to the columns of `target`, `[inputs, outputs]`, from column `first`
/// on. Returns the number of rows. Goes block by block, so that both sides stay in the cache.
fn transpose<T: Copy + Send + Sync>(
    source: &[T],
    inputs: usize,
    target: &mut [T],
    outputs: usize,
    first: usize,
) -> usize {
    let rows = source.len() / inputs;
    target.par_chunks_mut(outputs * BLOCK).enumerate().for_each(|(index, target)| {
        let from = index * BLOCK;
        let width = target.len() / outputs;
        for block in (0..rows).step_by(BLOCK) {
            let block = block..rows.min(block + BLOCK);
            for column in 0..width {
                let target = &mut target[column * outputs + first..][block.clone()];
                let source = block.clone().map(|row| source[row * inputs + from + column]);
                target.iter_mut().zip(source).for_each(|(target, number)| *target = number);
            }
        }
    });
    rows
}

/// Appends the numbers in `bytes` as f32, which holds every one of them exactly.
fn widen(dtype: DType, bytes: &[u8], values: &mut Vec<f32>) {
    let start = values.len();
    match dtype {
        DType::F32 => values.extend_from_slice(&aligned(bytes)),
        DType::F16 => {
            let halves = aligned::<f16>(bytes);
            values.resize(start + halves.len(), 0.0);
            halves.convert_to_f32_slice(&mut values[start..]);
        }
        DType::BF16 => {
            let halves = aligned::<bf16>(bytes);
            values.resize(start + halves.len(), 0.0);
            halves.convert_to_f32_slice(&mut values[start..]);
        }
    }
}

/// Sees bytes as numbers; copies them where the file did not align them.
fn aligned<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(numbers) => Cow::Borrowed(numbers),
        Err(_) => Cow::Owned(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposed_parts_stand_side_by_side() {
        for (inputs, counts) in [(3, [2, 1]), (70, [33, 64]), (32, [1, 100])] {
            let outputs = counts.iter().sum::<usize>();
            let number = |row: usize, input: usize| f32::from(u16::try_from(row * inputs + input).unwrap());
            let mut target = vec![-1.0; inputs * outputs];
            let mut first = 0;
            for count in counts {
                let rows = first..first + count;
                let source: Vec<f32> = rows.flat_map(|row| (0..inputs).map(move |input| number(row, input))).collect();
                first += transpose(&source, inputs, &mut target, outputs, first);
            }
            assert_eq!(first, outputs);
            for (input, row) in (0..inputs).flat_map(|input| (0..outputs).map(move |row| (input, row))) {
                assert_eq!(target[input * outputs + row], number(row, input));
            }
        }
    }

    #[test]
    fn every_stored_type_widens_exactly_aligned_or_not() {
        let numbers = [1.0f32, -0.5, 0.15625, 65504.0, -2.0, 3.0, 0.0, 96.0, 1.5];
        let halves: Vec<u8> = numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect();
        let brains: Vec<u8> = numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect();
        let singles: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        for shift in 0..4 {
            for (dtype, bytes) in [(DType::F32, &singles), (DType::F16, &halves), (DType::BF16, &brains)] {
                let shifted = [&vec![0; shift], bytes.as_slice()].concat();
                let mut values = vec![7.0];
                widen(dtype, &shifted[shift..], &mut values);
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
