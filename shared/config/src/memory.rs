//! An amount of memory: a number of bytes, or a share of what is free.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{ByteSize, ParseByteSizeError};

/// An amount of memory, read from `16GiB`, or from `60%` of what is free when it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryBudget {
    /// So many bytes.
    Bytes(ByteSize),
    /// So many hundredths of what is free; 1 to 100.
    Share(u8),
}

/// A text that is no amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseMemoryBudgetError {
    /// Neither a share nor a size.
    #[error("{0}, or a share of what is free, for example 60%")]
    Size(#[from] ParseByteSizeError),
    /// A share out of its range.
    #[error("`{0}` is not a share: write a whole number of percent from 1 to 100")]
    Share(String),
}

impl MemoryBudget {
    /// Returns the bytes that it is where `free` bytes are free.
    pub fn of(self, free: u64) -> u64 {
        match self {
            Self::Bytes(size) => size.as_u64(),
            Self::Share(percent) => free / 100 * u64::from(percent),
        }
    }
}

impl From<ByteSize> for MemoryBudget {
    fn from(size: ByteSize) -> Self {
        Self::Bytes(size)
    }
}

impl FromStr for MemoryBudget {
    type Err = ParseMemoryBudgetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(share) = text.trim().strip_suffix('%') else { return Ok(Self::Bytes(text.parse()?)) };
        let percent = share.trim_end().parse().ok().filter(|percent| (1..=100).contains(percent));
        percent.map(Self::Share).ok_or_else(|| ParseMemoryBudgetError::Share(text.trim().to_owned()))
    }
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::Share(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for MemoryBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemoryBudget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = MemoryBudget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 16GiB, or a share such as 60%")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<MemoryBudget, E> {
                Ok(MemoryBudget::Bytes(ByteSize::bytes(bytes)))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<MemoryBudget, E> {
                let bytes = u64::try_from(bytes).map_err(|_| E::custom("a size cannot be negative"))?;
                self.visit_u64(bytes)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MemoryBudget, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_size_or_a_share() {
        for (text, budget, of_a_gibibyte) in [
            ("16GiB", MemoryBudget::Bytes(ByteSize::gib(16)), 16 << 30),
            (" 50 % ", MemoryBudget::Share(50), (1 << 30) / 100 * 50),
            ("100%", MemoryBudget::Share(100), (1 << 30) / 100 * 100),
        ] {
            assert_eq!(text.parse(), Ok(budget));
            assert_eq!(budget.of(1 << 30), of_a_gibibyte);
            assert_eq!(budget.to_string().parse(), Ok(budget));
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_what_to_write() {
        for (text, part) in [("0%", "1 to 100"), ("101%", "1 to 100"), ("half", "60%"), ("-1%", "1 to 100")] {
            let error = text.parse::<MemoryBudget>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
