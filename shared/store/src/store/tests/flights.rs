//! Single flight and waiting.

use std::pin::pin;

use futures::poll;
use tokio::task::JoinSet;

use super::remote::Fake;
use super::*;

#[tokio::test(start_paused = true)]
async fn those_who_come_later_join_the_first() {
    let (store, _background) = open(options()).await;
    let first = lead(&store, 1).await;
    let joined = join(&store, 1).await;
    let mine = first.join();
    let stored = first.store(artifact(1)).await;
    assert_eq!(mine.outcome().await.unwrap(), (stored.clone(), Kept::InMemory));
    assert_eq!(joined.outcome().await.unwrap(), (stored, Kept::InMemory));
    assert!(matches!(store.begin(&key(1)).await.unwrap(), Begin::Stored(_)));
    assert_eq!(store.figures().open_keys, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_come_before_the_encoder() {
    let (store, _background) = open(options()).await;
    let key = key(1);
    let waiting = store.wait(&key, seconds(5));
    let encoding = async { lead(&store, 1).await.store(artifact(1)).await };
    let (read, stored) = tokio::join!(waiting, encoding);
    assert_eq!(read.unwrap(), stored);
    assert_eq!(store.figures().open_keys, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_come_before_an_upload() {
    let (store, _background) = open(options()).await;
    let key = key(1);
    let (read, kept) = tokio::join!(store.wait(&key, seconds(5)), store.put(&key, artifact(1)));
    assert_eq!((&*read.unwrap(), kept), (&artifact(1), Kept::InMemory));
    assert_eq!(store.figures().open_keys, 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_never_comes_is_not_found_and_forgotten() {
    let folder = folder();
    for options in [options(), with_disk(&folder)] {
        let (store, _background) = open(options).await;
        for patience in [seconds(5), Duration::ZERO] {
            assert_eq!(store.wait(&key(1), patience).await.unwrap_err(), WaitError::NotFound(key(1)));
        }
        assert_eq!(store.figures().open_keys, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_or_abandoned_encoding_is_told_and_may_be_tried_again() {
    let (store, _background) = open(options()).await;
    let first = lead(&store, 1).await;
    let joined = join(&store, 1).await;
    first.fail(Why("bad file"));
    assert_eq!(joined.outcome().await.unwrap_err(), Why("bad file"));

    let second = lead(&store, 1).await;
    let joined = join(&store, 1).await;
    let key = key(1);
    let waiting = store.wait(&key, seconds(5));
    let (waited, ()) = tokio::join!(waiting, async { drop(second) });
    assert_eq!(waited.unwrap_err(), WaitError::Failed(key, Why("abandoned")));
    assert_eq!(joined.outcome().await.unwrap_err(), Why("abandoned"));
    assert_eq!(store.figures().open_keys, 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_nobody_waits_for_any_more_is_given_up() {
    let (store, _background) = open(options()).await;
    let mut first = lead(&store, 1).await;
    let (mine, joined) = (first.join(), join(&store, 1).await);
    let key = key(1);
    {
        let mut given_up = pin!(first.given_up());
        assert!(poll!(&mut given_up).is_pending());
        drop((mine, joined));
        // Who waits for it as a reader wants it as well.
        let mut waiting = Box::pin(store.wait(&key, seconds(5)));
        assert!(poll!(&mut waiting).is_pending() && poll!(&mut given_up).is_pending());
        drop(waiting);
        given_up.await;
    }
    // The next one leads, and the first one's end is nothing to it.
    let second = lead(&store, 1).await;
    let joined = join(&store, 1).await;
    drop(first);
    let stored = second.store(artifact(1)).await;
    assert_eq!(joined.outcome().await.unwrap().0, stored);
    assert_eq!(store.figures().open_keys, 0);
}

#[tokio::test(start_paused = true)]
async fn open_keys_are_bounded() {
    let (store, _background) = open(StoreOptions { open_keys: 2, ..options() }).await;
    let _leads = [lead(&store, 1).await, lead(&store, 2).await];
    assert_eq!(store.begin(&key(3)).await.unwrap_err(), Busy { open: 2, limit: 2 });
    assert_eq!(store.wait(&key(3), seconds(1)).await.unwrap_err(), WaitError::Busy(Busy { open: 2, limit: 2 }));
    // What is stored is not in the way, and neither is who joins.
    store.put(&key(4), artifact(1)).await;
    assert!(matches!(store.begin(&key(4)).await.unwrap(), Begin::Stored(_)));
    join(&store, 1).await;
}

#[tokio::test(start_paused = true)]
async fn readers_hear_before_the_disk_has_it_and_encoders_after() {
    let folder = folder();
    let (store, _background) = open(with_disk(&folder)).await;
    let first = lead(&store, 1).await;
    let joined = join(&store, 1).await;
    // Nobody may write now.
    let writers = store.tiers.disk.as_ref().unwrap().writers.clone();
    let held = writers.acquire_many(8).await.unwrap();
    let mut storing = Box::pin(first.store(artifact(1)));
    let mut outcome = Box::pin(joined.outcome());
    assert!(storing.as_mut().now_or_never().is_none());
    assert!(store.wait(&key(1), Duration::ZERO).now_or_never().unwrap().is_ok());
    assert!(outcome.as_mut().now_or_never().is_none());
    // Who wants it kept has to wait, too.
    let late = join(&store, 1).await;
    assert_eq!(store.kept(&key(1)), Kept::InMemory);
    drop(held);
    storing.await;
    assert_eq!(outcome.await.unwrap().1, Kept::Durably);
    assert_eq!(late.outcome().await.unwrap().1, Kept::Durably);
    assert_eq!((store.kept(&key(1)), store.figures().open_keys), (Kept::Durably, 0));
}

#[tokio::test(start_paused = true)]
async fn an_encoder_that_leaves_while_the_disk_writes_promises_nothing() {
    let folder = folder();
    let (store, _background) = open(with_disk(&folder)).await;
    let first = lead(&store, 1).await;
    let joined = join(&store, 1).await;
    let writers = store.tiers.disk.as_ref().unwrap().writers.clone();
    let _held = writers.acquire_many(8).await.unwrap();
    assert!(Box::pin(first.store(artifact(1))).now_or_never().is_none());
    assert_eq!(joined.outcome().await.unwrap().1, Kept::InMemory);
    assert_eq!(store.figures().open_keys, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_begin_at_once_have_one_lead() {
    let folder = folder();
    let fake = Fake::new();
    let (store, _background) = open(with_remote(with_disk(&folder), &fake)).await;
    let key = key(1);
    let mut begun = join_all((0..100).map(|_| store.begin(&key))).await;
    let at = begun.iter().position(|begin| matches!(begin, Ok(Begin::Lead(_)))).unwrap();
    let Ok(Begin::Lead(lead)) = begun.swap_remove(at) else { panic!("it was a lead") };
    assert_eq!(fake.reads(), 1, "they looked through the tiers together");
    let joined = begun.into_iter().map(|begin| match begin {
        Ok(Begin::Join(joined)) => joined.outcome(),
        other => panic!("expected to join, got {other:?}"),
    });
    let (_, outcomes) = tokio::join!(lead.store(artifact(1)), join_all(joined));
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().1 == Kept::Durably));
    assert_eq!(store.figures().disk.unwrap().writes, 1);
}

/// Encodes as a service does; tells whether it was this caller who did.
async fn encode(store: Store<Why>, n: u32) -> (Arc<Artifact>, Kept, bool) {
    match store.begin(&key(n)).await.unwrap() {
        Begin::Lead(lead) => {
            let joined = lead.join();
            lead.store(artifact(1)).await;
            let (artifact, kept) = joined.outcome().await.unwrap();
            (artifact, kept, true)
        }
        Begin::Join(joined) => {
            let (artifact, kept) = joined.outcome().await.unwrap();
            (artifact, kept, false)
        }
        Begin::Stored(artifact) => (artifact, store.kept(&key(n)), false),
    }
}

/// On a runtime with threads, with nothing that keeps them in step, and a memory that forgets.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_lead_whatever_the_threads_do() {
    let folder = folder();
    let (store, _background) = open(StoreOptions { memory_bytes: 3 * occupied(1), ..with_disk(&folder) }).await;
    for n in 0..20 {
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            tasks.spawn(encode(store.clone(), n));
        }
        let outcomes = tasks.join_all().await;
        assert_eq!(outcomes.iter().filter(|(_, _, led)| *led).count(), 1);
        assert!(outcomes.iter().all(|(found, kept, _)| **found == artifact(1) && *kept == Kept::Durably));
    }
    assert_eq!(store.figures().open_keys, 0);
    assert_eq!(files(folder.path()).len(), 20);
}
