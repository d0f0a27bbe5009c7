//! What the next token is chosen by.

use std::cmp::Ordering;

use crate::{
    Element, MOST_EQUAL, NONE, TOP, TOP_WORDS, TopScores, Wish,
    powers::{Powers, Scale},
};

/// Where [`choose`] writes what it finds: a place for each row, of which only the one that is wished for is written.
#[derive(Debug)]
pub struct Found<'a, T> {
    /// `[rows]`: ids, [`NONE`] where no score is finite.
    pub tokens: &'a mut [u32],
    /// `[rows, TOP_WORDS]`: as [`TopScores`] reads them.
    pub top: &'a mut [u32],
    /// `[rows, stride]`: whole rows of scores.
    pub scores: &'a mut [T],
    /// At least as many as a row has scores.
    pub stride: usize,
}

/// Finds in each row of scores what is wished for. What is not finite counts nowhere.
///
/// scores: `[rows, vocabulary]`; wishes: `[rows]`
pub fn choose<T: Element>(found: Found<'_, T>, scores: &[T], wishes: &[Wish], vocabulary: usize) {
    let Found { tokens, top, scores: kept, stride } = found;
    for (row, (wish, scores)) in wishes.iter().zip(scores.chunks_exact(vocabulary)).enumerate() {
        if wish.keeps_scores() {
            kept[row * stride..][..vocabulary].copy_from_slice(scores);
        }
        match *wish {
            Wish::Nothing | Wish::Scores => {}
            Wish::Likeliest => tokens[row] = largest(scores).map_or(NONE, |(id, _)| id),
            Wish::Top { temperature } => {
                let finite = finite(scores).count();
                let total = temperature.map_or(0.0, |temperature| Powers::of(exponents(scores, temperature)).total());
                TopScores { finite, total, pairs: pairs(scores) }.write(&mut top[row * TOP_WORDS..][..TOP_WORDS]);
            }
            Wish::Draw { temperature, number } => {
                let exponents = || exponents(scores, temperature);
                tokens[row] = Powers::of(exponents()).find(number, exponents()).unwrap_or(NONE);
            }
        }
    }
}

/// Ids and numbers that are finite.
fn finite<T: Element>(scores: &[T]) -> impl Iterator<Item = (u32, f32)> {
    (0..).zip(scores).map(|(id, score)| (id, score.to_f32())).filter(|(_, score)| score.is_finite())
}

/// The first of the largest.
fn largest<T: Element>(scores: &[T]) -> Option<(u32, f32)> {
    finite(scores).reduce(|best, other| if other.1 > best.1 { other } else { best })
}

/// Scaled scores less the largest of them.
fn exponents<T: Element>(scores: &[T], temperature: f32) -> impl Iterator<Item = (u32, f64)> {
    let top = largest(scores).map_or(0.0, |(_, score)| score);
    let scale = Scale::new(top, temperature);
    finite(scores).map(move |(id, score)| (id, f64::from(scale.of(score)) - f64::from(scale.of(top))))
}

/// The largest, in order.
fn pairs<T: Element>(scores: &[T]) -> Vec<(u32, f32)> {
    let mut pairs: Vec<(u32, f32)> = finite(scores).collect();
    let larger_first =
        |a: &(u32, f32), b: &(u32, f32)| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0));
    pairs.sort_unstable_by(larger_first);
    if let Some(&(_, last)) = pairs.get(TOP - 1)
        && pairs.iter().take_while(|(_, score)| *score >= last).count() > MOST_EQUAL
    {
        return Vec::new();
    }
    pairs.truncate(TOP);
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of scores and what is found in them.
    fn found<const VOCABULARY: usize, const ROWS: usize>(
        rows: [[f32; VOCABULARY]; ROWS],
        wishes: [Wish; ROWS],
    ) -> ([u32; ROWS], [TopScores; ROWS], [[f32; VOCABULARY]; ROWS]) {
        let (mut tokens, mut top, mut scores) = ([7; ROWS], vec![0; ROWS * TOP_WORDS], [[0.5; VOCABULARY]; ROWS]);
        let kept = Found { tokens: &mut tokens, top: &mut top, scores: scores.as_flattened_mut(), stride: VOCABULARY };
        choose(kept, rows.as_flattened(), &wishes, VOCABULARY);
        let mut rows = top.chunks_exact(TOP_WORDS).map(TopScores::read);
        (tokens, std::array::from_fn(|_| rows.next().unwrap()), scores)
    }

    #[test]
    fn of_equal_scores_the_first_is_taken_and_only_finite_ones() {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        let rows = [
            [1.0, 3.0, 3.0, 2.0],
            [nan, infinity, -5.0, -infinity],
            [nan, infinity, nan, -infinity],
            [f32::MIN, nan, f32::MIN, -infinity],
        ];
        let (tokens, ..) = found(rows, [Wish::Likeliest; 4]);
        assert_eq!(tokens, [1, 2, NONE, 0]);
        let draw = Wish::Draw { temperature: 1.0, number: 0.999 };
        let (tokens, ..) = found(rows, [draw; 4]);
        assert_eq!(tokens, [3, 2, NONE, 2]);
    }

    #[test]
    fn the_largest_come_with_the_sum_of_all_powers_and_all_scores_are_kept() {
        let rows = [[1.0, f32::NAN, 3.0, 3.0], [0.0; 4]];
        let (_, [top, other], scores) = found(rows, [Wish::Top { temperature: Some(2.0) }, Wish::Scores]);
        assert_eq!((top.finite, &top.pairs[..]), (3, &[(2, 3.0), (3, 3.0), (0, 1.0)][..]));
        assert!((top.total - (2.0 + (-1f64).exp())).abs() < 1e-15, "{}", top.total);
        assert_eq!((other.finite, scores[0][2], scores[1]), (0, 3.0, [0.0; 4]));
        let (_, [top, _], _) = found(rows, [Wish::Top { temperature: None }, Wish::Nothing]);
        assert_eq!(top.total, 0.0);
    }

    #[test]
    fn no_more_are_told_than_there_is_room_for() {
        let rows = [std::array::from_fn::<f32, 2000, _>(|id| (id % 500) as f32)];
        let (_, [top], _) = found(rows, [Wish::Top { temperature: None }]);
        assert_eq!((top.finite, top.pairs.len(), top.leaves_some()), (2000, TOP, true));
        assert_eq!(top.pairs[..5], [(499, 499.0), (999, 499.0), (1499, 499.0), (1999, 499.0), (498, 498.0)]);
        let equal = [[1.0; MOST_EQUAL + 1]];
        let (_, [top], _) = found(equal, [Wish::Top { temperature: None }]);
        assert_eq!((top.finite, top.pairs.len()), (MOST_EQUAL + 1, 0));
        let (_, [top], _) = found([[1.0; MOST_EQUAL]], [Wish::Top { temperature: None }]);
        assert_eq!(top.pairs.len(), TOP);
    }

    #[test]
    fn draws_follow_the_powers() {
        let scores = [[0.0, 3f32.ln(), f32::NEG_INFINITY, 0.0]];
        let drawn = |number| found(scores, [Wish::Draw { temperature: 1.0, number }]).0[0];
        assert_eq!([0.0, 0.19, 0.21, 0.79, 0.81, 0.999].map(drawn), [0, 0, 1, 1, 3, 3]);
    }
}
