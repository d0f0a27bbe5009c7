//! Keys and artifacts for the tests of all files.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tessera_anyres::ImageSize;
use tessera_embedding::{Artifact, EncoderFingerprint, ImageKey, Origin, Provenance, TenantId};
use tessera_tensor::HostTensor;

use crate::Abandoned;

/// What an encoding fails with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Why(pub(crate) &'static str);

impl From<Abandoned> for Why {
    fn from(_: Abandoned) -> Self {
        Self("abandoned")
    }
}

pub(crate) fn encoder() -> EncoderFingerprint {
    EncoderFingerprint::of(&[b"encoder"])
}

pub(crate) fn key(n: u32) -> ImageKey {
    ImageKey::of(b"", &encoder(), &n.to_le_bytes())
}

/// An artifact of a tenant; its file takes `blocks` times 4 KiB.
pub(crate) fn artifact_of(tenant: &TenantId, blocks: usize) -> Artifact {
    let channels = (blocks * 4096 - 2048) / 4;
    let features = HostTensor::from_f32(vec![1, channels], vec![0.5; channels]).unwrap();
    let grid = ImageSize::new(336, 336);
    let provenance = Provenance { encoder: encoder(), tenant: *tenant, origin: Origin::Encoded, created: noon(), grid };
    Artifact::seal(ImageSize::new(3, 4), features, provenance)
}

pub(crate) fn artifact(blocks: usize) -> Artifact {
    artifact_of(&TenantId::of(b""), blocks)
}

/// What an artifact takes of the memory tier.
pub(crate) fn occupied(blocks: usize) -> u64 {
    artifact(blocks).occupied_bytes()
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A time that does not depend on when the test runs.
pub(crate) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + seconds(1_800_000_000)
}

/// The files of a folder that may hold artifacts, with what they take of the disk.
pub(crate) fn files(folder: &std::path::Path) -> Vec<(PathBuf, u64)> {
    let parts = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = parts.flat_map(|part| std::fs::read_dir(part).unwrap().map(|entry| entry.unwrap().path()));
    files.map(|path| (path.clone(), path.symlink_metadata().unwrap().len().next_multiple_of(4096))).collect()
}
