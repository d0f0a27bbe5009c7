//! Accounting of the KV cache in blocks of positions.

/// Positions in one block.
pub const BLOCK_POSITIONS: usize = 32;

/// The blocks of the KV cache: how many there are and how many are free.
///
/// A sequence reserves what its prompt and its longest answer need when it starts, and returns it when it ends.
#[derive(Debug)]
pub struct Blocks {
    total: usize,
    free: usize,
}

/// Blocks that a sequence holds. Given back with [`Blocks::release`]; there is no other way to let go of one.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Reservation {
    blocks: usize,
}

impl Blocks {
    /// Makes the accounting of `total` free blocks.
    pub fn new(total: usize) -> Self {
        Self { total, free: total }
    }

    /// Returns how many blocks so many positions need.
    pub fn needed(positions: usize) -> usize {
        positions.div_ceil(BLOCK_POSITIONS)
    }

    /// Returns how many blocks there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Returns how many of them nobody holds.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Takes blocks for so many positions; `None` when too few are free now.
    pub fn reserve(&mut self, positions: usize) -> Option<Reservation> {
        let blocks = Self::needed(positions);
        self.free = self.free.checked_sub(blocks)?;
        Some(Reservation { blocks })
    }

    /// Takes a reservation back.
    pub fn release(&mut self, Reservation { blocks }: Reservation) {
        self.free += blocks;
        debug_assert!(self.free <= self.total, "more blocks were released than reserved");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_whole_and_come_back() {
        let mut blocks = Blocks::new(3);
        let first = blocks.reserve(33).unwrap();
        assert_eq!(blocks.free(), 1);
        assert_eq!(blocks.reserve(33), None);
        let second = blocks.reserve(32).unwrap();
        assert_eq!(blocks.free(), 0);
        blocks.release(first);
        blocks.release(second);
        assert_eq!(blocks.free(), blocks.total());
    }
}
