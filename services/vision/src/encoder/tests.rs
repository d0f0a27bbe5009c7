//! Callers who leave, and whose time is over, while their image waits.

use std::pin::pin;

use futures::poll;
use tessera_checkpoint::Checkpoint;
use tessera_model::{LoadOptions, VisionModel};
use tessera_store::Store;
use tessera_testkit::{family_dir, picture};

use super::*;
use crate::settings::StoreSettings;
use crate::tiers;

async fn encoder() -> Arc<Encoder> {
    let checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
    let model = VisionModel::load(&checkpoint, &LoadOptions::default()).unwrap();
    let (geometry, image) = (checkpoint.geometry(), ImageSettings::default());
    let (store, _) = Store::open(tiers::options(&StoreSettings::default()).unwrap()).await.unwrap();
    let batch = BatchSettings { preprocess: 1, ..BatchSettings::default() };
    Encoder::new(Parts {
        fingerprint: EncoderFingerprint::of(&[]),
        store,
        device: Device::start(model, 10, batch.waiting_tiles).unwrap().0,
        preprocessor: Preprocessor::new(&checkpoint.processor.image, geometry.clone(), image.resizer),
        geometry,
        image,
        batch,
        rows: RowFormat::Computed,
        tasks: Tasks::default(),
    })
}

fn request(encoder: &Encoder) -> EncodeRequest {
    let image = Bytes::from(picture("one_image", 0));
    let key = ImageKey::of(&[], &encoder.fingerprint, &image);
    EncodeRequest { image, key, tenant_salt: Bytes::new() }
}

/// Goes on when nothing waits in the queue any more.
async fn emptied(encoder: &Encoder) {
    let all = encoder.waiting.acquire_many(u32::try_from(encoder.waiting_limit).unwrap());
    drop(all.await.unwrap());
}

#[tokio::test]
async fn an_image_whose_callers_left_keeps_no_place_in_the_queue() {
    let encoder = encoder().await;
    // Nothing is decoded meanwhile.
    let held = encoder.preprocessing.acquire().await.unwrap();
    {
        let mut first = pin!(encoder.encode(request(&encoder), Deadline::default()));
        let mut second = pin!(encoder.encode(request(&encoder), Deadline::default()));
        while encoder.waiting.available_permits() == encoder.waiting_limit {
            assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
            tokio::task::yield_now().await;
        }
    }
    emptied(&encoder).await;
    assert_eq!(encoder.store.figures().open_keys, 0);
    drop(held);
    // The next caller begins anew.
    assert!(!encoder.encode(request(&encoder), Deadline::default()).await.unwrap().stored_before);
}

#[tokio::test]
async fn an_image_whose_time_is_over_keeps_no_place_in_the_queue() {
    let encoder = encoder().await;
    let _held = encoder.preprocessing.acquire().await.unwrap();
    let deadline = Deadline::default().within(Duration::from_millis(50));
    let error = encoder.encode(request(&encoder), deadline).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline);
    emptied(&encoder).await;
}
