//! Stored artifacts that somebody changed: none is read as another one. How a header's JSON is spaced is not part of what it says.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use tessera_anyres::ImageSize;
use tessera_embedding::{Artifact, ArtifactHeader, EncoderFingerprint, ImageKey, Origin, Provenance, TenantId};
use tessera_tensor::{DType, HostTensor};
use tessera_testkit::{damaged, default_cases, peak};

fn key() -> ImageKey {
    ImageKey::of(b"", &EncoderFingerprint::of(&[]), b"an image")
}

static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(corpus);

/// One of each type, plain and in eight bits, of several shapes.
fn corpus() -> Vec<Vec<u8>> {
    let provenance = |origin| Provenance {
        encoder: EncoderFingerprint::of(&[]),
        tenant: TenantId::of(b"tenant"),
        origin,
        created: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        grid: ImageSize { height: 672, width: 672 },
    };
    let mut files = Vec::new();
    for (dtype, rows, columns) in [(DType::F16, 3, 5), (DType::F32, 7, 4), (DType::BF16, 1, 64), (DType::F16, 0, 5)] {
        let bytes = vec![0x11; rows * columns * dtype.size_bytes()];
        let tensor = HostTensor::new(dtype, vec![rows, columns], bytes.into()).unwrap();
        let size = ImageSize { height: 37, width: 29 };
        for origin in [Origin::Encoded, Origin::Uploaded] {
            let artifact = Artifact::seal(size, tensor.clone(), provenance(origin));
            files.push(artifact.to_bytes(&key()).to_vec());
            files.push(artifact.quantize().to_bytes(&key()).to_vec());
        }
    }
    files
}

proptest! {
    #![proptest_config(default_cases(4000))]

    #[test]
    fn a_changed_artifact_is_refused_in_little_memory(file in damaged(CORPUS.clone())) {
        let is_whole = CORPUS.contains(&file);
        let is_of_the_corpus = |artifact: &Artifact| CORPUS.iter().any(|one| *one == artifact.to_bytes(&key()));
        let length = file.len();
        let file = bytes::Bytes::from(file);
        let (read, taken) = peak(|| Artifact::from_bytes(&file, &key()));
        prop_assert!(!is_whole || read.is_ok(), "{:?}", read);
        prop_assert!(read.as_ref().map_or(true, is_of_the_corpus), "{:?}", read);
        prop_assert!(taken < 8 * length + (64 << 10), "{} bytes for {}", taken, length);
        // Its header alone may be whole, but then it is one of those that there are.
        let (header, taken) = peak(|| ArtifactHeader::read(&file, length as u64));
        if let Ok(header) = header {
            prop_assert_eq!(header.key, key());
        }
        prop_assert!(taken < 8 * length + (64 << 10), "{} bytes for {}", taken, length);
    }
}
