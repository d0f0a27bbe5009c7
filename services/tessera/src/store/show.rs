//! What is stored under a handle, in words and as JSON.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tessera_anyres::ImageSize;
use tessera_api::embedding::{StoredImage, Tiers};
use tessera_embedding::{EncoderFingerprint, ImageKey, Origin};
use tessera_store::{Listed, Stat};
use tessera_tensor::DType;

/// What is stored under a handle.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    image_size: ImageSize,
    /// Only a gateway, which knows the model, can tell.
    image_tokens: Option<usize>,
    dtype: DType,
    rows: usize,
    columns: usize,
    bytes: u64,
    tiers: Tiers,
    uploaded: bool,
    created: SystemTime,
    leased_until: Option<SystemTime>,
    encoder: EncoderFingerprint,
}

impl From<StoredImage> for About {
    fn from(stored: StoredImage) -> Self {
        Self {
            image_size: stored.image_size,
            image_tokens: Some(stored.image_tokens),
            dtype: stored.dtype,
            rows: stored.rows,
            columns: stored.columns,
            bytes: stored.bytes,
            tiers: stored.tiers,
            uploaded: stored.uploaded,
            created: stored.created,
            leased_until: stored.leased_until,
            encoder: stored.encoder,
        }
    }
}

impl From<Stat> for About {
    fn from(stat: Stat) -> Self {
        Self {
            image_size: stat.image_size,
            image_tokens: None,
            dtype: stat.dtype,
            rows: stat.shape.0,
            columns: stat.shape.1,
            bytes: stat.bytes,
            tiers: Tiers { memory: stat.memory, disk: stat.disk, shared: stat.remote },
            uploaded: stat.provenance.origin == Origin::Uploaded,
            created: stat.provenance.created,
            leased_until: stat.leased_until,
            encoder: stat.provenance.encoder,
        }
    }
}

/// One line of tab-separated fields.
pub(super) fn sentence(handle: &ImageKey, about: Option<&About>) -> String {
    let Some(about) = about else { return format!("{handle}\tnot stored") };
    let About { image_size, dtype, rows, columns, bytes, tiers, .. } = *about;
    let tokens = about.image_tokens.map(|count| format!(", {count} image tokens")).unwrap_or_default();
    let places = [(tiers.memory, "in memory"), (tiers.disk, "on disk"), (tiers.shared, "in the shared store")];
    let places: Vec<&str> = places.iter().filter(|(is_there, _)| *is_there).map(|&(_, name)| name).collect();
    let uploaded = if about.uploaded { ", uploaded" } else { "" };
    format!(
        "{handle}\t{} x {} pixels{tokens}, {rows} x {columns} {dtype}, {bytes} bytes\t{}\tof {}{uploaded}{}",
        image_size.width,
        image_size.height,
        places.join(", "),
        at(about.created),
        lease(about.leased_until),
    )
}

/// An object; `stored` is null for what is not.
pub(super) fn json(handle: &ImageKey, about: Option<&About>) -> Value {
    let stored = about.map(|about| {
        json!({
            "height": about.image_size.height,
            "width": about.image_size.width,
            "image_tokens": about.image_tokens,
            "data_type": about.dtype.name(),
            "rows": about.rows,
            "columns": about.columns,
            "bytes": about.bytes,
            "in_memory": about.tiers.memory,
            "on_disk": about.tiers.disk,
            "in_shared_store": about.tiers.shared,
            "uploaded": about.uploaded,
            "created_unix_seconds": unix_seconds(about.created),
            "leased_until_unix_seconds": about.leased_until.map(unix_seconds),
            "encoder": about.encoder.to_string(),
        })
    });
    json!({ "handle": handle.to_string(), "stored": stored })
}

/// One line of tab-separated fields.
pub(super) fn listed(listed: &Listed) -> String {
    format!("{}\t{} bytes\tused {}{}", listed.key, listed.bytes, at(listed.last_use), lease(listed.leased_until))
}

/// An object.
pub(super) fn listed_json(listed: &Listed) -> Value {
    json!({
        "handle": listed.key.to_string(),
        "bytes": listed.bytes,
        "used_unix_seconds": unix_seconds(listed.last_use),
        "leased_until_unix_seconds": listed.leased_until.map(unix_seconds),
    })
}

fn lease(until: Option<SystemTime>) -> String {
    until.map(|end| format!(", leased until {}", at(end))).unwrap_or_default()
}

/// Whole seconds since 1970; 0 for what was before.
fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A moment as RFC 3339 writes it, in UTC.
fn at(moment: SystemTime) -> String {
    /// The last second that it can write.
    const LAST: u64 = 253_402_300_799;
    let seconds = unix_seconds(moment).min(LAST);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_handle_is_told_in_a_line() {
        let about = About::from(StoredImage {
            image_size: ImageSize::new(480, 640),
            image_tokens: 1176,
            dtype: DType::F16,
            rows: 1152,
            columns: 1024,
            bytes: 2_360_000,
            tiers: Tiers { memory: true, disk: true, shared: false },
            uploaded: false,
            created: after(1_700_000_000),
            leased_until: Some(after(u64::MAX >> 2)),
            encoder: EncoderFingerprint::of(&[]),
        });
        let handle = "ab".repeat(32).parse().unwrap();
        let expected = format!(
            "{handle}\t640 x 480 pixels, 1176 image tokens, 1152 x 1024 f16, 2360000 bytes\tin memory, on disk\t\
             of 2023-11-14T22:13:20Z, leased until 9999-12-31T23:59:59Z"
        );
        assert_eq!(sentence(&handle, Some(&about)), expected);
        assert_eq!(json(&handle, Some(&about))["stored"]["columns"], 1024);
        assert_eq!(sentence(&handle, None), format!("{handle}\tnot stored"));
        assert_eq!(json(&handle, None)["stored"], Value::Null);
    }

    #[test]
    fn what_is_listed_is_a_line() {
        let key = "cd".repeat(32).parse().unwrap();
        let one = Listed { key, bytes: 4096, tenant: None, last_use: after(0), leased_until: Some(after(86_400)) };
        let expected = format!("{key}\t4096 bytes\tused 1970-01-01T00:00:00Z, leased until 1970-01-02T00:00:00Z");
        assert_eq!(listed(&one), expected);
        assert_eq!(listed_json(&one)["leased_until_unix_seconds"], 86_400);
    }
}
