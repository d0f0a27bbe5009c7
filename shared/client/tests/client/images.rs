//! Images: handles, batches, what is stored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};
use tessera_client::{Encode, Error, ErrorKind, HostTensor, ImageFeatures, ImageKey, MAX_IN_FLIGHT, Representation};

use crate::stand_in::{Plan, SIZE, Step, key};

/// Waits until everything that can happen without time passing has happened.
async fn settled() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_becomes_a_handle_however_often_that_takes() {
    let full = Error::exhausted("QUEUE_FULL", "full", Duration::from_millis(500));
    let plan = Plan::of([Step::Refuse(full), Step::Refuse(Error::draining())]);
    let encoded = plan.client().encode(b"one".to_vec()).await.unwrap();
    assert_eq!((encoded.image.key, plan.calls()), (key(b"one"), 3));
    let error = plan.client().encode(Vec::new()).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "IMAGE_EMPTY"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_read_no_faster_than_it_is_answered() {
    let (plan, pulled) = (Plan::new(), Arc::new(AtomicUsize::new(0)));
    let count = pulled.clone();
    let images = stream::iter(0..500_u16).map(move |number| {
        count.fetch_add(1, Ordering::Relaxed);
        (number, number.to_le_bytes().to_vec())
    });
    let mut batch = plan.client().encode_batch(images);
    let mut done = BTreeSet::new();
    // Nothing is sent before somebody wants an answer.
    assert!(tokio::time::timeout(Duration::from_secs(1), batch.next()).await.is_err());
    for answered in [1, 10, 100] {
        let (came, most) = (*plan.came.lock().unwrap(), done.len() + MAX_IN_FLIGHT);
        assert_eq!((came, pulled.load(Ordering::Relaxed)), (most, most), "behind {} answers", done.len());
        plan.may_answer.add_permits(answered);
        for _ in 0..answered {
            let (number, encoded) = batch.next().await.unwrap().unwrap();
            assert_eq!(encoded.unwrap().image.key, key(&number.to_le_bytes()));
            done.insert(number);
        }
        settled().await;
    }
    plan.may_answer.add_permits(500);
    while let Some(answer) = batch.next().await {
        done.insert(answer.unwrap().0);
    }
    assert_eq!(done, (0..500).collect());
    assert!(batch.unanswered().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_fails_does_not_stop_a_batch() {
    let plan = Plan::new();
    plan.may_answer.add_permits(10);
    let images = stream::iter([("a", "one"), ("b", "broken"), ("c", "")]);
    let images = images.map(|(mark, image)| (mark, Encode::new(image).lease(Duration::from_secs(5))));
    let mut answers: Vec<_> = plan.client().encode_batch(images).map(|answer| answer.unwrap()).collect().await;
    answers.sort_by_key(|(mark, _)| *mark);
    let reasons: Vec<_> =
        answers.iter().map(|(mark, encoded)| (*mark, encoded.as_ref().err().map(|e| e.reason.as_ref()))).collect();
    assert_eq!(reasons, [("a", None), ("b", Some("IMAGE_TRUNCATED")), ("c", Some("IMAGE_EMPTY"))]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_breaks_off_says_what_is_left() {
    let plan = Plan::new();
    *plan.batch_breaks.lock().unwrap() = Some(2);
    plan.may_answer.add_permits(2);
    let images = stream::iter(0..5_u8).map(|number| (number, vec![number])).chain(stream::pending());
    let mut batch = plan.client().encode_batch(images);
    let mut left: BTreeSet<u8> = (0..5).collect();
    for _ in 0..2 {
        left.remove(&batch.next().await.unwrap().unwrap().0);
    }
    let error = batch.next().await.unwrap().unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "DRAINING"));
    assert!(batch.next().await.is_none());
    assert_eq!(batch.unanswered().into_iter().collect::<BTreeSet<u8>>(), left);

    let refused = Plan::of([Step::Refuse(Error::draining())]);
    let mut batch = refused.client().encode_batch(stream::iter([(0, vec![1])]));
    assert_eq!(batch.next().await.unwrap().unwrap_err().reason, "DRAINING");
    assert_eq!((refused.calls(), batch.next().await.is_none()), (1, true), "nothing is sent twice");
}

#[tokio::test(start_paused = true)]
async fn rows_go_on_where_they_broke_off_and_are_verified() {
    let plan = Plan::new();
    let expected = plan.rows.lock().unwrap().clone();
    plan.rows_break.lock().unwrap().extend([0, 24, 8]);
    let store = plan.client().store();
    let rows = store.fetch(key(b"one"), Representation::Features).await.unwrap();
    assert_eq!((rows.image_size, rows.rows, rows.checksum), (SIZE, expected.rows.clone(), expected.checksum));
    assert_eq!(*plan.offsets.lock().unwrap(), [0, 0, 24, 32]);

    plan.rows.lock().unwrap().checksum[0] ^= 1;
    let error = store.fetch(key(b"one"), Representation::Features).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Corrupt, "FEATURES_CORRUPT"));

    // Another worker has other rows.
    plan.rows_break.lock().unwrap().push_back(8);
    let other = plan.clone();
    let swap = async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let rows = HostTensor::from_f32(vec![4, 8], vec![0.5; 32]).unwrap();
        *other.rows.lock().unwrap() = ImageFeatures::seal(SIZE, rows);
    };
    let (error, ()) = tokio::join!(store.fetch(key(b"one"), Representation::Features), swap);
    assert_eq!(error.unwrap_err().reason, "CONTRACT_BROKEN");
}

#[tokio::test(start_paused = true)]
async fn lists_of_handles_are_sent_in_pieces() {
    let plan = Plan::new();
    let store = plan.client().store();
    let handles: Vec<ImageKey> = (0..2500_u16).map(|number| key(&number.to_le_bytes())).collect();
    let statuses = store.stat(&handles).await.unwrap();
    assert_eq!(statuses.iter().map(|status| status.key).collect::<Vec<_>>(), handles);
    assert_eq!(plan.calls(), 3);
    let ends = store.lease(&handles, Duration::from_secs(9)).await.unwrap();
    assert_eq!(ends, vec![Some(SystemTime::UNIX_EPOCH + Duration::from_secs(9)); 2500]);
    assert_eq!((store.release(&handles).await.unwrap(), store.delete(&handles).await.unwrap()), (2500, 2500));
    assert_eq!(plan.calls(), 12);
    assert!(store.stat(&[]).await.unwrap().is_empty());
    assert_eq!((store.delete_image(b"one".to_vec()).await, store.delete_everything().await), (Ok(1), Ok(1000)));
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_sent_again_whole() {
    let plan = Plan::of([Step::Refuse(Error::draining())]);
    let features = HostTensor::from_f32(vec![2, 3], vec![1.0; 6]).unwrap();
    let uploaded = plan.client().store().put(SIZE, features.clone()).await.unwrap();
    assert_eq!((uploaded.key, plan.calls()), (key(features.data()), 2));
    let wrong = HostTensor::from_f32(vec![6], vec![1.0; 6]).unwrap();
    let error = plan.client().store().put(SIZE, wrong).await.unwrap_err();
    assert_eq!((error.reason.as_ref(), plan.calls()), ("UPLOAD_SHAPE", 2), "it is not sent");
}
