//! Image identity, the artifact that is stored under it, and the store of a vision worker.

mod artifact;
mod key;
mod store;

pub use artifact::{Artifact, ArtifactError};
pub use key::{EncoderFingerprint, ImageKey, KeyError};
pub use store::{Abandoned, Begin, Busy, Joined, Lead, Store, StoreOptions, WaitError};
