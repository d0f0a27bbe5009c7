//! The lines of a manifest and of `--json`: one JSON object each.

use std::borrow::Cow;
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tessera_anyres::ImageSize;
use tessera_api::Error;
use tessera_api::gateway::Encoded;

/// The form of a manifest that this program writes and reads.
pub(super) const VERSION: u32 = 1;

/// An image file, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageFile {
    /// As the user gave it, or as it was found below what the user gave.
    pub(super) path: String,
    pub(super) stamp: Stamp,
}

/// What changes when somebody writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) size: u64,
    /// 0 where the system does not tell, and for what is older than 1970.
    pub(super) modified_unix_nanoseconds: u64,
}

/// The line of a manifest in front of the first image that is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) tessera_manifest: u32,
    /// Fingerprint of what encoded the images.
    pub(super) encoder: String,
}

/// An image that is stored.
#[derive(Debug, Serialize)]
pub(super) struct Done<'a> {
    path: &'a str,
    handle: String,
    width: u32,
    height: u32,
    /// In pixels.
    grid: Size,
    tiles: usize,
    image_tokens: usize,
    #[serde(flatten)]
    stamp: Stamp,
    stored_before: bool,
    durable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    leased_until_unix_seconds: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Size {
    width: u32,
    height: u32,
}

/// Why an image is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    pub(super) path: String,
    /// For people.
    pub(super) error: String,
    /// For programs: the gateway's, or one of `NOT_KEPT`, `UNREADABLE`, `PATH_NOT_TEXT`, `PATTERN_INVALID` and
    /// `NO_MATCH`.
    pub(super) reason: Cow<'static, str>,
}

impl Stamp {
    /// Of a file with these metadata.
    pub(super) fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let nanoseconds = modified.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        Self { size: metadata.len(), modified_unix_nanoseconds: nanoseconds }
    }
}

impl<'a> Done<'a> {
    /// What became of `file`.
    pub(super) fn new(file: &'a ImageFile, encoded: &Encoded) -> Self {
        let image = encoded.image;
        let size = |ImageSize { height, width }| Size { width, height };
        let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            path: &file.path,
            handle: image.key.to_string(),
            width: image.image_size.width,
            height: image.image_size.height,
            grid: size(image.grid),
            tiles: image.tiles,
            image_tokens: image.image_tokens,
            stamp: file.stamp,
            stored_before: encoded.stored_before,
            durable: encoded.durable,
            leased_until_unix_seconds: encoded.leased_until.map(since),
        }
    }
}

impl Failure {
    /// Of a file or folder that cannot be read.
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::new(path, format!("cannot be read: {error}"), "UNREADABLE")
    }

    /// Of what the user named.
    pub(super) fn new(path: &Path, error: String, reason: &'static str) -> Self {
        Self { path: path.to_string_lossy().into_owned(), error, reason: Cow::Borrowed(reason) }
    }

    /// Of an image that was encoded for nothing.
    pub(super) fn not_kept(path: String) -> Self {
        let error = "was encoded, but the store did not take it: is it there, and has it room?".into();
        Self { path, error, reason: Cow::Borrowed("NOT_KEPT") }
    }

    /// Of an image that the gateway refused.
    pub(super) fn refused(path: String, error: Error) -> Self {
        // The field of the request says nothing to somebody who sent files.
        let message = error.message.strip_prefix("image: ").unwrap_or(&error.message).to_owned();
        Self { path, error: message, reason: error.reason }
    }
}

#[cfg(test)]
mod tests {
    use tessera_api::ErrorKind;
    use tessera_api::gateway::ImagePlan;

    use super::*;

    #[test]
    fn a_line_says_what_became_of_an_image() {
        let stamp = Stamp { size: 12, modified_unix_nanoseconds: 1_700_000_000_123_456_789 };
        let file = ImageFile { path: "a/ü \"1\".png".into(), stamp };
        let image = ImagePlan {
            key: "ab".repeat(32).parse().unwrap(),
            image_size: ImageSize::new(480, 640),
            grid: ImageSize::new(672, 336),
            tiles: 3,
            image_tokens: 1176,
        };
        let encoded = Encoded {
            image,
            stored_before: false,
            durable: true,
            leased_until: None,
            encode: std::time::Duration::from_millis(3),
        };
        let line = serde_json::to_string(&Done::new(&file, &encoded)).unwrap();
        let expected = format!(
            r#"{{"path":"a/ü \"1\".png","handle":"{}","width":640,"height":480,"grid":{{"width":336,"height":672}},"tiles":3,"image_tokens":1176,"size":12,"modified_unix_nanoseconds":1700000000123456789,"stored_before":false,"durable":true}}"#,
            "ab".repeat(32)
        );
        assert_eq!(line, expected);

        let refused = Error::new(ErrorKind::Invalid, "IMAGE_EMPTY", "image: has no bytes");
        let line = serde_json::to_string(&Failure::refused("b".into(), refused)).unwrap();
        assert_eq!(line, r#"{"path":"b","error":"has no bytes","reason":"IMAGE_EMPTY"}"#);
    }
}
