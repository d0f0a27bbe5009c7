//! Accounting of the KV cache in blocks of positions: who holds which, and what those that nobody holds still contain.

use std::collections::{BTreeMap, HashMap};

use super::chain::BlockHash;

/// Positions in one block.
pub const BLOCK_POSITIONS: usize = 32;

/// Which block of the cache: the index that a block table holds.
pub type BlockId = u32;

/// The blocks of the KV cache.
///
/// A block is held by as many sequences as share it, and written only while it has one holder and no name. A full block
/// gets its prefix for a name and can be found by it, also after its last holder let it go: until somebody else needs the
/// room. Then the one that was let go first is taken.
#[derive(Debug)]
pub struct Blocks {
    slots: Vec<Slot>,
    /// Nobody holds these, and they have no name.
    blank: Vec<BlockId>,
    /// Nobody holds these, by when they were let go.
    kept: BTreeMap<u64, BlockId>,
    named: HashMap<BlockHash, BlockId>,
    clock: u64,
    copies: Vec<(BlockId, BlockId)>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    holders: usize,
    name: Option<BlockHash>,
    /// When the last holder let it go.
    released: u64,
}

impl Blocks {
    /// Makes the accounting of `total` blank blocks.
    ///
    /// # Panics
    /// If there are more blocks than ids: such a cache would take terabytes.
    pub fn new(total: usize) -> Self {
        let last = BlockId::try_from(total).expect("a cache has fewer than 2^32 blocks");
        Self {
            slots: vec![Slot::default(); total],
            blank: (0..last).rev().collect(),
            kept: BTreeMap::new(),
            named: HashMap::new(),
            clock: 0,
            copies: Vec::new(),
        }
    }

    /// Returns how many blocks so many positions need.
    pub fn needed(positions: usize) -> usize {
        positions.div_ceil(BLOCK_POSITIONS)
    }

    /// Returns how many blocks there are.
    pub fn total(&self) -> usize {
        self.slots.len()
    }

    /// Returns how many of them nobody holds.
    pub fn free(&self) -> usize {
        self.blank.len() + self.kept.len()
    }

    /// Takes a block to write into; `None` when all are held.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = self.blank.pop().or_else(|| {
            let (_, oldest) = self.kept.pop_first()?;
            if let Some(name) = self.slots[oldest as usize].name.take() {
                self.named.remove(&name);
            }
            Some(oldest)
        })?;
        self.slots[id as usize].holders = 1;
        Some(id)
    }

    /// Takes a block and orders that another one's content is copied into it before the next step; `None` when all are held.
    pub fn allocate_copy(&mut self, of: BlockId) -> Option<BlockId> {
        let id = self.allocate()?;
        self.copies.push((of, id));
        Some(id)
    }

    /// Returns the copies that were ordered, which must be made in this order before anything is written.
    pub fn take_copies(&mut self) -> Vec<(BlockId, BlockId)> {
        std::mem::take(&mut self.copies)
    }

    /// Takes a hold of the block with this name, if there is one.
    pub fn find(&mut self, name: &BlockHash) -> Option<BlockId> {
        let id = *self.named.get(name)?;
        self.share(id);
        Some(id)
    }

    /// Takes one more hold of a block.
    pub fn share(&mut self, id: BlockId) {
        let slot = &mut self.slots[id as usize];
        if slot.holders == 0 {
            self.kept.remove(&slot.released);
        }
        slot.holders += 1;
    }

    /// Names a full block, so that others find it. Of blocks with the same content the first keeps the name.
    pub fn name(&mut self, id: BlockId, name: BlockHash) {
        debug_assert!(self.is_writable(id), "only who wrote a block names it");
        if let std::collections::hash_map::Entry::Vacant(entry) = self.named.entry(name) {
            entry.insert(id);
            self.slots[id as usize].name = Some(name);
        }
    }

    /// True for a block that its only holder may write into.
    pub fn is_writable(&self, id: BlockId) -> bool {
        let slot = &self.slots[id as usize];
        slot.holders == 1 && slot.name.is_none()
    }

    /// Lets go of a block.
    pub fn release(&mut self, id: BlockId) {
        let slot = &mut self.slots[id as usize];
        debug_assert!(slot.holders > 0, "a block is let go as often as it was taken");
        slot.holders -= 1;
        if slot.holders > 0 {
            return;
        }
        if slot.name.is_some() {
            self.clock += 1;
            slot.released = self.clock;
            self.kept.insert(self.clock, id);
        } else {
            self.blank.push(id);
        }
    }

    /// Lets go of the blocks of a table, the last position first: what begins a prefix is worth more than what ends it.
    pub fn release_all(&mut self, table: &mut Vec<BlockId>) {
        for id in table.drain(..).rev() {
            self.release(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> BlockHash {
        BlockHash::root(&n.to_le_bytes())
    }

    #[test]
    fn blocks_are_taken_and_come_back() {
        let mut blocks = Blocks::new(2);
        let (first, second) = (blocks.allocate().unwrap(), blocks.allocate().unwrap());
        assert_ne!(first, second);
        assert_eq!((blocks.allocate(), blocks.free()), (None, 0));
        blocks.share(first);
        blocks.release(first);
        assert_eq!(blocks.free(), 0);
        blocks.release(first);
        blocks.release(second);
        assert_eq!(blocks.free(), blocks.total());
    }

    #[test]
    fn a_named_block_is_found_until_its_room_is_needed() {
        let mut blocks = Blocks::new(2);
        let first = blocks.allocate().unwrap();
        blocks.name(first, name(1));
        assert!(!blocks.is_writable(first));
        blocks.release(first);
        assert_eq!((blocks.free(), blocks.find(&name(1))), (2, Some(first)));
        blocks.release(first);
        let mut table = vec![blocks.allocate().unwrap(), blocks.allocate().unwrap()];
        assert_eq!(blocks.find(&name(1)), None);
        blocks.release_all(&mut table);
        assert_eq!(blocks.free(), 2);
    }

    #[test]
    fn the_block_that_was_let_go_first_is_taken_first_and_one_in_use_never() {
        let mut blocks = Blocks::new(3);
        let ids: Vec<BlockId> = (0..3).map(|_| blocks.allocate().unwrap()).collect();
        ids.iter().zip(0..).for_each(|(&id, n)| blocks.name(id, name(n)));
        // As a table: the last block of a prefix goes before the first.
        blocks.release_all(&mut ids[..2].to_vec());
        assert_eq!(blocks.find(&name(0)), Some(ids[0]));
        blocks.release(ids[0]);
        assert_eq!(blocks.allocate(), Some(ids[1]));
        assert_eq!(blocks.allocate(), Some(ids[0]));
        assert_eq!((blocks.allocate(), blocks.find(&name(2))), (None, Some(ids[2])));
    }

    #[test]
    fn of_equal_blocks_the_first_keeps_the_name() {
        let mut blocks = Blocks::new(2);
        let (first, second) = (blocks.allocate().unwrap(), blocks.allocate().unwrap());
        blocks.name(first, name(1));
        blocks.name(second, name(1));
        blocks.release(second);
        assert_eq!(blocks.find(&name(1)), Some(first));
        assert_eq!(blocks.allocate(), Some(second));
    }
}
