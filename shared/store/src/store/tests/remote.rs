//! The shared tier: one that works, one that does not, and one that lies.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use tessera_embedding::TenantId;
use tokio::sync::Semaphore;

use super::*;
use crate::RemoteError;

/// A server in memory that does as it is told.
pub(super) struct Fake {
    kept: Mutex<HashMap<ImageKey, Bytes>>,
    mood: Mutex<Mood>,
    reads: AtomicU64,
    /// What passes while it is gated.
    gate: Semaphore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Works,
    Fails,
    Hangs,
    Gated,
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        let (kept, mood) = (Mutex::default(), Mutex::new(Mood::Works));
        Arc::new(Self { kept, mood, reads: AtomicU64::new(0), gate: Semaphore::new(0) })
    }

    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn has(&self, n: u32) -> bool {
        self.kept.lock().unwrap().contains_key(&key(n))
    }

    fn insert(&self, n: u32, bytes: Bytes) {
        self.kept.lock().unwrap().insert(key(n), bytes);
    }

    async fn answer(&self) -> Result<(), RemoteError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Works => Ok(()),
            Mood::Fails => Err(RemoteError::Away("down".into())),
            Mood::Hangs => std::future::pending().await,
            Mood::Gated => {
                self.gate.acquire().await.unwrap().forget();
                Ok(())
            }
        }
    }
}

impl Remote for Fake {
    fn get<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<Option<Bytes>, RemoteError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        async move {
            let found = self.kept.lock().unwrap().get(key).cloned();
            self.answer().await.map(|()| found)
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a ImageKey, artifact: Bytes) -> BoxFuture<'a, Result<(), RemoteError>> {
        async move {
            self.answer().await?;
            self.kept.lock().unwrap().insert(*key, artifact);
            Ok(())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<bool, RemoteError>> {
        async move {
            if *self.mood.lock().unwrap() != Mood::Gated {
                self.answer().await?;
            }
            Ok(self.kept.lock().unwrap().remove(key).is_some())
        }
        .boxed()
    }
}

/// Lets the background do all that it has to do now, and stop.
async fn drain(background: Background) {
    background.run(std::future::ready(())).await;
}

#[tokio::test(start_paused = true)]
async fn what_one_worker_stores_another_reads() {
    let (one, other) = (folder(), folder());
    let fake = Fake::new();
    let (store, background) = open(with_remote(with_disk(&one), &fake)).await;
    lead(&store, 1).await.store(artifact(1)).await;
    assert!(!fake.has(1), "nobody waits for it");
    assert!(store.figures().pending_bytes > 0);
    drain(background).await;
    assert!(fake.has(1) && store.stat(&key(1)).await.unwrap().remote);
    assert_eq!(store.figures().pending_bytes, 0);

    let (store, background) = open(with_remote(with_disk(&other), &fake)).await;
    assert_eq!(*store.wait(&key(1), Duration::ZERO).await.unwrap(), artifact(1));
    assert!(matches!(store.begin(&key(1)).await.unwrap(), Begin::Stored(_)));
    drain(background).await;
    let stat = store.stat(&key(1)).await.unwrap();
    assert!(stat.memory && stat.disk && stat.remote, "it came up to all tiers: {stat:?}");
    assert_eq!(fake.reads(), 2, "once for each worker");
    assert_eq!(files(other.path()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_disk_what_is_acknowledged_is_in_the_shared_tier() {
    let fake = Fake::new();
    let (store, _background) = open(with_remote(options(), &fake)).await;
    assert_eq!(store.put(&key(1), artifact(1)).await, Kept::Durably);
    assert!(fake.has(1) && store.kept(&key(1)) == Kept::Durably);
    // A server that is away is waited for, for a while, and is not said to have it.
    for mood in [Mood::Fails, Mood::Hangs] {
        fake.set(mood);
        assert_eq!(store.put(&key(2), artifact(1)).await, Kept::InMemory);
        assert_eq!(store.kept(&key(2)), Kept::InMemory);
        assert_eq!(*store.get(&key(2)).await.unwrap(), artifact(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_only_the_shared_tier_has_is_known() {
    let fake = Fake::new();
    fake.insert(1, artifact(1).to_bytes(&key(1)));
    let (store, _background) = open(with_remote(options(), &fake)).await;
    let stat = store.stat(&key(1)).await.unwrap();
    assert_eq!(stat, Stat { memory: true, remote: true, ..Stat::of(&artifact(1).header(&key(1))) });
    assert_eq!(store.stat(&key(2)).await, None);
    let folder = folder();
    let (store, _background) = open(with_remote(with_disk(&folder), &fake)).await;
    store.lease(&key(1), seconds(10)).await.unwrap();
    assert_eq!(store.kept(&key(1)), Kept::Durably, "a promise needs a disk that has it");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_or_hangs_is_a_miss() {
    let fake = Fake::new();
    fake.insert(1, artifact(1).to_bytes(&key(1)));
    let (store, background) = open(with_remote(options(), &fake)).await;
    for mood in [Mood::Fails, Mood::Hangs] {
        fake.set(mood);
        assert!(store.get(&key(1)).await.is_none());
        assert_eq!(store.wait(&key(1), seconds(60)).await.unwrap_err(), WaitError::NotFound(key(1)));
        lead(&store, 1).await.fail(Why("not this time"));
        assert!(!store.delete(&key(1)).await);
    }
    assert_eq!(store.figures().remote.unwrap().failed_reads, 6);
    // What is stored meanwhile is here; that it did not get there is counted, and stopping does not take for ever.
    store.put(&key(2), artifact(1)).await;
    drain(background).await;
    assert_eq!(store.figures().remote.unwrap().writes, 0);
    fake.set(Mood::Works);
    assert_eq!(*store.get(&key(1)).await.unwrap(), artifact(1));
}

#[tokio::test(start_paused = true)]
async fn what_is_encoded_meanwhile_does_not_wait_for_a_slow_server() {
    let (folder, fake) = (folder(), Fake::new());
    let (store, _background) = open(with_remote(with_disk(&folder), &fake)).await;
    let first = lead(&store, 1).await;
    fake.set(Mood::Hangs);
    let key = key(1);
    let before = tokio::time::Instant::now();
    let (read, _) = tokio::join!(store.wait(&key, seconds(60)), first.store(artifact(1)));
    assert_eq!(*read.unwrap(), artifact(1));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_changed_is_never_served() {
    let fake = Fake::new();
    let whole = artifact(1).to_bytes(&key(1));
    let mut changed = whole.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    fake.insert(1, changed.into());
    fake.insert(2, whole.clone());
    fake.insert(3, whole.slice(..whole.len() - 1));
    fake.insert(4, Bytes::new());
    let (store, _background) = open(with_remote(options(), &fake)).await;
    for n in 1..5 {
        assert!(store.get(&key(n)).await.is_none());
        assert!(!fake.has(n), "it was deleted there");
    }
    assert_eq!(store.figures().remote.unwrap().corrupt, 4);
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_written_is_bounded() {
    let (folder, fake) = (folder(), Fake::new());
    let pending_bytes = 3 * (occupied(2).next_multiple_of(1024));
    let options = StoreOptions { pending_bytes, ..with_remote(with_disk(&folder), &fake) };
    let (store, background) = open(options).await;
    for n in 0..5 {
        store.put(&key(n), artifact(2)).await;
        // A second time is the same artifact, and takes no room.
        store.put(&key(n), artifact(2)).await;
        assert!(store.figures().pending_bytes <= pending_bytes);
    }
    drain(background).await;
    assert_eq!((0..5).filter(|n| fake.has(*n)).collect::<Vec<_>>(), [0, 1, 2]);
    let remote = store.figures().remote.unwrap();
    assert_eq!((remote.writes, remote.refused_writes), (3, 4));
    // Nobody writes behind any more.
    store.put(&key(9), artifact(2)).await;
    assert_eq!(store.figures().remote.unwrap().refused_writes, 5);
}

#[tokio::test(start_paused = true)]
async fn the_background_works_while_the_service_runs() {
    let (folder, fake) = (folder(), Fake::new());
    let (store, background) = open(with_remote(with_disk(&folder), &fake)).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let working = async {
        for n in 0..20 {
            store.put(&key(n), artifact(1)).await;
        }
        while store.figures().pending_bytes > 0 {
            tokio::time::sleep(seconds(1)).await;
        }
        assert!((0..20).all(|n| fake.has(n)));
        stop.send(()).unwrap();
    };
    tokio::join!(working, background.run(async { drop(stopped.await) }));
    assert_eq!(store.figures().remote.unwrap().writes, 20);
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_does_not_come_back() {
    let folder = folder();
    let fake = Fake::new();
    let (store, background) = open(with_remote(with_disk(&folder), &fake)).await;
    // While it waits to be written there.
    store.put(&key(1), artifact(1)).await;
    assert!(store.delete(&key(1)).await);
    // While it is being read from there.
    fake.insert(2, artifact(1).to_bytes(&key(2)));
    fake.set(Mood::Gated);
    let second = key(2);
    let mut reading = Box::pin(store.get(&second));
    assert!(reading.as_mut().now_or_never().is_none());
    assert!(store.delete(&second).await);
    fake.gate.add_permits(1);
    assert!(reading.await.is_some(), "who asked before gets it");
    fake.set(Mood::Works);
    // While it waits to be written to the disk.
    fake.insert(3, artifact(1).to_bytes(&key(3)));
    assert!(store.get(&key(3)).await.is_some());
    assert!(store.delete(&key(3)).await);
    drain(background).await;
    for n in 1..4 {
        assert!(store.get(&key(n)).await.is_none(), "key {n}");
        assert!(!fake.has(n));
        assert!(!store.delete(&key(n)).await);
    }
    assert_eq!(files(folder.path()).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_while_it_is_written_there_is_deleted_there() {
    let fake = Fake::new();
    let (store, background) = open(with_remote(options(), &fake)).await;
    store.put(&key(1), artifact(1)).await;
    fake.set(Mood::Gated);
    let mut running = Box::pin(background.run(std::future::pending()));
    // As far as the gate.
    for _ in 0..100 {
        assert!(running.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert!(store.delete(&key(1)).await);
    fake.gate.add_permits(2);
    let settled = async {
        while store.figures().pending_bytes > 0 {
            tokio::time::sleep(seconds(1)).await;
        }
    };
    tokio::select! {
        () = settled => {}
        () = running => panic!("it runs until it is stopped"),
    }
    assert!(!fake.has(1));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_deleted_there_too() {
    let (folder, fake) = (folder(), Fake::new());
    let [mine, other] = [TenantId::of(b"mine"), TenantId::of(b"other")];
    // Memory has room for none of them.
    let options = StoreOptions { memory_bytes: 0, ..with_remote(with_disk(&folder), &fake) };
    let (store, background) = open(options).await;
    for n in 0..4 {
        store.put(&key(n), artifact_of(if n % 2 == 0 { &mine } else { &other }, 1)).await;
    }
    assert_eq!(store.delete_tenant(&mine).await, 2);
    drain(background).await;
    assert_eq!((0..4).filter(|n| fake.has(*n)).collect::<Vec<_>>(), [1, 3]);
}
