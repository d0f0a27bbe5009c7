//! What a tier holds: how many bytes, in which order they may go, and which of them are leased.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::SystemTime;

use tessera_embedding::{ImageKey, TenantId};

use crate::figures::TierFigures;

/// Artifacts of a tier by key. Bytes of entries and bytes set aside together never exceed the budget, as long as the
/// owner sets bytes aside before it inserts.
#[derive(Debug)]
pub(crate) struct Index<V> {
    budget: u64,
    entries: BTreeMap<ImageKey, Entry<V>>,
    /// Those without a lease, least recently used first.
    order: BTreeMap<Turn, ImageKey>,
    /// Those with a lease, by its end.
    leases: BTreeMap<Turn, ImageKey>,
    used: u64,
    /// Set aside for what is being written, or not free yet.
    reserved: u64,
    /// Of files that cannot be deleted.
    lost: u64,
    leased: u64,
    /// Makes turns and generations unique.
    sequence: u64,
}

/// A place in an order: a time, and a number that no other place has.
type Turn = (SystemTime, u64);

/// What is known about an artifact of a tier.
#[derive(Clone, Debug)]
pub(crate) struct Entry<V> {
    pub(crate) bytes: u64,
    /// Not known of a file that nobody has read since the start.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) last_use: SystemTime,
    pub(crate) leased_until: Option<SystemTime>,
    /// Whether the shared tier was seen to have it.
    pub(crate) remote: bool,
    pub(crate) value: V,
    /// Another one for every insertion, so that who comes late does not remove a successor.
    generation: u64,
    turn: Turn,
}

/// One stay of an artifact in an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stay {
    pub(crate) key: ImageKey,
    generation: u64,
}

/// Why an artifact was not leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Absent,
    Full { leased: u64, limit: u64 },
}

impl<V> Entry<V> {
    pub(crate) fn new(bytes: u64, tenant: Option<TenantId>, last_use: SystemTime, value: V) -> Self {
        let turn = (last_use, 0);
        Self { bytes, tenant, last_use, leased_until: None, remote: false, value, generation: 0, turn }
    }
}

impl<V> Index<V> {
    pub(crate) fn new(budget: u64) -> Self {
        let (entries, order, leases) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { budget, entries, order, leases, used: 0, reserved: 0, lost: 0, leased: 0, sequence: 0 }
    }

    pub(crate) fn get(&self, key: &ImageKey) -> Option<&Entry<V>> {
        self.entries.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &ImageKey) -> Option<&mut Entry<V>> {
        self.entries.get_mut(key)
    }

    /// The present stay of a key.
    pub(crate) fn stay(&self, key: &ImageKey) -> Option<Stay> {
        self.entries.get(key).map(|entry| Stay { key: *key, generation: entry.generation })
    }

    /// The entries behind `after`, in the order of their keys.
    pub(crate) fn after(&self, after: Option<ImageKey>) -> impl Iterator<Item = (&ImageKey, &Entry<V>)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((start, Bound::Unbounded))
    }

    /// Bytes of entries, those set aside, and those that cannot be had back.
    pub(crate) fn bytes(&self) -> u64 {
        self.used + self.reserved + self.lost
    }

    /// Fills in the gauges.
    pub(crate) fn gauges(&self, counters: TierFigures) -> TierFigures {
        TierFigures {
            bytes: self.bytes(),
            budget_bytes: self.budget,
            leased_bytes: self.leased,
            artifacts: self.entries.len() as u64,
            ..counters
        }
    }

    /// Adds an entry, for which the caller has made room, and returns the one that it replaces. Its lease goes
    /// over: what is written again under a key is what it was.
    pub(crate) fn insert(&mut self, key: ImageKey, mut entry: Entry<V>) -> Option<Entry<V>> {
        let replaced = self.remove(&key);
        if let Some(old) = &replaced {
            entry.leased_until = entry.leased_until.max(old.leased_until);
            entry.remote |= old.remote;
        }
        self.sequence += 1;
        entry.generation = self.sequence;
        self.used += entry.bytes;
        self.place(key, &mut entry);
        self.entries.insert(key, entry);
        replaced
    }

    pub(crate) fn remove(&mut self, key: &ImageKey) -> Option<Entry<V>> {
        let entry = self.entries.remove(key)?;
        self.unplace(&entry);
        self.used -= entry.bytes;
        Some(entry)
    }

    /// Removes one stay; its bytes remain set aside until they are really free. Nothing happens when the key's stay is
    /// another one by now, or is under a lease.
    pub(crate) fn detach(&mut self, stay: &Stay, now: SystemTime) -> Option<u64> {
        self.expire(now);
        let entry = self.entries.get(&stay.key)?;
        if entry.generation != stay.generation || entry.leased_until.is_some() {
            return None;
        }
        let bytes = self.remove(&stay.key)?.bytes;
        self.reserved += bytes;
        Some(bytes)
    }

    /// Notes that an artifact was used.
    pub(crate) fn touch(&mut self, key: &ImageKey, now: SystemTime) {
        let Some(mut entry) = self.entries.remove(key) else { return };
        self.unplace(&entry);
        entry.last_use = entry.last_use.max(now);
        self.place(*key, &mut entry);
        self.entries.insert(*key, entry);
    }

    /// Whether so many bytes fit beside what is there.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.bytes().checked_add(bytes).is_some_and(|sum| sum <= self.budget)
    }

    /// Sets bytes aside, if there is room.
    pub(crate) fn reserve(&mut self, bytes: u64) -> bool {
        let fits = self.has_room(bytes);
        if fits {
            self.reserved += bytes;
        }
        fits
    }

    /// Gives back bytes that were set aside.
    pub(crate) fn unreserve(&mut self, bytes: u64) {
        self.reserved -= bytes;
    }

    /// Gives bytes up that were set aside: they stay taken.
    pub(crate) fn write_off(&mut self, bytes: u64) {
        self.reserved -= bytes;
        self.lost += bytes;
    }

    /// Whether somebody has bytes set aside.
    pub(crate) fn has_reservations(&self) -> bool {
        self.reserved > 0
    }

    /// Whether so many bytes fit once everything without a lease is gone.
    pub(crate) fn could_hold(&mut self, bytes: u64, now: SystemTime) -> bool {
        self.expire(now);
        (self.leased + self.lost).checked_add(bytes).is_some_and(|sum| sum <= self.budget)
    }

    /// The one that has to go next.
    pub(crate) fn victim(&mut self, now: SystemTime) -> Option<Stay> {
        self.expire(now);
        self.order.first_key_value().and_then(|(_, key)| self.stay(key))
    }

    /// Keeps an artifact from being a victim until a time, or until a later one that was promised before.
    pub(crate) fn lease(&mut self, key: &ImageKey, until: SystemTime, now: SystemTime) -> Result<SystemTime, Refused> {
        self.expire(now);
        let entry = self.entries.get(key).ok_or(Refused::Absent)?;
        // Half of the budget: the other half is for what comes new.
        let (leased, limit) = (self.leased, self.budget / 2);
        if entry.leased_until.is_none() && leased + entry.bytes > limit {
            return Err(Refused::Full { leased, limit });
        }
        let until = entry.leased_until.map_or(until, |before| before.max(until));
        self.set_lease(key, Some(until));
        Ok(until)
    }

    /// Ends a lease; tells whether there was one.
    pub(crate) fn release(&mut self, key: &ImageKey, now: SystemTime) -> bool {
        self.expire(now);
        let leased = self.entries.get(key).is_some_and(|entry| entry.leased_until.is_some());
        if leased {
            self.set_lease(key, None);
        }
        leased
    }

    /// Ends the leases that leave no way into the budget, the first to end first; tells how many.
    pub(crate) fn break_leases(&mut self) -> u64 {
        let mut broken = 0;
        while self.leased > self.budget
            && let Some((_, &key)) = self.leases.first_key_value()
        {
            self.set_lease(&key, None);
            broken += 1;
        }
        broken
    }

    /// Ends the leases whose time is over: the end counts as a use.
    fn expire(&mut self, now: SystemTime) {
        while let Some((&(until, _), &key)) = self.leases.first_key_value()
            && until <= now
        {
            self.set_lease(&key, None);
            self.touch(&key, until);
        }
    }

    fn set_lease(&mut self, key: &ImageKey, until: Option<SystemTime>) {
        let Some(mut entry) = self.entries.remove(key) else { return };
        self.unplace(&entry);
        entry.leased_until = until;
        self.place(*key, &mut entry);
        self.entries.insert(*key, entry);
    }

    /// Puts a key where it belongs among those that may go, or those that may not.
    fn place(&mut self, key: ImageKey, entry: &mut Entry<V>) {
        self.sequence += 1;
        let turns = match entry.leased_until {
            Some(until) => {
                entry.turn = (until, self.sequence);
                self.leased += entry.bytes;
                &mut self.leases
            }
            None => {
                entry.turn = (entry.last_use, self.sequence);
                &mut self.order
            }
        };
        turns.insert(entry.turn, key);
    }

    fn unplace(&mut self, entry: &Entry<V>) {
        if entry.leased_until.is_some() {
            self.leased -= entry.bytes;
            self.leases.remove(&entry.turn);
        } else {
            self.order.remove(&entry.turn);
        }
    }
}

#[cfg(test)]
mod tests;
