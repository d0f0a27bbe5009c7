//! What the pools remember, for tests of the whole gateway.

use crate::upstream::Upstream;

/// What the pools count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Calls that workers have, of both pools.
    pub(crate) in_flight: usize,
    /// Images that somebody is concerned with.
    pub(crate) images: usize,
    /// Calls that were made again, of the vision pool and of the language pool.
    pub(crate) vision: u64,
    pub(crate) language: u64,
    /// The same by their kind.
    pub(crate) retries: u64,
    pub(crate) hedges: u64,
    pub(crate) ejections: u64,
}

impl Upstream {
    /// Reads what is counted now.
    pub(crate) fn account(&self) -> Account {
        let (vision, language) = (&self.vision.pool, &self.languages.pool);
        let of_vision: usize = vision.listed().iter().map(|member| member.in_flight()).sum();
        let of_language: usize = language.listed().iter().map(|member| member.in_flight()).sum();
        Account {
            in_flight: of_vision + of_language,
            images: self.vision.concern_count(),
            vision: vision.figures.retries() + vision.figures.hedges(),
            language: language.figures.retries() + language.figures.hedges(),
            retries: vision.figures.retries() + language.figures.retries(),
            hedges: vision.figures.hedges() + language.figures.hedges(),
            ejections: vision.figures.ejections() + language.figures.ejections(),
        }
    }
}
