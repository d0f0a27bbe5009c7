//! Temperature and what it is followed by: which ids a draw may choose. As the reference's warpers cut, ties and the
//! rounding of probabilities to f32 included (transformers' `generation/logits_process.py`).
//!
//! Where the largest scores alone decide it, a device tells no others. Whether from these or from all, the same numbers are computed
//! in the same order, so that the same ids are left.

use std::cmp::Ordering;
use std::num::NonZeroUsize;

use tessera_api::language::Draw;
use tessera_kernels::TopScores;
use tessera_kernels::powers::{Powers, Scale, power};

use super::{Largest, greatest, index_to_id};

/// How many of the likeliest are looked at first in search of the place where top-p cuts.
const FIRST_LOOK: NonZeroUsize = NonZeroUsize::new(256).expect("is not 0");
/// How many times as many are looked at next.
const NEXT_LOOK: NonZeroUsize = NonZeroUsize::new(16).expect("is not 0");

/// An id that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::engine) struct Candidate {
    pub(super) id: u32,
    /// Divided by the temperature.
    pub(super) score: f32,
}

/// What is known of the candidates that are not told.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// None has a larger score.
    most: f32,
    /// The sum of the powers of all, told or not.
    total: f64,
}

/// The ids of finite scores that temperature, top-k, top-p, min-p and typical-p leave, in order of their ids.
///
/// `scores`: `[vocabulary]`. `tail`: [`tail`] of the settings' top-p.
pub(super) fn candidates(scores: &[f32], settings: &Draw, tail: f32) -> Vec<Candidate> {
    let candidates = scale(scores, settings.temperature, settings.top_k);
    // Where all are known, it is known which are left.
    cut(candidates, None, settings, tail).unwrap_or_default()
}

/// The same by the largest scores; `None` where others may be left too.
pub(super) fn candidates_of_top(top: &TopScores, settings: &Draw, tail: f32) -> Option<Vec<Candidate>> {
    let Some((&(_, largest), &(_, smallest))) = top.pairs.first().zip(top.pairs.last()) else {
        return (!top.leaves_some()).then(Vec::new);
    };
    let scale = Scale::new(largest, settings.temperature);
    let scaled = top.pairs.iter().map(|&(id, score)| Candidate { id, score: scale.of(score) });
    let mut candidates: Vec<Candidate> = scaled.filter(|one| one.score > f32::NEG_INFINITY).collect();
    let most = Some(scale.of(smallest)).filter(|most| top.leaves_some() && *most > f32::NEG_INFINITY);
    let mut rest = most.map(|most| Rest { most, total: top.total });
    if let Some(count) = settings.top_k {
        if let Some(&Candidate { score: least, .. }) = candidates.get(count.get() - 1)
            && rest.is_none_or(|rest| rest.most < least)
        {
            candidates.retain(|one| one.score >= least);
            rest = None;
        }
        if rest.is_some() {
            return None;
        }
    }
    // Of those that are as large as the last, some may not be told.
    candidates.retain(|one| rest.is_none_or(|rest| one.score > rest.most));
    candidates.sort_unstable_by_key(|one| one.id);
    cut(candidates, rest, settings, tail)
}

/// What top-p, min-p and typical-p leave; `None` where some of the rest may be among it.
fn cut(mut candidates: Vec<Candidate>, mut rest: Option<Rest>, settings: &Draw, tail: f32) -> Option<Vec<Candidate>> {
    if candidates.is_empty() {
        return rest.is_none().then_some(candidates);
    }
    if settings.top_p < 1.0 {
        keep_top_p(&mut candidates, rest, tail)?;
        rest = None;
    }
    if settings.min_p > 0.0 {
        keep_min_p(&mut candidates, rest, settings.min_p)?;
        rest = None;
    }
    if rest.is_some() {
        return None;
    }
    if settings.typical_p < 1.0 {
        keep_typical(&mut candidates, settings.typical_p);
    }
    Some(candidates)
}

/// What top-p leaves out, as the reference computes it: from the number that was written, which is the shortest one that
/// rounds to this f32.
pub(super) fn tail(top_p: f32) -> f32 {
    let written = top_p.to_string().parse::<f64>().unwrap_or_else(|_| f64::from(top_p));
    (1.0 - written) as f32
}

/// Divides by the temperature, and keeps the `top_k` largest and those equal to the last of them.
fn scale(scores: &[f32], temperature: f32, top_k: Option<NonZeroUsize>) -> Vec<Candidate> {
    let scale = Scale::new(greatest(scores), temperature);
    let scaled = || {
        let finite = scores.iter().enumerate().filter(|(_, score)| score.is_finite());
        let scaled = finite.map(|(index, &score)| (index, scale.of(score)));
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

/// Drops the unlikeliest as long as their probabilities add up to no more than `tail`, the first of equals first. `None` where the
/// rest is not among these.
///
/// Probabilities are added up from the likeliest on: what is left of 1 is that of all others. So only the head of the candidates
/// is sorted, and how long it is changes no sum.
fn keep_top_p(candidates: &mut Vec<Candidate>, rest: Option<Rest>, tail: f32) -> Option<()> {
    let shares = Shares::of(candidates, rest);
    let mut count = FIRST_LOOK;
    loop {
        let mut largest = Largest::new(count);
        candidates.iter().enumerate().for_each(|(index, candidate)| largest.offer(index, candidate.score));
        let least = largest.into_least().unwrap_or(f32::NEG_INFINITY);
        let mut head: Vec<Candidate> = candidates.iter().filter(|one| one.score >= least).copied().collect();
        head.sort_unstable_by(|a, b| rising(b, a));
        let mut sum = 0.0;
        let last = head.iter().find(|candidate| {
            sum += shares.of_score(candidate.score);
            (1.0 - sum) as f32 <= tail
        });
        if let Some(last) = last {
            candidates.retain(|candidate| rising(candidate, last).is_ge());
            return Some(());
        }
        if head.len() == candidates.len() {
            return rest.is_none().then_some(());
        }
        count = count.saturating_mul(NEXT_LOOK);
    }
}

/// Keeps those with at least `min_p` times the likeliest one's probability. `None` where some of the rest may have that.
fn keep_min_p(candidates: &mut Vec<Candidate>, rest: Option<Rest>, min_p: f32) -> Option<()> {
    let shares = Shares::of(candidates, rest);
    let share = |score: f32| shares.of_score(score) as f32;
    let least = min_p * share(shares.top);
    candidates.retain(|candidate| share(candidate.score) >= least);
    rest.is_none_or(|rest| share(rest.most) < least).then_some(())
}

/// Keeps those whose information is nearest to the entropy, until their probabilities reach `mass`, and all that are as
/// near as the last of them.
fn keep_typical(candidates: &mut Vec<Candidate>, mass: f32) {
    let Shares { top, total } = Shares::of(candidates, None);
    let total = f64::from(top) + total.ln();
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
    let shares = Shares::of(candidates, None);
    candidates.iter().map(|one| shares.of_score(one.score) as f32).collect()
}

/// What makes probabilities of scores.
struct Shares {
    /// The largest score.
    top: f32,
    /// The sum of the powers of all, to this one.
    total: f64,
}

impl Shares {
    /// Of these candidates, or of these and the rest.
    fn of(candidates: &[Candidate], rest: Option<Rest>) -> Self {
        let top = candidates.iter().map(|one| one.score).fold(f32::NEG_INFINITY, f32::max);
        let total = rest.map_or_else(|| powers(candidates).total(), |rest| rest.total);
        Self { top, total }
    }

    fn of_score(&self, score: f32) -> f64 {
        power(f64::from(score) - f64::from(self.top)) / self.total
    }
}

/// The powers of some scores, to the largest of them.
pub(super) fn powers(candidates: &[Candidate]) -> Powers {
    Powers::of(exponents(candidates))
}

/// What powers are taken of.
pub(super) fn exponents(candidates: &[Candidate]) -> impl Iterator<Item = (u32, f64)> {
    let top = candidates.iter().map(|one| one.score).fold(f32::NEG_INFINITY, f32::max);
    candidates.iter().map(move |one| (one.id, f64::from(one.score) - f64::from(top)))
}

/// Keeps the candidates whose value passes. `values`: one a candidate.
fn retain(candidates: &mut Vec<Candidate>, values: &[f32], passes: impl Fn(f32) -> bool) {
    let mut values = values.iter();
    candidates.retain(|_| values.next().is_some_and(|&value| passes(value)));
}

/// Smaller scores first, equals in order of their ids: the reference's sort.
fn rising(a: &Candidate, b: &Candidate) -> Ordering {
    a.score.partial_cmp(&b.score).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}
