//! Checks that several messages share.

use std::time::{Duration, SystemTime};

use tessera_anyres::ImageSize;
use tessera_embedding::ImageKey;

use crate::Error;
use crate::error::Result;
use crate::proto::embedding::v1 as proto;

/// Reads a 32-byte image key.
pub(crate) fn key(field: &str, bytes: &[u8]) -> Result<ImageKey> {
    ImageKey::try_from(bytes).map_err(|error| Error::field("KEY_INVALID", field, error.to_string()))
}

/// Reads an image size; both sides are at least 1.
pub(crate) fn image_size(field: &str, size: Option<proto::ImageSize>) -> Result<ImageSize> {
    match size {
        Some(proto::ImageSize { height, width }) if height > 0 && width > 0 => Ok(ImageSize { height, width }),
        Some(size) => {
            let description = format!("{}x{} is no image size", size.width, size.height);
            Err(Error::field("IMAGE_SIZE_INVALID", field, description))
        }
        None => Err(missing(field)),
    }
}

/// The error of a field that must be set.
pub(crate) fn missing(field: &str) -> Error {
    Error::field("FIELD_MISSING", field, "must be set")
}

/// The error of a field outside its range.
pub(crate) fn out_of_range(field: &str, value: impl std::fmt::Display, range: &str) -> Error {
    Error::field("VALUE_OUT_OF_RANGE", field, format!("{value} is not {range}"))
}

/// Counts are far below `u32::MAX`: every prompt fits a context.
pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Whole microseconds, saturating.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Whole seconds since 1970; 0 for what was before.
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The moment of so many seconds since 1970; none for 0 and for what no clock shows.
pub(crate) fn at_unix_seconds(seconds: u64) -> Option<SystemTime> {
    if seconds == 0 { None } else { SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) }
}

impl From<ImageSize> for proto::ImageSize {
    fn from(size: ImageSize) -> Self {
        Self { height: size.height, width: size.width }
    }
}
