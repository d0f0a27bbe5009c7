//! The store: what services call.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::{Either, select};
use tessera_embedding::{Abandoned, Artifact, Busy, ImageKey, TenantId, WaitError};

use crate::about::{Kept, LeaseError, Listed, Stat, Verified};
use crate::behind::Background;
use crate::figures::Figures;
use crate::flight::{Begin, Joined, Lead, OpenKeys};
use crate::options::{StoreError, StoreOptions};
use crate::tiers::Tiers;

/// Features by image key. `E` is what an encoding fails with; everybody who joined it gets the same. Cloning shares it.
pub struct Store<E> {
    pub(crate) tiers: Arc<Tiers>,
    pub(crate) open: Arc<OpenKeys<E>>,
}

/// What [`Store::begin`] does next.
enum Next<E: Clone + From<Abandoned>> {
    Answer(Begin<E>),
    /// It is in memory, but no longer on the disk: it is to be kept once more.
    Keep(Lead<E>, Arc<Artifact>),
    /// It came between two looks.
    LookAgain,
}

impl<E: Clone + From<Abandoned>> Store<E> {
    /// Opens a store and looks through its folder. Somebody must [run](Background::run) what it does in the background.
    ///
    /// # Errors
    /// [`StoreError`] when the folder cannot be used, or another process has it.
    pub async fn open(options: StoreOptions) -> Result<(Self, Background), StoreError> {
        let open = Arc::new(OpenKeys::new(options.open_keys));
        let (tiers, jobs) = Tiers::open(options).await?;
        let tiers = Arc::new(tiers);
        Ok((Self { tiers: tiers.clone(), open }, Background::new(tiers, jobs)))
    }

    /// Returns the features of a key that any tier has.
    pub async fn get(&self, key: &ImageKey) -> Option<Arc<Artifact>> {
        self.tiers.get(key).await
    }

    /// Returns the features of a key that are in memory.
    pub fn get_in_memory(&self, key: &ImageKey) -> Option<Arc<Artifact>> {
        self.tiers.get_in_memory(key)
    }

    /// Tells whether the features of a key would survive a restart.
    pub fn kept(&self, key: &ImageKey) -> Kept {
        self.tiers.kept(key)
    }

    /// Starts to encode a key, unless it is stored or somebody does so already. What memory has and the disk has lost is
    /// written once more before this returns: whoever encodes wants it kept.
    ///
    /// # Errors
    /// [`Busy`] when too many keys are open.
    pub async fn begin(&self, key: &ImageKey) -> Result<Begin<E>, Busy> {
        if let Some(joined) = self.join_led(key) {
            return Ok(Begin::Join(joined));
        }
        let found = self.get(key).await;
        match self.next(key, found)? {
            Next::Answer(begin) => return Ok(begin),
            Next::Keep(lead, artifact) => return Ok(Begin::Stored(lead.keep(artifact).await)),
            Next::LookAgain => {}
        }
        let found = self.get(key).await;
        let mut keys = self.open.lock();
        if let Some(entry) = keys.get(key).filter(|entry| entry.is_led()) {
            return Ok(Begin::Join(entry.join(self, key)));
        }
        // Not a third time: a file that cannot be read is one that has to be encoded.
        match found {
            Some(artifact) => Ok(Begin::Stored(artifact)),
            None => Ok(Begin::Lead(self.open.entry(&mut keys, key)?.lead(self, key))),
        }
    }

    fn join_led(&self, key: &ImageKey) -> Option<Joined<E>> {
        let keys = self.open.lock();
        keys.get(key).filter(|entry| entry.is_led()).map(|entry| entry.join(self, key))
    }

    /// Decides what to do about a key, when a look through the tiers found this.
    fn next(&self, key: &ImageKey, found: Option<Arc<Artifact>>) -> Result<Next<E>, Busy> {
        let mut keys = self.open.lock();
        if let Some(entry) = keys.get(key).filter(|entry| entry.is_led()) {
            return Ok(Next::Answer(Begin::Join(entry.join(self, key))));
        }
        let has_disk = self.tiers.disk.is_some();
        let kept = self.tiers.kept(key);
        match found {
            Some(artifact) if !has_disk || kept == Kept::Durably => Ok(Next::Answer(Begin::Stored(artifact))),
            Some(artifact) => Ok(match self.open.entry(&mut keys, key) {
                Ok(entry) => Next::Keep(entry.lead(self, key), artifact),
                Err(_) => Next::Answer(Begin::Stored(artifact)),
            }),
            None if kept == Kept::Durably || self.tiers.memory.peek(key).is_some() => Ok(Next::LookAgain),
            None => Ok(Next::Answer(Begin::Lead(self.open.entry(&mut keys, key)?.lead(self, key)))),
        }
    }

    /// Waits until a key can be read, for at most `patience`; the key may be unknown so far. A look through the tiers is
    /// carried to its end, whatever the patience.
    ///
    /// # Errors
    /// [`WaitError`] when it does not come, its encoding failed, or too many keys are open.
    pub async fn wait(&self, key: &ImageKey, patience: Duration) -> Result<Arc<Artifact>, WaitError<E>> {
        if let Some(artifact) = self.get_in_memory(key) {
            return Ok(artifact);
        }
        if self.kept(key) == Kept::Durably
            && let Some(artifact) = self.get(key).await
        {
            return Ok(artifact);
        }
        let not_found = WaitError::NotFound(*key);
        let Some(joined) = self.join(key, patience)? else { return self.get(key).await.ok_or(not_found) };
        let announced = pin!(tokio::time::timeout(patience, joined.announced()));
        let look = pin!(self.get(key));
        let outcome = match select(look, announced).await {
            Either::Left((Some(artifact), _)) => return Ok(artifact),
            Either::Left((None, announced)) => announced.await,
            Either::Right((Ok(outcome), _)) => Ok(outcome),
            Either::Right((Err(_), look)) => return look.await.ok_or(not_found),
        };
        match outcome {
            Ok(outcome) => outcome.map_err(|failed| WaitError::Failed(*key, failed)),
            Err(_) => Err(not_found),
        }
    }

    /// A place behind whoever encodes a key, or will; nothing if nobody does and there is no time to wait.
    fn join(&self, key: &ImageKey, patience: Duration) -> Result<Option<Joined<E>>, Busy> {
        let mut keys = self.open.lock();
        if patience.is_zero() && !keys.contains_key(key) {
            return Ok(None);
        }
        Ok(Some(self.open.entry(&mut keys, key)?.join(self, key)))
    }

    /// Stores features that somebody uploaded: those who wait can read them at once; when this returns they are kept.
    pub async fn put(&self, key: &ImageKey, artifact: Artifact) -> Kept {
        let artifact = Arc::new(artifact);
        {
            let keys = self.open.lock();
            self.tiers.put_in_memory(key, &artifact);
            if let Some(entry) = keys.get(key) {
                entry.announce(&artifact);
            }
        }
        let kept = self.tiers.persist(key, &artifact).await;
        let mut keys = self.open.lock();
        if keys.get(key).is_some_and(|entry| !entry.is_led())
            && let Some(entry) = keys.remove(key)
        {
            entry.finish(artifact, kept);
        }
        kept
    }

    /// Returns what is known about a key, without reading its payload. Only what nothing but the shared tier has is
    /// read, once, and kept here from then on.
    pub async fn stat(&self, key: &ImageKey) -> Option<Stat> {
        self.tiers.stat(key).await
    }

    /// Promises that an artifact is not evicted from the disk before a time, also after a restart; without a disk tier, from
    /// memory. Returns that time, which is later if somebody was promised more before. [`Store::delete`] ends a lease.
    ///
    /// # Errors
    /// [`LeaseError`] when it is not stored, cannot be kept, or leases would take more than half of the budget.
    pub async fn lease(&self, key: &ImageKey, time: Duration) -> Result<SystemTime, LeaseError> {
        self.tiers.lease(key, time).await
    }

    /// Ends a lease; tells whether there was one.
    pub async fn release(&self, key: &ImageKey) -> bool {
        self.tiers.release(key).await
    }

    /// Deletes an artifact from all tiers; tells whether it was in any.
    pub async fn delete(&self, key: &ImageKey) -> bool {
        self.tiers.delete(key).await
    }

    /// Deletes what this machine keeps of a tenant, from the shared tier, too; tells how many artifacts that were. What only
    /// the shared tier has it does not find.
    pub async fn delete_tenant(&self, tenant: &TenantId) -> u64 {
        self.tiers.delete_tenant(tenant).await
    }

    /// Returns the artifacts on the disk, or in memory if there is no disk tier, in the order of their keys: at most `limit`
    /// of those behind `after`.
    pub fn list(&self, after: Option<ImageKey>, limit: usize) -> Vec<Listed> {
        self.tiers.list(after, limit)
    }

    /// Reads every artifact that [`Store::list`] lists. Those that fail their checks are deleted and counted. `progress` hears
    /// how many were read so far, and how many bytes.
    pub async fn verify(&self, progress: impl FnMut(u64, u64)) -> Verified {
        self.tiers.verify(progress).await
    }

    /// Returns counters and gauges.
    pub fn figures(&self) -> Figures {
        Figures { open_keys: self.open.lock().len(), ..self.tiers.figures() }
    }
}

impl<E> Clone for Store<E> {
    fn clone(&self) -> Self {
        Self { tiers: self.tiers.clone(), open: self.open.clone() }
    }
}

impl<E> fmt::Debug for Store<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
