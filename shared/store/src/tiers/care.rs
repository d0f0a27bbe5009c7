//! What is asked about artifacts, promised for them and done to them, besides reading and writing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tessera_embedding::{ImageKey, TenantId};
use tracing::warn;

use super::Tiers;
use crate::about::{Kept, LeaseError, Listed, Stat, Verified};
use crate::blocking::blocking;
use crate::disk::{HoldError, Miss};
use crate::figures::Figures;
use crate::index::{Entry, Refused};

/// Keys that are looked at in one go.
const PAGE: usize = 1000;
/// The last whole second that the inode of a common file system can hold a little more than.
const LAST_SECOND: u64 = (1 << 33) + (1 << 32) + (1 << 31) - 2;

impl Tiers {
    /// What is known about a key.
    pub(crate) async fn stat(self: &Arc<Self>, key: &ImageKey) -> Option<Stat> {
        if let Some(stat) = self.stat_here(key).await {
            return Some(stat);
        }
        // The shared tier gives whole artifacts only.
        self.remote.as_ref()?;
        let artifact = self.get(key).await?;
        Some(Stat { remote: true, memory: self.memory.peek(key).is_some(), ..Stat::of(&artifact.header(key)) })
    }

    /// As [`Tiers::stat`], from memory and disk.
    async fn stat_here(&self, key: &ImageKey) -> Option<Stat> {
        let in_memory = self.memory.peek(key);
        let on_disk = self.disk.as_ref().and_then(|tier| tier.disk.peek(key));
        let stat = match (&in_memory, &self.disk) {
            (Some(entry), _) => Stat::of(&entry.value.header(key)),
            (None, Some(tier)) if on_disk.is_some() => {
                let (key, clock) = (*key, self.clock);
                Stat::of(&tier.read_with(move |disk| disk.header(&key, clock.now())).await??)
            }
            (None, _) => return None,
        };
        let now = self.clock.now();
        let leases = [in_memory.as_ref().and_then(|e| e.leased_until), on_disk.as_ref().and_then(|e| e.leased_until)];
        Some(Stat {
            memory: in_memory.is_some(),
            disk: on_disk.is_some(),
            remote: in_memory.is_some_and(|e| e.remote) || on_disk.is_some_and(|e| e.remote),
            leased_until: leases.into_iter().flatten().filter(|until| *until > now).max(),
            ..stat
        })
    }

    /// Keeps an artifact for a time at least; tells until when.
    pub(crate) async fn lease(self: &Arc<Self>, key: &ImageKey, time: Duration) -> Result<SystemTime, LeaseError> {
        let (key, now) = (*key, self.clock.now());
        let until = end_of_lease(now, time);
        let Some(tier) = &self.disk else {
            return self.memory.lock().lease(&key, until, now).map_err(|refused| refused.of(&key));
        };
        // Once more if it was evicted between the two steps.
        for _ in 0..2 {
            if self.kept(&key) == Kept::InMemory {
                let artifact = self.get(&key).await.ok_or(LeaseError::NotFound(key))?;
                if self.kept(&key) == Kept::InMemory && self.write_to_disk(&key, artifact, None).await == Kept::InMemory
                {
                    return Err(LeaseError::NotKept(key));
                }
            }
            match tier.write_with(move |disk| disk.lease(&key, until, now)).await {
                Some(Ok(until)) => return Ok(until),
                Some(Err(HoldError::Refused(Refused::Absent))) => {}
                Some(Err(HoldError::Refused(refused))) => return Err(refused.of(&key)),
                Some(Err(HoldError::Io(error))) => {
                    warn!(%key, %error, "a lease cannot be written to the disk tier");
                    return Err(LeaseError::NotKept(key));
                }
                None => return Err(LeaseError::NotKept(key)),
            }
        }
        Err(LeaseError::NotKept(key))
    }

    /// Ends a lease; tells whether there was one.
    pub(crate) async fn release(&self, key: &ImageKey) -> bool {
        let (key, now) = (*key, self.clock.now());
        let Some(tier) = &self.disk else { return self.memory.lock().release(&key, now) };
        match tier.write_with(move |disk| disk.release(&key, now)).await {
            Some(Ok(released)) => released,
            Some(Err(error)) => {
                warn!(%key, %error, "the end of a lease cannot be written to the disk tier");
                true
            }
            None => false,
        }
    }

    /// Deletes an artifact everywhere; tells whether it was anywhere.
    pub(crate) async fn delete(&self, key: &ImageKey) -> bool {
        let (key, now) = (*key, self.clock.now());
        // In this order: who brings it up now is stopped, or has done it before it is removed.
        self.deletions.add(&key);
        let mut deleted = self.queue.forget(&key);
        deleted |= self.memory.remove(&key);
        if let Some(tier) = &self.disk {
            deleted |= tier.write_with(move |disk| disk.remove(&key, now)).await.unwrap_or(false);
        }
        if let Some(remote) = &self.remote {
            deleted |= remote.delete(&key).await;
        }
        deleted
    }

    /// Deletes what a tenant has here, and of that what the shared tier has; tells how many artifacts.
    pub(crate) async fn delete_tenant(&self, tenant: &TenantId) -> u64 {
        let mut deleted = 0;
        for key in self.queue.of_tenant(tenant) {
            deleted += u64::from(self.delete(&key).await);
        }
        let mut after = None;
        loop {
            let page = self.keys_in_memory(after);
            let Some(last) = page.last().map(|(key, _)| *key) else { break };
            for (key, owner) in page {
                if owner == Some(*tenant) {
                    deleted += u64::from(self.delete(&key).await);
                }
            }
            after = Some(last);
        }
        let Some(tier) = &self.disk else { return deleted };
        let mut after = None;
        loop {
            let page: Vec<_> = tier.disk.lock().after(after).take(PAGE).map(|(key, e)| (*key, e.tenant)).collect();
            let Some(last) = page.last().map(|(key, _)| *key) else { break };
            for (key, owner) in page {
                let owner = match owner {
                    Some(owner) => Some(owner),
                    None => self.stat_here(&key).await.map(|stat| stat.provenance.tenant),
                };
                if owner == Some(*tenant) {
                    deleted += u64::from(self.delete(&key).await);
                }
            }
            after = Some(last);
        }
        deleted
    }

    fn keys_in_memory(&self, after: Option<ImageKey>) -> Vec<(ImageKey, Option<TenantId>)> {
        self.memory.lock().after(after).take(PAGE).map(|(key, entry)| (*key, entry.tenant)).collect()
    }

    /// What is on the disk, or in memory where there is none, in the order of keys.
    pub(crate) fn list(&self, after: Option<ImageKey>, limit: usize) -> Vec<Listed> {
        fn listed<V>((key, entry): (&ImageKey, &Entry<V>)) -> Listed {
            let Entry { bytes, tenant, last_use, leased_until, .. } = *entry;
            Listed { key: *key, bytes, tenant, last_use, leased_until }
        }
        let now = self.clock.now();
        let mut list: Vec<Listed> = match &self.disk {
            Some(tier) => tier.disk.lock().after(after).take(limit).map(listed).collect(),
            None => self.memory.lock().after(after).take(limit).map(listed).collect(),
        };
        for listed in &mut list {
            listed.leased_until = listed.leased_until.filter(|until| *until > now);
        }
        list
    }

    /// Reads everything that [`Tiers::list`] lists, and deletes what fails its checks.
    pub(crate) async fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Verified {
        let mut verified = Verified::default();
        let mut after = None;
        loop {
            let page = self.list(after, PAGE);
            let Some(last) = page.last() else { return verified };
            after = Some(last.key);
            for listed in page {
                match self.check(&listed.key).await {
                    Ok(bytes) => verified.bytes += bytes,
                    Err(Miss::Corrupt) => verified.corrupt += 1,
                    // Gone meanwhile, or the disk fails, which is in the log.
                    Err(Miss::Absent | Miss::Failed) => continue,
                }
                verified.checked += 1;
                progress(verified.checked, verified.bytes);
            }
        }
    }

    /// Reads one artifact to check it: the length of its payload.
    async fn check(&self, key: &ImageKey) -> Result<u64, Miss> {
        let (key, now) = (*key, self.clock.now());
        if let Some(tier) = &self.disk {
            return tier.read_with(move |disk| disk.check(&key, now)).await.unwrap_or(Err(Miss::Failed));
        }
        let artifact = self.memory.peek(&key).ok_or(Miss::Absent)?.value;
        let bytes = artifact.bytes() as u64;
        if blocking(move || artifact.is_intact()).await.ok_or(Miss::Failed)? {
            return Ok(bytes);
        }
        self.memory.discard(&key);
        Err(Miss::Corrupt)
    }

    /// Counters and gauges, but for the open keys.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            memory: self.memory.figures(),
            disk: self.disk.as_ref().map(|tier| tier.disk.figures()),
            remote: self.remote.as_ref().map(|remote| remote.figures()),
            pending_bytes: self.queue.bytes(),
            open_keys: 0,
        }
    }
}

impl Refused {
    fn of(self, key: &ImageKey) -> LeaseError {
        match self {
            Self::Absent => LeaseError::NotFound(*key),
            Self::Full { leased, limit } => LeaseError::Full { leased, limit },
        }
    }
}

/// The end of a lease: whole seconds, because files cannot tell less everywhere, and never before the time that was asked for.
fn end_of_lease(now: SystemTime, time: Duration) -> SystemTime {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(time);
    let seconds = since.as_secs().saturating_add(u64::from(since.subsec_nanos() > 0));
    // Beyond what files can tell, a lease ends there: in the year 2446 on most file systems.
    UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))
}
