//! Stop strings against the plain search.

use proptest::prelude::*;

use crate::{Released, StopStrings};

fn stops(texts: &[&str]) -> StopStrings {
    StopStrings::new(texts.iter().map(|&text| text.to_owned()))
}

fn released(text: &str, stop: Option<&str>) -> Released {
    Released { text: text.to_owned(), stop: stop.map(str::to_owned) }
}

/// What is shown of a whole text: character by character, up to the first end of a stop string.
fn naive(text: &str, stops: &[String]) -> (String, Option<String>) {
    let ends = text.char_indices().map(|(start, character)| start + character.len_utf8());
    for end in ends {
        let found = stops.iter().filter(|stop| !stop.is_empty() && text[..end].ends_with(stop.as_str()));
        if let Some(stop) = found.max_by_key(|stop| stop.len()) {
            return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
        }
    }
    (text.to_owned(), None)
}

#[test]
fn text_before_the_stop_string_is_kept_and_nothing_follows() {
    let mut search = stops(&["END"]);
    assert_eq!(search.push("one E"), released("one ", None));
    assert_eq!(search.push("N"), released("", None));
    assert_eq!(search.push("D two"), released("", Some("END")));
    assert_eq!(search.push("three"), released("", None));
    assert_eq!(search.finish(), "");
}

#[test]
fn a_beginning_that_comes_to_nothing_is_shown() {
    let mut search = stops(&["\n\nUser:"]);
    assert_eq!(search.push("a\n"), released("a", None));
    assert_eq!(search.push("b\n\nUse"), released("\nb", None));
    assert_eq!(search.finish(), "\n\nUse");
}

#[test]
fn the_first_to_be_complete_wins() {
    assert_eq!(stops(&["abc", "b"]).push("xabc"), released("xa", Some("b")));
    assert_eq!(stops(&["c", "abc"]).push("xabc"), released("x", Some("abc")));
}

#[test]
fn no_stop_strings_hold_nothing_back() {
    assert_eq!(stops(&[]).push("text"), released("text", None));
    assert_eq!(stops(&[""]).push("text"), released("text", None));
}

proptest! {
    #[test]
    fn pieces_give_what_the_plain_search_gives(
        pieces in prop::collection::vec("[ab你😀]{0,4}", 0..12),
        texts in prop::collection::vec("[ab你😀]{0,4}", 0..4),
    ) {
        let (expected, stop) = naive(&pieces.concat(), &texts);
        let mut search = StopStrings::new(texts);
        let (mut shown, mut found) = (String::new(), None);
        for piece in &pieces {
            let released = search.push(piece);
            shown.push_str(&released.text);
            prop_assert!(expected.starts_with(&shown));
            found = found.or(released.stop);
        }
        shown.push_str(&search.finish());
        prop_assert_eq!(shown, expected);
        prop_assert_eq!(found, stop);
    }
}
