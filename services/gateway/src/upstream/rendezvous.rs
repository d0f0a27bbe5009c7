//! Which worker an image belongs to: rendezvous hashing with bounded load.

use std::cmp::Reverse;

use tessera_embedding::{EncoderFingerprint, ImageKey};

/// A worker takes images that belong to others only while it has fewer in flight than this many times the mean.
const BOUND: f64 = 1.25;
/// So many in flight are no load, whatever the mean: a worker computes them together, and an image that waits for its
/// turn at home is worth more than a copy elsewhere.
const FREE: usize = 4;

/// The indices of workers by their URLs, in the order in which an image belongs to them. Every gateway comes to the
/// same order, and a worker that comes or goes changes nothing in the order of the others: it moves only its own share
/// of the images.
pub(super) fn order<'a>(urls: impl Iterator<Item = &'a str>, key: &ImageKey) -> Vec<usize> {
    let weight = |url: &str| *EncoderFingerprint::of(&[url.as_bytes(), key.as_bytes()]).as_bytes();
    let mut order: Vec<(usize, Reverse<[u8; 32]>)> = urls.map(weight).map(Reverse).enumerate().collect();
    order.sort_unstable_by_key(|&(index, weight)| (weight, Reverse(index)));
    order.into_iter().map(|(index, _)| index).collect()
}

/// The first in the order that has fewer images in flight than `1.25 × mean`, the new one included, or than what is no
/// load.
pub(super) fn bounded(order: &[usize], in_flight: impl Fn(usize) -> usize) -> Option<usize> {
    let total: usize = order.iter().map(|&index| in_flight(index)).sum();
    let mean = (total + 1) as f64 / order.len() as f64;
    let bound = ((BOUND * mean).ceil() as usize).max(FREE);
    order.iter().copied().find(|&index| in_flight(index) < bound).or(order.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> ImageKey {
        ImageKey::of(b"", &EncoderFingerprint::of(&[]), &number.to_le_bytes())
    }

    fn urls(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("http://vision-{index}:50052")).collect()
    }

    fn of(urls: &[String], number: u64) -> Vec<usize> {
        order(urls.iter().map(String::as_str), &key(number))
    }

    #[test]
    fn a_lost_worker_moves_only_its_share() {
        let all = urls(10);
        let mut homes = [0; 10];
        for number in 0..2000 {
            let order = of(&all, number);
            homes[order[0]] += 1;
            for lost in [0, 9] {
                let mut rest = all.clone();
                rest.remove(lost);
                let without: Vec<&String> = of(&rest, number).into_iter().map(|index| &rest[index]).collect();
                let expected = order.iter().filter(|&&index| index != lost).map(|&index| &all[index]);
                assert_eq!(without, expected.collect::<Vec<_>>());
            }
        }
        assert!(homes.iter().all(|share| (140..260).contains(share)), "{homes:?}");
    }

    #[test]
    fn a_pool_that_grew_by_one_has_the_old_home_among_the_first_two() {
        for number in 0..200 {
            let old = of(&urls(5), number)[0];
            assert!(of(&urls(6), number)[..2].contains(&old));
        }
    }

    #[test]
    fn an_image_goes_home_until_home_is_loaded_above_the_others() {
        let order = [2, 0, 1];
        assert_eq!(bounded(&order, |_| 0), Some(2));
        assert_eq!(bounded(&order, |index| [0, 0, FREE - 1][index]), Some(2), "that is no load");
        assert_eq!(bounded(&order, |index| [0, 0, FREE][index]), Some(0));
        assert_eq!(bounded(&order, |_| 10), Some(2), "everybody is as loaded");
        // A mean of 10 and the new one allow 13 each.
        assert_eq!(bounded(&order, |index| [9, 9, 12][index]), Some(2));
        assert_eq!(bounded(&order, |index| [9, 8, 13][index]), Some(0));
        assert_eq!(bounded(&order, |index| [13, 4, 13][index]), Some(1));
        assert_eq!(bounded(&[], |_| 0), None);
    }
}
