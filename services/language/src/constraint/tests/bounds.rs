//! Constraints that were written to take long.

use super::{Dice, Kit, lark, regex, schema};

/// Longest text that the contract lets through.
const MAX_BYTES: usize = 256 << 10;

/// As many of these as fit.
fn repeated(text: &str) -> String {
    text.repeat(MAX_BYTES / text.len() / 2)
}

#[test]
fn a_grammar_that_nests_as_deep_as_its_length_allows_ends_in_an_answer() {
    let kit = Kit::open("mistral");
    let (open, close) = (repeated("("), repeated(")"));
    let rules = 20_000;
    let chain: String = (0..rules).map(|rule| format!("r{rule}:r{}\n", rule + 1)).collect();
    let references: Vec<String> =
        (0..6000).map(|from| format!(r##""{from}":{{"allOf":[{{"$ref":"#/$defs/{}"}}]}}"##, from + 1)).collect();
    let references = format!(r##"{{"$ref":"#/$defs/0","$defs":{{{},"6000":{{}}}}}}"##, references.join(","));
    for constraint in [
        lark(&format!("start: {open}\"a\"{close}")),
        lark(&format!("start: /{open}a{close}/")),
        lark(&format!("start: {open}{open}")),
        lark(&format!("start: r0\n{chain}r{rules}: \"a\"")),
        lark(&format!("start: {} \"a\"", repeated("~"))),
        regex(&format!("{open}a{close}")),
        schema(&references),
        schema(&format!("{}{{}}", repeated("{\"not\":"))),
    ] {
        if let Ok(mut matcher) = kit.grammars.compile(&constraint, &kit.ends) {
            assert!(matcher.mask().is_ok());
        }
    }
}

#[test]
fn a_grammar_that_explodes_is_refused_or_fails_in_the_end() {
    let kit = Kit::open("llama3");
    let doubling: String = (0..40).map(|rule| format!("r{rule}: r{0} r{0}\n", rule + 1)).collect();
    let optional = format!("({}){{50}}", "(a|b|ab|ba)?".repeat(50));
    for constraint in [
        regex("((a{1000}){1000}){1000}"),
        regex("(.*a){500}"),
        regex("[ab]*a[ab]{3000}c"),
        regex(&optional),
        lark(&format!("start: r0\n{doubling}r40: \"a\" | \"b\"")),
        lark("start: start start | \"a\" | \"b\" |"),
        schema(r#"{"type": "array", "minItems": 1000000000}"#),
        schema(r#"{"type": "string", "pattern": "^((a|b)*c(a|b){900})*$", "minLength": 100000}"#),
    ] {
        let Ok(mut matcher) = kit.grammars.compile(&constraint, &kit.ends) else { continue };
        let mut dice = Dice(3);
        for _ in 0..60 {
            // Too much work for one mask is an error, and stays one.
            let Ok(mask) = matcher.mask() else {
                assert!(matcher.mask().is_err());
                break;
            };
            let allowed = kit.allowed(&mask);
            if matcher.consume(allowed[dice.below(allowed.len())]).is_err() || matcher.is_complete() {
                break;
            }
        }
    }
}

#[test]
fn the_most_choices_that_are_let_through_compile() {
    let kit = Kit::open("vicuna");
    let texts: Vec<String> = (0..MAX_BYTES / 8).map(|number| format!("{:08x}", number * 2_654_435)).collect();
    let refused = kit.grammars.compile(&tessera_api::language::Constraint::Choices(texts.clone()), &kit.ends);
    let mut matcher = refused.unwrap();
    kit.write(&mut matcher, &texts[77]);
    assert!(matcher.is_complete());
}
