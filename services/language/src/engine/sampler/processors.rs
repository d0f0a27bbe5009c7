//! What changes scores before a token is chosen, greedily or not: the reference's logits processors, in its order
//! (`_get_logits_processor` of transformers' `generation/utils.py`), with the two penalties that it lacks behind its own.

use std::sync::Arc;

use tessera_api::language::Sampling;

use super::Mask;
use super::occurrences::{Count, Occurrences};

/// The processors of one sequence, or of several that grow from one prompt.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Processors {
    settings: Arc<Sampling>,
    end_token_ids: Arc<[u32]>,
    /// Saves counting the whole history at every step.
    occurrences: Occurrences,
}

impl Processors {
    /// Makes the processors that the settings ask for.
    pub(in crate::engine) fn new(settings: Arc<Sampling>, end_token_ids: Arc<[u32]>) -> Self {
        Self { settings, end_token_ids, occurrences: Occurrences::default() }
    }

    /// True when no setting ever changes a score.
    pub(in crate::engine) fn are_neutral(&self) -> bool {
        let Sampling { logit_bias, no_repeat_ngram, bad_words, min_new_tokens, .. } = &*self.settings;
        let lists = logit_bias.is_empty() && bad_words.is_empty();
        lists && no_repeat_ngram.is_none() && *min_new_tokens == 0 && !self.penalizes()
    }

    fn penalizes(&self) -> bool {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = *self.settings;
        repetition_penalty != 1.0 || presence_penalty != 0.0 || frequency_penalty != 0.0
    }

    /// Changes scores, `[vocabulary]`, finite or minus infinity. `history`: prompt and answer so far, of which `prompt` ids
    /// are prompt. `mask`: the ids that a constraint allows.
    pub(in crate::engine) fn apply(&mut self, scores: &mut [f32], history: &[u32], prompt: usize, mask: Option<&Mask>) {
        for &(id, bias) in &self.settings.logit_bias {
            change(scores, id, |score| score + bias);
        }
        if self.penalizes() {
            self.occurrences.follow(history, prompt);
            for (id, count) in self.occurrences.iter() {
                change(scores, id, |score| penalized(score, count, &self.settings));
            }
        }
        if let Some(size) = self.settings.no_repeat_ngram {
            forbid_repeated_runs(scores, history, size.get());
        }
        forbid_bad_words(scores, history, &self.settings.bad_words, &self.end_token_ids);
        if history.len() - prompt < self.settings.min_new_tokens {
            self.end_token_ids.iter().for_each(|&id| forbid(scores, id));
        }
        if let Some(mask) = mask {
            constrain(scores, mask);
        }
    }
}

/// Replaces the score of an id; an id beyond the vocabulary has none.
fn change(scores: &mut [f32], id: u32, new: impl FnOnce(f32) -> f32) {
    if let Some(score) = scores.get_mut(id as usize) {
        *score = new(*score);
    }
}

fn forbid(scores: &mut [f32], id: u32) {
    change(scores, id, |_| f32::NEG_INFINITY);
}

/// The repetition penalty counts the prompt and every id once; the other two count the answer.
fn penalized(score: f32, count: Count, settings: &Sampling) -> f32 {
    let Sampling { repetition_penalty: penalty, presence_penalty, frequency_penalty, .. } = *settings;
    let score = if score < 0.0 { score * penalty } else { score / penalty };
    if count.answer == 0 { score } else { score - count.answer as f32 * frequency_penalty - presence_penalty }
}

/// Forbids the ids that would end a run of `size` ids that stands in the history already.
fn forbid_repeated_runs(scores: &mut [f32], history: &[u32], size: usize) {
    let Some(start) = (history.len() + 1).checked_sub(size) else { return };
    for run in history.windows(size).filter(|run| run[..size - 1] == history[start..]) {
        forbid(scores, run[size - 1]);
    }
}

/// Forbids the last id of each run whose other ids end the history. As in the reference, an end token alone is no bad word.
fn forbid_bad_words(scores: &mut [f32], history: &[u32], bad_words: &[Vec<u32>], end_token_ids: &[u32]) {
    for run in bad_words {
        let Some((last, before)) = run.split_last() else { continue };
        let ends = before.is_empty() && end_token_ids.contains(last);
        if !ends && history.ends_with(before) {
            forbid(scores, *last);
        }
    }
}

/// Forbids what the mask does not allow. As in the reference, when everything that it allows is forbidden already, that is
/// allowed again, all of it alike: a constraint is never broken.
fn constrain(scores: &mut [f32], mask: &Mask) {
    let words = || mask.words().iter().copied().chain(std::iter::repeat(0));
    for (chunk, word) in scores.chunks_mut(32).zip(words()) {
        if word != u32::MAX {
            let forbidden = |bit: &usize| word >> bit & 1 == 0;
            (0..chunk.len()).filter(forbidden).for_each(|bit| chunk[bit] = f32::NEG_INFINITY);
        }
    }
    if scores.iter().all(|score| *score == f32::NEG_INFINITY) {
        for (chunk, word) in scores.chunks_mut(32).zip(words()) {
            let allowed = |bit: &usize| word >> bit & 1 == 1;
            (0..chunk.len()).filter(allowed).for_each(|bit| chunk[bit] = 0.0);
        }
    }
}
