//! Files that were something once: bytes of a corpus, changed in the ways that find mistakes in readers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Numbers that readers forget: ends of ranges, of both signs, and what is negative in one type and huge in another.
const NUMBERS: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x0fff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];
/// Headers end before this, in most files.
const HEADER: usize = 96;
/// Files do not grow longer than this by what is repeated in them.
const LONGEST: usize = 1 << 20;
/// Cases of proptest's own default.
const DEFAULT_CASES: u64 = 256;

/// One change.
#[derive(Clone, Debug)]
enum Damage {
    /// A byte becomes another one.
    Byte(Index, u8),
    /// A bit is turned over.
    Bit(Index, u8),
    /// A number of so many bytes is written over, in either order of bytes.
    Number { at: Index, value: u64, width: usize, is_big: bool },
    /// Some bytes are lost.
    Lose(Index, usize),
    /// Some bytes come in between.
    Insert(Index, Vec<u8>),
    /// Some bytes stand there several times.
    Repeat { at: Index, length: usize, times: usize },
    /// The rest is that of another file.
    Splice { at: Index, file: Index, from: Index },
    /// The rest is lost.
    Cut(Index),
}

/// Files of a corpus, of which each is changed once or a few times, half of them only near the beginning.
///
/// # Panics
/// If the corpus is empty.
pub fn damaged(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    assert!(!corpus.is_empty(), "there is nothing to damage");
    let damage = vec(damage(), 1..6);
    (any::<Index>(), damage, any::<bool>()).prop_map(move |(which, damage, early)| {
        let mut file = which.get(&corpus).clone();
        damage.into_iter().for_each(|damage| damage.apply(&mut file, &corpus, early));
        file
    })
}

/// A configuration for so many cases; for more, in proportion, where `PROPTEST_CASES` asks for more than proptest's 256.
pub fn default_cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = u64::from(cases) * u64::from(config.cases) / DEFAULT_CASES;
    ProptestConfig { cases: u32::try_from(cases).unwrap_or(u32::MAX).max(1), failure_persistence: None, ..config }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let number = (at(), select(NUMBERS.to_vec()), select(vec![1, 2, 4, 8]), any::<bool>());
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        2 => (at(), 0..8_u8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        4 => number.prop_map(|(at, value, width, is_big)| Damage::Number { at, value, width, is_big }),
        1 => (at(), 1..64_usize).prop_map(|(at, length)| Damage::Lose(at, length)),
        1 => (at(), vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (at(), 1..64_usize, 1..64_usize).prop_map(|(at, length, times)| Damage::Repeat { at, length, times }),
        1 => (at(), at(), at()).prop_map(|(at, file, from)| Damage::Splice { at, file, from }),
        1 => at().prop_map(Damage::Cut),
    ]
}

impl Damage {
    fn apply(self, file: &mut Vec<u8>, corpus: &[Vec<u8>], early: bool) {
        let length = file.len();
        let place = |at: Index| at.index(if early { length.min(HEADER) + 1 } else { length + 1 });
        match self {
            Self::Byte(at, byte) => file.iter_mut().skip(place(at)).take(1).for_each(|there| *there = byte),
            Self::Bit(at, bit) => file.iter_mut().skip(place(at)).take(1).for_each(|there| *there ^= 1 << bit),
            Self::Number { at, value, width, is_big } => {
                let little = value.to_le_bytes();
                let bytes = little.into_iter().take(width);
                let bytes: Vec<u8> = if is_big { bytes.rev().collect() } else { bytes.collect() };
                file.iter_mut().skip(place(at)).zip(bytes).for_each(|(there, byte)| *there = byte);
            }
            Self::Lose(at, count) => drop(file.drain(place(at)..(place(at) + count).min(length))),
            Self::Insert(at, bytes) => drop(file.splice(place(at)..place(at), bytes)),
            Self::Repeat { at, length: count, times } => {
                let piece = file[place(at)..(place(at) + count).min(length)].to_vec();
                let times = times.min(LONGEST.saturating_sub(length) / piece.len().max(1));
                file.splice(place(at)..place(at), piece.repeat(times));
            }
            Self::Splice { at, file: other, from } => {
                let other = other.get(corpus);
                file.truncate(place(at));
                file.extend(&other[from.index(other.len() + 1)..]);
            }
            Self::Cut(at) => file.truncate(place(at)),
        }
    }
}
