//! A tensor in host memory.

use bytes::Bytes;
use half::{bf16, f16};
use thiserror::Error;

use crate::DType;

/// A contiguous little-endian tensor in host memory. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

/// Why a [`HostTensor`] could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TensorError {
    /// The shape and the element type ask for another number of bytes.
    #[error("a {dtype} tensor of shape {shape:?} has {found} bytes, {expected} are needed")]
    Length {
        /// Element type asked for.
        dtype: DType,
        /// Shape asked for.
        shape: Vec<usize>,
        /// Bytes that the two ask for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The number of bytes of the shape does not fit the machine's address space.
    #[error("a tensor of shape {shape:?} does not fit in memory")]
    Overflow {
        /// Shape asked for.
        shape: Vec<usize>,
    },
    /// The operation is for another number of axes.
    #[error("shape {found:?} does not have {expected} axes")]
    Rank {
        /// Number of axes that the operation needs.
        expected: usize,
        /// Shape given.
        found: Vec<usize>,
    },
    /// A row index is not below the number of rows.
    #[error("row {row} is out of range, there are {rows}")]
    Row {
        /// Index asked for.
        row: usize,
        /// Rows that there are.
        rows: usize,
    },
}

impl HostTensor {
    /// Returns the tensor with these bytes.
    ///
    /// # Errors
    /// If the number of bytes is not exactly that of the shape.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self, TensorError> {
        let expected = byte_length(dtype, &shape)?;
        if data.len() != expected {
            return Err(TensorError::Length { dtype, shape, expected, found: data.len() });
        }
        Ok(Self { dtype, shape, data })
    }

    /// Returns the f32 tensor with these values, without copying them.
    ///
    /// # Errors
    /// If the number of values is not that of the shape.
    pub fn from_f32(shape: Vec<usize>, values: Vec<f32>) -> Result<Self, TensorError> {
        Self::new(DType::F32, shape, into_bytes(values))
    }

    /// Returns the values, row-major, widened to f32 (exact for every element type).
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => self.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            DType::F16 => self.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            DType::BF16 => self.data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        }
    }

    /// Returns the tensor in another element type, rounded to nearest, ties to even. Cheap if it is that already.
    #[must_use]
    pub fn to_dtype(&self, dtype: DType) -> Self {
        if dtype == self.dtype {
            return self.clone();
        }
        let values = self.to_f32();
        let data = match dtype {
            DType::F32 => into_bytes(values),
            DType::F16 => into_bytes(values.into_iter().map(f16::from_f32).collect()),
            DType::BF16 => into_bytes(values.into_iter().map(bf16::from_f32).collect()),
        };
        Self { dtype, shape: self.shape.clone(), data }
    }

    /// Returns the length of each axis, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.data.len() / self.dtype.size_bytes()
    }

    /// Returns the bytes.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Returns the bytes and drops the shape.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        self.data
    }

    /// Returns rows and columns of a two-axis tensor.
    ///
    /// # Errors
    /// If it has another number of axes.
    pub fn dims2(&self) -> Result<(usize, usize), TensorError> {
        match self.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(TensorError::Rank { expected: 2, found: self.shape.clone() }),
        }
    }

    /// Copies rows of a `[rows, columns]` tensor, in the order given and as often as given, to a new tensor.
    ///
    /// # Errors
    /// If the tensor does not have two axes or a row is out of range.
    pub fn gather_rows(&self, rows: impl Iterator<Item = usize>) -> Result<Self, TensorError> {
        let (available, columns) = self.dims2()?;
        let stride = columns * self.dtype.size_bytes();
        let mut data = Vec::with_capacity(rows.size_hint().0.saturating_mul(stride).min(self.data.len()));
        let mut count = 0;
        for row in rows {
            if row >= available {
                return Err(TensorError::Row { row, rows: available });
            }
            data.extend_from_slice(&self.data[row * stride..(row + 1) * stride]);
            count += 1;
        }
        Self::new(self.dtype, vec![count, columns], Bytes::from(data))
    }

    /// Returns rows `start..start + length` of the first axis, sharing the bytes.
    ///
    /// # Errors
    /// If the tensor has no axis or the range goes beyond it.
    pub fn narrow(&self, start: usize, length: usize) -> Result<Self, TensorError> {
        let Some((&rows, rest)) = self.shape.split_first() else {
            return Err(TensorError::Rank { expected: 1, found: Vec::new() });
        };
        let end = start.checked_add(length).filter(|&end| end <= rows);
        let Some(end) = end else {
            return Err(TensorError::Row { row: start.saturating_add(length), rows });
        };
        let stride = rest.iter().product::<usize>() * self.dtype.size_bytes();
        let mut shape = self.shape.clone();
        shape[0] = length;
        Ok(Self { dtype: self.dtype, shape, data: self.data.slice(start * stride..end * stride) })
    }
}

/// The number of bytes of a tensor, if it can be addressed.
fn byte_length(dtype: DType, shape: &[usize]) -> Result<usize, TensorError> {
    shape
        .iter()
        .try_fold(dtype.size_bytes(), |product, &side| product.checked_mul(side))
        .ok_or_else(|| TensorError::Overflow { shape: shape.to_vec() })
}

/// Takes over a vector of plain numbers as little-endian bytes.
fn into_bytes<T: bytemuck::NoUninit + Send + 'static>(values: Vec<T>) -> Bytes {
    const { assert!(cfg!(target_endian = "little"), "the bytes of a tensor are those of little-endian memory") };
    Bytes::from_owner(Numbers(values))
}

/// A vector of numbers seen as its bytes.
struct Numbers<T>(Vec<T>);

impl<T: bytemuck::NoUninit> AsRef<[u8]> for Numbers<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: &[usize]) -> HostTensor {
        let count = shape.iter().product::<usize>();
        let values = (0u8..).take(count).map(f32::from).collect();
        HostTensor::from_f32(shape.to_vec(), values).unwrap()
    }

    #[test]
    fn values_come_back_as_they_went_in() {
        let tensor = numbers(&[2, 3]);
        assert_eq!(tensor.to_f32(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((tensor.dims2(), tensor.elements(), tensor.dtype()), (Ok((2, 3)), 6, DType::F32));
        assert_eq!(&tensor.data()[4..8], 1f32.to_le_bytes());
    }

    #[test]
    fn sixteen_bit_types_round_once_and_widen_exactly() {
        let tensor = HostTensor::from_f32(vec![4], vec![1.0, -0.333_333_34, 65504.0, 1.003_906_3]).unwrap();
        let half = tensor.to_dtype(DType::F16);
        assert_eq!((half.data().len(), half.shape()), (8, &[4][..]));
        assert_eq!(half.to_f32(), [1.0, -0.333_251_95, 65504.0, 1.003_906_3]);
        assert_eq!(half.to_dtype(DType::F32).to_dtype(DType::F16), half);
        assert_eq!(tensor.to_dtype(DType::BF16).to_f32(), [1.0, -0.333_984_38, 65536.0, 1.0]);
    }

    #[test]
    fn a_wrong_number_of_bytes_is_refused() {
        let error = HostTensor::new(DType::F16, vec![2, 3], Bytes::from_static(&[0; 11])).unwrap_err();
        assert_eq!(error.to_string(), "a f16 tensor of shape [2, 3] has 11 bytes, 12 are needed");
        let error = HostTensor::new(DType::F32, vec![usize::MAX, 2], Bytes::new()).unwrap_err();
        assert!(matches!(error, TensorError::Overflow { .. }));
        assert!(HostTensor::new(DType::F32, vec![0, 7], Bytes::new()).is_ok());
    }

    #[test]
    fn rows_are_gathered_in_the_order_given() {
        let tensor = numbers(&[3, 2]);
        let rows = tensor.gather_rows([2, 0, 2].into_iter()).unwrap();
        assert_eq!((rows.shape(), rows.to_f32()), (&[3, 2][..], vec![4.0, 5.0, 0.0, 1.0, 4.0, 5.0]));
        assert_eq!(tensor.gather_rows(std::iter::empty()).unwrap().shape(), [0, 2]);
        assert_eq!(tensor.gather_rows(std::iter::once(3)).unwrap_err(), TensorError::Row { row: 3, rows: 3 });
        assert!(matches!(numbers(&[2, 2, 2]).gather_rows(0..1), Err(TensorError::Rank { expected: 2, .. })));
    }

    #[test]
    fn narrowing_shares_the_bytes_and_checks_the_range() {
        let tensor = numbers(&[3, 2, 2]);
        let part = tensor.narrow(1, 2).unwrap();
        assert_eq!((part.shape(), part.to_f32()[0]), (&[2, 2, 2][..], 4.0));
        assert_eq!(part.data().as_ptr(), tensor.data()[16..].as_ptr());
        assert!(tensor.narrow(2, 2).is_err());
        assert!(tensor.narrow(usize::MAX, 2).is_err());
        assert_eq!(tensor.narrow(3, 0).unwrap().shape(), [0, 2, 2]);
    }
}
