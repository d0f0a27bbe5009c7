//! Images that were encoded before: handles, batches, uploads, leases, ends, as a gateway's clients use them.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tessera_api::embedding::{DeleteRequest, MAX_KEYS, Representation, Upload, key_bytes, upload_parts};
use tessera_api::gateway::{BatchRequest, EncodeRequest, ImageSource, Part};
use tessera_api::proto::embedding::v1 as embedding_proto;
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::{Error, ErrorKind};
use tessera_client::{Ask, Image};
use tessera_config::Secret;
use tessera_embedding::{ImageKey, Salt};
use tessera_tensor::HostTensor;
use tessera_testkit::{Golden, distance, picture};

use crate::client::{Client, assert_reference, by_handles};
use crate::cluster::{Cluster, limited};
use crate::running::Running;

#[test]
fn handles_stand_for_their_images() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let client = Client::of(&cluster.gateway);
        let mut handles = Vec::new();
        for index in 0..2 {
            let encoded = client.encode(picture("two_images", index)).await.unwrap();
            assert!(!encoded.stored_before && encoded.encode > Duration::ZERO);
            assert!(client.encode(picture("two_images", index)).await.unwrap().stored_before);
            let stored = client.stat(encoded.image.key).await.unwrap();
            assert_eq!(
                (stored.image_size, stored.image_tokens),
                (encoded.image.image_size, encoded.image.image_tokens)
            );
            assert!(stored.tiers.memory && !stored.uploaded && stored.bytes > 0);
            assert_eq!(stored.encoder, cluster.fingerprint().await);
            handles.push(encoded.image.key);
        }
        let reply = cluster.ask(by_handles("two_images", &handles)).await.unwrap();
        assert_reference(&reply, "mistral", "two_images");
        assert_eq!(reply.finished.timings.images_stored_before, 2);
        // A handle and a file beside one another.
        let mut mixed = by_handles("two_images", &handles);
        let parts = mixed.input.parts_mut();
        let image = parts.filter(|part| matches!(part, Part::Image(_))).nth(1).unwrap();
        *image = Part::Image(ImageSource::File(picture("two_images", 1).into()));
        assert_reference(&cluster.ask(mixed).await.unwrap(), "mistral", "two_images");
    });
}

#[test]
fn a_handle_that_is_gone_is_named() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let client = Client::of(&cluster.gateway);
        let key = client.encode(picture("one_image", 0)).await.unwrap().image.key;
        client.forget(key).await;
        assert_eq!(client.stat(key).await, None);
        let error = cluster.ask(by_handles("one_image", &[key])).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::NotFound, "EMBEDDING_NOT_FOUND"));
        assert!(error.metadata.contains(&("key".into(), key.to_string())), "{error:?}");
        assert!(error.message.contains("messages[0].parts[0].image"), "{error}");
        // The file itself is taken as ever, and by the library in place of the handle.
        cluster.answers_as_the_reference("mistral", "one_image").await;
        client.forget(key).await;
        let ask = Ask::new("What is shown in this image?").image(Image::stored_or(key, picture("one_image", 0)));
        let ask = ask.max_tokens(16).temperature(0.0);
        let reply = client.library.generate(ask).await.unwrap().finish().await.unwrap();
        let expected = Golden::load("mistral", "one_image").greedy[0].clone();
        assert_eq!((&reply.samples[0].token_ids, reply.started.images[0].key), (&expected, key));
    });
}

#[test]
fn rows_come_with_an_encoding_if_they_are_asked_for() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let client = Client::of(&cluster.gateway);
        let image: Bytes = picture("one_image", 0).into();
        let asked = EncodeRequest { image, lease: None, rows: Some(Representation::Projected) };
        let (encoded, rows) = client.encode_with(asked).await.unwrap();
        let (header, payload) = rows.unwrap();
        let golden = Golden::load("mistral", "one_image").packed_features.unwrap();
        assert_eq!(
            ([header.rows, header.columns].as_slice(), header.rows),
            (golden.shape(), encoded.image.image_tokens)
        );
        let rows = HostTensor::new(header.dtype, vec![header.rows, header.columns], payload.into()).unwrap();
        assert!(distance(&rows.to_f32(), &golden.to_f32()) <= 1e-4);
    });
}

#[test]
fn a_fetch_goes_on_where_it_broke_off() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let client = Client::of(&cluster.gateway);
        let key = client.encode(picture("one_image", 0)).await.unwrap().image.key;
        let (header, whole) = client.fetch(key, 0).await.unwrap();
        for offset in [1, whole.len() / 2, whole.len()] {
            assert_eq!(client.fetch(key, offset as u64).await.unwrap(), (header, whole[offset..].to_vec()));
        }
        let error = client.fetch(key, whole.len() as u64 + 1).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "OFFSET_OUT_OF_RANGE"));
    });
}

#[test]
fn a_batch_answers_for_each_image_and_none_suffers_from_another() {
    limited(async {
        // Room for the tiles of one image: the others are tried again until they have been encoded.
        let cluster = Cluster::start("mistral", |settings| settings.vision.batch.waiting_tiles = 5).await;
        let client = Client::of(&cluster.gateway);
        let image = |id: &str, image: Vec<u8>| proto::EncodeBatchRequest {
            id: id.into(),
            image: image.into(),
            in_order: true,
            ..Default::default()
        };
        let whole = picture("portrait", 0);
        let requests = vec![
            image("a", picture("one_image", 0)),
            image("cut", whole[..whole.len() / 2].to_vec()),
            image("b", whole.clone()),
            image("empty", Vec::new()),
            image("c", picture("two_images", 1)),
            image("again", whole),
        ];
        let answers = client.batch(requests.clone()).await.unwrap();
        let ids: Vec<&str> = answers.iter().map(|answer| answer.id.as_str()).collect();
        assert_eq!(ids, ["a", "cut", "b", "empty", "c", "again"]);
        let reasons: Vec<_> = answers.iter().filter_map(|answer| answer.outcome.as_ref().err()).collect();
        let reasons: Vec<&str> = reasons.iter().map(|error| error.reason.as_ref()).collect();
        assert_eq!(reasons, ["IMAGE_TRUNCATED", "IMAGE_EMPTY"]);
        let key = |index: usize| answers[index].outcome.as_ref().unwrap().image.key;
        assert_eq!(key(2), key(5));
        assert_ne!(key(0), key(4));
        let reply = cluster.ask(by_handles("portrait", &[key(2)])).await.unwrap();
        assert_reference(&reply, "mistral", "portrait");

        // In any order, the same answers; all of them are stored by now.
        let any = requests.into_iter().map(|request| proto::EncodeBatchRequest { in_order: false, ..request });
        let mut again = client.batch(any.collect()).await.unwrap();
        again.sort_by_key(|answer| ids.iter().position(|id| *id == answer.id));
        for (first, second) in answers.iter().zip(&again) {
            let second = second.outcome.as_ref().map(|encoded| (encoded.image.key, encoded.stored_before));
            assert_eq!(second.ok(), first.outcome.as_ref().ok().map(|encoded| (encoded.image.key, true)));
        }
    });
}

#[test]
fn what_is_wrong_with_a_batchs_image_is_told_in_the_clients_words() {
    let long = BatchRequest::from(proto::EncodeBatchRequest { id: "i".repeat(2000), ..Default::default() });
    assert_eq!(long.image.unwrap_err().reason, "ID_TOO_LONG");
}

#[test]
fn an_upload_is_asked_about_as_the_image_that_it_came_from() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let client = Client::of(&cluster.gateway);
        let encoded = client.encode(picture("one_image", 0)).await.unwrap().image;
        let (header, payload) = client.fetch(encoded.key, 0).await.unwrap();
        let features = HostTensor::new(header.dtype, vec![header.rows, header.columns], payload.into()).unwrap();
        let upload = |features: &HostTensor| Upload {
            image_size: encoded.image_size,
            features: features.clone(),
            tenant_salt: Salt::default(),
        };
        let uploaded = client.put(upload(&features)).await.unwrap();
        assert!(!uploaded.stored_before && uploaded.image_tokens == encoded.image_tokens);
        // The same rows, but an identity of their own.
        assert_ne!(uploaded.key, encoded.key);
        assert!(client.put(upload(&features)).await.unwrap().stored_before);
        assert!(client.stat(uploaded.key).await.unwrap().uploaded);
        let reply = cluster.ask(by_handles("one_image", &[uploaded.key])).await.unwrap();
        assert_reference(&reply, "mistral", "one_image");

        let mut values = features.to_f32();
        values[7] = f32::NAN;
        let nan = HostTensor::from_f32(features.shape().to_vec(), values).unwrap();
        let short = features.narrow(1, header.rows - 1).unwrap();
        for (wrong, reason) in [(nan, "UPLOAD_NOT_FINITE"), (short, "UPLOAD_SHAPE")] {
            let error = client.put(upload(&wrong)).await.unwrap_err();
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, reason), "{error}");
        }
        let mut parts: Vec<_> = upload_parts(upload(&features)).unwrap().collect();
        parts.pop();
        let error = Error::from(client.store().put(futures::stream::iter(parts)).await.unwrap_err());
        assert_eq!(error.reason, "UPLOAD_LENGTH");
    });
}

#[test]
fn leases_are_promised_shown_and_ended() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let client = Client::of(&cluster.gateway);
        let image: Bytes = picture("one_image", 0).into();
        let hour = Duration::from_secs(3600);
        let asked = EncodeRequest { image, lease: Some(hour), rows: None };
        let (encoded, _) = client.encode_with(asked).await.unwrap();
        let key = encoded.image.key;
        let end = encoded.leased_until.unwrap();
        let left = end.duration_since(SystemTime::now()).unwrap();
        // Rounded up to a whole second.
        assert!(left <= hour + Duration::from_secs(1) && left > hour - Duration::from_secs(60), "{left:?}");
        assert_eq!(client.stat(key).await.unwrap().leased_until, Some(end));

        let unknown = ImageKey::of(b"", &cluster.fingerprint().await, b"never encoded");
        let ends = client.lease(vec![unknown, key], hour * 2).await.unwrap();
        assert!(ends[0].is_none() && ends[1].unwrap() > end, "{ends:?}");
        let release = || embedding_proto::ReleaseRequest { keys: key_bytes(&[unknown, key]) };
        assert_eq!(client.store().release(release()).await.unwrap().into_inner().released, 1);
        assert_eq!(client.store().release(release()).await.unwrap().into_inner().released, 0);
        assert_eq!(client.stat(key).await.unwrap().leased_until, None);
    });
}

#[test]
fn tenants_share_no_image_and_end_apart() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let other = tessera_gateway::Settings {
            model: cluster.dir.clone(),
            vision: vec![cluster.vision.url()],
            language: vec![cluster.language.url()],
            tenant_salt: Secret::new("another tenant"),
            ..Default::default()
        };
        let other = tessera_gateway::build(other).await.unwrap();
        let other = Running::start(|listener, stop| other.run(listener, stop)).await;
        let (ours, theirs) = (Client::of(&cluster.gateway), Client::of(&other));
        let image = picture("one_image", 0);
        let key = ours.encode(image.clone()).await.unwrap().image.key;
        let encoded = theirs.encode(image.clone()).await.unwrap();
        assert!(!encoded.stored_before, "an image of another tenant tells nothing");
        assert_ne!(encoded.image.key, key);
        // By the file: each means their own.
        assert_eq!(theirs.delete(DeleteRequest::Image(image.clone().into())).await.unwrap(), 1);
        assert!(ours.stat(key).await.is_some());
        theirs.encode(image).await.unwrap();
        assert_eq!(ours.delete(DeleteRequest::Tenant { salt: Salt::default() }).await.unwrap(), 1);
        assert!(ours.stat(key).await.is_none());
        assert!(theirs.stat(encoded.image.key).await.is_some());
        // Nobody speaks for another.
        let salt = Salt::from("another tenant");
        let error = ours.delete(DeleteRequest::Tenant { salt }).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "TENANT_NOT_YOURS_TO_NAME"));
        assert!(theirs.stat(encoded.image.key).await.is_some());
    });
}

#[test]
fn lists_of_keys_are_bounded() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let client = Client::of(&cluster.gateway);
        let key = ImageKey::of(b"", &cluster.fingerprint().await, b"");
        let error = client.lease(vec![key; MAX_KEYS + 1], Duration::from_secs(1)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "TOO_MANY_KEYS"));
        assert_eq!(client.lease(vec![key; MAX_KEYS], Duration::from_secs(1)).await.unwrap(), vec![None; MAX_KEYS]);
        let none = embedding_proto::StatRequest::default();
        let error = Error::from(client.store().stat(none).await.unwrap_err());
        assert_eq!((error.reason.as_ref(), error.fields[0].field.as_str()), ("FIELD_MISSING", "keys"));
    });
}
