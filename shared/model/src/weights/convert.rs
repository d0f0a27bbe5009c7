//! From stored bytes to a tensor in the compute type.

use std::borrow::Cow;

use bytemuck::Pod;
use candle_core::Tensor;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;
use tessera_tensor::DType;

use crate::{ModelError, device::Device};

/// Side of a block that is transposed at once.
const BLOCK: usize = 64;

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
    let shape = [inputs, outputs];
    let mut first = 0;
    if stays_half(device, parts) {
        let mut values = vec![f16::ZERO; inputs * outputs];
        for (_, bytes) in parts {
            let columns = Columns { matrix: &mut values, width: outputs, first };
            first += columns.fill(&aligned(bytes), inputs, <[f16]>::copy_from_slice);
        }
        return device.tensor_f16(values, &shape);
    }
    let mut values = vec![0.0f32; inputs * outputs];
    for (dtype, bytes) in parts {
        let columns = Columns { matrix: &mut values, width: outputs, first };
        first += match dtype {
            DType::F32 => columns.fill(&aligned(bytes), inputs, <[f32]>::copy_from_slice),
            DType::F16 => columns.fill(&aligned::<f16>(bytes), inputs, |to, from| from.convert_to_f32_slice(to)),
            DType::BF16 => columns.fill(&aligned::<bf16>(bytes), inputs, |to, from| from.convert_to_f32_slice(to)),
        };
    }
    device.tensor(values, &shape)
}

/// Columns of a row-major matrix, from `first` on.
struct Columns<'a, T> {
    matrix: &'a mut [T],
    width: usize,
    first: usize,
}

impl<T: Copy + Default + Send> Columns<'_, T> {
    /// Writes the rows of `source`, `[rows, inputs]`, to the columns; returns the number of rows.
    ///
    /// Goes block by block through a buffer: rows of weights are often a power of two apart, and then the lines of a
    /// block in place would displace each other from the cache.
    fn fill<S: Sync>(self, source: &[S], inputs: usize, convert: impl Fn(&mut [T], &[S]) + Sync) -> usize {
        let Self { matrix, width, first } = self;
        let rows = source.len() / inputs;
        matrix.par_chunks_mut(width * BLOCK).enumerate().for_each(|(index, matrix)| {
            let from = index * BLOCK;
            let count = matrix.len() / width;
            let mut buffer = [[T::default(); BLOCK]; BLOCK];
            for start in (0..rows).step_by(BLOCK) {
                let end = rows.min(start + BLOCK);
                for (line, row) in buffer.iter_mut().zip(start..end) {
                    convert(&mut line[..count], &source[row * inputs + from..][..count]);
                }
                for (column, target) in matrix.chunks_exact_mut(width).enumerate() {
                    let target = &mut target[first + start..first + end];
                    target.iter_mut().zip(&buffer).for_each(|(target, line)| *target = line[column]);
                }
            }
        });
        rows
    }
}

/// Whether the file's numbers are used as they are, without a detour over f32.
fn stays_half(device: &Device, parts: &[Part<'_>]) -> bool {
    device.compute() == DType::F16 && parts.iter().all(|(dtype, _)| *dtype == DType::F16)
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
                let columns = Columns { matrix: &mut target, width: outputs, first };
                first += columns.fill(&source, inputs, <[f32]>::copy_from_slice);
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
