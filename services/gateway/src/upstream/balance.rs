//! Which language worker gets the next sequence: what it would have to compute first, in positions of a prompt.

use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tessera_api::language::{GenerateRequest, Load};

use super::capacity::Capacity;
use super::language::Language;
use super::member::{InFlight, Member};
use super::prefix::{Beginning, Prefixes, beginnings};

/// What a sequence that is there already is worth, in positions: the simulation in `upstream/tests.rs` does best with
/// this, from eight tenths of what its cluster can do up to all of it. Half of it lets queues grow, twice of it gives
/// prefixes away.
const SEQUENCE: usize = 512;
/// Positions of a block.
const BLOCK: usize = 32;

/// What the gateway knows of a language worker.
#[derive(Debug, Default)]
pub(super) struct Sequences(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// What it said last, if it makes reports.
    load: Option<Load>,
    /// Sequences that this gateway sent it, less those of this gateway that ended, since its last report.
    since: isize,
    /// Sequences that it has from this gateway.
    open: usize,
    /// It makes no reports.
    is_silent: bool,
    capacity: Capacity,
    prefixes: Prefixes,
}

/// What decides where a sequence goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct View {
    /// Positions of the prompt that are probably in the worker's cache.
    pub(super) expected: usize,
    /// Sequences that wait or run there, those that were sent since the last report included.
    pub(super) sequences: usize,
    /// Positions that it has room for; nothing where it makes no reports.
    pub(super) free: Option<usize>,
}

/// A sequence that is to be placed.
#[derive(Clone, Debug)]
pub(super) struct Work {
    beginnings: Vec<Beginning>,
    prompt: usize,
    answer: usize,
}

/// A sequence that a worker has; it has ended when this is dropped.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) in_flight: InFlight<Language>,
}

impl Work {
    /// Takes from a sequence what decides where it goes.
    pub(super) fn of(request: &GenerateRequest, state: &RandomState) -> Self {
        let answer = request.max_new_tokens.get() * request.samples.get();
        Self { beginnings: beginnings(request, state), prompt: request.token_ids.len(), answer }
    }
}

/// What speaks against a worker, in positions: the smaller, the better.
fn cost(view: &View, work: &Work) -> usize {
    let missing = work.prompt - view.expected.min(work.prompt);
    let in_front = view.sequences * SEQUENCE;
    let lacking = view.free.map_or(0, |free| (missing + work.answer).saturating_sub(free));
    missing + in_front + lacking
}

/// Chooses among workers: the one that least speaks against, equals by chance. Where nothing is known of any, the less
/// busy one of two that are drawn: a glance at two is enough to keep a pool even, and many gateways do not all come to
/// the same one.
pub(super) fn choose(views: &[View], work: &Work, random: u64) -> Option<usize> {
    let count = u64::try_from(views.len()).ok().filter(|&count| count > 0)?;
    let drawn = |number: u64| usize::try_from(number % count).unwrap_or(0);
    let (one, step) = (drawn(random), drawn(random >> 32));
    if views.iter().all(|view| view.free.is_none() && view.expected == 0) {
        // Another one, where there is one.
        let other = (one + 1 + step % (views.len().max(2) - 1)) % views.len();
        return Some(if views[other].sequences < views[one].sequences { other } else { one });
    }
    let from_one_on = (0..views.len()).map(|index| (one + index) % views.len());
    from_one_on.min_by_key(|&index| cost(&views[index], work))
}

/// Gives a sequence to one of these workers, and counts it there until it has ended.
pub(super) fn place(members: &[Arc<Member<Language>>], work: &Work, random: u64) -> Option<Placed> {
    let views: Vec<View> = members.iter().map(|member| member.notes.view(work)).collect();
    let index = choose(&views, work, random)?;
    members[index].notes.send(work, views[index].expected);
    Some(Placed { in_flight: members[index].call() })
}

impl Sequences {
    /// Takes a report.
    pub(super) fn report(&self, load: Load) {
        let mut known = self.known();
        (known.load, known.since) = (Some(load), 0);
        known.capacity.learn(&load);
    }

    /// What it reported last, if it did since it was asked what it is.
    pub(super) fn load(&self) -> Option<Load> {
        self.known().load
    }

    /// Takes note of a worker that makes no reports.
    pub(super) fn makes_no_reports(&self) {
        self.known().is_silent = true;
    }

    /// Sequences of this gateway that the worker can take; nothing where it makes no reports.
    pub(super) fn capacity(&self) -> Option<usize> {
        let known = self.known();
        let reported = known.load.map_or(0, |load| (load.waiting + load.running).saturating_add_signed(known.since));
        let of_others = reported.saturating_sub(known.open);
        (!known.is_silent).then(|| known.capacity.sequences().saturating_sub(of_others))
    }

    /// Positions of its KV cache; nothing where that was not reported.
    pub(super) fn positions(&self) -> Option<usize> {
        self.known().load.map(|load| load.total_blocks * BLOCK).filter(|&positions| positions > 0)
    }

    /// Takes note of a worker that may have started anew, and makes no report until it does.
    pub(super) fn restart(&self) {
        let mut known = self.known();
        (known.load, known.since, known.is_silent) = (None, 0, false);
        known.prefixes.clear();
    }

    fn view(&self, work: &Work) -> View {
        let known = self.known();
        let expected = known.prefixes.expected(&work.beginnings);
        match known.load {
            Some(load) => View {
                expected,
                sequences: (load.waiting + load.running).saturating_add_signed(known.since),
                free: Some(load.free_blocks * BLOCK),
            },
            None => View { expected, sequences: known.open, free: None },
        }
    }

    fn send(&self, work: &Work, expected: usize) {
        let mut known = self.known();
        (known.since, known.open) = (known.since + 1, known.open + 1);
        let blocks = known.load.map(|load| load.total_blocks).filter(|&blocks| blocks > 0);
        known.prefixes.note(&work.beginnings, work.prompt.saturating_sub(expected), blocks);
    }

    fn end(&self) {
        let mut known = self.known();
        (known.since, known.open) = (known.since - 1, known.open.saturating_sub(1));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.in_flight.0.notes.end();
    }
}

#[cfg(test)]
mod tests;
