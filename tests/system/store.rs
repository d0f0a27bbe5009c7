//! The store of a vision worker, read as a language worker or any other client reads it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tessera_api::ErrorKind;
use tessera_api::embedding::{FetchRequest, Representation};
use tessera_api::proto::embedding::v1 as proto;
use tessera_embedding::{ImageFeatures, ImageKey};
use tessera_tensor::{DType, HostTensor};
use tessera_testkit::{FAMILIES, Golden, distance, picture};

use crate::cluster::{Cluster, limited};

fn fetch(key: ImageKey, representation: Representation, wait: Duration) -> proto::FetchRequest {
    FetchRequest { key, representation, wait, offset: 0 }.into()
}

/// The first picture of the test kit and its key.
async fn image(cluster: &Cluster) -> (Bytes, ImageKey) {
    let image = Bytes::from(picture("one_image", 0));
    let key = ImageKey::of(&[], &cluster.fingerprint().await, &image);
    (image, key)
}

#[test]
fn an_unknown_key_is_not_found_at_once() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let (image, key) = image(&cluster).await;
        let began = Instant::now();
        let error = cluster.fetch(fetch(key, Representation::Features, Duration::ZERO)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::NotFound, "EMBEDDING_NOT_FOUND"));
        assert_eq!(error.metadata, [("key".into(), key.to_string())]);
        assert!(began.elapsed() < Duration::from_secs(5));
        // A wait that is over says the same, and the store goes on.
        let error = cluster.fetch(fetch(key, Representation::Features, Duration::from_millis(20))).await.unwrap_err();
        assert_eq!(error.reason, "EMBEDDING_NOT_FOUND");
        cluster.encode(image, key.as_bytes()).await.unwrap();
        assert!(cluster.fetch(fetch(key, Representation::Features, Duration::ZERO)).await.is_ok());
    });
}

#[test]
fn who_asks_before_the_encoding_gets_it_when_it_is_done() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let (image, key) = image(&cluster).await;
        let early = cluster.fetch(fetch(key, Representation::Features, Duration::from_secs(30)));
        // The worker has answered others by the time that the image comes.
        let late = async {
            cluster.fingerprint().await;
            cluster.encode(image, key.as_bytes()).await
        };
        let (early, late) = tokio::join!(early, late);
        let (early, encoded) = (early.unwrap(), late.unwrap());
        assert!(!encoded.stored_before);
        assert_eq!(early, cluster.fetch(fetch(key, Representation::Features, Duration::ZERO)).await.unwrap());
        assert_eq!(early.0.image_size, encoded.image_size);
    });
}

#[test]
fn those_who_wait_for_an_image_that_is_none_are_told() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let whole = picture("one_image", 0);
        let image = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
        let key = ImageKey::of(&[], &cluster.fingerprint().await, &image);
        let waiting = cluster.fetch(fetch(key, Representation::Features, Duration::from_secs(50)));
        tokio::pin!(waiting);
        // Whoever asks after a failure waits for the next try: the image is sent until the one who waits was in time.
        let error = loop {
            tokio::select! {
                waited = &mut waiting => break waited.unwrap_err(),
                encoded = cluster.encode(image.clone(), key.as_bytes()) => {
                    assert_eq!(encoded.unwrap_err().reason, "IMAGE_TRUNCATED");
                }
            }
        };
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "IMAGE_TRUNCATED"));
    });
}

#[test]
fn a_key_that_is_none_is_refused() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let (_, key) = image(&cluster).await;
        let good = fetch(key, Representation::Features, Duration::ZERO);
        let short = proto::FetchRequest { key: good.key.slice(..31), ..good.clone() };
        let strange = proto::FetchRequest { representation: 99, ..good };
        for (wrong, reason, field) in [(short, "KEY_INVALID", "key"), (strange, "VALUE_OUT_OF_RANGE", "representation")]
        {
            let error = cluster.fetch(wrong).await.unwrap_err();
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, reason));
            assert_eq!(error.fields[0].field, field);
        }
    });
}

#[test]
fn payloads_are_what_their_headers_say_and_what_the_reference_computed() {
    for family in FAMILIES.into_iter().filter(|family| *family != "mistral_hub_fp16") {
        limited(async {
            let cluster = Cluster::of(family).await;
            let (image, key) = image(&cluster).await;
            let encoded = cluster.encode(image, key.as_bytes()).await.unwrap();
            for representation in [Representation::Features, Representation::Projected] {
                let (header, payload) = cluster.fetch(fetch(key, representation, Duration::ZERO)).await.unwrap();
                assert_eq!((header.representation, header.dtype), (representation, DType::F32));
                assert_eq!(header.payload_bytes(), Some(payload.len()));
                let rows = HostTensor::new(header.dtype, vec![header.rows, header.columns], payload).unwrap();
                let opened = ImageFeatures::open(header.image_size, rows, header.checksum).expect("the checksum fits");
                if representation == Representation::Projected {
                    let golden = Golden::load(family, "one_image").packed_features.unwrap();
                    assert_eq!((header.rows, opened.rows.shape()), (encoded.image_tokens, golden.shape()));
                    let largest = distance(&opened.rows.to_f32(), &golden.to_f32());
                    assert!(largest <= 1e-4, "{family}: {largest}");
                }
            }
        });
    }
}

#[test]
fn keys_are_shared_by_models_with_equal_towers_and_by_no_others() {
    limited(async {
        let ours = Cluster::of("mistral").await;
        let (image, key) = image(&ours).await;
        // Features are what the tower makes of a file: the decoder behind them does not matter.
        assert_eq!(ours.fingerprint().await, Cluster::of("vicuna").await.fingerprint().await);
        for other in ["vicuna_layers", "mistral_oddgrid"] {
            let theirs = Cluster::of(other).await;
            assert_ne!(ours.fingerprint().await, theirs.fingerprint().await, "{other}");
            assert_eq!(theirs.encode(image.clone(), key.as_bytes()).await.unwrap_err().reason, "KEY_MISMATCH");
        }
    });
}
