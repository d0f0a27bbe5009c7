//! From stored bytes to a tensor in the compute type.

use std::{borrow::Cow, ops::Range};

use bytemuck::Pod;
use candle_core::Tensor;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use tessera_tensor::DType;

use crate::{
    ModelError,
    cpu::{Panels, Source},
    device::Device,
};

/// A stored tensor: element type and bytes.
pub(super) type Part<'a> = (DType, &'a [u8]);

/// Returns the tensor of this shape whose numbers are the parts' one after the other.
pub(super) fn stacked(device: &Device, parts: &[Part<'_>], shape: &[usize]) -> Result<Tensor, ModelError> {
    let mut values = Vec::with_capacity(shape.iter().product());
    parts.iter().for_each(|(dtype, bytes)| widen(*dtype, bytes, &mut values));
    device.tensor(values, shape)
}

/// Returns the weights of the linear layer whose outputs are those of the parts, each `[outputs, inputs]`.
pub(super) fn packed(device: &Device, parts: &[Part<'_>], inputs: usize) -> Panels {
    let stack = Stack::new(parts, inputs);
    Panels::pack(&stack, inputs, stack.outputs(), device.compute())
}

/// Rows of matrices that are stored one after the other.
struct Stack<'a> {
    inputs: usize,
    /// Where the rows of a part end, counted over all parts, and the part.
    parts: Vec<(usize, Part<'a>)>,
}

impl<'a> Stack<'a> {
    fn new(parts: &[Part<'a>], inputs: usize) -> Self {
        let mut outputs = 0;
        let end = |part: &Part<'a>| {
            outputs += part.1.len() / part.0.size_bytes() / inputs;
            (outputs, *part)
        };
        Self { inputs, parts: parts.iter().map(end).collect() }
    }

    fn outputs(&self) -> usize {
        self.parts.last().map_or(0, |(end, _)| *end)
    }
}

impl Source for Stack<'_> {
    fn read(&self, output: usize, inputs: Range<usize>, weights: &mut [f32]) {
        let mut first = 0;
        for &(end, (dtype, bytes)) in &self.parts {
            if output < end {
                let start = (output - first) * self.inputs;
                let size = dtype.size_bytes();
                let bytes = &bytes[(start + inputs.start) * size..(start + inputs.end) * size];
                return match dtype {
                    DType::F32 => weights.copy_from_slice(&aligned(bytes)),
                    DType::F16 => aligned::<f16>(bytes).convert_to_f32_slice(weights),
                    DType::BF16 => aligned::<bf16>(bytes).convert_to_f32_slice(weights),
                };
            }
            first = end;
        }
    }
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
    fn parts_are_packed_one_after_the_other() {
        let inputs = 70;
        let number = |row: usize, input: usize| f32::from(u8::try_from((row * 7 + input) % 251).unwrap());
        let rows = |rows: Range<usize>| rows.flat_map(|row| (0..inputs).map(move |input| number(row, input)));
        let singles: Vec<u8> = rows(0..33).flat_map(f32::to_le_bytes).collect();
        let halves: Vec<u8> = rows(33..35).flat_map(|number| f16::from_f32(number).to_le_bytes()).collect();
        let brains: Vec<u8> = rows(35..99).flat_map(|number| bf16::from_f32(number).to_le_bytes()).collect();
        let parts = [(DType::F32, singles.as_slice()), (DType::F16, &halves), (DType::BF16, &brains)];
        for compute in [DType::F32, DType::F16] {
            let packed = packed(&Device::new(compute).unwrap(), &parts, inputs);
            assert_eq!((packed.inputs(), packed.outputs()), (inputs, 99));
            let mut found = vec![0.0; inputs];
            for row in 0..99 {
                packed.read_output(row, &mut found);
                assert!(rows(row..row + 1).eq(found.iter().copied()), "row {row} in {compute}");
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
