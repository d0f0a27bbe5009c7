//! One step of the engine: schedule → run → sample → publish.

use std::sync::Arc;

use tessera_api::language::GenerateRequest;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::Artifact;

use super::Command;
use super::blocks::Blocks;
use super::load::Counters;
use super::runner::{Input, ModelRunner, Slice};
use super::sampler;
use super::scheduler::{Scheduled, Scheduler};
use super::sequence::{Piece, Sequence, SequenceId};

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest sequence, prompt and answer together.
    pub max_positions: usize,
    /// Rows of the output layer: every token id is below it.
    pub vocabulary: usize,
    /// Blocks of the KV cache.
    pub blocks: usize,
    /// Sequences that run at once.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Rows a step.
    pub step_rows: usize,
}

impl Limits {
    /// Checks that a request can ever be served.
    ///
    /// # Errors
    /// `Invalid`, with the numbers, for one that cannot.
    pub fn check(&self, request: &GenerateRequest) -> Result<()> {
        let (prompt, new) = (request.token_ids.len(), request.max_new_tokens.get());
        let positions = prompt.saturating_add(new);
        let most = self.max_positions.min(self.blocks * super::BLOCK_POSITIONS);
        if positions > most {
            let message =
                format!("{prompt} prompt tokens and {new} new ones need {positions} positions, there are {most}");
            let error = Error::field("SEQUENCE_TOO_LONG", "max_new_tokens", message);
            return Err(error.with("prompt_tokens", prompt).with("max_new_tokens", new).with("positions", most));
        }
        if let Some(index) = request.token_ids.iter().position(|&id| id as usize >= self.vocabulary) {
            let description = format!("{} is not below {}", request.token_ids[index], self.vocabulary);
            return Err(Error::field("TOKEN_UNKNOWN", format!("token_ids[{index}]"), description));
        }
        Ok(())
    }
}

/// Scheduler and runner together. Owned by one thread.
#[derive(Debug)]
pub struct Engine<R> {
    scheduler: Scheduler,
    runner: R,
    new_tokens: u64,
    prompt_positions: u64,
}

impl<R: ModelRunner> Engine<R> {
    /// Makes an engine without sequences.
    pub fn new(runner: R, limits: Limits) -> Self {
        let scheduler = Scheduler::new(Blocks::new(limits.blocks), limits.running, limits.step_rows);
        Self { scheduler, runner, new_tokens: 0, prompt_positions: 0 }
    }

    /// True when there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.scheduler.is_empty()
    }

    /// True when a step would compute something.
    pub fn has_work(&self) -> bool {
        self.scheduler.has_work()
    }

    /// The accounting of the KV cache.
    pub fn blocks(&self) -> &Blocks {
        self.scheduler.blocks()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        let blocks = self.scheduler.blocks();
        Counters {
            total_blocks: blocks.total(),
            free_blocks: blocks.free(),
            waiting: self.scheduler.waiting(),
            running: self.scheduler.running().len(),
            new_tokens: self.new_tokens,
            prompt_positions: self.prompt_positions,
            reused_positions: 0,
        }
    }

    /// Takes a command.
    pub fn take(&mut self, command: Command) {
        match command {
            Command::Start(sequence) => self.start(*sequence),
            Command::Image { id, index, features } => self.image(id, index, features),
        }
    }

    fn start(&mut self, sequence: Sequence) {
        let images = sequence.image_count();
        self.prompt_positions += sequence.tokens().len() as u64;
        match self.runner.open(sequence.id, sequence.capacity(), images) {
            Ok(()) => self.scheduler.push(sequence),
            Err(error) => sequence.tell(Err(error.into())),
        }
    }

    /// A sequence may have ended before its features come: then they are let go.
    fn image(&mut self, id: SequenceId, index: usize, features: Result<Arc<Artifact>>) {
        let Some(sequence) = self.scheduler.find_mut(id) else { return };
        let placed = features.and_then(|artifact| Ok(self.runner.place(id, index, &artifact)?));
        match placed {
            Ok(()) => sequence.image_arrived(index),
            Err(error) => {
                sequence.tell(Err(error));
                self.end(|sequence| sequence.id == id);
            }
        }
    }

    /// Runs one step.
    pub fn step(&mut self) {
        self.end_overdue();
        self.scheduler.admit();
        let plan = self.scheduler.plan();
        if plan.is_empty() {
            return;
        }
        match self.run(&plan) {
            Ok(logits) => self.publish(&plan, logits),
            Err(error) => self.fail(&plan, &error),
        }
    }

    fn run(&mut self, plan: &[Scheduled]) -> Result<Vec<Option<Vec<f32>>>> {
        let running = self.scheduler.running();
        let slices = plan.iter().map(|rows| {
            let sequence = &running[rows.sequence];
            let inputs = sequence.pieces(rows.positions.clone()).into_iter().map(|piece| match piece {
                Piece::Tokens(range) => Input::Tokens(&sequence.tokens()[range]),
                Piece::Image { index, rows } => Input::Image { index, rows },
            });
            Slice { id: sequence.id, start: rows.positions.start, inputs: inputs.collect(), wants_logits: rows.samples }
        });
        Ok(self.runner.run(&slices.collect::<Vec<_>>())?)
    }

    /// Samples where a row asked for it, tells listeners, and frees what has ended.
    fn publish(&mut self, plan: &[Scheduled], logits: Vec<Option<Vec<f32>>>) {
        let mut ended = Vec::new();
        for (rows, logits) in plan.iter().zip(logits) {
            let sequence = &mut self.scheduler.running_mut()[rows.sequence];
            for index in sequence.advance(rows.positions.len()) {
                self.runner.release(sequence.id, index);
            }
            let Some(logits) = logits.filter(|_| rows.samples) else { continue };
            match sampler::choose(logits, sequence.tokens(), sequence.sampling()) {
                Ok(token) => {
                    self.new_tokens += 1;
                    if sequence.push(token).is_some() {
                        ended.push(sequence.id);
                    }
                }
                Err(error) => {
                    tracing::error!(request_id = %sequence.request_id, %error, "sampling failed");
                    sequence.tell(Err(Error::new(ErrorKind::Internal, "MODEL_FAILED", error.to_string())));
                    ended.push(sequence.id);
                }
            }
        }
        self.end(|sequence| ended.contains(&sequence.id));
    }

    /// A step that failed ends the sequences that were in it.
    fn fail(&mut self, plan: &[Scheduled], error: &Error) {
        tracing::error!(%error, sequences = plan.len(), "a step failed");
        let mut ended = Vec::new();
        for rows in plan {
            let sequence = &self.scheduler.running()[rows.sequence];
            sequence.tell(Err(error.clone()));
            ended.push(sequence.id);
        }
        self.end(|sequence| ended.contains(&sequence.id));
    }

    /// Ends sequences whose callers left or whose time is over.
    fn end_overdue(&mut self) {
        self.end(|sequence| {
            if sequence.deadline().has_passed() {
                sequence.tell(Err(Error::deadline("generating")));
                return true;
            }
            sequence.is_abandoned()
        });
    }

    fn end(&mut self, ended: impl FnMut(&Sequence) -> bool) {
        for sequence in self.scheduler.remove(ended) {
            self.runner.close(sequence.id);
        }
    }
}

#[cfg(test)]
mod tests;
