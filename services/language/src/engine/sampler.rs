//! The next token from logits: the reference's processors in the reference's order, then the likeliest or a draw.

use std::collections::HashSet;

use tessera_api::language::{Choice, Draw, Sampling};

/// A token that could not be chosen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the model gave no finite score for any token")]
pub(super) struct NoFiniteScore;

/// Chooses the next token.
///
/// `logits`: scores of the vocabulary. `history`: prompt and answer so far; its length is the position of the new token.
/// A draw depends on nothing but scores, seed and position, so an answer can be continued anywhere.
///
/// # Errors
/// [`NoFiniteScore`] when no score is finite: the model or its input is broken.
pub(super) fn choose(mut logits: Vec<f32>, history: &[u32], sampling: &Sampling) -> Result<u32, NoFiniteScore> {
    penalize(&mut logits, history, sampling.repetition_penalty);
    match sampling.choice {
        Choice::Greedy => likeliest(&logits),
        Choice::Draw(draw) => sample(&logits, draw, history.len()),
    }
}

/// Divides the score of every id that occurred (or multiplies it, below zero), once per id.
fn penalize(logits: &mut [f32], history: &[u32], penalty: f32) {
    if (penalty - 1.0).abs() < f32::EPSILON {
        return;
    }
    for id in history.iter().collect::<HashSet<_>>() {
        if let Some(score) = logits.get_mut(*id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// The first of the largest finite scores.
fn likeliest(logits: &[f32]) -> Result<u32, NoFiniteScore> {
    let mut best: Option<(usize, f32)> = None;
    for (id, &score) in logits.iter().enumerate() {
        if score.is_finite() && best.is_none_or(|(_, top)| score > top) {
            best = Some((id, score));
        }
    }
    best.map(|(id, _)| index_to_id(id)).ok_or(NoFiniteScore)
}

/// Temperature, top-k, top-p, min-p, then a draw.
fn sample(logits: &[f32], draw: Draw, position: usize) -> Result<u32, NoFiniteScore> {
    let finite = logits.iter().enumerate().filter(|(_, score)| score.is_finite());
    let mut kept: Vec<(usize, f32)> = finite.map(|(id, &score)| (id, score / draw.temperature)).collect();
    if kept.is_empty() {
        return Err(NoFiniteScore);
    }
    keep_top_k(&mut kept, draw.top_k.map_or(usize::MAX, |k| k.get()));
    // Likeliest first; equals in order of their ids.
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    keep_top_p(&mut kept, draw.top_p);
    keep_min_p(&mut kept, draw.min_p);

    let weights = softmax(&kept);
    let mut left = uniform(draw.seed, position) * weights.iter().sum::<f64>();
    for ((id, _), weight) in kept.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return Ok(index_to_id(*id));
        }
    }
    Ok(index_to_id(kept[kept.len() - 1].0))
}

/// Keeps the k largest scores, and those equal to the k-th.
fn keep_top_k(kept: &mut Vec<(usize, f32)>, k: usize) {
    if k >= kept.len() {
        return;
    }
    let (_, threshold, _) = kept.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1));
    let threshold = threshold.1;
    kept.retain(|(_, score)| *score >= threshold);
}

/// Keeps the likeliest until their probabilities reach `top_p`. `sorted`: likeliest first.
fn keep_top_p(sorted: &mut Vec<(usize, f32)>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let probabilities = softmax(sorted);
    // From the unlikeliest up: what lies within the tail of 1 - top_p goes.
    let (mut tail, mut keep) = (0.0, sorted.len());
    for probability in probabilities.iter().rev() {
        tail += probability;
        if tail > 1.0 - f64::from(top_p) {
            break;
        }
        keep -= 1;
    }
    sorted.truncate(keep.max(1));
}

/// Keeps those with at least `min_p` times the likeliest one's probability. `sorted`: likeliest first.
fn keep_min_p(sorted: &mut Vec<(usize, f32)>, min_p: f32) {
    if min_p <= 0.0 {
        return;
    }
    let probabilities = softmax(sorted);
    let least = f64::from(min_p) * probabilities[0];
    let keep = probabilities.iter().take_while(|probability| **probability >= least).count();
    sorted.truncate(keep.max(1));
}

/// Probabilities of scores, likeliest first.
fn softmax(sorted: &[(usize, f32)]) -> Vec<f64> {
    let top = sorted.first().map_or(0.0, |(_, score)| f64::from(*score));
    let powers: Vec<f64> = sorted.iter().map(|(_, score)| (f64::from(*score) - top).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// A number in [0, 1) that is a pure function of seed and position: two rounds of the `SplitMix64` finaliser.
fn uniform(seed: u64, position: usize) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let bits = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add((position as u64).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Ids are indices into a vocabulary, whose size fits 32 bits.
fn index_to_id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
