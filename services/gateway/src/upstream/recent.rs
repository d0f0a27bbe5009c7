//! A bounded memory of what was noted last.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// A map that forgets what was not noted for long: two generations, of which the older one goes as a whole once the
/// younger one is full. What is noted stays for at least as many notes of other keys as the limit says.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    limit: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// Makes a memory for between `limit` and twice as many keys.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, young: HashMap::new(), old: HashMap::new() }
    }

    /// What was noted of a key last.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Notes something; returns what was noted of the key before.
    pub(super) fn note(&mut self, key: K, value: V) -> Option<V> {
        let older = self.old.remove(&key);
        if self.young.len() >= self.limit && !self.young.contains_key(&key) {
            self.turn();
        }
        self.young.insert(key, value).or(older)
    }

    /// Forgets the older generation; what was the younger one is older now.
    pub(super) fn turn(&mut self) {
        self.old = mem::take(&mut self.young);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_last_stays_and_there_is_a_bound() {
        let mut recent = Recent::new(4);
        assert_eq!(recent.note(0, 'a'), None);
        assert_eq!(recent.note(0, 'b'), Some('a'));
        for key in 1..1000_u32 {
            recent.note(key, 'c');
            assert_eq!(recent.note(0, 'b'), Some('b'), "it is noted again and again");
            assert!((key.saturating_sub(2)..=key).all(|key| recent.get(&key).is_some()), "{key}");
            assert!(recent.young.len() <= 4 && recent.old.len() <= 4);
        }
        assert_eq!(recent.get(&1), None);
        recent.turn();
        assert_eq!(recent.get(&0), Some(&'b'));
        recent.turn();
        assert_eq!(recent.get(&0), None);
    }
}
