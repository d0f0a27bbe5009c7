//! Constraints that were right once: whatever is left of them is compiled and followed, or refused with the field.

use proptest::prelude::*;
use tessera_testkit::{damaged, default_cases};

use super::{Dice, Kit, choices, lark, regex, schema};

/// Tokens that an answer is followed for.
const TOKENS: usize = 12;

/// Schemas, grammars and expressions, side by side: what is spliced may come from another kind.
fn corpus() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"type":"object","properties":{"colour":{"enum":["red","blue"]},"count":{"type":"integer","minimum":0,"maximum":99}},"required":["colour"],"additionalProperties":false}"#,
        r##"{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"next":{"$ref":"#/$defs/node"}}}}}"##,
        r#"{"type":"array","items":{"anyOf":[{"type":"string","pattern":"^a+b?$","maxLength":8},{"type":"number"}]},"minItems":1,"maxItems":3}"#,
        r#"{"type":"string","format":"date-time"}"#,
        r#"(yes|no), (a|b){1,3}[0-9]+\.?"#,
        r#"\d{4}-\d{2}-\d{2}"#,
        "start: greeting \" \" NAME\ngreeting: \"hello\" | \"bye\"\nNAME: /[A-Z][a-z]{1,9}/\n",
        "start: expr\nexpr: term (\"+\" term)*\nterm: NUMBER | \"(\" expr \")\"\nNUMBER: /[0-9]+/\n%ignore /[ ]/\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

thread_local! {
    static KIT: Kit = Kit::open("mistral");
}

proptest! {
    #![proptest_config(default_cases(150))]

    #[test]
    fn a_damaged_constraint_is_followed_or_refused(text in damaged(corpus()), kind in 0..4, seed: u64) {
        let text = String::from_utf8_lossy(&text);
        let constraint = match kind {
            0 => schema(&text),
            1 => lark(&text),
            2 => regex(&text),
            _ => choices(&[&*text, "yes"]),
        };
        KIT.with(|kit| {
            let mut matcher = match kit.grammars.compile(&constraint, &kit.ends) {
                Ok(matcher) => matcher,
                // Not that the compiler panicked, which is another reason.
                Err(error) => {
                    prop_assert_eq!(error.reason, "CONSTRAINT_INVALID", "{:?}", constraint);
                    prop_assert_eq!(error.fields.len(), 1);
                    return Ok(());
                }
            };
            let mut dice = Dice(seed);
            for _ in 0..TOKENS {
                // A dead end, or too much work for one mask.
                let Ok(mask) = matcher.mask() else { break };
                let allowed = kit.allowed(&mask);
                if matcher.is_complete() || allowed.is_empty() {
                    break;
                }
                let token = allowed[dice.below(allowed.len())];
                prop_assert!(matcher.consume(token).is_ok(), "{token} was allowed: {:?}", constraint);
            }
            Ok(())
        })?;
    }
}
