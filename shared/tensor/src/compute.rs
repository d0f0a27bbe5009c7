//! The type that a model computes in, or that it is to be the device's own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{DType, Devices};

const AUTO: &str = "auto";

/// The type that a model computes in, as a configuration names it: `"auto"` or an element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Compute {
    /// The one that suits the device.
    #[default]
    Auto,
    /// This one.
    In(DType),
}

/// A name that is no [`Compute`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown type to compute in {name:?}, write auto, f32, f16 or bf16")]
pub struct UnknownCompute {
    name: String,
}

impl Compute {
    /// Returns the type that it stands for on these devices, on which nothing is left to choose: where it is not said, f32
    /// on the CPU, as the reference computes, and bf16 on GPUs, which multiply it sixteen times as fast and as which most
    /// checkpoints were trained.
    #[must_use]
    pub fn on(self, devices: &Devices) -> DType {
        match (self, devices) {
            (Self::In(dtype), _) => dtype,
            (Self::Auto, Devices::Cuda(_)) => DType::BF16,
            (Self::Auto, Devices::Auto | Devices::Cpu) => DType::F32,
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str(AUTO),
            Self::In(dtype) => dtype.fmt(formatter),
        }
    }
}

impl FromStr for Compute {
    type Err = UnknownCompute;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.eq_ignore_ascii_case(AUTO) {
            return Ok(Self::Auto);
        }
        name.parse().map(Self::In).map_err(|_| UnknownCompute { name: name.to_owned() })
    }
}

impl From<Compute> for String {
    fn from(compute: Compute) -> Self {
        compute.to_string()
    }
}

impl TryFrom<String> for Compute {
    type Error = UnknownCompute;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let types = DType::ALL.map(|dtype| (Compute::In(dtype), dtype.name()));
        for (compute, text) in types.into_iter().chain([(Compute::Auto, "auto")]) {
            assert_eq!((compute.to_string().as_str(), text.to_uppercase().parse()), (text, Ok(compute)));
            assert_eq!(to_value(compute).unwrap(), json!(text));
            assert_eq!(from_value::<Compute>(json!(text)).unwrap(), compute);
        }
        let error = from_value::<Compute>(json!("int8")).unwrap_err().to_string();
        assert_eq!(error, "unknown type to compute in \"int8\", write auto, f32, f16 or bf16");
    }

    #[test]
    fn what_is_left_open_is_decided_by_the_device() {
        let gpu = Devices::Cuda(vec![0]);
        assert_eq!([Compute::Auto.on(&Devices::Cpu), Compute::Auto.on(&gpu)], [DType::F32, DType::BF16]);
        assert!([Devices::Cpu, gpu].iter().all(|devices| Compute::In(DType::F16).on(devices) == DType::F16));
    }
}
