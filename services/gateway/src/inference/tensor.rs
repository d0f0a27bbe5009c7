//! Elements of tensors, from the wire and to it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tessera_api::proto::inference::InferTensorContents;
use tessera_api::{Error, Result};

/// The bytes of a length in front of an element.
const LENGTH: usize = 4;

/// The elements of an input, in one of the two forms that the protocol has.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Contents {
    /// One after the other, as in memory.
    Raw(Bytes),
    /// In fields by type.
    Typed(InferTensorContents),
}

impl Contents {
    /// The elements of a tensor of BYTES; `field` is the path of the tensor.
    ///
    /// # Errors
    /// `Invalid` when a length leads beyond the end.
    pub(super) fn bytes(self, field: &str) -> Result<Vec<Bytes>> {
        let mut raw = match self {
            Self::Typed(contents) => return Ok(contents.bytes_contents),
            Self::Raw(raw) => raw,
        };
        let mut elements = Vec::new();
        while !raw.is_empty() {
            let index = elements.len();
            let malformed = |what: String| Error::field("TENSOR_MALFORMED", field, format!("element {index} {what}"));
            if raw.len() < LENGTH {
                return Err(malformed(format!("needs {LENGTH} bytes for its length, {} are left", raw.len())));
            }
            let length = raw.get_u32_le() as usize;
            if raw.len() < length {
                return Err(malformed(format!("is said to have {length} bytes, {} are left", raw.len())));
            }
            elements.push(raw.split_to(length));
        }
        Ok(elements)
    }

    /// The elements of a tensor of BOOL.
    ///
    /// # Errors
    /// `Invalid` for a byte that is neither 0 nor 1.
    pub(super) fn bools(self, field: &str) -> Result<Vec<bool>> {
        let raw = match self {
            Self::Typed(contents) => return Ok(contents.bool_contents),
            Self::Raw(raw) => raw,
        };
        let element = |byte: &u8| match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::field("TENSOR_MALFORMED", field, format!("{other} is no BOOL: send a byte of 0 or 1"))),
        };
        raw.iter().map(element).collect()
    }
}

/// Writes elements of BYTES, each behind its length.
pub(super) fn of_bytes<'a>(elements: impl Iterator<Item = &'a [u8]> + Clone) -> Bytes {
    let mut raw = BytesMut::with_capacity(elements.clone().map(|element| LENGTH + element.len()).sum());
    for element in elements {
        // An answer is far shorter.
        raw.put_u32_le(u32::try_from(element.len()).unwrap_or(u32::MAX));
        raw.put_slice(element);
    }
    raw.freeze()
}

/// Writes elements of UINT32.
pub(super) fn of_counts(elements: impl Iterator<Item = usize>) -> Bytes {
    elements.flat_map(|count| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes()).collect()
}

/// Writes elements of FP32.
pub(super) fn of_floats(elements: impl Iterator<Item = f32>) -> Bytes {
    elements.flat_map(f32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_as_they_were_written() {
        let elements: [&[u8]; 3] = [b"one", b"", b"three"];
        let raw = of_bytes(elements.into_iter());
        assert_eq!(&raw[..8], [3, 0, 0, 0, b'o', b'n', b'e', 0]);
        assert_eq!(Contents::Raw(raw).bytes("a").unwrap(), elements);
        assert_eq!(Contents::Raw(Bytes::new()).bytes("a").unwrap(), Vec::<Bytes>::new());
        assert_eq!(Contents::Raw(Bytes::from_static(&[0, 1])).bools("a").unwrap(), [false, true]);
        assert_eq!(&of_counts([7, 256].into_iter())[..], [7, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(&of_floats([1.0].into_iter())[..], 1f32.to_le_bytes());
    }

    #[test]
    fn lengths_that_lead_nowhere_name_their_element() {
        for (raw, words) in [
            (&[0, 0][..], "element 0 needs 4 bytes for its length, 2 are left"),
            (&[5, 0, 0, 0, 1], "element 0 is said to have 5 bytes, 1 are left"),
            (&[0, 0, 0, 0, 255, 255, 255, 255], "element 1 is said to have 4294967295 bytes, 0 are left"),
        ] {
            let error = Contents::Raw(Bytes::copy_from_slice(raw)).bytes("inputs[\"image\"]").unwrap_err();
            assert_eq!(error.message, format!("inputs[\"image\"]: {words}"));
            assert_eq!(error.reason, "TENSOR_MALFORMED");
        }
        assert_eq!(Contents::Raw(Bytes::from_static(b"2")).bools("a").unwrap_err().reason, "TENSOR_MALFORMED");
    }
}
