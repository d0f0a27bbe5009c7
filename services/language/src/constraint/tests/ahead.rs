//! Masks that are computed elsewhere.

use std::num::NonZeroUsize;

use super::{Kit, TOKENIZERS, choices, regex};
use crate::constraint::MaskPool;

fn pool(threads: usize, waiting: usize) -> MaskPool {
    let [threads, waiting] = [threads, waiting].map(|count| NonZeroUsize::new(count).unwrap());
    MaskPool::start(threads, waiting).unwrap()
}

#[test]
fn a_mask_from_the_pool_is_the_one_computed_here() {
    let pool = pool(2, 4);
    for family in TOKENIZERS {
        let kit = Kit::open(family);
        let mut here = kit.compile(&regex("[a-z]{3}"));
        let mut there = here.clone();
        while !here.is_complete() {
            let pending = pool.begin(there);
            let mask = here.mask();
            let (back, elsewhere) = pending.take();
            assert_eq!(mask, elsewhere, "{family}");
            there = back;
            let id = kit.allowed(&mask.unwrap())[0];
            here.consume(id).unwrap();
            there.consume(id).unwrap();
        }
        assert!(there.is_complete());
    }
}

#[test]
fn a_pool_without_room_loses_no_mask() {
    let kit = Kit::open("mistral");
    let mut matcher = kit.compile(&choices(&["yes", "no"]));
    let expected = matcher.mask().unwrap();
    let pool = pool(1, 1);
    let pending: Vec<_> = (0..20).map(|_| pool.begin(matcher.clone())).collect();
    for pending in pending {
        assert_eq!(pending.take().1.unwrap(), expected);
    }
}

#[test]
fn a_pool_that_ends_answers_what_it_took_and_waits_for_nobody() {
    let kit = Kit::open("mistral");
    let mut matcher = kit.compile(&choices(&["yes", "no"]));
    let expected = matcher.mask().unwrap();
    let pool = pool(1, 16);
    let wanted: Vec<_> = (0..8).map(|_| pool.begin(matcher.clone())).collect();
    for _ in 0..8 {
        drop(pool.begin(matcher.clone()));
    }
    drop(pool);
    for pending in wanted {
        assert_eq!(pending.take().1.unwrap(), expected);
    }
}
