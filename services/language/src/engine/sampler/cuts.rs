//! Temperature and what it is followed by: which ids a draw may choose. As the reference's warpers cut, ties and the
//! rounding of probabilities to f32 included (transformers' `generation/logits_process.py`).

use std::cmp::Ordering;
use std::num::NonZeroUsize;

use tessera_api::language::Draw;

use super::{Largest, greatest, index_to_id};

/// How many of the likeliest are looked at first in search of the place where top-p cuts.
const FIRST_LOOK: NonZeroUsize = NonZeroUsize::new(256).expect("is not 0");
/// How many times as many are looked at next.
const NEXT_LOOK: NonZeroUsize = NonZeroUsize::new(16).expect("is not 0");

/// An id that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    /// Divided by the temperature.
    pub(super) score: f32,
}

/// The ids of finite scores that temperature, top-k, top-p, min-p and typical-p leave, in order of their ids.
///
/// `scores`: `[vocabulary]`. `tail`: [`tail`] of the settings' top-p.
pub(super) fn candidates(scores: &[f32], settings: &Draw, tail: f32) -> Vec<Candidate> {
    let mut candidates = scale(scores, settings.temperature, settings.top_k);
    if candidates.is_empty() {
        return candidates;
    }
    if settings.top_p < 1.0 {
        keep_top_p(&mut candidates, tail);
    }
    if settings.min_p > 0.0 {
        keep_min_p(&mut candidates, settings.min_p);
    }
    if settings.typical_p < 1.0 {
        keep_typical(&mut candidates, settings.typical_p);
    }
    candidates
}

/// What top-p leaves out, as the reference computes it: from the number that was written, which is the shortest one that
/// rounds to this f32.
pub(super) fn tail(top_p: f32) -> f32 {
    let written = top_p.to_string().parse::<f64>().unwrap_or_else(|_| f64::from(top_p));
    (1.0 - written) as f32
}

/// Divides by the temperature, and keeps the `top_k` largest and those equal to the last of them.
fn scale(scores: &[f32], temperature: f32, top_k: Option<NonZeroUsize>) -> Vec<Candidate> {
    let top = greatest(scores);
    // A temperature close to 0 makes scores infinite. Their distances from the largest lose nothing that could be drawn.
    let shift = if (top / temperature).is_finite() { 0.0 } else { top };
    let scaled = || {
        let finite = scores.iter().enumerate().filter(|(_, score)| score.is_finite());
        let scaled = finite.map(|(index, &score)| (index, (score - shift) / temperature));
        scaled.filter(|(_, score)| *score > f32::NEG_INFINITY)
    };
    let least = top_k.and_then(|count| {
        let mut largest = Largest::new(count);
        scaled().for_each(|(index, score)| largest.offer(index, score));
        largest.into_least()
    });
    let kept = scaled().filter(|(_, score)| least.is_none_or(|least| *score >= least));
    kept.map(|(index, score)| Candidate { id: index_to_id(index), score }).collect()
}

/// Drops the unlikeliest as long as their probabilities add up to no more than `tail`, the first of equals first.
fn keep_top_p(candidates: &mut Vec<Candidate>, tail: f32) {
    let cut = top_p_cut(candidates, &probabilities(candidates), tail);
    candidates.retain(|candidate| rising(candidate, &cut).is_ge());
}

/// The unlikeliest candidate that top-p keeps. Only the head of the candidates is sorted: as many of the likeliest as it
/// takes for the others to fit in the tail.
fn top_p_cut(candidates: &[Candidate], probabilities: &[f32], tail: f32) -> Candidate {
    let mut count = FIRST_LOOK;
    loop {
        let mut largest = Largest::new(count);
        candidates.iter().enumerate().for_each(|(index, candidate)| largest.offer(index, candidate.score));
        let least = largest.into_least().unwrap_or(f32::NEG_INFINITY);
        let pairs = || candidates.iter().zip(probabilities);
        let below = pairs().filter(|(candidate, _)| candidate.score < least);
        let mut sum: f64 = below.map(|(_, &probability)| f64::from(probability)).sum();
        if sum as f32 > tail {
            count = count.saturating_mul(NEXT_LOOK);
            continue;
        }
        let mut head: Vec<_> = pairs().filter(|(candidate, _)| candidate.score >= least).collect();
        head.sort_unstable_by(|a, b| rising(a.0, b.0));
        let beyond_tail = |(_, probability): &(&Candidate, &f32)| {
            sum += f64::from(**probability);
            sum as f32 > tail
        };
        let last = head[head.len() - 1];
        return *head.into_iter().find(beyond_tail).unwrap_or(last).0;
    }
}

/// Keeps those with at least `min_p` times the likeliest one's probability.
fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    let probabilities = probabilities(candidates);
    let least = min_p * probabilities.iter().copied().fold(0.0, f32::max);
    retain(candidates, &probabilities, |probability| probability >= least);
}

/// Keeps those whose information is nearest to the entropy, until their probabilities reach `mass`, and all that are as
/// near as the last of them.
fn keep_typical(candidates: &mut Vec<Candidate>, mass: f32) {
    let total = log_sum(candidates);
    let logarithms: Vec<f32> = candidates.iter().map(|one| (f64::from(one.score) - total) as f32).collect();
    let entropy = -logarithms.iter().map(|&log| f64::from(log * log.exp())).sum::<f64>() as f32;
    let distances: Vec<f32> = logarithms.iter().map(|log| (-log - entropy).abs()).collect();
    let probabilities = probabilities(candidates);
    let mut nearest: Vec<(f32, f32)> = distances.iter().copied().zip(probabilities).collect();
    nearest.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum = 0.0;
    let reaches = |(_, probability): &(f32, f32)| {
        sum += f64::from(*probability);
        sum as f32 >= mass
    };
    let farthest = nearest[nearest.len() - 1];
    let (farthest, _) = nearest.into_iter().find(reaches).unwrap_or(farthest);
    retain(candidates, &distances, |distance| distance <= farthest);
}

/// Probabilities, rounded as the reference stores them.
pub(super) fn probabilities(candidates: &[Candidate]) -> Vec<f32> {
    let total = log_sum(candidates);
    candidates.iter().map(|one| (f64::from(one.score) - total).exp() as f32).collect()
}

/// Keeps the candidates whose value passes. `values`: one a candidate.
fn retain(candidates: &mut Vec<Candidate>, values: &[f32], passes: impl Fn(f32) -> bool) {
    let mut values = values.iter();
    candidates.retain(|_| values.next().is_some_and(|&value| passes(value)));
}

/// The logarithm of the sum of the powers.
fn log_sum(candidates: &[Candidate]) -> f64 {
    let top = candidates.iter().map(|one| one.score).fold(f32::NEG_INFINITY, f32::max);
    let top = f64::from(top);
    top + candidates.iter().map(|one| (f64::from(one.score) - top).exp()).sum::<f64>().ln()
}

/// Smaller scores first, equals in order of their ids: the reference's sort.
fn rising(a: &Candidate, b: &Candidate) -> Ordering {
    a.score.partial_cmp(&b.score).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}
