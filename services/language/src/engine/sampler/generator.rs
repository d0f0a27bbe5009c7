//! Where the numbers of a draw come from, and the draw.

mod twister;

use tessera_api::language::Generator;

use self::twister::Twister;
use super::cuts::{Candidate, exponents, powers, probabilities};

/// The numbers of one sample.
#[derive(Clone, Debug)]
pub(super) enum Numbers {
    /// A hash of seed, sample and position.
    Counter {
        /// A hash of seed and sample.
        stream: u64,
    },
    /// What torch draws for a sequence on its own.
    Torch(Twister),
}

/// Where in its sequence a token is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its position.
    pub(super) position: usize,
    /// Tokens of the answer before it.
    pub(super) answered: usize,
    /// How many ids there are.
    pub(super) vocabulary: usize,
}

impl Numbers {
    /// Makes the numbers of one of the samples of a request: those of the first sample of a request with the seed
    /// [`seed_of_sample`].
    pub(super) fn new(generator: Generator, seed: u64, sample: usize) -> Self {
        let seed = seed_of_sample(generator, seed, sample);
        match generator {
            Generator::Counter => Self::Counter { stream: mix(seed.wrapping_add(GOLDEN)) },
            // Torch uses the low 32 bits.
            Generator::Torch => Self::Torch(Twister::new(seed as u32)),
        }
    }

    /// The number that a token at a position is drawn by, if one is all that it takes.
    pub(super) fn at(&self, position: usize) -> Option<f64> {
        match self {
            Self::Counter { stream } => Some(uniform(*stream, position)),
            Self::Torch(_) => None,
        }
    }

    /// Draws one of the candidates, which are in order of their ids; `None` when there is none.
    pub(super) fn draw(&mut self, candidates: &[Candidate], place: Place) -> Option<u32> {
        match self {
            Self::Counter { stream } => inverse(candidates, uniform(*stream, place.position)),
            Self::Torch(twister) => race(candidates, twister, place),
        }
    }
}

/// The candidate in whose part of the unit interval a number falls; parts are as long as candidates are likely.
pub(super) fn inverse(candidates: &[Candidate], number: f64) -> Option<u32> {
    powers(candidates).find(number, exponents(candidates))
}

/// What `torch.multinomial` does to draw once: it divides every id's probability by a number of an exponential distribution
/// and takes the first of the largest. Ids that are no candidates use up their numbers and cannot win.
fn race(candidates: &[Candidate], twister: &mut Twister, place: Place) -> Option<u32> {
    let before = place.answered * place.vocabulary;
    let mut winner: Option<(u32, f32)> = None;
    for (one, probability) in candidates.iter().zip(probabilities(candidates)) {
        let quotient = probability / exponential(twister, before + one.id as usize);
        if winner.is_none_or(|(_, largest)| quotient > largest) {
            winner = Some((one.id, quotient));
        }
    }
    winner.map(|(id, _)| id)
}

/// Number `index` of those that `torch.Tensor.exponential_` fills in after a seed.
pub(super) fn exponential(twister: &mut Twister, index: usize) -> f32 {
    twister.seek(2 * index as u64);
    let bits = u64::from(twister.next()) << 32 | u64::from(twister.next());
    let uniform = (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64;
    -(-uniform).ln_1p() as f32
}

/// The seed with which one of the samples of a request can be asked for alone. The first sample's is the request's.
pub(in crate::engine) fn seed_of_sample(generator: Generator, seed: u64, sample: usize) -> u64 {
    match generator {
        _ if sample == 0 => seed,
        Generator::Counter => mix(seed ^ mix((sample as u64).wrapping_mul(GOLDEN))),
        Generator::Torch => seed.wrapping_add(sample as u64),
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number in [0, 1) that is a pure function of stream and position.
fn uniform(stream: u64, position: usize) -> f64 {
    let bits = mix(stream.wrapping_add((position as u64).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The finaliser of `SplitMix64`.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
