//! From stored bytes to a tensor in the compute type.

use std::{borrow::Cow, ops::Range, sync::Arc};

use bytemuck::Pod;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use tessera_tensor::DType;

use crate::{
    ModelError,
    cpu::{Panels, Source},
    device::Device,
    layers::Matrix,
};

/// A stored tensor: element type and bytes.
pub(super) type Part<'a> = (DType, &'a [u8]);

/// Returns the weights of the linear layer whose outputs are those of the parts, each `[outputs, inputs]`.
pub(super) fn linear(device: &Device, parts: &[Part<'_>], inputs: usize) -> Result<Matrix, ModelError> {
    let stack = Stack::new(parts, inputs);
    let outputs = stack.outputs();
    Ok(if device.is_dense() {
        Matrix::Dense(device.load(parts, &[outputs, inputs])?)
    } else {
        Matrix::Panels(Arc::new(packed(device, &stack)))
    })
}

fn packed(device: &Device, stack: &Stack<'_>) -> Panels {
    Panels::pack(stack, stack.inputs, stack.outputs(), device.compute())
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
            let packed = packed(&Device::cpu(compute).unwrap(), &Stack::new(&parts, inputs));
            assert_eq!((packed.inputs(), packed.outputs()), (inputs, 99));
            let mut found = vec![0.0; inputs];
            for row in 0..99 {
                packed.read_output(row, &mut found);
                assert!(rows(row..row + 1).eq(found.iter().copied()), "row {row} in {compute}");
            }
        }
    }
}
