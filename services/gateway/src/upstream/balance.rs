//! Which language worker gets the next sequence: the one with the least expected wait, as far as it is known.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tessera_api::language::Load;

/// What is known of the workers of the pool.
#[derive(Debug)]
pub(super) struct Balance {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    workers: Vec<Worker>,
    /// Whose turn it is where nothing tells workers apart.
    turn: usize,
}

/// What is known of one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Worker {
    state: State,
    /// Sequences that this gateway sent it, less those of this gateway that ended, since its last report.
    since: isize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    /// It has not said anything yet.
    #[default]
    Silent,
    /// What it said last.
    Reported(Load),
    /// It cannot be reached.
    Lost,
}

/// A sequence that a worker has; it has ended when this is dropped.
#[derive(Debug)]
pub(super) struct Placed {
    balance: Arc<Balance>,
    pub(super) worker: usize,
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.balance.known().workers[self.worker].since -= 1;
    }
}

impl Balance {
    /// Starts with workers of which nothing is known.
    pub(super) fn new(workers: usize) -> Self {
        Self { known: Mutex::new(Known { workers: vec![Worker::default(); workers], turn: 0 }) }
    }

    /// Chooses the worker of the next sequence, and counts the sequence until it has ended.
    pub(super) fn place(self: &Arc<Self>) -> Placed {
        let mut known = self.known();
        let worker = choose(&known.workers, known.turn);
        known.turn = known.turn.wrapping_add(1);
        known.workers[worker].since += 1;
        drop(known);
        Placed { balance: Arc::clone(self), worker }
    }

    /// Takes a report; returns whether the worker had been lost.
    pub(super) fn report(&self, worker: usize, load: Load) -> bool {
        let reported = Worker { state: State::Reported(load), since: 0 };
        std::mem::replace(&mut self.known().workers[worker], reported).state == State::Lost
    }

    /// Takes note of a worker that cannot be reached; returns whether it had reported until now.
    pub(super) fn lose(&self, worker: usize) -> bool {
        let before = std::mem::replace(&mut self.known().workers[worker].state, State::Lost);
        matches!(before, State::Reported(_))
    }

    /// Takes note of a worker that makes no reports.
    pub(super) fn silence(&self, worker: usize) {
        self.known().workers[worker].state = State::Silent;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Sequences that a new one would wait for, and then what it would have less of: the smaller, the better.
    fn wait(&self) -> Option<(usize, Reverse<usize>)> {
        match self.state {
            State::Reported(load) => {
                let sequences = (load.waiting + load.running).saturating_add_signed(self.since);
                Some((sequences, Reverse(load.free_blocks)))
            }
            State::Silent | State::Lost => None,
        }
    }
}

/// The worker with the least expected wait among those that can be reached. While one of them is silent nothing can be
/// compared, and they take turns; so do equals, and all of them when none can be reached.
fn choose(workers: &[Worker], turn: usize) -> usize {
    let in_turn = || (0..workers.len()).map(|step| turn.wrapping_add(step) % workers.len());
    let reachable = || in_turn().filter(|&index| workers[index].state != State::Lost);
    let first = reachable().next().or_else(|| in_turn().next()).unwrap_or(0);
    if reachable().any(|index| workers[index].state == State::Silent) {
        return first;
    }
    reachable().min_by_key(|&index| workers[index].wait()).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(waiting: usize, running: usize, free_blocks: usize, since: isize) -> Worker {
        Worker { state: State::Reported(Load { waiting, running, free_blocks, ..Load::default() }), since }
    }

    const SILENT: Worker = Worker { state: State::Silent, since: 0 };
    const LOST: Worker = Worker { state: State::Lost, since: 0 };

    #[test]
    fn the_worker_with_the_fewest_sequences_is_chosen_whoever_turn_it_is() {
        for turn in 0..6 {
            assert_eq!(choose(&[busy(0, 3, 9, 0), busy(0, 2, 1, 0), busy(3, 0, 9, 0)], turn), 1);
            assert_eq!(choose(&[busy(0, 1, 9, 2), busy(0, 1, 1, 1)], turn), 1, "sent since counts");
            assert_eq!(choose(&[busy(0, 2, 9, 0), busy(0, 3, 1, -2)], turn), 1, "ended since counts");
            assert_eq!(choose(&[busy(0, 1, 4, 0), busy(1, 0, 5, 0)], turn), 1, "free blocks break a tie");
            assert_eq!(choose(&[busy(0, 9, 4, 0), LOST], turn), 0, "a lost one comes last");
        }
    }

    #[test]
    fn workers_take_turns_where_nothing_tells_them_apart() {
        let chosen = |workers: &[Worker]| (0..4).map(|turn| choose(workers, turn)).collect::<Vec<_>>();
        assert_eq!(chosen(&[SILENT, SILENT]), [0, 1, 0, 1]);
        assert_eq!(chosen(&[busy(0, 0, 7, 0), busy(0, 0, 7, 0)]), [0, 1, 0, 1]);
        assert_eq!(chosen(&[busy(9, 9, 0, 0), SILENT]), [0, 1, 0, 1], "a silent one cannot be compared");
        assert_eq!(chosen(&[LOST, LOST]), [0, 1, 0, 1]);
        assert_eq!(chosen(&[LOST, SILENT]), [1, 1, 1, 1]);
        assert_eq!(chosen(&[LOST, SILENT, busy(9, 9, 0, 0)]), [1, 1, 2, 1]);
        assert_eq!(choose(&[SILENT, SILENT], usize::MAX), 1);
    }

    /// Where the next sequences go, of which none ends meanwhile.
    fn next<const COUNT: usize>(balance: &Arc<Balance>) -> [usize; COUNT] {
        [(); COUNT].map(|()| balance.place()).map(|placed| placed.worker)
    }

    #[test]
    fn a_sequence_counts_from_when_it_is_sent_until_it_ends() {
        let balance = Arc::new(Balance::new(2));
        let load = |running| Load { running, ..Load::default() };
        assert!(!balance.report(0, load(0)));
        assert!(!balance.report(1, load(2)));
        let placed = [(); 5].map(|()| balance.place());
        assert_eq!(placed.each_ref().map(|placed| placed.worker), [0, 0, 0, 1, 0]);
        drop(placed);
        assert_eq!(next(&balance), [0, 0]);
        // A report knows of what was sent before it, and of what had ended.
        let placed = balance.place();
        balance.report(0, load(3));
        assert_eq!(next(&balance), [1]);
        drop(placed);
        assert_eq!(next(&balance), [1, 0, 1], "equals again");
    }

    #[test]
    fn a_lost_worker_is_news_once_and_comes_back_with_a_report() {
        let balance = Arc::new(Balance::new(2));
        assert!(!balance.lose(0), "it was never there");
        balance.report(0, Load::default());
        assert!(balance.lose(0) && !balance.lose(0));
        assert_eq!(next(&balance), [1, 1, 1]);
        assert!(balance.report(0, Load::default()));
        balance.silence(1);
        assert_eq!(next(&balance), [1, 0, 1]);
    }
}
