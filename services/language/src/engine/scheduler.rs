//! Which rows the next step computes. Touches no tensor.

use std::collections::VecDeque;
use std::ops::Range;

use super::blocks::Blocks;
use super::sequence::{Sequence, SequenceId};

/// Sequences in order of arrival, and the rule that picks rows of them.
#[derive(Debug)]
pub struct Scheduler {
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    blocks: Blocks,
    max_running: usize,
    step_rows: usize,
}

/// Rows of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// Index into [`Scheduler::running`].
    pub sequence: usize,
    /// Positions to compute.
    pub positions: Range<usize>,
    /// True when a token is sampled after them.
    pub samples: bool,
}

impl Scheduler {
    /// Makes an empty scheduler: at most `max_running` sequences at once and `step_rows` rows a step, decode rows
    /// excepted, which always fit.
    pub fn new(blocks: Blocks, max_running: usize, step_rows: usize) -> Self {
        Self { waiting: VecDeque::new(), running: Vec::new(), blocks, max_running, step_rows }
    }

    /// Puts a sequence behind all others.
    pub fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// The sequences that hold blocks, oldest first.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// How many sequences hold nothing yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The same, to change them.
    pub(super) fn running_mut(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    /// Finds a sequence, running or waiting.
    pub(super) fn find_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.running.iter_mut().chain(&mut self.waiting).find(|sequence| sequence.id == id)
    }

    /// True when there is no sequence at all.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// True when a step would compute something or start a sequence.
    pub fn has_work(&self) -> bool {
        self.running.iter().any(|sequence| !sequence.ready().is_empty()) || self.can_admit()
    }

    /// The accounting of the KV cache.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    fn can_admit(&self) -> bool {
        let fits = |next: &Sequence| Blocks::needed(next.capacity()) <= self.blocks.free();
        self.running.len() < self.max_running && self.waiting.front().is_some_and(fits)
    }

    /// Starts waiting sequences, first come, first served, while there is room; returns how many.
    pub(super) fn admit(&mut self) -> usize {
        let before = self.running.len();
        while self.can_admit() {
            let Some(mut next) = self.waiting.pop_front() else { break };
            let Some(reservation) = self.blocks.reserve(next.capacity()) else { break };
            next.start(reservation);
            self.running.push(next);
        }
        self.running.len() - before
    }

    /// Picks the rows of the next step: one for every sequence that decodes, then prompt rows, oldest sequence first,
    /// up to the row budget.
    pub fn plan(&self) -> Vec<Scheduled> {
        let (mut plan, mut left) = (Vec::new(), self.step_rows);
        for decoding in [true, false] {
            for (index, sequence) in self.running.iter().enumerate() {
                let ready = sequence.ready();
                if sequence.is_decoding() != decoding || ready.is_empty() || (left == 0 && !decoding) {
                    continue;
                }
                let rows = if decoding { ready.len() } else { ready.len().min(left) };
                left = left.saturating_sub(rows);
                let positions = ready.start..ready.start + rows;
                let samples = positions.end == sequence.tokens().len();
                plan.push(Scheduled { sequence: index, positions, samples });
            }
        }
        plan
    }

    /// Takes out the sequences for which `ended` holds, frees their blocks, and returns them, running ones first.
    pub(super) fn remove(&mut self, mut ended: impl FnMut(&Sequence) -> bool) -> Vec<Sequence> {
        let mut removed: Vec<Sequence> = self.running.extract_if(.., |sequence| ended(sequence)).collect();
        for sequence in &mut removed {
            if let Some(reservation) = sequence.reservation.take() {
                self.blocks.release(reservation);
            }
        }
        let (gone, kept) = std::mem::take(&mut self.waiting).into_iter().partition::<VecDeque<_>, _>(|s| ended(s));
        self.waiting = kept;
        removed.extend(gone);
        removed
    }
}
