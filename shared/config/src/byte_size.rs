//! A number of bytes as people write it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const UNITS: [(&str, u64); 11] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1000 * 1000),
    ("gb", 1000 * 1000 * 1000),
    ("tb", 1000 * 1000 * 1000 * 1000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
];

/// A number of bytes, read from `64MiB`, `20 MB`, `1.5GiB` or a plain integer, written in the largest unit that is
/// exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// A text that is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseByteSizeError {
    /// The text does not start with a number.
    #[error("`{0}` is not a size: write a number and a unit, for example 64MiB")]
    NotANumber(String),
    /// The unit is not known.
    #[error("`{0}` is not a unit of size: use B, kB, MB, GB, TB, KiB, MiB, GiB, TiB or PiB")]
    UnknownUnit(String),
    /// A fraction that is no whole number of bytes.
    #[error("`{0}` is not a whole number of bytes")]
    Fraction(String),
    /// More than fits in 64 bits.
    #[error("`{0}` is more than {max} bytes", max = u64::MAX)]
    TooLarge(String),
}

impl ByteSize {
    /// This many bytes.
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// This many KiB (1024 bytes).
    ///
    /// # Panics
    /// If that does not fit in 64 bits; like its siblings it is for constants.
    pub const fn kib(count: u64) -> Self {
        Self::times(count, 1 << 10)
    }

    /// This many MiB (1024 KiB).
    ///
    /// # Panics
    /// If that does not fit in 64 bits.
    pub const fn mib(count: u64) -> Self {
        Self::times(count, 1 << 20)
    }

    /// This many GiB (1024 MiB).
    ///
    /// # Panics
    /// If that does not fit in 64 bits.
    pub const fn gib(count: u64) -> Self {
        Self::times(count, 1 << 30)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes; what this machine cannot address becomes the largest number that it can, which as a limit
    /// means the same.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    const fn times(count: u64, unit: u64) -> Self {
        Self(count.checked_mul(unit).expect("the size fits in 64 bits"))
    }
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
        let (number, unit) = (text[..split].replace('_', ""), text[split..].trim());
        let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
        if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
            return Err(ParseByteSizeError::NotANumber(text.to_owned()));
        }
        let wanted = unit.to_ascii_lowercase();
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == wanted) else {
            return Err(ParseByteSizeError::UnknownUnit(unit.to_owned()));
        };
        let too_large = || ParseByteSizeError::TooLarge(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let part = if fraction.is_empty() { 0 } else { exact_part(fraction, *factor, text)? };
        whole.checked_mul(*factor).and_then(|bytes| bytes.checked_add(part)).map(Self).ok_or_else(too_large)
    }
}

/// The bytes in the decimal `fraction` (its digits, without the point) of a unit.
fn exact_part(fraction: &str, factor: u64, text: &str) -> Result<u64, ParseByteSizeError> {
    let inexact = || ParseByteSizeError::Fraction(text.to_owned());
    let digits: u128 = fraction.parse().map_err(|_| inexact())?;
    let places = u32::try_from(fraction.len()).map_err(|_| inexact())?;
    let scale = 10u128.checked_pow(places).ok_or_else(inexact)?;
    let scaled = digits.checked_mul(u128::from(factor)).ok_or_else(inexact)?;
    if scaled % scale != 0 {
        return Err(inexact());
    }
    u64::try_from(scaled / scale).map_err(|_| inexact())
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.iter().find(|(_, bits)| self.0 != 0 && self.0.trailing_zeros() >= *bits) {
            Some((name, bits)) => write!(f, "{}{name}", self.0 >> bits),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 64MiB or a number of bytes")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ByteSize, E> {
                u64::try_from(value).map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<ByteSize, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17 B", 17),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("20 MB", 20_000_000),
            ("3kB", 3000),
            ("1.5GiB", 3 << 29),
            ("0.25 KiB", 256),
            ("1_000", 1000),
            ("2PiB", 2 << 50),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_what_is_wrong_with_it() {
        use ParseByteSizeError::{Fraction, NotANumber, TooLarge, UnknownUnit};
        let parse = |text: &str| text.parse::<ByteSize>().unwrap_err();
        assert_eq!(parse(""), NotANumber(String::new()));
        assert_eq!(parse("-1"), NotANumber("-1".into()));
        assert_eq!(parse("MiB"), NotANumber("MiB".into()));
        assert_eq!(parse("1."), NotANumber("1.".into()));
        assert_eq!(parse("1.2.3 MB"), NotANumber("1.2.3 MB".into()));
        assert_eq!(parse("3 miles"), UnknownUnit("miles".into()));
        assert_eq!(parse("64Mi"), UnknownUnit("Mi".into()));
        assert_eq!(parse("1.5"), Fraction("1.5".into()));
        assert_eq!(parse("0.3KiB"), Fraction("0.3KiB".into()));
        assert_eq!(parse("18446744073709551616"), TooLarge("18446744073709551616".into()));
        assert_eq!(parse("99999999PiB"), TooLarge("99999999PiB".into()));
    }

    #[test]
    fn a_size_is_written_in_the_largest_exact_unit_and_reads_back() {
        for (size, text) in [
            (ByteSize::bytes(0), "0B"),
            (ByteSize::bytes(1023), "1023B"),
            (ByteSize::kib(1), "1KiB"),
            (ByteSize::mib(64), "64MiB"),
            (ByteSize::gib(1), "1GiB"),
            (ByteSize::kib(1025), "1025KiB"),
        ] {
            assert_eq!(size.to_string(), text);
            assert_eq!(text.parse(), Ok(size));
        }
    }

    #[test]
    fn serde_takes_text_and_integers() {
        let read = |json: &str| serde_json::from_str::<ByteSize>(json);
        assert_eq!(read("\"64MiB\"").unwrap(), ByteSize::mib(64));
        assert_eq!(read("4096").unwrap(), ByteSize::kib(4));
        assert_eq!(serde_json::to_string(&ByteSize::kib(4)).unwrap(), "\"4KiB\"");
        assert!(read("-4").unwrap_err().to_string().contains("a size such as 64MiB"));
        assert!(read("true").is_err());
    }
}
