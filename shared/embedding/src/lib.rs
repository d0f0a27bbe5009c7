//! Image identity, and the artifact that is kept under it: features, where they come from, and the file that holds them.

mod artifact;
mod eight;
mod features;
mod key;
mod salt;
mod wait;

pub use artifact::format::{ArtifactFile, ArtifactHeader, HEADER_LIMIT};
pub use artifact::{Artifact, ArtifactError, Origin, Provenance, Rows};
pub use eight::EightBit;
pub use features::ImageFeatures;
pub use key::{DecoderFingerprint, EncoderFingerprint, HexError, ImageKey, KeyError, TenantId};
pub use salt::Salt;
pub use wait::{Abandoned, Busy, WaitError};
