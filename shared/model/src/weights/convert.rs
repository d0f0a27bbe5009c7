//! From stored bytes to a tensor in the compute type.

use std::borrow::Cow;

use bytemuck::Pod;
use candle_core::Tensor;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use tessera_tensor::DType;

use crate::{ModelError, device::Device};

/// Returns the tensor of this shape whose numbers are the parts' one after the other.
pub(super) fn tensor(device: &Device, parts: &[(DType, &[u8])], shape: &[usize]) -> Result<Tensor, ModelError> {
    let count = shape.iter().product();
    if device.compute() == DType::F16 && parts.iter().all(|(dtype, _)| *dtype == DType::F16) {
        let mut values: Vec<f16> = Vec::with_capacity(count);
        parts.iter().for_each(|(_, bytes)| values.extend_from_slice(&aligned(bytes)));
        return device.tensor_f16(values, shape);
    }
    let mut values = Vec::with_capacity(count);
    parts.iter().for_each(|(dtype, bytes)| widen(*dtype, bytes, &mut values));
    device.tensor(values, shape)
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
