//! Files, budget and leases, with a clock that the tests turn.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;
use crate::index::Refused;
use crate::tests::{artifact, artifact_of, files, key, noon, seconds};

const BLOCK: u64 = 4096;

fn open(folder: &TempDir, blocks: u64) -> Disk {
    reopen(folder, blocks, noon())
}

fn reopen(folder: &TempDir, blocks: u64, now: SystemTime) -> Disk {
    Disk::open(&DiskOptions { folder: folder.path().to_owned(), bytes: blocks * BLOCK }, now).unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn write(disk: &Disk, n: u32, blocks: usize, now: SystemTime) -> Result<(), WriteError> {
    disk.write(&key(n), &artifact(blocks), now, &|| true)
}

fn path(folder: &TempDir, n: u32) -> PathBuf {
    Place::of(folder.path(), &key(n)).file
}

/// Keys that are there.
fn present(disk: &Disk, keys: std::ops::Range<u32>) -> Vec<u32> {
    keys.filter(|n| disk.peek(&key(*n)).is_some()).collect()
}

#[test]
fn what_was_written_is_found_after_a_restart() {
    let folder = folder();
    let disk = open(&folder, 100);
    for n in 0..5 {
        write(&disk, n, 2, noon()).unwrap();
    }
    assert!(disk.remove(&key(4), noon()));
    assert!(!disk.remove(&key(4), noon()));
    let written = disk.read(&key(0), noon()).unwrap();
    drop(disk);
    let disk = open(&folder, 100);
    assert_eq!(present(&disk, 0..9), [0, 1, 2, 3]);
    assert_eq!(disk.read(&key(0), noon()), Some(written));
    assert_eq!(disk.header(&key(1), noon()).unwrap().key, key(1));
    let figures = disk.figures();
    assert_eq!((figures.artifacts, figures.bytes, figures.hits), (4, 8 * BLOCK, 1));
}

#[test]
fn one_process_at_a_time_has_the_folder() {
    let folder = folder();
    let first = open(&folder, 100);
    let error = Disk::open(&DiskOptions { folder: folder.path().to_owned(), bytes: 1 }, noon()).unwrap_err();
    assert_eq!(error.to_string(), format!("store folder {} is in use by another process", folder.path().display()));
    drop(first);
    open(&folder, 100);
}

#[test]
fn a_folder_that_is_none_is_named() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Disk::open(&DiskOptions { folder: file.clone(), bytes: 1 }, noon()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("store folder {} cannot be used: ", file.display())), "{error}");
}

#[test]
fn unfinished_files_go_and_those_of_others_stay() {
    let folder = folder();
    write(&open(&folder, 100), 0, 1, noon()).unwrap();
    let unfinished = path(&folder, 1).with_file_name(format!(".{}.tmp", key(1)));
    let foreign = path(&folder, 0).with_file_name("notes.txt");
    fs::write(&unfinished, "half of it").unwrap();
    fs::write(&foreign, "mine").unwrap();
    let disk = open(&folder, 100);
    assert!(!unfinished.exists());
    assert!(foreign.exists());
    assert_eq!(disk.figures().artifacts, 1);
}

#[test]
fn a_file_that_was_changed_is_a_miss_and_goes() {
    let folder = folder();
    let disk = open(&folder, 100);
    type Damage<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let damage: [Damage<'_>; 5] = [
        &|bytes| bytes[..bytes.len() - 1].to_vec(),
        &|bytes| [&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat(),
        &|bytes| [&bytes[..100], &[bytes[100] ^ 2], &bytes[101..]].concat(),
        &|_| Vec::new(),
        // Whole, but another image's.
        &|_| artifact(1).to_bytes(&key(77)).to_vec(),
    ];
    for (n, damage) in (0u32..).zip(damage) {
        write(&disk, n, 1, noon()).unwrap();
        let whole = fs::read(path(&folder, n)).unwrap();
        fs::write(path(&folder, n), damage(&whole)).unwrap();
        assert_eq!(disk.read(&key(n), noon()), None, "damage {n}");
        assert!(!path(&folder, n).exists());
        assert_eq!((disk.figures().corrupt, disk.figures().bytes), (u64::from(n) + 1, 0));
        // It can be written anew.
        write(&disk, n, 1, noon()).unwrap();
        assert!(disk.read(&key(n), noon()).is_some());
        disk.remove(&key(n), noon());
    }
    // A leased one is no exception, and a damaged header is seen without the payload.
    write(&disk, 9, 1, noon()).unwrap();
    disk.lease(&key(9), noon() + seconds(100), noon()).unwrap();
    let whole = fs::read(path(&folder, 9)).unwrap();
    fs::write(path(&folder, 9), &whole[..whole.len() - 1]).unwrap();
    assert_eq!(disk.header(&key(9), noon()), None);
    assert_eq!((disk.figures().artifacts, disk.figures().leased_bytes), (0, 0));
    assert_eq!(disk.check(&key(9), noon()), Err(Miss::Absent));
}

#[test]
fn a_file_that_somebody_deleted_is_a_miss() {
    let folder = folder();
    let disk = open(&folder, 100);
    write(&disk, 0, 1, noon()).unwrap();
    fs::remove_file(path(&folder, 0)).unwrap();
    assert_eq!(disk.read(&key(0), noon()), None);
    assert_eq!((disk.figures().bytes, disk.figures().corrupt, disk.figures().misses), (0, 0, 1));
}

#[test]
fn what_was_not_used_for_longest_goes_first_also_after_a_restart() {
    let folder = folder();
    let disk = open(&folder, 3);
    let at = |hours: u64| noon() + seconds(hours * 3600);
    for n in 0..3 {
        write(&disk, n, 1, at(n.into())).unwrap();
    }
    // A read of the oldest, and one that only memory answered.
    assert!(disk.read(&key(0), at(3)).is_some());
    disk.touch(&key(1), at(4));
    disk.mark_stale();
    drop(disk);
    let disk = reopen(&folder, 3, at(5));
    write(&disk, 3, 1, at(5)).unwrap();
    assert_eq!(present(&disk, 0..9), [0, 1, 3]);
    write(&disk, 4, 1, at(6)).unwrap();
    assert_eq!(present(&disk, 0..9), [1, 3, 4]);
    assert_eq!(disk.figures().evictions, 2);
    assert_eq!(files(folder.path()).len(), 3);
}

#[test]
fn a_lease_holds_against_eviction_and_over_a_restart() {
    let folder = folder();
    let disk = open(&folder, 4);
    for n in 0..2 {
        write(&disk, n, 1, noon()).unwrap();
    }
    let end = noon() + seconds(1000);
    assert_eq!(disk.lease(&key(0), end, noon()).unwrap(), end);
    // Writing it anew, and using it, does not end the lease.
    write(&disk, 0, 1, noon() + seconds(1)).unwrap();
    assert!(disk.read(&key(0), noon() + seconds(2)).is_some());
    for n in 10..20 {
        write(&disk, n, 1, noon() + seconds(4)).unwrap();
    }
    assert_eq!(disk.peek(&key(0)).unwrap().leased_until, Some(end));
    assert_eq!(present(&disk, 0..2), [0]);
    drop(disk);
    let disk = reopen(&folder, 4, noon() + seconds(3));
    for n in 20..30 {
        write(&disk, n, 1, noon() + seconds(4)).unwrap();
    }
    assert_eq!(present(&disk, 0..2), [0]);
    assert!(disk.release(&key(0), noon() + seconds(5)).unwrap());
    assert!(!disk.release(&key(0), noon() + seconds(5)).unwrap());
    drop(disk);
    let disk = reopen(&folder, 4, noon() + seconds(6));
    assert_eq!(disk.peek(&key(0)).unwrap().leased_until, None);
    for n in 30..34 {
        write(&disk, n, 1, noon() + seconds(7)).unwrap();
    }
    assert!(present(&disk, 0..1).is_empty());
}

#[test]
fn a_time_that_the_file_system_cannot_hold_is_no_promise_and_ends_none() {
    let folder = folder();
    let disk = open(&folder, 4);
    write(&disk, 0, 1, noon()).unwrap();
    let end = noon() + seconds(1000);
    disk.lease(&key(0), end, noon()).unwrap();
    // Some ten thousand years; a file system that holds even that must keep the promise.
    let far = noon() + seconds(10_000 * 365 * 86400);
    let held = disk.lease(&key(0), far, noon()).map_or(end, |until| until);
    assert_eq!(disk.peek(&key(0)).unwrap().leased_until, Some(held));
    drop(disk);
    assert_eq!(open(&folder, 4).peek(&key(0)).unwrap().leased_until, Some(held));
}

/// A machine whose clock was wrong when it wrote, or is when it starts.
#[test]
fn a_clock_that_was_set_back_makes_no_leases() {
    let folder = folder();
    let disk = open(&folder, 4);
    for n in 0..4 {
        write(&disk, n, 1, noon() + seconds(n.into())).unwrap();
    }
    disk.lease(&key(0), noon() + seconds(1000), noon()).unwrap();
    drop(disk);
    let before = noon() - seconds(1_000_000);
    let disk = reopen(&folder, 4, before);
    assert_eq!(disk.figures().leased_bytes, BLOCK);
    for n in 10..12 {
        write(&disk, n, 1, before).unwrap();
    }
    assert_eq!(present(&disk, 0..20), [0, 3, 10, 11]);
}

#[test]
fn leases_leave_half_of_the_budget() {
    let folder = folder();
    let disk = open(&folder, 4);
    for n in 0..3 {
        write(&disk, n, 1, noon()).unwrap();
    }
    let lease = |n, until| disk.lease(&key(n), noon() + seconds(until), noon());
    assert!(lease(0, 10).is_ok() && lease(1, 10).is_ok());
    let full = Refused::Full { leased: 2 * BLOCK, limit: 2 * BLOCK };
    assert!(matches!(lease(2, 10), Err(HoldError::Refused(refused)) if refused == full));
    assert!(matches!(lease(9, 10), Err(HoldError::Refused(Refused::Absent))));
    // What is too large beside the leases is refused before anything goes.
    assert!(matches!(write(&disk, 5, 3, noon()), Err(WriteError::Room(bytes)) if bytes == 3 * BLOCK));
    assert_eq!(present(&disk, 0..9), [0, 1, 2]);
    write(&disk, 5, 2, noon()).unwrap();
    assert_eq!(present(&disk, 0..9), [0, 1, 5]);
    // A lease on a file that is gone is none.
    fs::remove_file(path(&folder, 5)).unwrap();
    disk.release(&key(0), noon()).unwrap();
    disk.release(&key(1), noon()).unwrap();
    assert!(matches!(lease(5, 10), Err(HoldError::Io(_))));
    assert_eq!(disk.figures().leased_bytes, 0);
}

#[test]
fn a_smaller_budget_holds_from_the_start() {
    let folder = folder();
    let disk = open(&folder, 10);
    for n in 0..6 {
        write(&disk, n, 1, noon() + seconds(n.into())).unwrap();
    }
    for n in 0..3 {
        disk.lease(&key(n), noon() + seconds(1000 + u64::from(n)), noon()).unwrap();
    }
    drop(disk);
    let disk = reopen(&folder, 2, noon() + seconds(10));
    assert_eq!(present(&disk, 0..9), [1, 2], "leases count as long as the budget allows");
    assert_eq!(files(folder.path()).len(), 2);
    drop(disk);
    let disk = reopen(&folder, 0, noon() + seconds(10));
    assert!(matches!(write(&disk, 0, 1, noon()), Err(WriteError::Room(_))));
    assert_eq!(files(folder.path()).len(), 0);
}

#[test]
fn a_full_disk_fails_the_write_and_nothing_else() {
    let folder = folder();
    let disk = open(&folder, 10);
    write(&disk, 0, 1, noon()).unwrap();
    // The device says that it is full as soon as anything is written.
    let place = path(&folder, 1).with_file_name(format!(".{}.tmp", key(1)));
    for round in 1..3 {
        symlink("/dev/full", &place).unwrap();
        let error = write(&disk, 1, 1, noon()).unwrap_err();
        assert!(matches!(&error, WriteError::Io(error) if error.kind() == io::ErrorKind::StorageFull), "{error}");
        assert_eq!((disk.figures().failed_writes, disk.figures().bytes), (round, BLOCK));
        assert!(place.symlink_metadata().is_err(), "nothing is left behind");
    }
    assert!(disk.read(&key(0), noon()).is_some());
    write(&disk, 1, 1, noon()).unwrap();
    assert_eq!(present(&disk, 0..9), [0, 1]);
}

#[test]
fn what_cannot_be_deleted_keeps_its_room() {
    let folder = folder();
    let disk = open(&folder, 2);
    write(&disk, 0, 1, noon()).unwrap();
    write(&disk, 1, 1, noon() + seconds(1)).unwrap();
    // A folder in the place of the file: it cannot be unlinked.
    fs::remove_file(path(&folder, 0)).unwrap();
    fs::create_dir(path(&folder, 0)).unwrap();
    assert!(matches!(write(&disk, 2, 1, noon()), Err(WriteError::Io(_))));
    assert_eq!(disk.figures().bytes, 2 * BLOCK);
    // The rest of the budget goes on.
    write(&disk, 3, 1, noon()).unwrap();
    assert_eq!(present(&disk, 0..9), [3]);
    assert!(matches!(write(&disk, 4, 2, noon()), Err(WriteError::Room(_))), "and nobody waits for what is lost");
}

#[test]
fn what_is_not_wanted_any_more_is_not_written() {
    let folder = folder();
    let disk = open(&folder, 2);
    assert!(matches!(disk.write(&key(0), &artifact(1), noon(), &|| false), Err(WriteError::Unwanted)));
    assert_eq!((files(folder.path()).len(), disk.figures().bytes), (0, 0));
}

#[test]
fn who_owns_a_file_is_learned_when_it_is_read() {
    let folder = folder();
    let tenant = TenantId::of(b"tenant");
    open(&folder, 9).write(&key(0), &artifact_of(&tenant, 1), noon(), &|| true).unwrap();
    let disk = open(&folder, 9);
    assert_eq!(disk.peek(&key(0)).unwrap().tenant, None);
    disk.header(&key(0), noon());
    assert_eq!(disk.peek(&key(0)).unwrap().tenant, Some(tenant));
}

/// Many write, read, lease and delete at the same time; somebody looks at the sum all the time.
#[test]
fn the_budget_holds_at_every_moment() {
    let folder = folder();
    let disk = open(&folder, 12);
    let done = AtomicBool::new(false);
    let samples = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut samples = 0u64;
            while !done.load(Ordering::Relaxed) {
                let TierFigures { bytes, leased_bytes, budget_bytes, .. } = disk.figures();
                assert!(bytes <= budget_bytes && leased_bytes <= budget_bytes / 2, "{bytes}, {leased_bytes}");
                samples += 1;
                std::thread::yield_now();
            }
            samples
        });
        let workers: Vec<_> = (0..6u32)
            .map(|worker| {
                let disk = &disk;
                scope.spawn(move || {
                    for step in 0..40u32 {
                        let n = (worker * 7 + step * 5) % 19;
                        write(disk, n, 1 + (n % 3) as usize, noon() + seconds(step.into())).unwrap();
                        match step % 5 {
                            0 => drop(disk.lease(
                                &key(n),
                                noon() + seconds(u64::from(step) + 3),
                                noon() + seconds(step.into()),
                            )),
                            1 => drop(disk.remove(&key((n + 3) % 19), noon())),
                            _ => drop(disk.read(&key((n + 1) % 19), noon() + seconds(step.into()))),
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(samples > 100, "{samples} looks");
    let figures = disk.figures();
    assert_eq!(figures.corrupt + figures.failed_writes + figures.refused_writes + figures.failed_reads, 0);
    assert!(figures.evictions > 50, "{figures:?}");
    let files = files(folder.path());
    assert_eq!(files.iter().map(|(_, bytes)| bytes).sum::<u64>(), figures.bytes, "the sum is that of the folder");
    assert_eq!(files.len() as u64, figures.artifacts);
    for n in present(&disk, 0..19) {
        assert!(disk.check(&key(n), noon()).is_ok());
    }
}

/// There is room for one artifact; each writer waits for the one before.
#[test]
fn writers_wait_for_room_that_others_have_set_aside() {
    let folder = folder();
    let disk = open(&folder, 1);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let disk = &disk;
            scope.spawn(move || write(disk, n, 1, noon()).unwrap());
        }
    });
    let figures = disk.figures();
    assert_eq!((figures.writes, figures.evictions, figures.artifacts), (8, 7, 1));
}
