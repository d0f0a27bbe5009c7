//! Which device, or which several, a model runs on.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

const AUTO: &str = "auto";
const CPU: &str = "cpu";
const CUDA: &str = "cuda:";

/// The devices that a model runs on, as a configuration names them: `"auto"`, `"cpu"`, `"cuda:0"`, or several GPUs as
/// `["cuda:0", "cuda:1"]`, which one string spells `"cuda:0,cuda:1"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// The first GPU if the build can use one and the machine has one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// These GPUs, numbered as CUDA numbers them. They are different and at least one; a model's layers are dealt out to
    /// them in this order.
    Cuda(Vec<usize>),
}

/// Names that are no [`Devices`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnknownDevices {
    /// A name that no device has.
    #[error(
        "unknown device {name:?}, write \"auto\", \"cpu\", \"cuda:0\" or, for several GPUs, [\"cuda:0\", \"cuda:1\"]"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A list of nothing.
    #[error("a list of no devices, write \"auto\", \"cpu\", \"cuda:0\" or, for several GPUs, [\"cuda:0\", \"cuda:1\"]")]
    Empty,
    /// A GPU that is named twice.
    #[error("device \"cuda:{gpu}\" is named twice, write it once")]
    Twice {
        /// Its number.
        gpu: usize,
    },
    /// Something else than GPUs in a list of several.
    #[error("device {name:?} does not go with others, a list may hold GPUs only, as [\"cuda:0\", \"cuda:1\"]")]
    Mixed {
        /// What does not go with the others.
        name: String,
    },
}

impl Devices {
    /// Returns the devices with these names.
    ///
    /// # Errors
    /// If a name is unknown, stands twice, or is not that of a GPU though there are several; or if there is none.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownDevices> {
        let names: Vec<&str> = names.into_iter().map(str::trim).collect();
        match names.as_slice() {
            [] => return Err(UnknownDevices::Empty),
            [name] if name.eq_ignore_ascii_case(AUTO) => return Ok(Self::Auto),
            [name] if name.eq_ignore_ascii_case(CPU) => return Ok(Self::Cpu),
            _ => {}
        }
        let mut gpus = Vec::with_capacity(names.len());
        for name in names {
            let gpu = gpu(name)?;
            if gpus.contains(&gpu) {
                return Err(UnknownDevices::Twice { gpu });
            }
            gpus.push(gpu);
        }
        Ok(Self::Cuda(gpus))
    }
}

/// The number of the GPU with this name.
fn gpu(name: &str) -> Result<usize, UnknownDevices> {
    let lower = name.to_ascii_lowercase();
    if [AUTO, CPU].contains(&lower.as_str()) {
        return Err(UnknownDevices::Mixed { name: name.to_owned() });
    }
    let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = lower.strip_prefix(CUDA).filter(digits).and_then(|number| number.parse().ok());
    number.ok_or_else(|| UnknownDevices::Name { name: name.to_owned() })
}

/// Several GPUs are written one after the other with commas between them.
impl fmt::Display for Devices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str(AUTO),
            Self::Cpu => formatter.write_str(CPU),
            Self::Cuda(gpus) => {
                for (index, gpu) in gpus.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(formatter, "{comma}{CUDA}{gpu}")?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Devices {
    type Err = UnknownDevices;

    fn from_str(names: &str) -> Result<Self, Self::Err> {
        Self::from_names(names.split(','))
    }
}

/// One name, or a list of them if there are several.
impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Cuda(gpus) if gpus.len() > 1 => serializer.collect_seq(gpus.iter().map(|gpu| format!("{CUDA}{gpu}"))),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Devices;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("\"auto\", \"cpu\", \"cuda:0\" or a list like [\"cuda:0\", \"cuda:1\"]")
            }

            fn visit_str<E: de::Error>(self, names: &str) -> Result<Devices, E> {
                names.parse().map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Devices, A::Error> {
                let mut names: Vec<String> = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Devices::from_names(names.iter().map(String::as_str)).map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let written = [
            (Devices::Auto, "auto", json!("auto")),
            (Devices::Cpu, "cpu", json!("cpu")),
            (Devices::Cuda(vec![3]), "cuda:3", json!("cuda:3")),
            (Devices::Cuda(vec![1, 0]), "cuda:1,cuda:0", json!(["cuda:1", "cuda:0"])),
        ];
        for (devices, text, value) in written {
            assert_eq!(devices.to_string(), text);
            assert_eq!(text.parse(), Ok(devices.clone()));
            assert_eq!(text.to_uppercase().parse(), Ok(devices.clone()));
            assert_eq!(to_value(&devices).unwrap(), value);
            assert_eq!(from_value::<Devices>(value).unwrap(), devices);
            assert_eq!(from_value::<Devices>(json!(text)).unwrap(), devices);
        }
        assert_eq!(from_value::<Devices>(json!(["cpu"])).unwrap(), Devices::Cpu);
        assert_eq!("cuda:0, cuda:1".parse(), Ok(Devices::Cuda(vec![0, 1])));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_write() {
        let advice = "write \"auto\", \"cpu\", \"cuda:0\" or, for several GPUs, [\"cuda:0\", \"cuda:1\"]";
        for name in ["gpu", "", "cuda", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:99999999999999999999"] {
            let error = name.parse::<Devices>().unwrap_err();
            assert_eq!(error.to_string(), format!("unknown device {name:?}, {advice}"));
        }
        let error = |value| from_value::<Devices>(value).unwrap_err().to_string();
        assert_eq!(error(json!([])), format!("a list of no devices, {advice}"));
        assert_eq!(error(json!(["cuda:1", "cuda:1"])), "device \"cuda:1\" is named twice, write it once");
        let mixed = "does not go with others, a list may hold GPUs only, as [\"cuda:0\", \"cuda:1\"]";
        assert_eq!(error(json!(["cuda:1", "cpu"])), format!("device \"cpu\" {mixed}"));
        assert!(error(json!(7)).contains("expected \"auto\", \"cpu\", \"cuda:0\" or a list"));
    }
}
