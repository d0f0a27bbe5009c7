//! Beam search as the reference does it (`_beam_search` of transformers' `generation/utils.py`), without model or engine:
//! scores in, which beam continues with which token out.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tessera_api::language::{BeamSearch, EarlyStopping, Sampling};

use super::sampler::{Largest, NoFiniteScore, Processors, index_to_id, log_total};

/// The search for the best answers to one prompt.
#[derive(Debug)]
pub(super) struct Beams {
    search: BeamSearch,
    samples: usize,
    max_new_tokens: usize,
    end_token_ids: Arc<[u32]>,
    processors: Processors,
    /// The prompt, and behind it the answer that is looked at.
    history: Vec<u32>,
    prompt: usize,
    /// Best first. All have the same length.
    running: Vec<Beam>,
    /// Best first; no more than beams.
    finished: Vec<Found>,
}

/// An answer that goes on.
#[derive(Clone, Debug)]
struct Beam {
    token_ids: Vec<u32>,
    /// Sum of its log-probabilities.
    sum: f32,
}

/// An answer that was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// The answer, its end token included.
    pub(super) token_ids: Vec<u32>,
    /// Whether an end token ends it.
    pub(super) ended: bool,
    /// Sum of its log-probabilities, divided by its length to the power of the length penalty.
    pub(super) score: f32,
}

/// How a search goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next beams, best first: which of the beams before each continues, and its token.
    Go(Vec<(usize, u32)>),
    /// Nothing better can be found.
    Over,
}

/// A beam and the token that may continue it.
struct Candidate {
    beam: usize,
    token: u32,
    sum: f32,
}

impl Beams {
    /// Starts a search for the best `samples` answers. The sampling is greedy; its processors see log-probabilities.
    pub(super) fn new(
        search: BeamSearch,
        samples: usize,
        sampling: Arc<Sampling>,
        end_token_ids: Arc<[u32]>,
        max_new_tokens: usize,
        prompt: &[u32],
    ) -> Self {
        Self {
            search,
            samples,
            max_new_tokens,
            processors: Processors::new(sampling, end_token_ids.clone()),
            end_token_ids,
            history: prompt.to_vec(),
            prompt: prompt.len(),
            running: vec![Beam { token_ids: Vec::new(), sum: 0.0 }],
            finished: Vec::new(),
        }
    }

    /// Makes a step. `logits`: the scores after each running beam, `[vocabulary]`, in the order of the last
    /// [`Step::Go`]; one at first, after the prompt.
    ///
    /// # Errors
    /// [`NoFiniteScore`] when a beam has no score at all, or when everything is forbidden and nothing was found.
    ///
    /// # Panics
    /// When there are not as many scores as running beams, or the search is over.
    pub(super) fn advance(&mut self, logits: &[&[f32]]) -> Result<Step, NoFiniteScore> {
        let candidates = self.candidates(logits)?;
        let length = self.running[0].token_ids.len() + 1;
        let (mut step, mut running) = (Vec::new(), Vec::new());
        for (rank, Candidate { beam, token, sum }) in candidates.into_iter().enumerate() {
            let ended = self.end_token_ids.contains(&token);
            let stops = ended || length >= self.max_new_tokens;
            // Those behind the first are only there to go on in the place of those that stop.
            let wanted = if stops { rank < self.search.beams } else { running.len() < self.search.beams };
            if !wanted {
                continue;
            }
            let mut token_ids = self.running[beam].token_ids.clone();
            token_ids.push(token);
            if stops {
                self.finished.push(Found { token_ids, ended, score: score(self.search, sum, length) });
            } else {
                step.push((beam, token));
                running.push(Beam { token_ids, sum });
            }
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.search.beams);
        self.running = running;
        if self.running.is_empty() && self.finished.is_empty() {
            return Err(NoFiniteScore);
        }
        Ok(if self.can_improve(length) { Step::Go(step) } else { Step::Over })
    }

    /// The best answers, best first. Of a search that was not over, running beams follow what had finished, as far as
    /// there are too few. Fewer than were asked for when there are no more.
    pub(super) fn finish(self) -> Vec<Found> {
        let begun = self.running.into_iter().filter(|beam| !beam.token_ids.is_empty());
        let cut_short = begun.map(|Beam { token_ids, sum }| {
            let score = score(self.search, sum, token_ids.len());
            Found { token_ids, ended: false, score }
        });
        self.finished.into_iter().chain(cut_short).take(self.samples).collect()
    }

    /// The best continuations of all beams, best first: so many that enough of them go on even if all end tokens are among
    /// them.
    fn candidates(&mut self, logits: &[&[f32]]) -> Result<Vec<Candidate>, NoFiniteScore> {
        assert!(!logits.is_empty() && logits.len() == self.running.len(), "every running beam has scores");
        let count = self.search.beams * (1 + self.end_token_ids.len()).max(2);
        let mut best = Largest::new(NonZeroUsize::new(count).ok_or(NoFiniteScore)?);
        let neutral = self.processors.are_neutral();
        let (mut scores, mut vocabulary) = (Vec::new(), 1);
        for (index, (beam, logits)) in self.running.iter().zip(logits).enumerate() {
            vocabulary = logits.len();
            let total = log_total(logits).ok_or(NoFiniteScore)?;
            let logprob = |&score: &f32| {
                if score.is_finite() { (f64::from(score) - total) as f32 } else { f32::NEG_INFINITY }
            };
            scores.clear();
            scores.extend(logits.iter().map(logprob));
            if !neutral {
                self.history.truncate(self.prompt);
                self.history.extend_from_slice(&beam.token_ids);
                self.processors.apply(&mut scores, &self.history, self.prompt, None);
            }
            for (token, score) in scores.iter().enumerate() {
                best.offer(index * vocabulary + token, beam.sum + score);
            }
        }
        let candidate =
            |(index, sum)| Candidate { beam: index / vocabulary, token: index_to_id(index % vocabulary), sum };
        Ok(best.into_sorted().into_iter().map(candidate).collect())
    }

    /// Whether to go on: until there are as many finished answers as beams, and then as long as the best running beam
    /// promises to beat the worst of them. `length`: of the running beams.
    fn can_improve(&self, length: usize) -> bool {
        let Some(best) = self.running.first() else { return false };
        let (Some(worst), true) = (self.finished.last(), self.finished.len() == self.search.beams) else { return true };
        let length = match self.search.early_stopping {
            EarlyStopping::Always => return false,
            EarlyStopping::Never if self.search.length_penalty > 0.0 => self.max_new_tokens,
            EarlyStopping::Never | EarlyStopping::Heuristic => length,
        };
        score(self.search, best.sum, length) > worst.score
    }
}

/// Divides a sum of log-probabilities by a length to the power of the length penalty.
fn score(search: BeamSearch, sum: f32, length: usize) -> f32 {
    sum / (length as f64).powf(f64::from(search.length_penalty)) as f32
}

#[cfg(test)]
mod tests;
