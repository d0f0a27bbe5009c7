//! Domain types of `EmbeddingStore`.

use std::time::Duration;

use tessera_anyres::ImageSize;
use tessera_embedding::ImageKey;
use tessera_tensor::DType;

use crate::convert;
use crate::error::{Error, Result};
use crate::proto::embedding::v1 as proto;

/// What the rows of a payload are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Representation {
    /// Tower output, packed, before the projector.
    Features,
    /// The rows that the language model sees.
    Projected,
}

/// A checked request for one stored image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Whose rows.
    pub key: ImageKey,
    /// Which rows.
    pub representation: Representation,
    /// How long to wait for a key that is not stored yet.
    pub wait: Duration,
}

/// What a payload is, told in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchHeader {
    /// Size of the image.
    pub image_size: ImageSize,
    /// Element type.
    pub dtype: DType,
    /// Which rows.
    pub representation: Representation,
    /// Number of rows.
    pub rows: usize,
    /// Elements in a row.
    pub columns: usize,
    /// BLAKE3 of the payload.
    pub checksum: [u8; 32],
}

impl FetchHeader {
    /// Length of the payload in bytes; `None` where that overflows.
    pub fn payload_bytes(&self) -> Option<usize> {
        self.rows.checked_mul(self.columns)?.checked_mul(self.dtype.size_bytes())
    }
}

impl From<Representation> for proto::Representation {
    fn from(representation: Representation) -> Self {
        match representation {
            Representation::Features => Self::Features,
            Representation::Projected => Self::Projected,
        }
    }
}

fn representation(value: i32) -> Result<Representation> {
    match proto::Representation::try_from(value) {
        Ok(proto::Representation::Unspecified | proto::Representation::Features) => Ok(Representation::Features),
        Ok(proto::Representation::Projected) => Ok(Representation::Projected),
        Err(_) => Err(convert::out_of_range("representation", value, "a representation that this version knows")),
    }
}

impl TryFrom<proto::FetchRequest> for FetchRequest {
    type Error = Error;

    fn try_from(request: proto::FetchRequest) -> Result<Self> {
        Ok(Self {
            key: convert::key("key", &request.key)?,
            representation: representation(request.representation)?,
            wait: Duration::from_millis(request.wait_milliseconds.into()),
        })
    }
}

impl From<FetchRequest> for proto::FetchRequest {
    fn from(request: FetchRequest) -> Self {
        Self {
            key: request.key.as_bytes().to_vec().into(),
            representation: proto::Representation::from(request.representation).into(),
            wait_milliseconds: u32::try_from(request.wait.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<proto::FetchHeader> for FetchHeader {
    type Error = Error;

    fn try_from(header: proto::FetchHeader) -> Result<Self> {
        let dtype = match header.data_type() {
            proto::DataType::F32 => DType::F32,
            proto::DataType::F16 => DType::F16,
            proto::DataType::Bf16 => DType::BF16,
            proto::DataType::Unspecified => return Err(convert::missing("header.data_type")),
        };
        let count = |field: &str, value: u64| {
            usize::try_from(value).map_err(|_| convert::out_of_range(field, value, "a number of this machine"))
        };
        Ok(Self {
            image_size: convert::image_size("header.image_size", header.image_size)?,
            dtype,
            representation: representation(header.representation)?,
            rows: count("header.rows", header.rows)?,
            columns: count("header.columns", header.columns)?,
            checksum: *convert::key("header.checksum", &header.checksum)?.as_bytes(),
        })
    }
}

impl From<FetchHeader> for proto::FetchHeader {
    fn from(header: FetchHeader) -> Self {
        let data_type = match header.dtype {
            DType::F32 => proto::DataType::F32,
            DType::F16 => proto::DataType::F16,
            DType::BF16 => proto::DataType::Bf16,
        };
        Self {
            image_size: Some(header.image_size.into()),
            data_type: data_type.into(),
            representation: proto::Representation::from(header.representation).into(),
            rows: header.rows as u64,
            columns: header.columns as u64,
            checksum: header.checksum.to_vec().into(),
        }
    }
}
