//! A store that outlives its worker.

use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tessera_anyres::Shape;
use tessera_api::proto::vision::v1 as proto;
use tessera_api::vision::EncodeRequest;
use tessera_api::{Error, ErrorKind};
use tessera_embedding::{ImageKey, Salt};
use tessera_testkit::{Golden, picture};
use tessera_vision::{DiskSettings, RowFormat};

use crate::client::{Client, assert_reference, by_handles};
use crate::cluster::{Cluster, limited};

fn disk(folder: &Path) -> DiskSettings {
    DiskSettings { folder: folder.to_owned(), ..Default::default() }
}

#[test]
fn everything_restarts_and_handles_still_stand_for_their_images() {
    limited(async {
        let folder = tempfile::tempdir().unwrap();
        let start = || Cluster::start("mistral", |settings| settings.vision.store.disk = disk(folder.path()));
        let mut cluster = start().await;
        let client = Client::of(&cluster.gateway);
        let encoded = client.encode(picture("portrait", 0)).await.unwrap();
        assert!(encoded.durable);
        for service in [&mut cluster.gateway, &mut cluster.language, &mut cluster.vision] {
            service.stop.cancel();
            service.ended().await;
        }
        let cluster = start().await;
        let stored = Client::of(&cluster.gateway).stat(encoded.image.key).await.unwrap();
        assert!(stored.tiers.disk && !stored.tiers.memory);
        let reply = cluster.ask(by_handles("portrait", &[encoded.image.key])).await.unwrap();
        assert_reference(&reply, "mistral", "portrait");
        // The file itself is known, too, and not encoded again.
        assert!(Client::of(&cluster.gateway).encode(picture("portrait", 0)).await.unwrap().stored_before);
    });
}

#[test]
fn a_vision_worker_that_ends_finishes_what_it_encodes_and_keeps_it() {
    limited(async {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start("mistral", |settings| settings.vision.store.disk = disk(folder.path())).await;
        let encoder = cluster.fingerprint().await;
        let worker = cluster.vision_client();
        let encodes = (0..12_u8).map(|number| {
            // What follows the end of a PNG file is not read, but it makes another file of it.
            let image = Bytes::from([&picture("one_image", 0)[..], &[number]].concat());
            let key = ImageKey::of(&[], &encoder, &image);
            let request = EncodeRequest { image: image.clone(), key, tenant_salt: Salt::default(), shape: Shape::Own };
            let mut worker = worker.clone();
            async move { worker.encode(proto::EncodeRequest::from(request)).await.map(|_| (image, key)) }
        });
        let mut encodes: FuturesUnordered<_> = encodes.collect();
        let mut kept = vec![encodes.next().await.unwrap().unwrap()];
        cluster.vision.stop.cancel();
        while let Some(encoded) = encodes.next().await {
            match encoded {
                Ok(encoded) => kept.push(encoded),
                // It came too late to be taken.
                Err(status) => assert_eq!(Error::from(status).kind, ErrorKind::Unavailable),
            }
        }
        drop((worker, encodes));
        cluster.replace_vision(|settings| settings.store.disk = disk(folder.path())).await;
        for (image, key) in kept {
            assert!(cluster.encode(image, key.as_bytes()).await.unwrap().stored_before);
        }
    });
}

#[test]
fn a_folder_of_another_model_answers_for_no_image_of_this_one() {
    limited(async {
        let folder = tempfile::tempdir().unwrap();
        let start = |family| Cluster::start(family, |settings| settings.vision.store.disk = disk(folder.path()));
        let mut cluster = start("mistral").await;
        let key = Client::of(&cluster.gateway).encode(picture("one_image", 0)).await.unwrap().image.key;
        cluster.vision.stop.cancel();
        cluster.vision.ended().await;
        let other = start("vicuna_layers").await;
        let error = other.ask(by_handles("one_image", &[key])).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Precondition, "ENCODER_MISMATCH"));
        other.answers_as_the_reference("vicuna_layers", "one_image").await;
    });
}

#[test]
fn rows_of_eight_bits_take_a_quarter_and_are_close() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| settings.vision.store.rows = RowFormat::Int8).await;
        let client = Client::of(&cluster.gateway);
        let encoded = client.encode(picture("one_image", 0)).await.unwrap();
        let stored = client.stat(encoded.image.key).await.unwrap();
        let plain = (stored.rows * stored.columns * 4) as u64;
        assert!(stored.bytes < plain * 2 / 5, "{} of {plain}", stored.bytes);
        let reply = cluster.ask(by_handles("one_image", &[encoded.image.key])).await.unwrap();
        assert_eq!(reply.started.prompt_tokens, Golden::load("mistral", "one_image").unpadded_ids(0).len());
        assert_eq!(reply.token_ids.len(), 16);
    });
}
