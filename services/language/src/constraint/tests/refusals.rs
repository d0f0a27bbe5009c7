//! What is not allowed: constraints, tokens, and what a grammar must not ask for.

use tessera_api::ErrorKind;

use super::{Kit, choices, lark, regex, schema};
use crate::constraint::MatchError;

#[test]
fn a_constraint_that_cannot_be_compiled_is_refused_with_its_field_and_reason() {
    let kit = Kit::open("mistral");
    for (constraint, field, reason) in [
        (schema("{"), "constraint.json_schema", "not JSON: EOF while parsing"),
        (schema("[]"), "constraint.json_schema", "schema must be an object"),
        (schema(r#"{"type": "string", "maxLength": -1}"#), "constraint.json_schema", "maxLength"),
        (schema(r#"{"if": {"type": "string"}}"#), "constraint.json_schema", "Unimplemented"),
        (schema(r##"{"$ref": "#/$defs/missing"}"##), "constraint.json_schema", "missing"),
        (schema("false"), "constraint.json_schema", "Unsatisfiable"),
        (regex("(a"), "constraint.regex", "unclosed group"),
        (regex("a\\"), "constraint.regex", "the last backslash escapes nothing"),
        (regex("a(?=b)"), "constraint.regex", "look-around"),
        (lark("start: missing"), "constraint.lark", "missing"),
        (lark("start: <image>"), "constraint.lark", "unknown special token: \"<image>\""),
        (lark("nothing"), "constraint.lark", "1(8): Expected token ':'"),
    ] {
        let error = kit.grammars.compile(&constraint, &kit.ends).unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "CONSTRAINT_INVALID"), "{constraint:?}");
        assert_eq!(error.fields[0].field, field, "{constraint:?}");
        let description = &error.fields[0].description;
        assert!(description.contains(reason), "{constraint:?}: {description}");
        assert!(!description.contains(['\n', '<']) || description.contains("<image>"), "{constraint:?}: {description}");
    }
}

#[test]
fn a_grammar_cannot_ask_for_ids_without_a_text() {
    let kit = Kit::open("llama3");
    let image = kit.prompter.image_token_id();
    let beyond = u32::try_from(kit.prompter.vocab_size()).unwrap();
    assert!(beyond < kit.vocabulary, "the model has rows without a token");
    for id in [image, beyond, kit.vocabulary - 1] {
        let mut matcher = kit.compile(&lark(&format!("start: <[{id}]>")));
        assert_eq!(matcher.mask(), Err(MatchError::DeadEnd));
    }
    // An end token is a token, too.
    let mut any = kit.compile(&lark("start: <[*]>"));
    let allowed = kit.allowed(&any.mask().unwrap());
    assert!(allowed.iter().all(|id| kit.texts.bytes(*id).is_some() || kit.ends.contains(id)), "{allowed:?}");
}

#[test]
fn a_token_that_is_not_allowed_is_refused() {
    let kit = Kit::open("yi");
    let mut matcher = kit.compile(&choices(&["yes"]));
    let mask = matcher.mask().unwrap();
    for id in [0, kit.ends[0], kit.prompter.image_token_id(), kit.vocabulary - 1, kit.vocabulary, u32::MAX] {
        assert!(!mask.allows(id));
        assert_eq!(matcher.clone().consume(id), Err(MatchError::Refused { token: id }));
    }
    let wrong = (0..kit.vocabulary).find(|&id| kit.texts.bytes(id) == Some(b"x")).unwrap();
    assert_eq!(matcher.clone().consume(wrong), Err(MatchError::Refused { token: wrong }));
    kit.write(&mut matcher, "yes");
    assert_eq!(matcher.clone().consume(wrong), Err(MatchError::Refused { token: wrong }));
    matcher.consume(kit.ends[0]).unwrap();
    assert_eq!(matcher.consume(kit.ends[0]), Err(MatchError::Refused { token: kit.ends[0] }));
}

#[test]
fn an_end_token_with_a_text_is_allowed_only_where_the_answer_may_end() {
    let kit = Kit::open("qwen2");
    let id = |text: &[u8]| (0..kit.vocabulary).find(|&id| kit.texts.bytes(id) == Some(text)).unwrap();
    let ends = [id(b"a"), kit.ends[0], 5000];
    let mut matcher = kit.grammars.compile(&regex("[ab]{2,3}"), &ends).unwrap();
    assert!(!matcher.mask().unwrap().allows(ends[0]));
    matcher.consume(id(b"b")).unwrap();
    matcher.consume(id(b"b")).unwrap();
    let mask = matcher.mask().unwrap();
    assert!(mask.allows(ends[0]) && mask.allows(ends[1]) && mask.allows(id(b"b")));
    matcher.consume(ends[0]).unwrap();
    assert!(matcher.is_complete());
}
