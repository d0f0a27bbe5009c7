//! What happened so far, in numbers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters and gauges of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The tier in memory.
    pub memory: TierFigures,
    /// The tier on the disk, if there is one.
    pub disk: Option<TierFigures>,
    /// The tier that all workers share, if there is one. How much it holds is not known here.
    pub remote: Option<TierFigures>,
    /// Bytes that wait to be written to the shared tier.
    pub pending_bytes: u64,
    /// Keys that are being encoded or waited for.
    pub open_keys: usize,
}

/// Counters and gauges of one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierFigures {
    /// Bytes kept, with those set aside for what is being written.
    pub bytes: u64,
    /// Bytes that may be kept.
    pub budget_bytes: u64,
    /// Bytes under a lease.
    pub leased_bytes: u64,
    /// Artifacts kept.
    pub artifacts: u64,
    /// Reads that found what they looked for.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Reads that the tier failed to answer.
    pub failed_reads: u64,
    /// Artifacts that failed their checks and were deleted.
    pub corrupt: u64,
    /// Artifacts that made room for others.
    pub evictions: u64,
    /// Artifacts written.
    pub writes: u64,
    /// Writes that the tier failed to carry out.
    pub failed_writes: u64,
    /// Writes for which there was no room.
    pub refused_writes: u64,
}

/// The counters behind [`TierFigures`].
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) failed_reads: Counter,
    pub(crate) corrupt: Counter,
    pub(crate) evictions: Counter,
    pub(crate) writes: Counter,
    pub(crate) failed_writes: Counter,
    pub(crate) refused_writes: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// Whether something has been failing since it last worked, so that a broken disk is one line in the log.
#[derive(Debug, Default)]
pub(crate) struct Trouble(AtomicBool);

impl Counts {
    /// The counters as figures, whose gauges are still zero.
    pub(crate) fn figures(&self) -> TierFigures {
        TierFigures {
            hits: self.hits.get(),
            misses: self.misses.get(),
            failed_reads: self.failed_reads.get(),
            corrupt: self.corrupt.get(),
            evictions: self.evictions.get(),
            writes: self.writes.get(),
            failed_writes: self.failed_writes.get(),
            refused_writes: self.refused_writes.get(),
            ..TierFigures::default()
        }
    }
}

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Trouble {
    /// Notes a failure; true for the first one.
    pub(crate) fn begins(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// Notes that it worked; true if it had failed before.
    pub(crate) fn ends(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}
