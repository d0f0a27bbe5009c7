//! What a sequence makes of the scores after its last row: the next token of a sample, or of every beam.

use tessera_api::language::{Event, FinishReason};
use tessera_api::{Error, ErrorKind, Result};

use super::beams::{Beams, Step};
use super::blocks::Blocks;
use super::branch::Branch;
use super::guide::Guide;
use super::sampler::{self, Next, NoFiniteScore};
use super::sequence::Sequence;

impl From<NoFiniteScore> for Error {
    fn from(error: NoFiniteScore) -> Self {
        Self::new(ErrorKind::Internal, "MODEL_FAILED", error.to_string())
    }
}

impl Sequence {
    /// Takes what the model says about the token after the last of a branch, as much as was [wanted](Self::wanted); returns
    /// how many new tokens were told.
    ///
    /// # Errors
    /// When no token can be chosen.
    pub(super) fn take_next(&mut self, branch: usize, next: &Next<'_>, blocks: &mut Blocks) -> Result<usize> {
        if self.wishes.beam_search.is_some()
            && let Next::Scores(scores) = next
        {
            return self.take_beam_scores(branch, scores, blocks);
        }
        if self.is_branched {
            self.choose(branch, next, blocks)?;
            return Ok(1);
        }
        // The samples begin behind the same prompt, each with a draw of its own from the same scores; those that take the
        // likeliest take the same.
        self.is_branched = true;
        let guides = self.branches[0].guide.take().map(|guide| guide.split(self.wishes.samples));
        for sample in 1..self.wishes.samples {
            let first = &self.branches[0];
            let mut other = Branch::new(first.tokens.clone(), self.wishes.sampler(sample));
            (other.table, other.computed) = first.share(self.given, blocks);
            self.branches.push(other);
        }
        for (branch, guide) in self.branches.iter_mut().zip(guides.into_iter().flatten()) {
            branch.guide = Some(guide);
        }
        for sample in 0..self.wishes.samples {
            self.choose(sample, next, blocks)?;
        }
        Ok(self.wishes.samples)
    }

    fn choose(&mut self, sample: usize, next: &Next<'_>, blocks: &mut Blocks) -> Result<()> {
        let Self { branches, wishes, listener, given, .. } = self;
        let branch = &mut branches[sample];
        let (stand, mask) = branch.guide.take().map(Guide::take).transpose()?.unzip();
        let (token, logprobs) = match next {
            Next::Token(id) => (id.ok_or(NoFiniteScore)?, None),
            Next::Candidates(candidates) => (branch.sampler.draw(candidates, branch.tokens.len())?, None),
            Next::Scores(scores) => {
                let token = branch.sampler.choose(scores, &branch.tokens, *given, mask.as_ref())?;
                (token, wishes.logprobs.map(|top| sampler::logprobs(scores, token, top)))
            }
        };
        branch.tokens.push(token);
        branch.guide = stand.map(|stand| stand.follow(token)).transpose()?.flatten();
        listener.tell_tokens(sample, vec![token], logprobs.into_iter().collect());
        if self.end_if_complete(sample) {
            self.branches[sample].release(blocks);
        }
        Ok(())
    }

    /// Takes the scores of each of a prompt's rows, and tells them when the prompt is done.
    pub(super) fn take_prompt_scores(&mut self, first_row: usize, scores: &[f32], rows: usize) {
        let Some(top) = self.prompt_logprobs else { return };
        let tokens = &self.branches[0].tokens;
        for (row, scores) in scores.chunks_exact(scores.len() / rows).enumerate() {
            // The scores at one position are about the next.
            if let Some(&next) = tokens[..self.given].get(first_row + row + 1) {
                self.prompt_scores.push(sampler::logprobs(scores, next, top));
            }
        }
        if first_row + rows >= self.given {
            self.prompt_logprobs = None;
            self.listener.tell(Ok(Event::PromptLogprobs(std::mem::take(&mut self.prompt_scores))));
        }
    }

    /// Goes on with the search once the scores of every beam are here.
    fn take_beam_scores(&mut self, branch: usize, scores: &[f32], blocks: &mut Blocks) -> Result<usize> {
        self.branches[branch].scores = Some(scores.to_vec());
        if self.branches.iter().any(|beam| beam.scores.is_none()) {
            return Ok(0);
        }
        self.is_branched = true;
        let scores: Vec<Vec<f32>> = self.branches.iter_mut().filter_map(|beam| beam.scores.take()).collect();
        let scores: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
        let Some(beams) = &mut self.beams else { return Ok(0) };
        match beams.advance(&scores)? {
            Step::Go(next) => {
                self.follow(&next, blocks);
                Ok(0)
            }
            Step::Over => Ok(self.finish_search(None, blocks)),
        }
    }

    /// Makes the branches those of the next beams: which one each continues, and its token.
    fn follow(&mut self, next: &[(usize, u32)], blocks: &mut Blocks) {
        let mut parents = std::mem::take(&mut self.branches);
        for (index, parent) in parents.iter_mut().enumerate() {
            if next.iter().all(|(continued, _)| *continued != index) {
                parent.release(blocks);
            }
        }
        for (at, &(index, token)) in next.iter().enumerate() {
            let parent = &mut parents[index];
            let mut tokens = parent.tokens.clone();
            tokens.push(token);
            // The last one to continue a beam takes its blocks over, those before it share them.
            let is_last = next[at + 1..].iter().all(|(continued, _)| *continued != index);
            let (table, computed) = if is_last {
                (std::mem::take(&mut parent.table), parent.computed)
            } else {
                parent.share(parent.computed, blocks)
            };
            let mut beam = Branch::new(tokens, parent.sampler.clone());
            (beam.table, beam.computed) = (table, computed);
            self.branches.push(beam);
        }
    }

    /// Tells the best answers found; returns how many tokens they have. `reason` is why the search ended, if not by itself.
    fn finish_search(&mut self, reason: Option<FinishReason>, blocks: &mut Blocks) -> usize {
        let mut told = 0;
        for (sample, found) in self.beams.take().map(Beams::finish).unwrap_or_default().into_iter().enumerate() {
            told += found.token_ids.len();
            let own = if found.ended { FinishReason::Stop } else { reason.unwrap_or(FinishReason::Length) };
            self.listener.tell_tokens(sample, found.token_ids, Vec::new());
            self.listener.tell_finished(sample, own);
        }
        for beam in &mut self.branches {
            beam.ended = true;
            beam.release(blocks);
        }
        told
    }

    /// Ends it before its answers are over, because its time is: its listener gets what there is.
    pub(super) fn finish_early(&mut self, blocks: &mut Blocks) {
        if self.beams.is_some() && self.is_branched {
            self.finish_search(Some(FinishReason::Deadline), blocks);
        } else if self.listener.has_heard() {
            let live = self.branches.iter().enumerate().filter(|(_, branch)| !branch.ended);
            live.for_each(|(sample, _)| self.listener.tell_finished(sample, FinishReason::Deadline));
        } else {
            self.listener.tell(Err(Error::deadline("generating")));
        }
    }
}
