//! Features in eight bits a number: a signed byte each, and one scale for every row.

use bytes::Bytes;
use tessera_tensor::{DType, HostTensor};

use crate::ArtifactError;

/// The largest byte: the number of a row that is farthest from zero gets it, with its sign.
const LARGEST: f32 = 127.0;

/// Rows of signed bytes. A number is its byte times the scale of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EightBit {
    /// The element type that the rows came from and go back to.
    dtype: DType,
    rows: usize,
    channels: usize,
    /// `[rows, channels]` signed bytes.
    values: Bytes,
    /// `[rows]` f32, little-endian: the largest magnitude of the row, divided by 127.
    scales: Bytes,
}

impl EightBit {
    /// Returns the rows with these bytes and scales (little-endian f32).
    ///
    /// # Errors
    /// [`ArtifactError::Shape`] when their numbers are not those of the shape.
    pub fn new(
        dtype: DType,
        (rows, channels): (usize, usize),
        values: Bytes,
        scales: Bytes,
    ) -> Result<Self, ArtifactError> {
        if rows.checked_mul(channels) != Some(values.len()) || rows.checked_mul(4) != Some(scales.len()) {
            let (bytes, scales) = (values.len(), scales.len());
            return Err(ArtifactError::Shape(format!(
                "{rows} rows of {channels} do not have {bytes} bytes and {scales} bytes of scales"
            )));
        }
        Ok(Self { dtype, rows, channels, values, scales })
    }

    /// Rounds a `[rows, channels]` tensor; `None` if a number is not finite, which no byte can stand for.
    pub fn of(tensor: &HostTensor, (rows, channels): (usize, usize)) -> Option<Self> {
        let numbers = tensor.to_f32();
        let mut values = Vec::with_capacity(numbers.len());
        let mut scales = Vec::with_capacity(rows * 4);
        for row in 0..rows {
            let row = &numbers[row * channels..(row + 1) * channels];
            if row.iter().any(|number| !number.is_finite()) {
                return None;
            }
            let scale = row.iter().fold(0f32, |largest, number| largest.max(number.abs())) / LARGEST;
            // A row so close to zero that its scale is none is zero.
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let byte = |number: &f32| ((number * inverse).round().clamp(-LARGEST, LARGEST) as i8).to_le_bytes()[0];
            values.extend(row.iter().map(byte));
            scales.extend(scale.to_le_bytes());
        }
        Self::new(tensor.dtype(), (rows, channels), values.into(), scales.into()).ok()
    }

    /// Returns the numbers in the element type that they came from: `[rows, channels]`.
    pub fn to_tensor(&self) -> HostTensor {
        let mut numbers = Vec::with_capacity(self.values.len());
        let scales = self.scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        for (row, scale) in scales.enumerate() {
            let row = &self.values[row * self.channels..(row + 1) * self.channels];
            // The largest number of a type, taken apart and put together again, must not become infinite.
            let number = |byte: &u8| (f32::from(i8::from_le_bytes([*byte])) * scale).clamp(f32::MIN, f32::MAX);
            numbers.extend(row.iter().map(number));
        }
        HostTensor::from_f32(vec![self.rows, self.channels], numbers)
            .expect("the constructor checked that there are rows times channels values")
            .to_dtype(self.dtype)
    }

    /// The element type that the rows came from.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows and channels.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.channels)
    }

    /// The signed bytes: `[rows, channels]`.
    pub fn values(&self) -> &Bytes {
        &self.values
    }

    /// The scales, little-endian f32: `[rows]`.
    pub fn scales(&self) -> &Bytes {
        &self.scales
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers on a bell curve; those of one channel in 97 are `outlier` times as far out, as a tower's are.
    fn features(rows: usize, channels: usize, outlier: f32) -> HostTensor {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut uniform = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut bell = move || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
        let numbers =
            (0..rows * channels).map(|at| bell() * if at % channels % 97 == 3 { outlier } else { 1.0 }).collect();
        HostTensor::from_f32(vec![rows, channels], numbers).unwrap()
    }

    /// |row - rounded| / |row|, the largest over the rows.
    fn relative_error(before: &HostTensor, after: &HostTensor, channels: usize) -> f32 {
        let (before, after) = (before.to_f32(), after.to_f32());
        let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
        let rows = before.chunks_exact(channels).zip(after.chunks_exact(channels));
        rows.map(|(a, b)| norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied()))
            .fold(0.0, f32::max)
    }

    #[test]
    fn a_row_loses_about_one_part_in_a_hundred_of_its_length_and_more_with_outliers() {
        for (outlier, bound) in [(1.0, 0.012), (4.0, 0.03)] {
            for dtype in DType::ALL {
                let before = features(64, 1024, outlier).to_dtype(dtype);
                let after = EightBit::of(&before, (64, 1024)).unwrap().to_tensor();
                assert_eq!((after.dtype(), after.shape()), (dtype, &[64, 1024][..]));
                let error = relative_error(&before, &after, 1024);
                eprintln!("{dtype}, outliers times {outlier}: the worst of 64 rows is {error} of its length away");
                assert!(error < bound, "{dtype}, outliers times {outlier}: {error}");
            }
        }
    }

    #[test]
    fn zeros_extremes_and_what_is_not_finite() {
        let tensor = |values: Vec<f32>| HostTensor::from_f32(vec![1, values.len()], values).unwrap();
        let there_and_back = |tensor: &HostTensor| EightBit::of(tensor, (1, tensor.elements())).map(|e| e.to_tensor());
        let zeros = tensor(vec![0.0; 3]);
        assert_eq!(there_and_back(&zeros).unwrap(), zeros);
        assert_eq!(there_and_back(&tensor(vec![1e-45, 0.0])).unwrap().to_f32(), [0.0, 0.0]);
        for (dtype, largest) in [(DType::F32, f32::MAX), (DType::F16, 65504.0), (DType::BF16, 3.389_531_4e38)] {
            let back = there_and_back(&tensor(vec![largest, -largest]).to_dtype(dtype)).unwrap();
            assert!(back.to_f32().iter().all(|number| number.is_finite()), "{dtype}: {:?}", back.to_f32());
        }
        assert!(there_and_back(&tensor(vec![1.0, f32::NAN])).is_none());
        assert!(there_and_back(&tensor(vec![f32::INFINITY])).is_none());
        assert_eq!(EightBit::of(&tensor(vec![]), (1, 0)).unwrap().to_tensor().shape(), [1, 0]);
    }

    #[test]
    fn bytes_of_another_shape_are_refused() {
        let error =
            EightBit::new(DType::F32, (2, 3), Bytes::from_static(&[0; 6]), Bytes::from_static(&[0; 4])).unwrap_err();
        assert_eq!(error.to_string(), "2 rows of 3 do not have 6 bytes and 4 bytes of scales");
        assert!(EightBit::new(DType::F32, (usize::MAX, 3), Bytes::new(), Bytes::new()).is_err());
    }

    proptest! {
        /// Every number is within half a step of what it was.
        #[test]
        fn no_number_moves_by_more_than_half_a_step(values in prop::collection::vec(-1e6f32..1e6, 1..50)) {
            let before = HostTensor::from_f32(vec![1, values.len()], values.clone()).unwrap();
            let after = EightBit::of(&before, (1, values.len())).unwrap().to_tensor().to_f32();
            let step = values.iter().fold(0f32, |largest, x| largest.max(x.abs())) / LARGEST;
            for (a, b) in values.iter().zip(after) {
                prop_assert!((a - b).abs() <= step * 0.500_1, "{a} became {b}, a step is {step}");
            }
        }
    }
}
