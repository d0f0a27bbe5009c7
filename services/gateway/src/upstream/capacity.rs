//! How many sequences a language worker is given: as many as it runs, and a few that wait for the next free place.
//!
//! A worker does not say how many it could run, for that depends on how long they are. But it reports how many it left
//! waiting: where there are many it has enough, and where there are none it can take more.

use tessera_api::language::Load;

/// Before anything is known.
const FIRST: f64 = 16.0;
/// The part of those that run that may wait behind them, and at least one.
const BEHIND: f64 = 0.125;

/// Sequences that a worker runs at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity(f64);

impl Default for Capacity {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Capacity {
    /// Learns from a report.
    pub(super) fn learn(&mut self, load: &Load) {
        let (running, waiting) = (load.running as f64, load.waiting as f64);
        if waiting > self.behind() {
            // Slowly: those that run may have ended together, and the next ones not have begun yet.
            self.0 = running.max(self.0 * 7.0 / 8.0).max(1.0);
        } else if load.waiting == 0 && running >= self.0 {
            self.0 = self.0 * 1.25 + 1.0;
        }
    }

    /// Sequences that the worker is given, those that wait included.
    pub(super) fn sequences(&self) -> usize {
        (self.0 + self.behind()) as usize
    }

    fn behind(&self) -> f64 {
        (self.0 * BEHIND).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports of a worker that runs so many of what it is given.
    fn after(mut capacity: Capacity, reports: usize, runs: usize) -> Capacity {
        for _ in 0..reports {
            let given = capacity.sequences();
            let running = given.min(runs);
            capacity.learn(&Load { running, waiting: given - running, ..Load::default() });
        }
        capacity
    }

    #[test]
    fn a_worker_is_given_what_it_runs_and_a_few_behind() {
        for runs in [1, 3, 16, 32, 500] {
            let given = after(Capacity::default(), 60, runs).sequences();
            assert!(given > runs && given <= runs + (runs / 4).max(3), "{given} for a worker that runs {runs}");
        }
        let soon = after(Capacity::default(), 5, 32).sequences();
        assert!(soon > 32, "a second is enough to find that out, {soon}");
    }

    #[test]
    fn it_follows_a_worker_whose_sequences_become_longer_and_shorter_again() {
        let few = after(after(Capacity::default(), 60, 200), 60, 4);
        assert!(few.sequences() <= 6, "{few:?}");
        assert!(after(few, 30, 200).sequences() > 200);
    }

    #[test]
    fn a_moment_in_which_all_ended_together_is_no_lack_of_room() {
        let mut capacity = after(Capacity::default(), 60, 32);
        let before = capacity.sequences();
        capacity.learn(&Load { running: 0, waiting: 4, ..Load::default() });
        assert_eq!(capacity.sequences(), before);
    }

    #[test]
    fn who_is_given_little_is_not_given_more_for_that() {
        let mut capacity = Capacity::default();
        (0..100).for_each(|_| capacity.learn(&Load { running: 3, ..Load::default() }));
        assert_eq!(capacity.sequences(), Capacity::default().sequences());
    }
}
