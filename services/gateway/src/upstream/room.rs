//! What the pools can take at once of this gateway, by what they say of themselves.

use super::Upstream;

/// What the pools can take; what nobody says is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Vision workers that take work.
    pub(crate) vision_workers: usize,
    /// Sequences that the language workers run, and a few behind them, less those of others.
    pub(crate) sequences: Option<usize>,
    /// Positions in the KV caches of the language workers.
    pub(crate) positions: Option<usize>,
}

impl Upstream {
    /// Whether both pools have a worker that takes work.
    pub(crate) fn is_ready(&self) -> bool {
        !self.vision.pool.available().is_empty() && !self.languages.pool.available().is_empty()
    }

    /// Returns what the pools can take now.
    pub(crate) fn room(&self) -> Room {
        let language = self.languages.pool.available();
        let notes = || language.iter().map(|member| &member.notes);
        let is_known = !language.is_empty();
        Room {
            vision_workers: self.vision.pool.available().len(),
            sequences: notes().map(|notes| notes.capacity()).sum::<Option<usize>>().filter(|_| is_known),
            positions: notes().map(|notes| notes.positions()).sum::<Option<usize>>().filter(|_| is_known),
        }
    }
}
