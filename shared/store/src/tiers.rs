//! The three tiers as one: reads go down and what they find comes up, writes and deletions go everywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use tessera_embedding::{Artifact, ImageKey};
use tokio::sync::{Semaphore, mpsc};

use crate::about::Kept;
use crate::behind::{Job, Queue, Target};
use crate::blocking::{blocking, blocking_in_turn};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::memory::Memory;
use crate::options::{StoreError, StoreOptions};
use crate::reads::Reads;
use crate::shared_tier::SharedTier;

mod care;

/// Files that are read at a time.
const READERS: usize = 16;
/// Files that are written or deleted at a time.
const WRITERS: usize = 8;

/// Where artifacts are kept.
#[derive(Debug)]
pub(crate) struct Tiers {
    pub(crate) memory: Memory,
    pub(crate) disk: Option<DiskTier>,
    pub(crate) remote: Option<SharedTier>,
    /// What is written behind.
    pub(crate) queue: Queue,
    reads: Reads,
    deletions: Arc<Deletions>,
    clock: Clock,
}

/// The disk, for callers that must not block.
#[derive(Debug)]
pub(crate) struct DiskTier {
    pub(crate) disk: Arc<Disk>,
    pub(crate) readers: Arc<Semaphore>,
    pub(crate) writers: Arc<Semaphore>,
}

/// How many deletions there were, by the first byte of the key: who brings an artifact up from a lower tier looks whether
/// it was deleted since it was read. Deletions of other keys seldom count as well, and then it is not brought up.
#[derive(Debug)]
struct Deletions([AtomicU64; 256]);

/// That a key was not deleted since.
#[derive(Clone, Debug)]
pub(crate) struct Still {
    deletions: Arc<Deletions>,
    key: ImageKey,
    count: u64,
}

impl Tiers {
    /// Makes the tiers, and reads what the disk holds.
    pub(crate) async fn open(options: StoreOptions) -> Result<(Self, mpsc::Receiver<Job>), StoreError> {
        let clock = Clock::start();
        let disk = match options.disk {
            None => None,
            Some(disk) => {
                let folder = disk.folder.clone();
                let opened = blocking(move || Disk::open(&disk, clock.now())).await;
                let interrupted = || std::io::Error::other("interrupted");
                let disk = opened.unwrap_or_else(|| Err(StoreError::Folder { path: folder, source: interrupted() }))?;
                Some(DiskTier::new(disk))
            }
        };
        let (queue, jobs) = Queue::new(options.pending_bytes);
        let tiers = Self {
            memory: Memory::new(options.memory_bytes),
            disk,
            remote: options.remote.map(SharedTier::new),
            queue,
            reads: Reads::default(),
            deletions: Arc::new(Deletions([const { AtomicU64::new(0) }; 256])),
            clock,
        };
        Ok((tiers, jobs))
    }

    /// The artifact of a key, if it is in memory.
    pub(crate) fn get_in_memory(&self, key: &ImageKey) -> Option<Arc<Artifact>> {
        let now = self.clock.now();
        let artifact = self.memory.get(key, now)?;
        if let Some(tier) = &self.disk {
            tier.disk.touch(key, now);
        }
        Some(artifact)
    }

    /// The artifact of a key, from whichever tier has it.
    pub(crate) async fn get(self: &Arc<Self>, key: &ImageKey) -> Option<Arc<Artifact>> {
        if let Some(artifact) = self.get_in_memory(key) {
            return Some(artifact);
        }
        if self.disk.is_none() && self.remote.is_none() {
            return None;
        }
        self.reads.join(key, || self.clone().read_through(*key).boxed()).await
    }

    /// Reads from disk, then from the shared tier, and brings up what is found.
    async fn read_through(self: Arc<Self>, key: ImageKey) -> Option<Arc<Artifact>> {
        let still = self.deletions.still(&key);
        if let Some(tier) = &self.disk
            && let Some(artifact) = tier.read(key, self.clock).await
        {
            let artifact = Arc::new(artifact);
            self.memory.insert(&key, &artifact, self.clock.now(), || still.holds());
            return Some(artifact);
        }
        let artifact = Arc::new(self.remote.as_ref()?.get(&key).await?);
        self.memory.insert(&key, &artifact, self.clock.now(), || still.holds());
        if self.disk.is_some() {
            // For the next time; the one who asks need not wait for it. Without room it is read again.
            self.queue.add(&key, &artifact, Target::Disk(still));
        }
        self.note_remote(&key);
        Some(artifact)
    }

    /// Keeps an artifact in memory, so that readers find it.
    pub(crate) fn put_in_memory(&self, key: &ImageKey, artifact: &Arc<Artifact>) {
        self.memory.insert(key, artifact, self.clock.now(), || true);
    }

    /// Keeps an artifact for good: on the disk when this returns, in the shared tier some time later; without a disk tier,
    /// in the shared tier when this returns.
    pub(crate) async fn persist(&self, key: &ImageKey, artifact: &Arc<Artifact>) -> Kept {
        if self.disk.is_none()
            && let Some(remote) = &self.remote
        {
            return self.write_through(remote, key, artifact).await;
        }
        let kept = self.write_to_disk(key, artifact.clone(), None).await;
        if let Some(remote) = &self.remote
            && !self.queue.add(key, artifact, Target::Remote)
        {
            remote.counts.refused_writes.add(1);
        }
        kept
    }

    /// Writes an artifact to the shared tier, the only one that outlives the process.
    async fn write_through(&self, remote: &SharedTier, key: &ImageKey, artifact: &Arc<Artifact>) -> Kept {
        let still = self.deletions.still(key);
        if !remote.put(key, artifact.clone()).await {
            return Kept::InMemory;
        }
        if still.holds() {
            self.note_remote(key);
        } else {
            // It was deleted meanwhile.
            remote.delete(key).await;
        }
        Kept::Durably
    }

    /// Writes an artifact to the disk, unless it was deleted meanwhile.
    pub(crate) async fn write_to_disk(&self, key: &ImageKey, artifact: Arc<Artifact>, still: Option<Still>) -> Kept {
        let Some(tier) = &self.disk else { return Kept::InMemory };
        let (key, clock) = (*key, self.clock);
        let wanted = move || still.as_ref().is_none_or(Still::holds);
        let write = move |disk: &Disk| disk.write(&key, &artifact, clock.now(), &wanted);
        match tier.write_with(write).await {
            Some(Ok(())) => Kept::Durably,
            Some(Err(_)) | None => Kept::InMemory,
        }
    }

    /// Whether an artifact would survive a restart.
    pub(crate) fn kept(&self, key: &ImageKey) -> Kept {
        let kept = match &self.disk {
            Some(tier) => tier.disk.peek(key).is_some(),
            None => self.memory.peek(key).is_some_and(|entry| entry.remote),
        };
        if kept { Kept::Durably } else { Kept::InMemory }
    }

    /// Notes that the shared tier has an artifact.
    pub(crate) fn note_remote(&self, key: &ImageKey) {
        if let Some(entry) = self.memory.lock().get_mut(key) {
            entry.remote = true;
        }
        if let Some(tier) = &self.disk {
            tier.disk.note_remote(key);
        }
    }

    /// Writes down when artifacts were used last.
    pub(crate) async fn mark_stale(&self) {
        if let Some(tier) = &self.disk {
            tier.write_with(Disk::mark_stale).await;
        }
    }
}

impl DiskTier {
    fn new(disk: Disk) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { disk: Arc::new(disk), readers: places(READERS), writers: places(WRITERS) }
    }

    /// Reads a key that the index knows, away from here.
    async fn read(&self, key: ImageKey, clock: Clock) -> Option<Artifact> {
        if self.disk.peek(&key).is_none() {
            self.disk.count_miss();
            return None;
        }
        self.read_with(move |disk| disk.read(&key, clock.now())).await?
    }

    async fn read_with<T: Send + 'static>(&self, work: impl FnOnce(&Disk) -> T + Send + 'static) -> Option<T> {
        let disk = self.disk.clone();
        blocking_in_turn(&self.readers, move || work(&disk)).await
    }

    async fn write_with<T: Send + 'static>(&self, work: impl FnOnce(&Disk) -> T + Send + 'static) -> Option<T> {
        let disk = self.disk.clone();
        blocking_in_turn(&self.writers, move || work(&disk)).await
    }
}

impl Deletions {
    fn of(&self, key: &ImageKey) -> &AtomicU64 {
        &self.0[usize::from(key.as_bytes()[0])]
    }

    fn add(&self, key: &ImageKey) {
        self.of(key).fetch_add(1, Ordering::SeqCst);
    }

    fn still(self: &Arc<Self>, key: &ImageKey) -> Still {
        Still { deletions: self.clone(), key: *key, count: self.of(key).load(Ordering::SeqCst) }
    }
}

impl Still {
    /// False once it was deleted.
    pub(crate) fn holds(&self) -> bool {
        self.deletions.of(&self.key).load(Ordering::SeqCst) == self.count
    }
}
