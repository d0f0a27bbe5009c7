//! The whole store: flights, tiers and what is promised, with time paused.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::tests::{Why, artifact, artifact_of, files, key, occupied, seconds};
use crate::{DiskOptions, Remote};

mod flights;
mod remote;
mod tiers;

/// Options for a store in memory only.
fn options() -> StoreOptions {
    StoreOptions { memory_bytes: 1 << 20, open_keys: 200, disk: None, remote: None, pending_bytes: 1 << 20 }
}

fn with_disk(folder: &TempDir) -> StoreOptions {
    let disk = DiskOptions { folder: folder.path().to_owned(), bytes: 1 << 20 };
    StoreOptions { disk: Some(disk), ..options() }
}

fn with_remote(options: StoreOptions, remote: &Arc<impl Remote>) -> StoreOptions {
    StoreOptions { remote: Some(remote.clone()), ..options }
}

async fn open(options: StoreOptions) -> (Store<Why>, Background) {
    Store::open(options).await.unwrap()
}

async fn lead(store: &Store<Why>, n: u32) -> Lead<Why> {
    match store.begin(&key(n)).await.unwrap() {
        Begin::Lead(lead) => lead,
        other => panic!("expected to lead, got {other:?}"),
    }
}

async fn join(store: &Store<Why>, n: u32) -> Joined<Why> {
    match store.begin(&key(n)).await.unwrap() {
        Begin::Join(joined) => joined,
        other => panic!("expected to join, got {other:?}"),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}
