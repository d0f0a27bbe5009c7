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
    EncodeRequest { image, key, tenant_salt: tessera_embedding::Salt::default(), shape: Shape::Own }
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
        while encoder.load().tiles == 0 {
            assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
            tokio::task::yield_now().await;
        }
    }
    emptied(&encoder).await;
    assert_eq!(encoder.store.figures().open_keys, 0);
    drop(held);
    // The next caller begins anew.
    let empty = encoder.load();
    assert_eq!((empty.tiles, empty.memory.bytes, empty.disk), (0, 0, Room::default()));
    assert!(!encoder.encode(request(&encoder), Deadline::default()).await.unwrap().stored_before);
    let full = encoder.load();
    assert!(full.memory.bytes > 0 && full.memory.bytes < full.memory.most && full.busy > empty.busy, "{full:?}");
}

#[tokio::test]
async fn images_wait_until_there_is_memory_for_them() {
    let encoder = encoder().await;
    let examined = encoder.examine(&request(&encoder)).await.unwrap();
    let all = encoder.decoded.available_permits();
    // A picture of a few thousand pixels takes what its codec's tables take, and little more.
    assert!((8 << 10..32 << 10).contains(&examined.memory), "{} KiB", examined.memory);
    // All but one KiB of what it needs is taken.
    let left = usize::try_from(examined.memory).unwrap() - 1;
    let others = encoder.decoded.acquire_many(u32::try_from(all - left).unwrap()).await.unwrap();
    let mut encoding = pin!(encoder.encode(request(&encoder), Deadline::default()));
    while encoder.preprocessing.available_permits() > 0 {
        assert!(poll!(&mut encoding).is_pending());
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        assert!(poll!(&mut encoding).is_pending());
        tokio::task::yield_now().await;
    }
    drop(others);
    assert!(!encoding.await.unwrap().stored_before);
    assert_eq!(encoder.decoded.available_permits(), all, "all of it is given back");
}

#[tokio::test]
async fn code_that_panics_fails_its_own_image_and_nothing_else() {
    let encoder = encoder().await;
    for _ in 0..20 {
        let broken = || -> Result<()> { panic!("index out of bounds") };
        let error = encoder.compute(broken).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Internal, "DECODER_FAILED"));
    }
    assert!(!encoder.encode(request(&encoder), Deadline::default()).await.unwrap().stored_before);
}

#[tokio::test]
async fn in_constant_shape_an_image_has_another_key_and_the_largest_grid() {
    let encoder = encoder().await;
    let image = Bytes::from(picture("portrait", 0));
    let shaped = |shape, key_shape| {
        let key = ImageKey::of_shape(key_shape, &[], &encoder.fingerprint, &image);
        EncodeRequest { image: image.clone(), key, tenant_salt: tessera_embedding::Salt::default(), shape }
    };
    let constant = encoder.encode(shaped(Shape::Constant, Shape::Constant), Deadline::default()).await.unwrap();
    assert_eq!(constant.image_size, encoder.geometry.constant_size());
    let own = encoder.encode(shaped(Shape::Own, Shape::Own), Deadline::default()).await.unwrap();
    assert!(!own.stored_before && own.image_tokens < constant.image_tokens);
    let error = encoder.encode(shaped(Shape::Constant, Shape::Own), Deadline::default()).await.unwrap_err();
    assert_eq!(error.reason, "KEY_MISMATCH");
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

#[test]
fn an_image_that_is_being_decoded_keeps_its_place_there_when_its_callers_leave() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let encoder = encoder().await;
        let held = encoder.preprocessing.acquire().await.unwrap();
        // The one thread for blocking work is busy until this is dropped.
        let (busy, until) = tokio::sync::oneshot::channel::<()>();
        {
            let mut asked = pin!(encoder.encode(request(&encoder), Deadline::default()));
            while encoder.waiting.available_permits() == encoder.waiting_limit {
                assert!(poll!(&mut asked).is_pending());
                tokio::task::yield_now().await;
            }
            encoder.tasks.spawn_blocking(move || until.blocking_recv());
            drop(held);
            while encoder.preprocessing.available_permits() > 0 {
                assert!(poll!(&mut asked).is_pending());
                tokio::task::yield_now().await;
            }
        }
        emptied(&encoder).await;
        assert_eq!(encoder.preprocessing.available_permits(), 0, "no other image is decoded beside it");
        drop(busy);
        drop(encoder.preprocessing.acquire().await.unwrap());
        assert_eq!(encoder.store.figures().open_keys, 0);
    });
}
