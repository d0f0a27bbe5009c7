//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), torch's generator on a CPU.

const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// The generator at some place of its sequence.
#[derive(Clone, Debug)]
pub(in crate::engine::sampler) struct Twister {
    seed: u32,
    state: Box<[u32; WORDS]>,
    /// Word of the state that comes next; [`WORDS`] when the next state is due.
    word: usize,
    /// Numbers that came already.
    position: u64,
}

impl Twister {
    /// Starts the sequence of a seed.
    pub(super) fn new(seed: u32) -> Self {
        let mut state = Box::new([seed; WORDS]);
        for index in 1..WORDS {
            let before = state[index - 1];
            let mixed = (before ^ (before >> 30)).wrapping_mul(1_812_433_253);
            state[index] = mixed.wrapping_add(index as u32);
        }
        Self { seed, state, word: WORDS, position: 0 }
    }

    /// Goes to a place of the sequence: forward in steps of a whole state, back from the start.
    pub(super) fn seek(&mut self, position: u64) {
        if position < self.position {
            *self = Self::new(self.seed);
        }
        let mut left = position - self.position;
        self.position = position;
        while left > 0 {
            if self.word == WORDS {
                self.twist();
            }
            let step = left.min((WORDS - self.word) as u64);
            self.word += step as usize;
            left -= step;
        }
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u32 {
        if self.word == WORDS {
            self.twist();
        }
        let mut bits = self.state[self.word];
        self.word += 1;
        self.position += 1;
        bits ^= bits >> 11;
        bits ^= bits << 7 & 0x9d2c_5680;
        bits ^= bits << 15 & 0xefc6_0000;
        bits ^ bits >> 18
    }

    /// Makes the next state.
    fn twist(&mut self) {
        let state = &mut *self.state;
        for index in 0..WORDS {
            let joined = state[index] & 0x8000_0000 | state[(index + 1) % WORDS] & 0x7fff_ffff;
            let matrix = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            state[index] = state[(index + MIDDLE) % WORDS] ^ joined >> 1 ^ matrix;
        }
        self.word = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_its_authors() {
        // The 10,000th number of the default seed, as the C++ standard states it.
        let mut twister = Twister::new(5489);
        twister.seek(9_999);
        assert_eq!(twister.next(), 4_123_659_995);
    }

    #[test]
    fn seeking_finds_what_counting_finds() {
        let mut counting = Twister::new(7);
        let numbers: Vec<u32> = (0..2000).map(|_| counting.next()).collect();
        let mut seeking = Twister::new(7);
        for position in [0, 1, 623, 624, 625, 1248, 1999, 1247, 3, 3] {
            seeking.seek(position);
            assert_eq!(seeking.next(), numbers[position as usize], "{position}");
        }
    }
}
