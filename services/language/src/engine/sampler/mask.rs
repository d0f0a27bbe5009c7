//! The ids that a constraint allows.

/// Which ids a constraint allows, a bit for each: bit `id % 32` of word `id / 32`, counted from the low end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>,
}

impl Mask {
    /// Makes a mask of its words; ids beyond them are not allowed.
    pub fn new(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// Says whether an id is allowed.
    pub fn allows(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 32).copied().unwrap_or(0);
        word >> (id % 32) & 1 == 1
    }

    /// Allows an id.
    pub fn allow(&mut self, id: u32) {
        let index = id as usize / 32;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        self.words[index] |= 1 << (id % 32);
    }

    /// The words: each says it of 32 ids, the first of ids 0 to 31.
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}
