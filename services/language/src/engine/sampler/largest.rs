//! The largest of many scores, in one pass and without sorting them all.

use std::cmp::Ordering;
use std::num::NonZeroUsize;

/// Collects the largest scores that it is offered, with their indices; the first of equals. What is not a number or minus
/// infinity is not taken.
#[derive(Debug)]
pub(in crate::engine) struct Largest {
    count: NonZeroUsize,
    /// At most twice as many as are wanted; the wanted are among them.
    kept: Vec<(usize, f32)>,
    /// What is not above it is not among the wanted.
    least: f32,
}

impl Largest {
    /// Makes a collection of so many.
    pub(in crate::engine) fn new(count: NonZeroUsize) -> Self {
        Self { count, kept: Vec::new(), least: f32::NEG_INFINITY }
    }

    /// Takes a score if it is among the largest so far. Indices rise from one offer to the next.
    pub(in crate::engine) fn offer(&mut self, index: usize, score: f32) {
        if score > self.least {
            self.kept.push((index, score));
            if self.kept.len() >= self.count.get().saturating_mul(2) {
                self.prune();
            }
        }
    }

    /// The scores, largest first, and equals in the order of their indices.
    pub(in crate::engine) fn into_sorted(mut self) -> Vec<(usize, f32)> {
        self.prune();
        self.kept.sort_unstable_by(larger_first);
        self.kept
    }

    /// The smallest of the wanted; `None` when fewer were offered than are wanted.
    pub(in crate::engine) fn into_least(mut self) -> Option<f32> {
        self.prune();
        (self.kept.len() == self.count.get()).then_some(self.least)
    }

    fn prune(&mut self) {
        if self.kept.len() < self.count.get() {
            return;
        }
        let (_, last, _) = self.kept.select_nth_unstable_by(self.count.get() - 1, larger_first);
        self.least = last.1;
        self.kept.truncate(self.count.get());
    }
}

fn larger_first(a: &(usize, f32), b: &(usize, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest(scores: &[f32], count: usize) -> Largest {
        let mut largest = Largest::new(NonZeroUsize::new(count).unwrap());
        scores.iter().enumerate().for_each(|(index, &score)| largest.offer(index, score));
        largest
    }

    #[test]
    fn the_largest_are_those_of_a_full_sort() {
        let scores: Vec<f32> = (0..500u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 26) as f32).collect();
        let mut sorted: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        for count in [1, 2, 7, 100, 499, 500, 501, usize::MAX] {
            let kept = &sorted[..count.min(500)];
            assert_eq!(largest(&scores, count).into_sorted(), kept, "{count}");
            let least = (count <= 500).then(|| kept[count - 1].1);
            assert_eq!(largest(&scores, count).into_least(), least, "{count}");
        }
    }

    #[test]
    fn what_is_no_score_is_not_taken() {
        let scores = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(largest(&scores, 3).into_sorted(), [(1, 1.0)]);
        assert_eq!(largest(&scores, 3).into_least(), None);
    }
}
