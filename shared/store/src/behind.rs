//! Writing behind: what goes to the shared tier, or comes from there to the disk, waits in a bounded queue while the request
//! goes on.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tessera_embedding::{Artifact, ImageKey, TenantId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use crate::about::Kept;
use crate::tiers::{Still, Tiers};

/// Artifacts that may wait, however small they are.
const WAITING: usize = 16 << 10;
/// Artifacts that are written at a time.
const WRITING: usize = 4;
/// How long what waits may take to be written when the service stops.
const DRAIN: Duration = Duration::from_secs(10);
/// How often the times of files are set to the last use.
const BOOKKEEPING: Duration = Duration::from_secs(60);
/// Bytes are counted in this unit, so that a semaphore can.
const UNIT_BYTES: u64 = 1024;

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    units: usize,
    /// What is to be written to the shared tier, and has not been deleted since.
    pending: Mutex<HashMap<ImageKey, TenantId>>,
}

/// An artifact that is to be written.
#[derive(Debug)]
pub(crate) struct Job {
    key: ImageKey,
    artifact: Arc<Artifact>,
    target: Target,
    /// Its bytes, until it is written or given up.
    _room: OwnedSemaphorePermit,
}

/// Where to.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Remote,
    /// To the disk, unless it was deleted since it was read.
    Disk(Still),
}

/// What a store does while nobody waits for it. A service runs it as a task.
#[derive(Debug)]
pub struct Background {
    tiers: Arc<Tiers>,
    jobs: mpsc::Receiver<Job>,
}

impl Queue {
    pub(crate) fn new(bytes: u64) -> (Self, mpsc::Receiver<Job>) {
        let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let (jobs, receiver) = mpsc::channel(WAITING);
        let room = Arc::new(Semaphore::new(units));
        (Self { jobs, room, units, pending: Mutex::default() }, receiver)
    }

    /// Adds an artifact; false if there is no room.
    pub(crate) fn add(&self, key: &ImageKey, artifact: &Arc<Artifact>, target: Target) -> bool {
        let mut pending = self.lock();
        let to_remote = matches!(target, Target::Remote);
        if to_remote && pending.contains_key(key) {
            // It holds the same.
            return true;
        }
        let units = u32::try_from(artifact.occupied_bytes().div_ceil(UNIT_BYTES)).ok();
        let room = units.and_then(|units| self.room.clone().try_acquire_many_owned(units).ok());
        let job = room.map(|room| Job { key: *key, artifact: artifact.clone(), target, _room: room });
        let added = job.is_some_and(|job| self.jobs.try_send(job).is_ok());
        if added && to_remote {
            pending.insert(*key, artifact.provenance.tenant);
        }
        added
    }

    /// Bytes that wait, or are being written.
    pub(crate) fn bytes(&self) -> u64 {
        (self.units - self.room.available_permits()) as u64 * UNIT_BYTES
    }

    /// Keys of a tenant that are to be written to the shared tier.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> Vec<ImageKey> {
        self.lock().iter().filter(|(_, owner)| *owner == tenant).map(|(key, _)| *key).collect()
    }

    /// Takes a key off the list of what is to be written to the shared tier; tells whether it was there.
    pub(crate) fn forget(&self, key: &ImageKey) -> bool {
        self.lock().remove(key).is_some()
    }

    fn is_pending(&self, key: &ImageKey) -> bool {
        self.lock().contains_key(key)
    }

    /// The map is only ever changed by whole operations, so a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, HashMap<ImageKey, TenantId>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Background {
    pub(crate) fn new(tiers: Arc<Tiers>, jobs: mpsc::Receiver<Job>) -> Self {
        Self { tiers, jobs }
    }

    /// Writes behind until `until` is over, and then, for some seconds at most, what still waits.
    pub async fn run(mut self, until: impl Future<Output = ()>) {
        let mut until = pin!(until);
        let mut writing = FuturesUnordered::new();
        let mut bookkeeping = interval(BOOKKEEPING);
        bookkeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut until => break,
                _ = bookkeeping.tick() => self.tiers.mark_stale().await,
                Some(()) = writing.next(), if !writing.is_empty() => {}
                Some(job) = self.jobs.recv(), if writing.len() < WRITING => writing.push(write(self.tiers.clone(), job)),
            }
        }
        self.jobs.close();
        let rest = async {
            loop {
                tokio::select! {
                    Some(()) = writing.next(), if !writing.is_empty() => {}
                    job = self.jobs.recv(), if writing.len() < WRITING => match job {
                        Some(job) => writing.push(write(self.tiers.clone(), job)),
                        None if writing.is_empty() => break,
                        None => while writing.next().await.is_some() {},
                    },
                }
            }
        };
        let drained = timeout(DRAIN, rest).await.is_ok();
        self.tiers.mark_stale().await;
        if !drained {
            let bytes = self.tiers.queue.bytes();
            warn!(bytes, "stopped before everything was written to the shared tier");
        }
    }
}

/// Does one job.
async fn write(tiers: Arc<Tiers>, job: Job) {
    let Job { key, artifact, target, _room } = job;
    let Some(remote) = &tiers.remote else { return };
    if let Target::Disk(still) = target {
        // It came from the shared tier.
        if tiers.write_to_disk(&key, artifact, Some(still)).await == Kept::Durably {
            tiers.note_remote(&key);
        }
        return;
    }
    if !tiers.queue.is_pending(&key) {
        return;
    }
    let written = remote.put(&key, artifact).await;
    if !tiers.queue.forget(&key) {
        // It was deleted meanwhile.
        remote.delete(&key).await;
    } else if written {
        tiers.note_remote(&key);
    }
}
