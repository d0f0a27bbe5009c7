//! The next token of one sample from logits: the reference's processors in the reference's order, then the likeliest or
//! a draw.

mod cuts;
mod generator;
mod largest;
mod logprobs;
mod mask;
mod occurrences;
mod processors;

use std::borrow::Cow;
use std::sync::Arc;

use tessera_api::language::{Choice, Draw, Sampling};
use tessera_kernels::{TOP, TopScores};

use super::scheduler::Wanted;

pub(super) use self::cuts::Candidate;
pub(super) use self::largest::Largest;
pub(super) use self::logprobs::{log_total, logprobs};
pub use self::mask::Mask;
pub(super) use self::processors::Processors;

#[cfg(test)]
pub(super) use self::generator::seed_of_sample;
use self::generator::{Numbers, Place};

/// A token that could not be chosen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the model gave no finite score for any token")]
pub(super) struct NoFiniteScore;

/// What the model says about the next token.
#[derive(Clone, Debug)]
pub(super) enum Next<'a> {
    /// The token itself, if a score is finite: the likeliest, or one that was drawn.
    Token(Option<u32>),
    /// Those that a draw may choose, in order of their ids.
    Candidates(Vec<Candidate>),
    /// The scores of all ids, `[vocabulary]`.
    Scores(Cow<'a, [f32]>),
}

/// Chooses the tokens of one sample, one after the other.
///
/// What it remembers between two choices only saves work: a choice is a function of the settings, the sample and what it
/// is given, so an answer can be continued anywhere, by another sampler.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    processors: Processors,
    /// `None` takes the likeliest.
    drawing: Option<Drawing>,
}

/// A draw and where its numbers come from.
#[derive(Clone, Debug)]
struct Drawing {
    settings: Draw,
    /// What [`Draw::top_p`] leaves out.
    tail: f32,
    numbers: Numbers,
}

impl Sampler {
    /// Makes the sampler of one of the samples of a request, counted from 0.
    pub(super) fn new(settings: Arc<Sampling>, end_token_ids: Arc<[u32]>, sample: usize) -> Self {
        let drawing = match settings.choice {
            Choice::Greedy => None,
            Choice::Draw(draw) => Some(Drawing {
                settings: draw,
                tail: cuts::tail(draw.top_p),
                numbers: Numbers::new(draw.generator, draw.seed, sample),
            }),
        };
        Self { processors: Processors::new(settings, end_token_ids), drawing }
    }

    /// What of the scores the token at a position is chosen by, where no mask forbids any and nobody wants to know more of them.
    /// `is_alone`: they are not those of other samples too.
    pub(super) fn wants(&self, position: usize, is_alone: bool) -> Wanted {
        if !self.processors.are_neutral() {
            return Wanted::Last;
        }
        let Some(Drawing { settings, numbers, .. }) = &self.drawing else { return Wanted::Likeliest };
        let (Draw { temperature, top_k, top_p, min_p, typical_p, .. }, number) = (*settings, numbers.at(position));
        match (number, top_k) {
            (None, _) => Wanted::Last,
            // The others' probabilities are of no account.
            (Some(_), Some(count)) if count.get() <= TOP => Wanted::Top { temperature: None },
            (Some(_), None) if top_p < 1.0 || min_p > 0.0 => Wanted::Top { temperature: Some(temperature) },
            (Some(number), None) if is_alone && typical_p >= 1.0 => Wanted::Draw { temperature, number },
            (Some(_), _) => Wanted::Last,
        }
    }

    /// The candidates that the draw's cuts leave, if the largest scores tell.
    pub(super) fn candidates(&self, top: &TopScores) -> Option<Vec<Candidate>> {
        let Drawing { settings, tail, .. } = self.drawing.as_ref()?;
        cuts::candidates_of_top(top, settings, *tail)
    }

    /// Draws the token at a position, of a generator that takes one number for it.
    ///
    /// # Errors
    /// [`NoFiniteScore`] when there is no candidate.
    pub(super) fn draw(&self, candidates: &[Candidate], position: usize) -> Result<u32, NoFiniteScore> {
        let number = self.drawing.as_ref().and_then(|drawing| drawing.numbers.at(position));
        number.and_then(|number| generator::inverse(candidates, number)).ok_or(NoFiniteScore)
    }

    /// Chooses the next token. What is not finite is never chosen.
    ///
    /// `logits`: `[vocabulary]`. `history`: prompt and answer so far, of which `prompt` ids are prompt. `mask`: the ids
    /// that a constraint allows; it holds whatever the settings say.
    ///
    /// # Errors
    /// [`NoFiniteScore`] when there is nothing to choose from: the model or its input is broken, or everything is
    /// forbidden.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        history: &[u32],
        prompt: usize,
        mask: Option<&Mask>,
    ) -> Result<u32, NoFiniteScore> {
        if mask.is_none() && self.processors.are_neutral() {
            return self.pick(logits, history, prompt);
        }
        if greatest(logits) == f32::NEG_INFINITY {
            return Err(NoFiniteScore);
        }
        let mut scores: Vec<f32> = logits.iter().map(|&score| finite_or_least(score)).collect();
        self.processors.apply(&mut scores, history, prompt, mask);
        self.pick(&scores, history, prompt)
    }

    fn pick(&mut self, scores: &[f32], history: &[u32], prompt: usize) -> Result<u32, NoFiniteScore> {
        let Some(Drawing { settings, tail, numbers }) = &mut self.drawing else { return likeliest(scores) };
        let kept = cuts::candidates(scores, settings, *tail);
        let place = Place { position: history.len(), answered: history.len() - prompt, vocabulary: scores.len() };
        numbers.draw(&kept, place).ok_or(NoFiniteScore)
    }
}

/// The first of the largest finite scores. Part by part, so that its place is looked for in one of them only.
fn likeliest(scores: &[f32]) -> Result<u32, NoFiniteScore> {
    const PART: usize = 512;
    let (mut top, mut start) = (f32::NEG_INFINITY, 0);
    for (index, part) in scores.chunks(PART).enumerate() {
        let greatest = greatest(part);
        if greatest > top {
            (top, start) = (greatest, index * PART);
        }
    }
    let place = scores[start..].iter().position(|&score| score == top && top > f32::NEG_INFINITY);
    place.map(|place| index_to_id(start + place)).ok_or(NoFiniteScore)
}

/// The largest finite score; minus infinity when there is none. Lane by lane, so that it is computed in vectors.
fn greatest(scores: &[f32]) -> f32 {
    const LANES: usize = 16;
    // What is not a number is never greater.
    let greater = |top: f32, score: f32| if score > top { score } else { top };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, score);
        }
    }
    let top = lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, greater);
    if top < f32::INFINITY {
        return top;
    }
    scores.iter().copied().filter(|score| score.is_finite()).fold(f32::NEG_INFINITY, greater)
}

/// Minus infinity in the place of what is not a number or infinite.
fn finite_or_least(score: f32) -> f32 {
    if score < f32::INFINITY { score } else { f32::NEG_INFINITY }
}

/// Ids are indices into a vocabulary, whose size fits 32 bits.
pub(super) fn index_to_id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(super) mod tests;
