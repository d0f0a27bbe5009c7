//! Single flight, waiting and bounds of the store.

use tessera_anyres::ImageSize;
use tessera_tensor::HostTensor;

use super::*;
use crate::EncoderFingerprint;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Why(&'static str);

impl From<Abandoned> for Why {
    fn from(_: Abandoned) -> Self {
        Self("abandoned")
    }
}

fn key(n: u8) -> ImageKey {
    ImageKey::of(b"", &EncoderFingerprint::of(&[]), &[n])
}

fn artifact(bytes: usize) -> Artifact {
    let features = HostTensor::from_f32(vec![1, bytes / 4], vec![0.5; bytes / 4]).unwrap();
    Artifact::seal(ImageSize { height: 1, width: 1 }, features)
}

fn store(memory_bytes: u64, open_keys: usize) -> Store<Why> {
    Store::new(StoreOptions { memory_bytes, open_keys })
}

fn lead(store: &Store<Why>, key: ImageKey) -> Lead<Why> {
    match store.begin(key).unwrap() {
        Begin::Lead(lead) => lead,
        other => panic!("expected to lead, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_come_later_join_the_first() {
    let store = store(1000, 8);
    let first = lead(&store, key(1));
    assert!(!first.is_wanted());
    let Begin::Join(joined) = store.begin(key(1)).unwrap() else { panic!("expected to join") };
    let mine = first.join();
    first.store(artifact(40));
    assert_eq!(mine.outcome().await.unwrap().bytes(), 40);
    assert_eq!(joined.outcome().await.unwrap().bytes(), 40);
    assert!(matches!(store.begin(key(1)).unwrap(), Begin::Stored(_)));
    assert!(store.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_come_before_the_encoder() {
    let store = store(1000, 8);
    let waiting = store.wait(key(1), Duration::from_secs(5));
    let encoding = async { lead(&store, key(1)).store(artifact(40)) };
    let (read, _) = tokio::join!(waiting, encoding);
    assert_eq!(read.unwrap().bytes(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_never_comes_is_not_found_and_forgotten() {
    let store = store(1000, 8);
    assert_eq!(store.wait(key(1), Duration::from_secs(5)).await.unwrap_err(), WaitError::NotFound(key(1)));
    assert_eq!(store.wait(key(1), Duration::ZERO).await.unwrap_err(), WaitError::NotFound(key(1)));
    assert!(store.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_or_abandoned_encoding_is_told_and_may_be_tried_again() {
    let store = store(1000, 8);
    let first = lead(&store, key(1));
    let Begin::Join(joined) = store.begin(key(1)).unwrap() else { panic!("expected to join") };
    assert!(first.is_wanted());
    first.fail(Why("bad file"));
    assert_eq!(joined.outcome().await.unwrap_err(), Why("bad file"));

    let second = lead(&store, key(1));
    let Begin::Join(joined) = store.begin(key(1)).unwrap() else { panic!("expected to join") };
    drop(second);
    assert_eq!(joined.outcome().await.unwrap_err(), Why("abandoned"));
    assert!(store.lock().is_empty());
}

#[test]
fn memory_stays_within_its_budget_and_the_oldest_go() {
    let store = store(100, 8);
    for n in 0..10 {
        lead(&store, key(n)).store(artifact(40));
        assert!(store.memory_bytes() <= 100);
    }
    assert!(store.get(&key(9)).is_some());
    assert!(store.get(&key(0)).is_none());
}

#[test]
fn open_keys_are_bounded() {
    let store = store(100, 2);
    let _leads = [lead(&store, key(1)), lead(&store, key(2))];
    assert_eq!(store.begin(key(3)).unwrap_err(), Busy { open: 2, limit: 2 });
}
