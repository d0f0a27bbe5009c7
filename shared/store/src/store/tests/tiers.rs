//! Memory and disk: what is found where, kept how long, and deleted.

use std::sync::atomic::{AtomicBool, Ordering};

use tessera_embedding::TenantId;
use tokio::task::JoinSet;

use super::*;

#[tokio::test(start_paused = true)]
async fn memory_stays_within_its_budget_and_the_oldest_go() {
    let (store, _background) = open(StoreOptions { memory_bytes: 3 * occupied(2), ..options() }).await;
    for n in 0..10 {
        store.put(&key(n), artifact(2)).await;
        // Used again and again, so never the oldest.
        assert!(store.get_in_memory(&key(0)).is_some());
        let memory = store.figures().memory;
        assert!(memory.bytes <= memory.budget_bytes);
    }
    assert!(store.get(&key(9)).await.is_some());
    assert!(store.get(&key(1)).await.is_none());
    let memory = store.figures().memory;
    assert_eq!((memory.artifacts, memory.evictions), (3, 7));
    // What is larger than the budget is not kept, and drives nothing out.
    store.put(&key(20), artifact(50)).await;
    assert_eq!((store.figures().memory.artifacts, store.figures().memory.refused_writes), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_budgets_hold_while_many_write_and_read() {
    let folder = folder();
    let disk = DiskOptions { folder: folder.path().to_owned(), bytes: 20 * 4096 };
    let options = StoreOptions { memory_bytes: 5 * occupied(2), disk: Some(disk), ..options() };
    let (store, _background) = open(options).await;
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (store, done) = (store.clone(), done.clone());
        std::thread::spawn(move || {
            let mut looks = 0u64;
            while !done.load(Ordering::Relaxed) {
                let figures = store.figures();
                for tier in [figures.memory, figures.disk.unwrap()] {
                    assert!(tier.bytes <= tier.budget_bytes, "{tier:?}");
                }
                looks += 1;
                std::thread::yield_now();
            }
            looks
        })
    };
    let mut tasks = JoinSet::new();
    for task in 0..12u32 {
        let store = store.clone();
        tasks.spawn(async move {
            for step in 0..25u32 {
                let n = (task * 5 + step * 3) % 31;
                let blocks = 1 + (n % 3) as usize;
                assert_eq!(store.put(&key(n), artifact(blocks)).await, Kept::Durably);
                let other = (n + 11) % 31;
                if let Some(found) = store.get(&key(other)).await {
                    assert_eq!(*found, artifact(1 + (other % 3) as usize));
                }
            }
        });
    }
    tasks.join_all().await;
    done.store(true, Ordering::Relaxed);
    assert!(watcher.join().unwrap() > 100);
    let disk = store.figures().disk.unwrap();
    assert!(disk.evictions > 100 && disk.hits > 0, "{disk:?}");
    assert_eq!(disk.corrupt + disk.failed_reads + disk.failed_writes + disk.refused_writes, 0);
    assert_eq!(files(folder.path()).iter().map(|(_, bytes)| bytes).sum::<u64>(), disk.bytes);
}

#[tokio::test(start_paused = true)]
async fn what_memory_forgets_and_a_restart_ends_is_on_the_disk() {
    let folder = folder();
    let options = StoreOptions { memory_bytes: occupied(1), ..with_disk(&folder) };
    let (store, background) = open(options.clone()).await;
    for n in 0..3 {
        lead(&store, n).await.store(artifact(1)).await;
    }
    assert!(store.get_in_memory(&key(0)).is_none());
    assert_eq!(*store.get(&key(0)).await.unwrap(), artifact(1));
    assert!(store.get_in_memory(&key(0)).is_some(), "it came up");
    drop((store, background));

    let (store, _background) = open(options).await;
    assert_eq!(store.wait(&key(1), Duration::ZERO).await.unwrap(), Arc::new(artifact(1)));
    assert!(matches!(store.begin(&key(2)).await.unwrap(), Begin::Stored(_)));
    let (memory, disk) = (store.figures().memory, store.figures().disk.unwrap());
    assert_eq!((memory.artifacts, disk.artifacts, disk.hits), (1, 3, 2));
}

#[tokio::test(start_paused = true)]
async fn readers_of_one_key_read_it_once() {
    let folder = folder();
    let (store, background) = open(with_disk(&folder)).await;
    store.put(&key(1), artifact(3)).await;
    drop((store, background));
    let (store, _background) = open(with_disk(&folder)).await;
    let key = key(1);
    let found = join_all((0..50).map(|_| store.get(&key))).await;
    let first = found[0].as_ref().unwrap();
    assert!(found.iter().all(|found| Arc::ptr_eq(found.as_ref().unwrap(), first)));
    assert_eq!(store.figures().disk.unwrap().hits, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_leaves_does_not_stop_the_others() {
    let folder = folder();
    let (store, background) = open(with_disk(&folder)).await;
    store.put(&key(1), artifact(3)).await;
    drop((store, background));
    let (store, _background) = open(with_disk(&folder)).await;
    let key = key(1);
    // Nobody may read now.
    let readers = store.tiers.disk.as_ref().unwrap().readers.clone();
    let held = readers.acquire_many(16).await.unwrap();
    let mut first = Box::pin(store.get(&key));
    let mut second = Box::pin(store.get(&key));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    drop((first, held));
    assert_eq!(*second.await.unwrap(), artifact(3));
    // All of them leave, and somebody comes later.
    store.tiers.memory.remove(&key);
    let held = readers.acquire_many(16).await.unwrap();
    assert!(Box::pin(store.get(&key)).now_or_never().is_none());
    drop(held);
    assert_eq!(*store.get(&key).await.unwrap(), artifact(3));
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_file_is_encoded_anew() {
    let folder = folder();
    let (store, background) = open(with_disk(&folder)).await;
    store.put(&key(1), artifact(1)).await;
    drop((store, background));
    let (path, _) = files(folder.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let (store, _background) = open(with_disk(&folder)).await;
    lead(&store, 1).await.store(artifact(1)).await;
    assert_eq!(store.figures().disk.unwrap().corrupt, 1);
    assert_eq!(store.verify(|_, _| {}).await, Verified { checked: 1, bytes: 2048, corrupt: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_is_no_reason_to_stop() {
    let folder = folder();
    let (store, _background) = open(with_disk(&folder)).await;
    // The folder of the key is gone, and a file has its name.
    let part = folder.path().join(&key(1).to_string()[..2]);
    std::fs::remove_dir(&part).unwrap();
    std::fs::write(&part, "").unwrap();
    let encoding = lead(&store, 1).await;
    let joined = encoding.join();
    encoding.store(artifact(1)).await;
    assert_eq!(joined.outcome().await.unwrap().1, Kept::InMemory);
    assert!(store.get(&key(1)).await.is_some());
    assert_eq!(store.lease(&key(1), seconds(60)).await, Err(LeaseError::NotKept(key(1))));
    assert_eq!(store.figures().disk.unwrap().failed_writes, 2);
    // Once it works, the next one who encodes it gets it kept.
    std::fs::remove_file(&part).unwrap();
    std::fs::create_dir(&part).unwrap();
    assert!(matches!(store.begin(&key(1)).await.unwrap(), Begin::Stored(_)));
    assert_eq!((store.kept(&key(1)), store.figures().open_keys), (Kept::Durably, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_lasts_as_long_as_was_said() {
    let folder = folder();
    let disk = DiskOptions { folder: folder.path().to_owned(), bytes: 2 * 4096 };
    let memory_bytes = 2 * occupied(1);
    for disk in [None, Some(disk)] {
        let options = StoreOptions { memory_bytes, disk, ..options() };
        let (store, background) = open(options.clone()).await;
        assert_eq!(store.lease(&key(1), seconds(100)).await, Err(LeaseError::NotFound(key(1))));
        store.put(&key(1), artifact(1)).await;
        let until = store.lease(&key(1), seconds(100)).await.unwrap();
        let stat = store.stat(&key(1)).await.unwrap();
        assert_eq!(stat.leased_until, Some(until));
        let refused = store.put(&key(2), artifact(1)).await;
        assert!(matches!(store.lease(&key(2), seconds(100)).await, Err(LeaseError::Full { .. })), "{refused:?}");
        for n in 3..8 {
            store.put(&key(n), artifact(1)).await;
        }
        assert!(store.stat(&key(1)).await.is_some());
        tokio::time::advance(seconds(10_000)).await;
        assert_eq!(store.stat(&key(1)).await.unwrap().leased_until, None);
        assert!(!store.release(&key(1)).await);
        for n in 13..18 {
            store.put(&key(n), artifact(1)).await;
        }
        assert_eq!(store.stat(&key(1)).await, None);
        // Nobody can promise more than a file can tell.
        store.put(&key(1), artifact(1)).await;
        let until = store.lease(&key(1), Duration::MAX).await.unwrap();
        assert!(store.release(&key(1)).await);
        assert!(until > std::time::SystemTime::now() + seconds(400 * 365 * 86400));
        drop((store, background));
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_far_lease_survives_a_restart() {
    let folder = folder();
    let (store, background) = open(with_disk(&folder)).await;
    store.put(&key(1), artifact(1)).await;
    let until = store.lease(&key(1), Duration::from_secs(3 * 365 * 86400)).await.unwrap();
    let far = store.lease(&key(1), Duration::MAX).await.unwrap();
    assert!(far > until);
    drop((store, background));
    let (store, _background) = open(with_disk(&folder)).await;
    assert_eq!(store.stat(&key(1)).await.unwrap().leased_until, Some(far));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_told_without_reading_the_payload() {
    let folder = folder();
    let (store, background) = open(with_disk(&folder)).await;
    assert_eq!(store.stat(&key(1)).await, None);
    store.put(&key(1), artifact(2).quantize()).await;
    let stat = store.stat(&key(1)).await.unwrap();
    let header = artifact(2).quantize().header(&key(1));
    let expected = Stat { memory: true, disk: true, ..Stat::of(&header) };
    assert_eq!(stat, expected);
    assert_eq!((stat.eight_bit, stat.bytes), (true, 1536 + 4));
    drop((store, background));
    let (store, _background) = open(with_disk(&folder)).await;
    // A payload that was changed does not matter to the header.
    let (path, _) = files(folder.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(store.stat(&key(1)).await.unwrap(), Stat { memory: false, ..expected });
    assert_eq!(store.figures().memory.artifacts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_has_pages_in_the_order_of_keys() {
    let folder = folder();
    for options in [options(), with_disk(&folder)] {
        let (store, _background) = open(options).await;
        for n in 0..7 {
            store.put(&key(n), artifact(1)).await;
        }
        let mut keys: Vec<_> = (0..7).map(key).collect();
        keys.sort();
        let all = store.list(None, 100);
        assert_eq!(all.iter().map(|listed| listed.key).collect::<Vec<_>>(), keys);
        assert_eq!(all[0].tenant, Some(TenantId::of(b"")));
        let page = store.list(Some(keys[2]), 3);
        assert_eq!(page.iter().map(|listed| listed.key).collect::<Vec<_>>(), keys[3..6]);
        assert!(store.list(Some(keys[6]), 3).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn verifying_counts_and_deletes_what_is_corrupt() {
    let folder = folder();
    let (store, _background) = open(with_disk(&folder)).await;
    for n in 0..5 {
        store.put(&key(n), artifact(1)).await;
    }
    for (path, _) in files(folder.path()).into_iter().take(2) {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let mut seen = Vec::new();
    let verified = store.verify(|checked, bytes| seen.push((checked, bytes))).await;
    assert_eq!(verified, Verified { checked: 5, bytes: 3 * 2048, corrupt: 2 });
    assert_eq!((seen.len(), *seen.last().unwrap()), (5, (5, 3 * 2048)));
    assert_eq!(files(folder.path()).len(), 3);
    assert_eq!(store.verify(|_, _| {}).await.corrupt, 0);
    // Without a disk, memory is looked through.
    let (store, _background) = open(options()).await;
    store.put(&key(1), artifact(1)).await;
    let mut wrong = artifact(1);
    wrong.checksum[0] ^= 1;
    store.put(&key(2), wrong).await;
    assert_eq!(store.verify(|_, _| {}).await, Verified { checked: 2, bytes: 2048, corrupt: 1 });
    assert!(store.get(&key(2)).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_deleted_and_nobody_else() {
    let folder = folder();
    let [mine, other] = [TenantId::of(b"mine"), TenantId::of(b"other")];
    for options in [options(), with_disk(&folder)] {
        let has_disk = options.disk.is_some();
        let (mut store, mut background) = open(options.clone()).await;
        for n in 0..6 {
            store.put(&key(n), artifact_of(if n % 2 == 0 { &mine } else { &other }, 1)).await;
        }
        if has_disk {
            // After a restart nobody knows whose files they are until they are read.
            drop((store, background));
            (store, background) = open(options).await;
            store.get(&key(0)).await.unwrap();
        }
        assert_eq!(store.delete_tenant(&mine).await, 3);
        assert_eq!(store.delete_tenant(&mine).await, 0);
        let left: Vec<_> = store.list(None, 10).iter().map(|listed| listed.tenant).collect();
        assert_eq!(left, [Some(other); 3]);
        assert!(store.get(&key(0)).await.is_none());
        assert!(store.get(&key(1)).await.is_some());
        drop(background);
    }
    assert_eq!(files(folder.path()).len(), 3);
}
