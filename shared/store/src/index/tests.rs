//! Order, leases and sums, against a list that is searched from end to end.

use proptest::prelude::*;

use super::*;
use crate::tests::{key, noon, seconds};

fn entry(bytes: u64, last_use: SystemTime) -> Entry<()> {
    Entry::new(bytes, None, last_use, ())
}

/// An index with keys 0, 1, ... of these sizes, used a second apart.
fn index(budget: u64, sizes: &[u64]) -> Index<()> {
    let mut index = Index::new(budget);
    for (n, bytes) in (0u32..).zip(sizes) {
        index.insert(key(n), entry(*bytes, noon() + seconds(n.into())));
    }
    index
}

#[test]
fn what_was_not_used_for_longest_goes_first_and_leased_ones_do_not_go() {
    let now = noon() + seconds(100);
    let mut index = index(1000, &[10, 10, 10]);
    assert_eq!(index.victim(now), index.stay(&key(0)));
    index.touch(&key(0), now);
    assert_eq!(index.victim(now), index.stay(&key(1)));
    assert_eq!(index.lease(&key(1), now + seconds(50), now), Ok(now + seconds(50)));
    assert_eq!(index.victim(now), index.stay(&key(2)));
    index.remove(&key(2));
    index.remove(&key(0));
    assert_eq!(index.victim(now), None);
    assert!(index.detach(&index.stay(&key(1)).unwrap(), now).is_none());
    // When the lease is over, its end counts as a use.
    let later = now + seconds(50);
    index.insert(key(3), entry(10, later + seconds(1)));
    assert_eq!(index.victim(later), index.stay(&key(1)));
    assert_eq!(index.get(&key(1)).unwrap().last_use, later);
}

#[test]
fn a_lease_is_never_made_shorter_and_takes_at_most_half() {
    let now = noon() + seconds(100);
    let mut index = index(100, &[30, 20, 1]);
    assert_eq!(index.lease(&key(0), now + seconds(50), now), Ok(now + seconds(50)));
    assert_eq!(index.lease(&key(0), now + seconds(20), now), Ok(now + seconds(50)));
    assert_eq!(index.lease(&key(0), now + seconds(60), now), Ok(now + seconds(60)));
    assert_eq!(index.lease(&key(1), now + seconds(60), now), Ok(now + seconds(60)));
    assert_eq!(index.lease(&key(2), now + seconds(60), now), Err(Refused::Full { leased: 50, limit: 50 }));
    assert_eq!(index.lease(&key(9), now + seconds(60), now), Err(Refused::Absent));
    assert!(index.release(&key(1), now));
    assert!(!index.release(&key(1), now));
    assert_eq!(index.lease(&key(2), now + seconds(60), now), Ok(now + seconds(60)));
    assert_eq!(
        index.lease(&key(1), now + seconds(90), now + seconds(60)),
        Ok(now + seconds(90)),
        "the others are over"
    );
}

#[test]
fn who_comes_late_does_not_remove_a_successor() {
    let mut index = index(1000, &[10]);
    let stay = index.stay(&key(0)).unwrap();
    index.touch(&key(0), noon() + seconds(5));
    assert_eq!(index.stay(&key(0)), Some(stay), "a use is the same stay");
    index.lease(&key(0), noon() + seconds(500), noon()).unwrap();
    let replaced = index.insert(key(0), entry(20, noon())).unwrap();
    assert_eq!((replaced.bytes, index.bytes()), (10, 20));
    assert_eq!(index.get(&key(0)).unwrap().leased_until, Some(noon() + seconds(500)), "a lease is the key's");
    assert_ne!(index.stay(&key(0)), Some(stay));
    index.release(&key(0), noon());
    assert_eq!(index.detach(&stay, noon()), None);
    let stay = index.stay(&key(0)).unwrap();
    assert_eq!(index.detach(&stay, noon()), Some(20));
    assert_eq!((index.bytes(), index.has_reservations()), (20, true));
    index.write_off(20);
    assert_eq!((index.bytes(), index.has_reservations()), (20, false));
    assert!(!index.reserve(981));
    assert!(!index.could_hold(981, noon()));
    assert!(index.reserve(980));
}

#[test]
fn a_budget_that_was_made_smaller_breaks_the_leases_that_end_first() {
    let mut index = index(1000, &[10, 10, 10]);
    for n in 0..3 {
        index.lease(&key(n), noon() + seconds(1000 - u64::from(n)), noon()).unwrap();
    }
    index.budget = 20;
    assert_eq!(index.break_leases(), 1);
    assert_eq!(index.victim(noon()), index.stay(&key(2)));
    assert_eq!(index.break_leases(), 0);
}

proptest! {
    /// Whatever happens, the sums are right, and the victim is the one that a search finds.
    #[test]
    fn sums_and_order_are_those_of_a_search(
        steps in prop::collection::vec((0u8..6, 0u32..6, 1u64..40), 1..80),
    ) {
        let budget = 200;
        let mut index: Index<()> = Index::new(budget);
        let mut now = noon();
        let mut reserved = 0;
        for (what, n, number) in steps {
            now += seconds(1);
            // What is written again under a key is what it was, and has its size.
            let (key, bytes) = (key(n), u64::from(n) * 7 + 3);
            match what {
                0 => {
                    while !index.has_room(bytes) {
                        let Some(victim) = index.victim(now) else { break };
                        index.remove(&victim.key);
                    }
                    if index.has_room(bytes) {
                        index.insert(key, entry(bytes, now));
                    }
                }
                1 => index.touch(&key, now),
                2 => drop(index.lease(&key, now + seconds(number), now)),
                3 => drop(index.release(&key, now)),
                4 => drop(index.remove(&key)),
                _ => {
                    if let Some(bytes) = index.stay(&key).and_then(|stay| index.detach(&stay, now)) {
                        reserved += bytes;
                    } else {
                        index.unreserve(std::mem::take(&mut reserved));
                    }
                }
            }
            let victim = index.victim(now);
            let all: Vec<_> = index.after(None).collect();
            let sum = |leased: bool| -> u64 {
                all.iter().filter(|(_, e)| e.leased_until.is_some() == leased).map(|(_, e)| e.bytes).sum()
            };
            prop_assert_eq!((index.bytes(), index.leased), (sum(true) + sum(false) + reserved, sum(true)));
            prop_assert!(index.bytes() <= budget);
            prop_assert!(index.leased <= budget / 2);
            let free = all.iter().filter(|(_, e)| e.leased_until.is_none());
            prop_assert!(all.iter().all(|(_, e)| e.leased_until.is_none_or(|until| until > now)));
            let oldest = free.min_by_key(|(_, e)| e.turn).map(|(key, _)| **key);
            prop_assert_eq!(victim.map(|stay| stay.key), oldest);
        }
    }
}
