//! What is written reads back; whatever else comes in is refused.

use proptest::prelude::*;

use super::*;
use crate::{EncoderFingerprint, TenantId};

fn key() -> ImageKey {
    ImageKey::of(b"salt", &EncoderFingerprint::of(&[b"e"]), b"image")
}

fn artifact(dtype: DType, rows: usize, channels: usize) -> Artifact {
    let values = (0..rows * channels).map(|n| n as f32 * 0.25 - 1.0).collect();
    let provenance = Provenance {
        encoder: EncoderFingerprint::of(&[b"e"]),
        tenant: TenantId::of(b"salt"),
        origin: Origin::Encoded,
        created: UNIX_EPOCH + Duration::from_secs(1_767_225_600),
        grid: ImageSize::new(336, 672),
    };
    let tensor = HostTensor::from_f32(vec![rows, channels], values).unwrap().to_dtype(dtype);
    Artifact::seal(ImageSize::new(480, 640), tensor, provenance)
}

/// One of every kind.
fn all() -> Vec<Artifact> {
    let plain = DType::ALL.map(|dtype| artifact(dtype, 3, 5));
    let eight = plain.clone().map(Artifact::quantize);
    plain.into_iter().chain(eight).chain([artifact(DType::F16, 0, 4), artifact(DType::F16, 0, 4).quantize()]).collect()
}

#[test]
fn what_is_written_reads_back_without_a_copy() {
    for artifact in all() {
        let bytes = artifact.to_bytes(&key());
        assert_eq!(bytes.len() as u64, artifact.to_file(&key()).len());
        let read = Artifact::from_bytes(&bytes, &key()).unwrap();
        assert_eq!(read, artifact);
        let (file, payload) = (bytes.as_ptr_range(), read.rows.payload()[0].as_ptr_range());
        assert!(file.start <= payload.start && payload.end <= file.end);
        assert_eq!((bytes.len() - read.bytes()) % ALIGNMENT, 0);

        let header = ArtifactHeader::read(&bytes[..bytes.len().min(HEADER_LIMIT)], bytes.len() as u64).unwrap();
        assert_eq!((header.key, header.shape, header.dtype), (key(), artifact.rows.shape(), artifact.rows.dtype()));
        assert_eq!((header.provenance, header.checksum), (artifact.provenance, artifact.checksum));
        assert_eq!((header.image_size, header.payload_bytes()), (artifact.image_size, artifact.bytes() as u64));
        assert_eq!(header, artifact.header(&key()));
    }
}

/// Files are kept for years: what was written once must be read, and written, the same way. If this fails, the version
/// must go up.
#[test]
fn the_bytes_of_version_one_stay_what_they_are() {
    let digest = |artifact: &Artifact| blake3::hash(&artifact.to_bytes(&key())).to_hex().to_string();
    let plain = artifact(DType::F16, 3, 5);
    let expected = [
        "fed08c7b4825b16695f918b900c7b3b7a150e3e27ae6905bd3123c0b32b0ae95",
        "5897d9c9dc7874e55bbc3757eafcef30a61c9bb05b6176279ee9ba12feacfc0b",
    ];
    assert_eq!([digest(&plain), digest(&plain.quantize())], expected);
}

#[test]
fn the_crate_reads_it_as_any_safetensors_file() {
    for artifact in all() {
        let bytes = artifact.to_bytes(&key());
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let features = file.tensor("features").unwrap();
        let (rows, channels) = artifact.rows.shape();
        assert_eq!(features.shape(), [rows, channels]);
        assert_eq!(features.data(), artifact.rows.payload()[0]);
        match &artifact.rows {
            Rows::Plain(_) => assert_eq!(file.len(), 1),
            Rows::Eight(eight) => {
                assert_eq!(features.dtype(), Dtype::I8);
                assert_eq!(file.tensor("scales").unwrap().data(), eight.scales());
            }
        }
    }
}

#[test]
fn each_thing_that_is_wrong_has_its_own_error() {
    let artifact = artifact(DType::F16, 3, 5);
    let bytes = artifact.to_bytes(&key());
    let other = ImageKey::of(b"", &EncoderFingerprint::of(&[]), b"other");
    let error = Artifact::from_bytes(&bytes, &other).unwrap_err();
    assert_eq!(error, ArtifactError::Key { found: key(), expected: other });

    let mut changed = bytes.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    let error = Artifact::from_bytes(&changed.into(), &key()).unwrap_err();
    assert_eq!(error, ArtifactError::Checksum { bytes: 30 });

    let replaced = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut changed = bytes.to_vec();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        Artifact::from_bytes(&changed.into(), &key()).unwrap_err()
    };
    assert_eq!(replaced("\"480\"", "\"481\""), ArtifactError::Seal);
    assert_eq!(replaced("\"version\":\"1\"", "\"version\":\"2\""), ArtifactError::Version("2".to_owned()));
    assert_eq!(
        replaced("tessera.artifact", "tessera.artefact").to_string(),
        "not a stored artifact: format is \"tessera.artefact\""
    );
    assert_eq!(
        replaced("\"shape\":[3,5]", "\"shape\":[5,3]").to_string(),
        "not a stored artifact: its tensors are not those that its metadata tells of"
    );
    assert_eq!(replaced("\"origin\"", "\"orygin\""), ArtifactError::Seal);
}

#[test]
fn a_header_as_long_as_it_likes_is_refused_before_it_is_read() {
    for length in [u64::MAX, 1 << 40, HEADER_LIMIT as u64] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b' '; 100]);
        let error = Artifact::from_bytes(&bytes.into(), &key()).unwrap_err();
        assert_eq!(error.to_string(), format!("not a stored artifact: a header of {length} bytes is too long"));
    }
}

#[test]
fn every_single_bit_counts() {
    for artifact in all() {
        let bytes = artifact.to_bytes(&key());
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Artifact::from_bytes(&changed.into(), &key()) {
                panic!("bit {bit} of {} was not missed: {read:?}", bytes.len() * 8);
            }
        }
    }
}

proptest! {
    /// Any part of a file, and any file with something behind it, is refused.
    #[test]
    fn a_file_of_another_length_is_refused(kind in 0usize..8, length in 0usize..2000) {
        let bytes = all()[kind].to_bytes(&key());
        let cut = length % bytes.len();
        prop_assert!(Artifact::from_bytes(&bytes.slice(..cut), &key()).is_err());
        prop_assert!(ArtifactHeader::read(&bytes[..cut], cut as u64).is_err());
        let longer = [&bytes[..], &vec![b' '; length + 1]].concat();
        prop_assert!(Artifact::from_bytes(&longer.into(), &key()).is_err());
    }

    /// Whatever stands where the header should be: an error, never a panic.
    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..300), prefix in any::<bool>()) {
        let bytes = if prefix { [&(noise.len() as u64).to_le_bytes()[..], &noise].concat() } else { noise };
        prop_assert!(Artifact::from_bytes(&bytes.into(), &key()).is_err());
    }

    /// A header that is JSON and lies about shapes and places.
    #[test]
    fn lies_about_shapes_are_refused(
        shape in prop::collection::vec(prop_oneof![0usize..10, Just(usize::MAX), Just(1 << 62)], 0..4),
        offsets in (prop_oneof![0usize..40, Just(usize::MAX)], prop_oneof![0usize..40, Just(usize::MAX)]),
        dtype in prop::sample::select(vec!["F16", "F32", "I8", "U8", "F64", "F4"]),
    ) {
        let bytes = artifact(DType::F16, 3, 5).to_bytes(&key());
        let honest = r#""features":{"dtype":"F16","shape":[3,5],"data_offsets":[0,30]}"#;
        let lie = format!(r#""features":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{},{}]}}"#, offsets.0, offsets.1);
        prop_assume!(lie != honest);
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..start]).unwrap();
        prop_assert!(header.contains(honest));
        let header = header.replace(honest, &lie);
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[start..]].concat();
        prop_assert!(Artifact::from_bytes(&bytes.into(), &key()).is_err());
    }
}

#[test]
fn a_header_that_is_spaced_otherwise_says_the_same() {
    let mut padded = 0;
    for artifact in all() {
        let written = artifact.to_bytes(&key());
        let start = written.len() - artifact.bytes();
        if written[start - 1] == b' ' {
            let mut file = written.to_vec();
            file[start - 1] = b'\t';
            assert_eq!(Artifact::from_bytes(&file.into(), &key()).unwrap(), artifact);
            padded += 1;
        }
    }
    assert!(padded > 0, "one of these headers is padded");
}
