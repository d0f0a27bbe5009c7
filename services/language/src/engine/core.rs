//! One step of the engine: schedule → run → sample → publish.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_api::language::{Choice, GenerateRequest};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{ImageFeatures, ImageKey};

use super::Command;
use super::blocks::{BLOCK_POSITIONS, Blocks};
use super::load::Counters;
use super::runner::{ModelRunner, RunError, Scores, Slice};
use super::sampler::{Next, Sampler};
use super::scheduler::{Plan, Scheduled, Scheduler, Wanted};
use super::sequence::{Pull, Sequence, SequenceId};

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest sequence, prompt and answer together.
    pub max_positions: usize,
    /// Rows of the output layer: every token id is below it.
    pub vocabulary: usize,
    /// Blocks of the KV cache.
    pub blocks: usize,
    /// Answers that run at once: samples and beams count one each.
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
        check_combination(request)?;
        let (prompt, new) = (request.token_ids.len(), request.max_new_tokens.get());
        let positions = prompt.saturating_add(new);
        let most = self.max_positions.min(self.blocks * BLOCK_POSITIONS);
        if positions > most {
            let message =
                format!("{prompt} prompt tokens and {new} new ones need {positions} positions, there are {most}");
            let error = Error::field("SEQUENCE_TOO_LONG", "max_new_tokens", message);
            return Err(error.with("prompt_tokens", prompt).with("max_new_tokens", new).with("positions", most));
        }
        let (field, width) = match request.beam_search {
            Some(search) => ("beam_search.beams", search.beams),
            None => ("samples", request.samples.get()),
        };
        // Answers have the full blocks of what was given in common, and nothing else for certain.
        let shared = prompt / BLOCK_POSITIONS;
        let blocks = shared + width * (Blocks::needed(positions) - shared);
        if width > self.running || blocks > self.blocks {
            let (running, held) = (self.running, self.blocks);
            let message = format!(
                "{width} answers at once need {blocks} blocks of the KV cache, there are {held}; \
                 {running} answers run at once at most"
            );
            let error = Error::field("SEQUENCE_TOO_LARGE", field, message);
            return Err(error.with("answers", width).with("blocks", blocks).with("kv_blocks", held));
        }
        self.check_tokens("token_ids", &request.token_ids)?;
        let mut begun = request.begun.iter().enumerate();
        begun.try_for_each(|(index, begun)| self.check_tokens(&format!("begun[{index}].token_ids"), &begun.token_ids))
    }

    fn check_tokens(&self, field: &str, token_ids: &[u32]) -> Result<()> {
        let Some(index) = token_ids.iter().position(|&id| id as usize >= self.vocabulary) else { return Ok(()) };
        let description = format!("{} is not below {}", token_ids[index], self.vocabulary);
        Err(Error::field("TOKEN_UNKNOWN", format!("{field}[{index}]"), description))
    }
}

/// Refuses what does not go together.
fn check_combination(request: &GenerateRequest) -> Result<()> {
    let Some(_) = request.beam_search else { return Ok(()) };
    let with = [
        ("sampling.temperature", matches!(request.sampling.choice, Choice::Draw(_))),
        ("constraint", request.constraint.is_some()),
        ("logprobs", request.logprobs.is_some()),
        ("begun", !request.begun.is_empty()),
    ];
    match with.into_iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(Error::field("COMBINATION_UNSUPPORTED", field, "does not go with a beam search")),
        None => Ok(()),
    }
}

/// Scheduler and runner together. Owned by one thread.
pub struct Engine<R> {
    scheduler: Scheduler,
    runner: R,
    pull: Box<dyn FnMut(Pull) + Send>,
    new_tokens: u64,
    prompt_positions: u64,
    reused_positions: u64,
    /// How long the last steps took, the newest counting most.
    step_time: Duration,
}

impl<R: ModelRunner> Engine<R> {
    /// Makes an engine without sequences. `pull` is told which features are needed; it must not wait.
    pub fn new(runner: R, limits: Limits, pull: Box<dyn FnMut(Pull) + Send>) -> Self {
        let scheduler = Scheduler::new(Blocks::new(limits.blocks), limits.running, limits.step_rows);
        let (new_tokens, prompt_positions, reused_positions) = (0, 0, 0);
        let step_time = Duration::ZERO;
        Self { scheduler, runner, pull, new_tokens, prompt_positions, reused_positions, step_time }
    }

    /// True when there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.scheduler.is_empty()
    }

    /// The sequences and the accounting of the KV cache.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
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
            reused_positions: self.reused_positions,
        }
    }

    /// Takes a command.
    pub fn take(&mut self, command: Command) {
        match command {
            Command::Start(mut sequence) => {
                sequence.begin();
                if !sequence.is_over() {
                    self.scheduler.push(*sequence);
                }
            }
            Command::HandOver => self.hand_over(),
            Command::Image { id, index, features } => self.image(id, index, features),
        }
    }

    /// A sequence may have ended, or hold nothing now, when its features come: then they are let go.
    fn image(&mut self, id: SequenceId, index: usize, features: Result<Arc<ImageFeatures>>) {
        let Some(sequence) = self.scheduler.find_running(id) else {
            if let Some(sequence) = self.scheduler.find_waiting(id) {
                sequence.image_came_too_early(index);
            }
            return;
        };
        let Some(key) = sequence.awaited(index) else { return };
        match features.and_then(|artifact| Ok(self.runner.place(key, &artifact)?)) {
            Ok(()) => sequence.image_arrived(index),
            Err(error) => {
                sequence.listener.tell(Err(error));
                self.end(|sequence| sequence.id == id);
            }
        }
    }

    /// Runs one step; false when there was nothing to compute.
    pub fn step(&mut self) -> bool {
        let began = Instant::now();
        self.end_overdue();
        let Plan { copies, rows, pulls, released } = self.scheduler.plan();
        pulls.into_iter().for_each(|pull| (self.pull)(pull));
        self.release(released);
        let copied = copies.into_iter().try_for_each(|(from, to)| self.runner.copy(from, to));
        if rows.is_empty() && copied.is_ok() {
            return false;
        }
        match copied.and_then(|()| self.run(&rows)) {
            Ok(scores) => self.publish(&rows, &scores),
            Err(error) => self.fail(&rows, &error.into()),
        }
        self.step_time = (self.step_time + began.elapsed()) / 2;
        true
    }

    fn run(&mut self, rows: &[Scheduled]) -> Result<R::Scores, RunError> {
        let running = self.scheduler.running();
        let slices = rows.iter().map(|Scheduled { sequence, branch, positions, scores }| {
            let sequence = &running[*sequence];
            Slice {
                blocks: &sequence.branches[*branch].table,
                runs: sequence.runs(*branch, positions.clone()),
                positions: positions.clone(),
                scores: *scores,
            }
        });
        self.runner.run(&slices.collect::<Vec<_>>())
    }

    /// Chooses tokens where scores were wanted, tells listeners, and frees what has ended.
    fn publish(&mut self, rows: &[Scheduled], scores: &R::Scores) {
        let (mut ended, mut released) = (Vec::new(), Vec::new());
        for (slice, Scheduled { sequence, branch, positions, scores: wanted }) in rows.iter().enumerate() {
            let (sequence, blocks) = self.scheduler.running_mut(*sequence);
            sequence.advance(*branch, positions.len(), blocks);
            released.append(&mut sequence.finished_images());
            if *wanted == Wanted::All {
                sequence.take_prompt_scores(positions.start, scores.of(slice), positions.len());
            }
            if positions.end < sequence.branches[*branch].tokens.len() {
                continue;
            }
            if *wanted == Wanted::None {
                continue;
            }
            let sampler = &sequence.branches[*branch].sampler;
            let next = next(&mut self.runner, scores, slice, &rows[slice], sampler);
            match next.map_err(Error::from).and_then(|next| sequence.take_next(*branch, &next, blocks)) {
                Ok(told) => self.new_tokens += told as u64,
                Err(error) => {
                    tracing::error!(request_id = sequence.listener.request_id(), %error, "no token can be chosen");
                    sequence.listener.tell(Err(error));
                    ended.push(sequence.id);
                }
            }
            if sequence.is_branched && !sequence.is_counted {
                sequence.is_counted = true;
                self.prompt_positions += sequence.given as u64;
                self.reused_positions += sequence.listener.reused as u64;
            }
            if sequence.is_over() {
                ended.push(sequence.id);
            }
        }
        self.release(released);
        if !ended.is_empty() {
            self.end(|sequence| ended.contains(&sequence.id));
        }
    }

    /// Ends every sequence for its listener to have it continued elsewhere.
    fn hand_over(&mut self) {
        let sequences = self.scheduler.running().len() + self.scheduler.waiting();
        if sequences > 0 {
            tracing::info!(sequences, "sequences are handed over");
        }
        self.end(|sequence| {
            let message = "the language worker is shutting down: another one goes on with the answer";
            sequence.listener.tell(Err(Error::new(ErrorKind::Unavailable, "HANDED_OVER", message)));
            true
        });
    }

    /// A step that failed ends the sequences that were in it.
    fn fail(&mut self, rows: &[Scheduled], error: &Error) {
        tracing::error!(%error, slices = rows.len(), "a step failed");
        let mut ended: Vec<SequenceId> = rows.iter().map(|rows| self.scheduler.running()[rows.sequence].id).collect();
        ended.dedup();
        self.end(|sequence| {
            let failed = ended.contains(&sequence.id);
            if failed {
                sequence.listener.tell(Err(error.clone()));
            }
            failed
        });
    }

    /// Ends sequences whose callers left or whose time is over.
    fn end_overdue(&mut self) {
        let step = self.step_time;
        let released = self.scheduler.remove(|sequence, blocks| {
            let is_due = sequence.is_due(step);
            if is_due {
                sequence.finish_early(blocks);
            }
            is_due || sequence.listener.has_left()
        });
        self.release(released);
    }

    fn end(&mut self, mut ended: impl FnMut(&Sequence) -> bool) {
        let released = self.scheduler.remove(|sequence, _| ended(sequence));
        self.release(released);
    }

    fn release(&mut self, images: Vec<ImageKey>) {
        images.into_iter().for_each(|key| self.runner.release(key));
    }
}

/// What the next token of a branch is chosen by: what the model gave, or all scores where that does not tell.
fn next<'s, R: ModelRunner>(
    runner: &mut R,
    given: &'s R::Scores,
    slice: usize,
    rows: &Scheduled,
    sampler: &Sampler,
) -> Result<Next<'s>, RunError> {
    let all = |scores: &'s [f32]| Next::Scores(scores.into());
    Ok(match rows.scores {
        Wanted::None | Wanted::Last => all(given.of(slice)),
        Wanted::All => {
            let scores = given.of(slice);
            all(&scores[scores.len() - scores.len() / rows.positions.len()..])
        }
        Wanted::Likeliest => Next::Token(given.token(slice)),
        Wanted::Draw { .. } => match given.of(slice) {
            [] => Next::Token(given.token(slice)),
            scores => all(scores),
        },
        Wanted::Top { .. } => match given.top(slice).map(|top| sampler.candidates(top)) {
            None => all(given.of(slice)),
            Some(Some(candidates)) => Next::Candidates(candidates),
            Some(None) => Next::Scores(runner.scores(slice)?.into()),
        },
    })
}

#[cfg(test)]
mod tests;
