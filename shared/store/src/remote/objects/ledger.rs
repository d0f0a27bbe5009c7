//! What is known of the objects of a tier: how many bytes they have together, and which were not used for longest.

use std::collections::{BTreeMap, HashMap};

use tessera_embedding::ImageKey;

/// When an object was used last: microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Used(pub(super) i64);

/// Bytes of all objects, and of the least recently used so many the names. Takes a bounded amount of memory.
#[derive(Debug)]
pub(super) struct Ledger {
    total: u64,
    oldest: BTreeMap<(Used, ImageKey), u64>,
    places: HashMap<ImageKey, Used>,
    names_limit: usize,
    /// Some objects are not named: each was used at this time or later.
    horizon: Option<Used>,
}

/// What must be deleted to make room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing.
    Enough,
    /// These, least recently used first.
    After(Vec<ImageKey>),
    /// More than is known by name: the objects must be counted again.
    Unknown,
}

impl Ledger {
    /// No objects yet; keeps at most `names_limit` names.
    pub(super) fn new(names_limit: usize) -> Self {
        Self { total: 0, oldest: BTreeMap::new(), places: HashMap::new(), names_limit, horizon: None }
    }

    /// Bytes of all objects.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// An object was written or is listed. If it was there already and is not known by name, its bytes count twice.
    pub(super) fn insert(&mut self, key: ImageKey, bytes: u64, used: Used) {
        self.remove(&key);
        self.total = self.total.saturating_add(bytes);
        if self.horizon.is_some_and(|horizon| used >= horizon) {
            return;
        }
        self.place(key, bytes, used);
        if self.places.len() > self.names_limit
            && let Some(((newest, key), _)) = self.oldest.pop_last()
        {
            self.places.remove(&key);
            self.horizon = Some(newest);
        }
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, key: &ImageKey) {
        if let Some(used) = self.places.remove(key)
            && let Some(bytes) = self.oldest.remove(&(used, *key))
        {
            self.total = self.total.saturating_sub(bytes);
        }
    }

    /// An object was read.
    pub(super) fn touch(&mut self, key: &ImageKey, used: Used) {
        let Some(before) = self.places.remove(key) else { return };
        let Some(bytes) = self.oldest.remove(&(before, *key)) else { return };
        // Behind the horizon it loses its name but not its bytes.
        if self.horizon.is_none_or(|horizon| used < horizon) {
            self.place(*key, bytes, used);
        }
    }

    /// What must be deleted so that `bytes` more fit into the budget; not `except`, which is about to be written.
    pub(super) fn room(&self, bytes: u64, budget: u64, except: &ImageKey) -> Room {
        let known = self.places.get(except).and_then(|used| self.oldest.get(&(*used, *except)));
        let mut total = self.total.saturating_sub(known.copied().unwrap_or(0)).saturating_add(bytes);
        let mut victims = Vec::new();
        for ((_, key), bytes) in &self.oldest {
            if total <= budget {
                break;
            }
            if key != except {
                total = total.saturating_sub(*bytes);
                victims.push(*key);
            }
        }
        match (total <= budget, victims.is_empty()) {
            (false, _) => Room::Unknown,
            (true, true) => Room::Enough,
            (true, false) => Room::After(victims),
        }
    }

    fn place(&mut self, key: ImageKey, bytes: u64, used: Used) {
        self.places.insert(key, used);
        self.oldest.insert((used, key), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> ImageKey {
        ImageKey::try_from(&[number; 32][..]).unwrap()
    }

    /// Objects 1, 2, … of ten bytes each, used in that order.
    fn ledger(objects: u8, names_limit: usize) -> Ledger {
        let mut ledger = Ledger::new(names_limit);
        for number in 1..=objects {
            ledger.insert(key(number), 10, Used(i64::from(number)));
        }
        ledger
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let mut ledger = ledger(5, 100);
        assert_eq!(ledger.room(10, 60, &key(9)), Room::Enough);
        assert_eq!(ledger.room(11, 60, &key(9)), Room::After(vec![key(1)]));
        ledger.touch(&key(1), Used(10));
        assert_eq!(ledger.room(25, 60, &key(9)), Room::After(vec![key(2), key(3)]));
    }

    #[test]
    fn an_object_that_is_written_again_counts_once_and_does_not_make_room_for_itself() {
        let mut ledger = ledger(3, 100);
        assert_eq!(ledger.room(10, 30, &key(1)), Room::Enough);
        assert_eq!(ledger.room(15, 30, &key(1)), Room::After(vec![key(2)]));
        ledger.insert(key(1), 15, Used(20));
        assert_eq!(ledger.total(), 35);
        ledger.remove(&key(1));
        ledger.remove(&key(1));
        assert_eq!(ledger.total(), 20);
    }

    #[test]
    fn names_are_bounded_and_those_used_longest_ago_stay() {
        let mut ledger = ledger(10, 4);
        assert_eq!((ledger.total(), ledger.places.len(), ledger.oldest.len()), (100, 4, 4));
        assert_eq!(ledger.room(0, 60, &key(99)), Room::After(vec![key(1), key(2), key(3), key(4)]));
        assert_eq!(ledger.room(1, 60, &key(99)), Room::Unknown);
        // One that was used long ago is listed late: it takes the place of the newest that has a name.
        ledger.insert(key(50), 10, Used(0));
        assert_eq!(ledger.room(0, 70, &key(99)), Room::After(vec![key(50), key(1), key(2), key(3)]));
    }

    #[test]
    fn one_that_is_read_behind_the_horizon_keeps_its_bytes() {
        let mut ledger = ledger(10, 4);
        ledger.touch(&key(1), Used(100));
        assert_eq!((ledger.total(), ledger.places.len()), (100, 3));
        assert_eq!(ledger.room(0, 90, &key(99)), Room::After(vec![key(2)]));
    }
}
