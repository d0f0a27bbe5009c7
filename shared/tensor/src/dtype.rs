//! Element types.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The element type of a [`HostTensor`](crate::HostTensor): the three in which weights and features are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single precision number.
    BF16,
}

/// A name that is no [`DType`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown element type {name:?}, known are f32, f16 and bf16")]
pub struct UnknownDType {
    name: String,
}

impl DType {
    /// Every element type.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Returns the size of one element in bytes.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Returns the name that configurations and the wire use: `f32`, `f16` or `bf16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Reads the short name in either case (`f16`, as safetensors write it: `F16`) and the long one of configuration files
/// (`float16`).
impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name.to_ascii_lowercase().as_str() {
            "f32" | "float32" => Ok(Self::F32),
            "f16" | "float16" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::BF16),
            _ => Err(UnknownDType { name: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_unknown_ones_are_refused() {
        for dtype in DType::ALL {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
            assert_eq!(dtype.name().to_uppercase().parse(), Ok(dtype));
        }
        assert_eq!("bfloat16".parse(), Ok(DType::BF16));
        let error = "int8".parse::<DType>().unwrap_err();
        assert_eq!(error.to_string(), "unknown element type \"int8\", known are f32, f16 and bf16");
    }
}
