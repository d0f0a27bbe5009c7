//! A store's folder that no service has open.

use std::path::Path;

use anyhow::{Context, ensure};
use tessera_embedding::ImageKey;
use tessera_store::{Abandoned, DiskOptions, Listed, Store, StoreError, StoreOptions, Verified};

use super::show::About;

/// Artifacts that are listed in one go.
const PAGE: usize = 1000;

/// A store's folder, and nobody else's as long as it is open.
pub(super) struct Folder {
    store: Store<Abandoned>,
}

impl Folder {
    /// Opens a folder that is a store already.
    ///
    /// # Errors
    /// When it is none, or a service has it open.
    pub(super) async fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        // Opening would make one.
        ensure!(path.join("lock").is_file(), "{name} is not the folder of a store");
        let options = StoreOptions {
            memory_bytes: 0,
            open_keys: 1,
            // Whatever is there stays: how much may be there is for its service to say.
            disk: Some(DiskOptions { folder: path.to_owned(), bytes: u64::MAX }),
            remote: None,
            pending_bytes: 0,
        };
        match Store::open(options).await {
            // What a service does in the background is not needed.
            Ok((store, _)) => Ok(Self { store }),
            Err(StoreError::InUse(_)) => {
                Err(anyhow::anyhow!("a service has the store {name} open: ask its gateway, with --server URL"))
            }
            Err(error) => Err(error).with_context(|| format!("cannot open the store {name}")),
        }
    }

    /// Says what is stored under keys, in their order.
    pub(super) async fn stat(&self, keys: &[ImageKey]) -> Vec<Option<About>> {
        let mut stored = Vec::with_capacity(keys.len());
        for key in keys {
            stored.push(self.store.stat(key).await.map(About::from));
        }
        stored
    }

    /// Lists everything in the order of keys.
    pub(super) fn pages(&self) -> impl Iterator<Item = Vec<Listed>> {
        let mut after = None;
        std::iter::from_fn(move || {
            let page = self.store.list(after, PAGE);
            after = page.last().map(|listed| listed.key);
            (!page.is_empty()).then_some(page)
        })
    }

    /// Removes keys; tells how many there were.
    pub(super) async fn delete(&self, keys: &[ImageKey]) -> u64 {
        let mut deleted = 0;
        for key in keys {
            deleted += u64::from(self.store.delete(key).await);
        }
        deleted
    }

    /// Removes everything; tells how much that was.
    pub(super) async fn delete_all(&self) -> u64 {
        let mut deleted = 0;
        for page in self.pages() {
            deleted += self.delete(&page.iter().map(|listed| listed.key).collect::<Vec<_>>()).await;
        }
        deleted
    }

    /// How many artifacts there are.
    pub(super) fn count(&self) -> u64 {
        self.store.figures().disk.map_or(0, |disk| disk.artifacts)
    }

    /// Reads everything, and removes what is broken. `progress` hears how many were read, and how many bytes.
    pub(super) async fn verify(&self, progress: impl FnMut(u64, u64)) -> Verified {
        self.store.verify(progress).await
    }
}
