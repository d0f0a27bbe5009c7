//! Sealing, opening and rounding of artifacts.

use super::*;

fn provenance(created: SystemTime) -> Provenance {
    Provenance {
        encoder: EncoderFingerprint::of(&[b"e"]),
        tenant: TenantId::of(b"t"),
        origin: Origin::Encoded,
        created,
        grid: ImageSize::new(336, 672),
    }
}

fn tensor(shape: Vec<usize>) -> HostTensor {
    let count = shape.iter().product::<usize>();
    HostTensor::from_f32(shape, (0..count).map(|n| n as f32 - 3.0).collect()).unwrap()
}

#[test]
fn a_changed_payload_is_refused() {
    let (size, provenance) = (ImageSize { height: 3, width: 4 }, provenance(UNIX_EPOCH));
    for artifact in [
        Artifact::seal(size, tensor(vec![2, 4]), provenance),
        Artifact::seal(size, tensor(vec![2, 4]), provenance).quantize(),
    ] {
        let Artifact { rows, checksum, .. } = artifact.clone();
        assert_eq!(Artifact::open(size, rows, provenance, checksum).unwrap(), artifact);
        assert!(artifact.is_intact());
        let bytes = artifact.bytes();
        let error = Artifact::open(size, tensor(vec![4, 2]).to_dtype(DType::F16), provenance, checksum).unwrap_err();
        assert_eq!(error, ArtifactError::Checksum { bytes: 16 });
        assert!(artifact.occupied_bytes() > bytes as u64);
    }
}

#[test]
fn eight_bits_take_a_quarter_and_say_where_they_come_from() {
    let plain =
        Artifact::seal(ImageSize::new(1, 1), tensor(vec![2, 1024]).to_dtype(DType::BF16), provenance(UNIX_EPOCH));
    let eight = plain.clone().quantize();
    assert_eq!((plain.bytes(), eight.bytes()), (4096, 2048 + 8));
    assert_eq!((plain.rows.shape(), eight.rows.shape()), ((2, 1024), (2, 1024)));
    assert_eq!((eight.rows.dtype(), eight.rows.to_tensor().dtype()), (DType::BF16, DType::BF16));
    assert_ne!(plain.checksum, eight.checksum);
    assert_eq!(eight.clone().quantize(), eight);
    let data = plain.rows.to_tensor();
    assert_eq!(data.data().as_ptr(), plain.rows.payload()[0].as_ptr(), "plain rows are not copied");
}

#[test]
fn rows_that_no_byte_can_stand_for_stay_as_they_are() {
    let wild = HostTensor::from_f32(vec![1, 2], vec![1.0, f32::NAN]).unwrap();
    let artifact = Artifact::seal(ImageSize::new(1, 1), wild, provenance(UNIX_EPOCH));
    let checksum = artifact.checksum;
    assert_eq!(artifact.quantize().checksum, checksum);
}

#[test]
fn a_tensor_of_any_axes_has_rows_and_channels() {
    let shape = |shape: Vec<usize>| Rows::from(tensor(shape)).shape();
    assert_eq!(shape(vec![2, 3, 4]), (2, 12));
    assert_eq!(shape(vec![5]), (5, 1));
    assert_eq!(shape(vec![]), (1, 1));
    assert_eq!(shape(vec![0, 4]), (0, 4));
}

#[test]
fn times_are_whole_seconds() {
    let created = UNIX_EPOCH + Duration::from_millis(1_700_000_000_999);
    let artifact = Artifact::seal(ImageSize::new(1, 1), tensor(vec![1, 1]), provenance(created));
    assert_eq!(artifact.provenance.created, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let before = UNIX_EPOCH - Duration::from_secs(5);
    assert_eq!(
        Artifact::seal(ImageSize::new(1, 1), tensor(vec![1, 1]), provenance(before)).provenance.created,
        UNIX_EPOCH
    );
}
