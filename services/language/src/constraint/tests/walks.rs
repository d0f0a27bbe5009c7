//! Answers of tokens that are drawn from what the masks allow.

use std::collections::BTreeSet;

use serde_json::Value;
use tessera_api::language::Constraint;

use super::{Dice, Kit, TOKENIZERS, choices, lark, regex, schema};
use crate::constraint::{MatchError, Matcher};

/// Tokens of one answer at most.
const MAX_STEPS: usize = 600;

const SCHEMA: &str = r##"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["cat", "naïve 😀", 7]},
        "count": {"type": "integer", "minimum": 3, "maximum": 120},
        "seen": {"type": "array", "items": {"$ref": "#/$defs/flag"}, "maxItems": 3}
    },
    "required": ["name", "kind", "count"],
    "additionalProperties": false,
    "$defs": {"flag": {"type": "boolean"}}
}"##;

fn is_valid(text: &str) -> bool {
    let Ok(Value::Object(object)) = serde_json::from_str(text) else { return false };
    let known = ["name", "kind", "count", "seen"];
    let name = object.get("name").and_then(Value::as_str);
    let kind = object.get("kind");
    let count = object.get("count").and_then(Value::as_i64);
    let seen = object.get("seen").map(|seen| seen.as_array().cloned().unwrap_or_else(|| vec![Value::Null; 4]));
    object.keys().all(|key| known.contains(&key.as_str()))
        && name.is_some_and(|name| name.chars().count() <= 12)
        && kind.is_some_and(|kind| [Value::from("cat"), "naïve 😀".into(), 7.into()].contains(kind))
        && count.is_some_and(|count| (3..=120).contains(&count))
        && seen.is_none_or(|seen| seen.len() <= 3 && seen.iter().all(Value::is_boolean))
}

/// Draws an answer. At every step: an end is allowed exactly where the text so far is valid, and ids without a text never.
fn walk(kit: &Kit, mut matcher: Matcher, dice: &mut Dice, is_valid: impl Fn(&str) -> bool) -> String {
    let mut ids = Vec::new();
    for _ in 0..MAX_STEPS {
        let (family, text) = (kit.family, kit.prompter.decode(&ids));
        let mask = matcher.mask().unwrap_or_else(|error| panic!("{family}: {error} behind {text:?}"));
        let allowed = kit.allowed(&mask);
        let ends = kit.ends.iter().filter(|end| mask.allows(**end)).count();
        assert_eq!(ends, if is_valid(&text) { kit.ends.len() } else { 0 }, "{family}: ends behind {text:?}");
        let others: Vec<u32> = allowed.into_iter().filter(|id| !kit.ends.contains(id)).collect();
        assert!(others.iter().all(|&id| kit.texts.bytes(id).is_some()), "{family}: a special token behind {text:?}");
        assert_eq!(matcher.is_complete(), others.is_empty(), "{family}: {text:?}");
        if ends > 0 && (others.is_empty() || dice.below(3) == 0) {
            matcher.consume(kit.ends[0]).unwrap();
            assert!(matcher.is_complete());
            return text;
        }
        let id = others[dice.below(others.len())];
        matcher.consume(id).unwrap_or_else(|error| panic!("{family}: {error} behind {text:?}"));
        ids.push(id);
    }
    panic!("{}: no end behind {:?}", kit.family, kit.prompter.decode(&ids));
}

/// Draws answers with every tokenizer.
fn walks(constraint: &Constraint, answers: usize, is_valid: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    for family in TOKENIZERS {
        let kit = Kit::open(family);
        let (matcher, mut dice) = (kit.compile(constraint), Dice(family.len() as u64));
        texts.extend((0..answers).map(|_| walk(&kit, matcher.clone(), &mut dice, &is_valid)));
    }
    texts
}

#[test]
fn every_answer_of_a_schema_is_json_that_validates() {
    let texts = walks(&schema(SCHEMA), 12, is_valid);
    assert!(texts.iter().any(|text| text.contains("seen")) && texts.iter().any(|text| text.contains('7')));
}

#[test]
fn every_answer_of_a_regex_matches_it_as_a_whole() {
    let is_valid = |text: &str| {
        let Some((year, month)) = text.split_once('-') else { return false };
        let digits = |part: &str, count| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
        let month = month.trim_end_matches('é');
        digits(year, 4) && year.starts_with("20") && ["01", "02", "12"].contains(&month)
    };
    let texts = walks(&regex("20[0-9]{2}-(0[12]|12)é{0,2}"), 12, is_valid);
    assert!(texts.iter().any(|text| text.ends_with("éé")) && texts.iter().any(|text| text.ends_with("02")));
}

#[test]
fn every_answer_is_one_of_the_choices_and_any_can_be() {
    let known = ["yes", "no", "not sure", " a space in front", "\"quoted\\\" \n 你好", "yes!"];
    let texts = walks(&choices(&known), 40, |text| known.contains(&text));
    assert_eq!(texts, known.map(str::to_owned).into_iter().collect());
}

#[test]
fn every_answer_of_a_grammar_is_in_its_language() {
    let is_valid = |text: &str| {
        let mut depth = 0_i32;
        let shape = text.chars().all(|letter| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            depth >= 0 && "()x".contains(letter)
        });
        shape && depth == 0 && text.matches('x').count() == 1 && !text.contains(")(") && !text.contains(")x")
    };
    walks(&lark("start: \"(\" start \")\" | \"x\""), 6, |text| is_valid(text) && !text.contains("x("));
}

#[test]
fn an_answer_may_begin_with_the_space_that_its_text_loses() {
    for family in ["mistral", "vicuna", "yi"] {
        let kit = Kit::open(family);
        let begins = |matcher: &mut Matcher| {
            let mask = matcher.mask().unwrap();
            kit.allowed(&mask).into_iter().filter(|&id| kit.texts.bytes(id).unwrap().starts_with(b" ")).collect()
        };
        let mut matcher = kit.compile(&regex("the [a-z]+"));
        let first: Vec<u32> = begins(&mut matcher);
        let whole = first.iter().find(|&&id| kit.texts.bytes(id).unwrap() == b" the");
        matcher.consume(*whole.unwrap_or_else(|| panic!("{family}: {first:?}"))).unwrap();
        assert!(!begins(&mut matcher).is_empty(), "{family}: the next space is the regex's own");
        // A space of its own comes behind the one that is lost.
        let mut matcher = kit.compile(&choices(&[" the"]));
        let first: Vec<u32> = begins(&mut matcher);
        assert!(first.iter().all(|&id| kit.texts.bytes(id).unwrap() != b" the"), "{family}: {first:?}");
    }
}

#[test]
fn one_space_without_text_begins_an_answer_once() {
    let kit = Kit::open("mistral");
    let mut matcher = kit.compile(&choices(&["yes"]));
    let space = (0..kit.vocabulary).find(|&id| kit.texts.bytes(id) == Some(b" ")).unwrap();
    matcher.consume(space).unwrap();
    assert!(!matcher.mask().unwrap().allows(space));
    assert_eq!(matcher.consume(space), Err(MatchError::Refused { token: space }));
}

#[test]
fn the_same_tokens_lead_to_the_same_mask() {
    for family in TOKENIZERS {
        let kit = Kit::open(family);
        let (mut walked, mut dice, mut ids) = (kit.compile(&schema(SCHEMA)), Dice(1), Vec::new());
        for _ in 0..10 {
            let allowed = kit.allowed(&walked.mask().unwrap());
            ids.push(allowed[dice.below(allowed.len())]);
            walked.consume(ids[ids.len() - 1]).unwrap();
        }
        let mut again = kit.compile(&schema(SCHEMA));
        ids.iter().for_each(|&id| again.consume(id).unwrap());
        assert_eq!(walked.mask(), again.mask(), "{family}");
    }
}

#[test]
fn an_answer_leaves_nothing_behind_for_the_next_of_its_form() {
    let kit = Kit::open("qwen2");
    let mut first = kit.compile(&choices(&["cat", "dog"]));
    let fresh = first.mask().unwrap();
    kit.write(&mut first, "cat");
    assert_eq!(kit.compile(&choices(&["cat", "dog"])).mask().unwrap(), fresh);
    // The ends are the request's, not the form's.
    let mut other = kit.grammars.compile(&choices(&["cat", "dog"]), &[1]).unwrap();
    kit.write(&mut other, "dog");
    assert_eq!(kit.allowed(&other.mask().unwrap()), [1]);
    assert_ne!(kit.compile(&regex("cat|dogs")).mask(), kit.compile(&choices(&["bird"])).mask());
}

#[test]
fn a_clone_goes_on_by_itself() {
    let kit = Kit::open("vicuna");
    let mut matcher = kit.compile(&choices(&["cat", "dog"]));
    let fresh = matcher.mask().unwrap();
    let mut clone = matcher.clone();
    kit.write(&mut clone, "cat");
    assert!(clone.is_complete() && !matcher.is_complete());
    assert_eq!(matcher.mask().unwrap(), fresh);
    kit.write(&mut matcher, "dog");
    assert!(matcher.is_complete());
}
