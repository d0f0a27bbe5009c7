//! What an operator can set about images; the gateway and the vision workers of one pool must agree on it.

use serde::{Deserialize, Serialize};
use tessera_config::{ByteSize, Problems, Validate};

use crate::{DecodeOptions, Limits, Resizer, Source};

/// Bounds and routes of decoding and resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSettings {
    /// Longest file.
    pub max_file: ByteSize,
    /// Most pixels: height times width.
    pub max_pixels: u64,
    /// Longest side in pixels.
    pub max_side: u32,
    /// Which of the reference's two ways of opening an image is followed.
    pub source: Source,
    /// Which of the reference's resizers is followed.
    pub resizer: Resizer,
}

impl Default for ImageSettings {
    fn default() -> Self {
        let Limits { bytes, pixels, side } = Limits::default();
        Self {
            max_file: ByteSize::bytes(bytes as u64),
            max_pixels: pixels,
            max_side: side,
            source: Source::default(),
            resizer: Resizer::default(),
        }
    }
}

impl ImageSettings {
    /// Returns the bounds.
    pub fn limits(&self) -> Limits {
        Limits { bytes: self.max_file.as_usize(), pixels: self.max_pixels, side: self.max_side }
    }

    /// Returns how an image is decoded.
    pub fn decode(&self) -> DecodeOptions {
        DecodeOptions { limits: self.limits(), source: self.source }
    }
}

impl Validate for ImageSettings {
    fn validate(&self, problems: &mut Problems) {
        let positive =
            [("max_file", self.max_file.as_u64()), ("max_pixels", self.max_pixels), ("max_side", self.max_side.into())];
        for (key, _) in positive.iter().filter(|(_, value)| *value == 0) {
            problems.add(key, "must be at least 1");
        }
    }
}
