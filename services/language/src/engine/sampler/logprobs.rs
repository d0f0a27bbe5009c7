//! Log-probabilities as the model gives them.

use std::num::NonZeroUsize;

use tessera_api::language::Logprobs;

use super::{Largest, finite_or_least, greatest, index_to_id};

/// The log-probability of a chosen id and of the `top` likeliest, likeliest first and equals by id: the log-softmax of
/// `logits`, `[vocabulary]`. An id without a finite score has minus infinity, and is not among the likeliest.
pub(in crate::engine) fn logprobs(logits: &[f32], chosen: u32, top: usize) -> Logprobs {
    let total = log_total(logits).unwrap_or(0.0);
    let logprob = |score: f32| (f64::from(finite_or_least(score)) - total) as f32;
    let chosen = logits.get(chosen as usize).map_or(f32::NEG_INFINITY, |&score| logprob(score));
    let Some(top) = NonZeroUsize::new(top) else { return Logprobs { chosen, likeliest: Vec::new() } };
    let mut largest = Largest::new(top);
    for (index, &score) in logits.iter().enumerate() {
        largest.offer(index, finite_or_least(score));
    }
    let likeliest = largest.into_sorted().into_iter().map(|(index, score)| (index_to_id(index), logprob(score)));
    Logprobs { chosen, likeliest: likeliest.collect() }
}

/// The logarithm of the sum of the powers of all finite scores: a score less this is a log-probability. `None`
/// when there is none.
pub(in crate::engine) fn log_total(scores: &[f32]) -> Option<f64> {
    let top = f64::from(greatest(scores));
    if top == f64::NEG_INFINITY {
        return None;
    }
    let powers = scores.iter().map(|&score| (f64::from(finite_or_least(score)) - top).exp());
    Some(top + powers.sum::<f64>().ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_logarithms_of_a_softmax() {
        let logits = [1000.0, 1000.0 + 3f32.ln(), f32::NAN, 1000.0, f32::NEG_INFINITY];
        let Logprobs { chosen, likeliest } = logprobs(&logits, 0, 10);
        assert!((chosen - 0.2f32.ln()).abs() < 1e-4, "{chosen}");
        assert_eq!(likeliest.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 0, 3]);
        assert!((likeliest[0].1 - 0.6f32.ln()).abs() < 1e-4, "{likeliest:?}");
        assert_eq!(likeliest[1].1, chosen);
    }

    #[test]
    fn no_more_are_listed_than_were_asked_for_and_the_first_of_equals_are() {
        let logits = [0.0; 50];
        let ids = |top| logprobs(&logits, 7, top).likeliest.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(0), [0; 0]);
        assert_eq!(ids(3), [0, 1, 2]);
        assert_eq!(logprobs(&logits, 7, 0).chosen, -(50f64.ln()) as f32);
    }

    #[test]
    fn what_has_no_finite_score_has_no_probability() {
        let logits = [f32::NAN, 2.0, f32::INFINITY];
        assert_eq!(logprobs(&logits, 0, 0).chosen, f32::NEG_INFINITY);
        assert_eq!(logprobs(&logits, 9, 0).chosen, f32::NEG_INFINITY);
        assert_eq!(logprobs(&logits, 1, 5), Logprobs { chosen: 0.0, likeliest: vec![(1, 0.0)] });
        assert_eq!(logprobs(&[f32::NAN; 2], 0, 5), Logprobs { chosen: f32::NEG_INFINITY, likeliest: Vec::new() });
    }
}
