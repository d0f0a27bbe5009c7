//! Which rows the next step computes, and who gives way when blocks run out. Touches no tensor.

use std::collections::BTreeMap;
use std::ops::Range;

use tessera_embedding::ImageKey;

use super::blocks::{BlockId, Blocks};
use super::sequence::{Pull, Sequence, SequenceId};

/// Rows at most of a prompt whose scores are all wanted: they are a vocabulary wide.
const SCORED_ROWS: usize = 64;

/// Sequences in order of arrival, and the rule that picks rows of them.
#[derive(Debug)]
pub struct Scheduler {
    /// Hold no blocks: not started, or preempted. Those that came first go first.
    waiting: BTreeMap<SequenceId, Sequence>,
    /// Oldest first.
    running: Vec<Sequence>,
    blocks: Blocks,
    max_running: usize,
    step_rows: usize,
    preemptions: u64,
}

/// What the next step does.
#[derive(Debug, Default)]
pub struct Plan {
    /// Blocks to copy before anything is computed, in this order.
    pub copies: Vec<(BlockId, BlockId)>,
    /// Rows to compute.
    pub rows: Vec<Scheduled>,
    /// Features to ask for.
    pub pulls: Vec<Pull>,
    /// Images of preempted sequences: the model may let go of them.
    pub released: Vec<ImageKey>,
}

/// Rows of one branch in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduled {
    /// Index into [`Scheduler::running`].
    pub sequence: usize,
    /// Which of its branches.
    pub branch: usize,
    /// Positions to compute.
    pub positions: Range<usize>,
    /// What is wanted of their scores.
    pub scores: Wanted,
}

/// What is wanted of the scores of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// Nothing: a piece of a prompt that goes on.
    None,
    /// The likeliest id after the last row: it is the next token, and a score is never looked at.
    Likeliest,
    /// The id that is drawn after the last row, every one as likely as its score says; a model may give all scores instead.
    Draw {
        /// What scores are divided by.
        temperature: f32,
        /// From 0 to 1: where the draw falls.
        number: f64,
    },
    /// The largest scores of the last row, which few ids are drawn from; a model may give all scores instead.
    Top {
        /// If given, the sum of the powers of all scores, divided by this, is wanted too.
        temperature: Option<f32>,
    },
    /// The scores of the last row: a token is chosen by them.
    Last,
    /// The scores of all rows: the prompt's log-probabilities were asked for.
    All,
}

impl Scheduler {
    /// Makes an empty scheduler: at most `max_running` answers at once and `step_rows` rows a step, decode rows excepted,
    /// which always fit.
    pub fn new(blocks: Blocks, max_running: usize, step_rows: usize) -> Self {
        Self { waiting: BTreeMap::new(), running: Vec::new(), blocks, max_running, step_rows, preemptions: 0 }
    }

    /// Takes a sequence in.
    pub fn push(&mut self, sequence: Sequence) {
        self.waiting.insert(sequence.id, sequence);
    }

    /// The sequences that hold blocks, oldest first.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// How many sequences hold nothing.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How often a sequence gave way to an older one.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// True when there is no sequence at all.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// The accounting of the KV cache.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// A running sequence, and the accounting that its branches take blocks from.
    pub(super) fn running_mut(&mut self, index: usize) -> (&mut Sequence, &mut Blocks) {
        (&mut self.running[index], &mut self.blocks)
    }

    /// A running sequence by its name.
    pub(super) fn find_running(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        let index = self.running.binary_search_by_key(&id, |sequence| sequence.id).ok()?;
        Some(&mut self.running[index])
    }

    /// A waiting sequence by its name.
    pub(super) fn find_waiting(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.waiting.get_mut(&id)
    }

    /// Picks the rows of the next step: one for every answer that decodes, then prompt rows, oldest sequence first, up to
    /// the row budget. Gives them their blocks.
    pub fn plan(&mut self) -> Plan {
        self.admit();
        let mut plan = Plan { copies: self.blocks.take_copies(), ..Plan::default() };
        self.plan_decodes(&mut plan);
        self.plan_prompts(&mut plan);
        for sequence in &mut self.running {
            plan.pulls.append(&mut sequence.pulls());
        }
        plan
    }

    /// Starts waiting sequences, first come, first served, while there is room for them beside those that run.
    fn admit(&mut self) {
        while let Some(mut next) = self.waiting.first_entry() {
            let sequence = next.get_mut();
            let width: usize = self.running.iter().map(Sequence::width).sum();
            if !self.running.is_empty() && width + sequence.width() > self.max_running {
                return;
            }
            let first = sequence.first();
            sequence.reuse(first, &mut self.blocks);
            let missing = sequence.blocks_to_start() - sequence.branches[first].table.len();
            // Who runs may need a block each before the first of them is done.
            if missing + width > self.blocks.free() {
                sequence.release(&mut self.blocks);
                return;
            }
            let mut sequence = next.remove();
            sequence.listener.note_scheduled();
            let place = self.running.partition_point(|other| other.id < sequence.id);
            self.running.insert(place, sequence);
        }
    }

    fn plan_decodes(&mut self, plan: &mut Plan) {
        let mut index = 0;
        // Making room may end the list behind the index.
        while index < self.running.len() {
            for branch in 0..self.running[index].branches.len() {
                let ready = self.running[index].ready(branch);
                if !ready.is_empty() && self.running[index].is_decoding(branch) {
                    let end = self.make_room(index, branch, ready.end, plan);
                    if end == ready.end {
                        let scores = self.running[index].wanted(branch);
                        plan.rows.push(Scheduled { sequence: index, branch, positions: ready, scores });
                    }
                }
            }
            index += 1;
        }
    }

    fn plan_prompts(&mut self, plan: &mut Plan) {
        let mut left = self.step_rows.saturating_sub(plan.rows.len());
        let mut index = 0;
        while index < self.running.len() && left > 0 {
            for branch in 0..self.running[index].branches.len() {
                if left == 0 || self.running[index].is_decoding(branch) || self.running[index].ready(branch).is_empty()
                {
                    continue;
                }
                let (sequence, blocks) = (&mut self.running[index], &mut self.blocks);
                // Another sequence may have computed in the meantime what comes next.
                sequence.reuse(branch, blocks);
                let ready = sequence.ready(branch);
                let scored = sequence.prompt_logprobs.is_some();
                let most = if scored { left.min(SCORED_ROWS) } else { left };
                let end = self.make_room(index, branch, ready.end.min(ready.start + most), plan);
                if end <= ready.start {
                    continue;
                }
                left -= end - ready.start;
                let is_last = end == self.running[index].branches[branch].tokens.len();
                let scores = match (scored, is_last) {
                    (true, _) => Wanted::All,
                    (false, true) => self.running[index].wanted(branch),
                    (false, false) => Wanted::None,
                };
                plan.rows.push(Scheduled { sequence: index, branch, positions: ready.start..end, scores });
            }
            index += 1;
        }
    }

    /// Takes blocks for a branch up to `end`, from younger sequences if need be; returns how far there is room.
    fn make_room(&mut self, index: usize, branch: usize, end: usize, plan: &mut Plan) -> usize {
        loop {
            let room = self.running[index].branches[branch].grow(end, &mut self.blocks);
            if room >= end || index + 1 == self.running.len() {
                return room;
            }
            let Some(mut youngest) = self.running.pop() else { return room };
            let index = self.running.len();
            plan.rows.retain(|rows| rows.sequence != index);
            plan.released.append(&mut youngest.release(&mut self.blocks));
            self.preemptions += 1;
            self.waiting.insert(youngest.id, youngest);
        }
    }

    /// Takes out the sequences for which `ended` holds and frees their blocks; returns the images that the model may let
    /// go of.
    pub(super) fn remove(&mut self, mut ended: impl FnMut(&mut Sequence, &mut Blocks) -> bool) -> Vec<ImageKey> {
        let (mut released, blocks) = (Vec::new(), &mut self.blocks);
        self.running.retain_mut(|sequence| {
            let over = ended(sequence, blocks);
            if over {
                released.append(&mut sequence.release(blocks));
            }
            !over
        });
        self.waiting.retain(|_, sequence| !ended(sequence, blocks));
        released
    }
}
