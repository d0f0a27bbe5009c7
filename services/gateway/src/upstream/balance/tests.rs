//! Which worker gets a sequence.

use std::num::NonZeroUsize;

use tessera_rpc::ClientTls;

use super::*;

/// A sequence of so many positions, and no more.
fn work(prompt: usize) -> Work {
    Work { beginnings: Vec::new(), prompt, answer: 100 }
}

fn view(expected: usize, sequences: usize) -> View {
    View { expected, sequences, free: Some(100_000) }
}

/// Who is chosen, whatever is drawn.
fn always(views: &[View], prompt: usize) -> Option<usize> {
    let mut chosen = (0..64_u64).map(|random| choose(views, &work(prompt), random.wrapping_mul(0x9E37_79B9_97F4_A7C1)));
    let first = chosen.next()?;
    chosen.all(|next| next == first).then_some(first)?
}

#[test]
fn a_cached_beginning_is_worth_some_sequences_in_front_but_not_any_number() {
    assert_eq!(always(&[view(0, 0), view(3000, 0)], 3100), Some(1));
    assert_eq!(always(&[view(0, 0), view(3000, 5)], 3100), Some(1));
    assert_eq!(always(&[view(0, 0), view(3000, 6)], 3100), Some(0));
    assert_eq!(always(&[view(64, 0), view(128, 1)], 3100), Some(0), "a few words are worth nobody's wait");
}

#[test]
fn the_worker_with_the_fewest_sequences_and_room_is_chosen() {
    assert_eq!(always(&[view(0, 3), view(0, 2), view(0, 4)], 1000), Some(1));
    let full = View { free: Some(0), ..view(0, 0) };
    assert_eq!(always(&[full, view(0, 2)], 1000), Some(1));
    let cached = View { free: Some(200), ..view(900, 0) };
    assert_eq!(always(&[cached, view(0, 0)], 1000), Some(0), "what is cached needs no room");
}

#[test]
fn equals_are_chosen_by_chance_and_nobody_of_nobody() {
    assert_eq!(choose(&[], &work(1), 7), None);
    for free in [None, Some(100_000)] {
        let equals = [View { free, ..View::default() }; 4];
        let mut chosen = [0; 4];
        (0..400).for_each(|random| chosen[choose(&equals, &work(10), random).unwrap()] += 1);
        assert!(chosen.iter().all(|&count| count > 50), "{chosen:?}");
    }
}

#[test]
fn where_nothing_is_known_the_less_busy_of_two_is_chosen() {
    let silent = |sequences| View { sequences, ..View::default() };
    assert_eq!(always(&[silent(5)], 10), Some(0));
    assert_eq!(always(&[silent(5), silent(4)], 10), Some(1));
    // The busiest of three is never chosen, the others both are.
    let views = [silent(5), silent(9), silent(4)];
    let mut chosen = [0; 3];
    for random in 0..3000_u64 {
        chosen[choose(&views, &work(10), random | (random << 32)).unwrap()] += 1;
    }
    assert!(chosen[1] == 0 && chosen[0] > 300 && chosen[2] > 1500, "{chosen:?}");
}

fn members(count: usize) -> Vec<Arc<Member<Language>>> {
    (0..count)
        .map(|index| Member::new(format!("http://language-{index}:1").into(), &ClientTls::default()).unwrap())
        .collect()
}

fn url_of(placed: &Placed) -> &str {
    &placed.in_flight.0.url
}

#[tokio::test]
async fn a_sequence_counts_from_when_it_is_sent_until_it_ends() {
    let members = members(2);
    let load = |running| Load { running, total_blocks: 1000, free_blocks: 1000, ..Load::default() };
    members[0].notes.report(load(0));
    members[1].notes.report(load(2));
    let next = || place(&members, &work(10), 0).unwrap();
    let placed = [(); 2].map(|()| next());
    assert!(placed.iter().all(|placed| url_of(placed) == "http://language-0:1"));
    assert_eq!(members[0].in_flight(), 2);
    // Equals by now; once they have ended they are not.
    assert_eq!(members[0].notes.view(&work(10)), View { sequences: 2, ..members[1].notes.view(&work(10)) });
    drop(placed);
    assert_eq!(members[0].in_flight(), 0);
    assert_eq!(url_of(&next()), "http://language-0:1");
    // A report knows of what was sent before it, and of what had ended.
    let placed = next();
    members[0].notes.report(load(3));
    assert_eq!(url_of(&next()), "http://language-1:1");
    drop(placed);
    assert_eq!(members[0].notes.view(&work(10)).sequences, 2);
}

#[tokio::test]
async fn a_conversation_comes_back_to_its_worker_until_that_one_starts_anew() {
    let members = members(8);
    for member in &members {
        member.notes.report(Load { total_blocks: 4000, free_blocks: 4000, ..Load::default() });
    }
    let state = RandomState::new();
    let turn = |words: u32| GenerateRequest::greedy((0..words).collect(), NonZeroUsize::MIN);
    let first = place(&members, &Work::of(&turn(1000), &state), 5).unwrap();
    let home = Arc::clone(&first.in_flight.0);
    for (random, words) in (0..20).zip((1100..).step_by(100)) {
        let again = place(&members, &Work::of(&turn(words), &state), random).unwrap();
        assert!(Arc::ptr_eq(&again.in_flight.0, &home));
    }
    home.notes.restart();
    assert_eq!(home.notes.view(&Work::of(&turn(3000), &state)).expected, 0);
}
