//! Keeps text that spells a special token apart from special tokens.
//!
//! A special token is recognised in the text that the template renders, and there nothing tells what the template wrote
//! from what a user wrote. So the characters that special tokens begin and end with are replaced in the texts of a
//! conversation by stand-ins: private characters that occur nowhere else in this prompt. They have no case and are no
//! space, so they come through a template's `upper`, `strip`, `split` or `join` as they are. In the text that is
//! rendered so, a special token is the template's own.
//!
//! If the plainly rendered text has the same special tokens, no text spells one, and the plain text is tokenised. If it
//! has others, the shielded text is: once the tokenizer has found the special tokens, the stand-ins are replaced back,
//! and what is left is tokenised as the ordinary text that it is.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::detokenizer::is_space;
use crate::error::PromptError;

/// Characters that are kept free for private use: planes 15 and 16 of Unicode.
const STAND_INS: [std::ops::RangeInclusive<char>; 2] = ['\u{F0000}'..='\u{FFFFD}', '\u{100000}'..='\u{10FFFD}'];

/// The characters that can make a special token of a text.
pub(crate) struct Guard {
    /// What special tokens begin and end with, without case.
    ends: BTreeSet<char>,
}

/// The stand-ins of one prompt.
#[derive(Debug, Default)]
pub(crate) struct Shield {
    to_stand_in: BTreeMap<char, char>,
    to_original: BTreeMap<char, char>,
}

/// Says what the tokenizer's normalizer makes of one character.
pub(crate) type Normalize<'a> = &'a dyn Fn(char) -> String;

impl Guard {
    /// Guards these tokens.
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = &'a str>, normalize: Normalize<'_>) -> Self {
        let ends = tokens.flat_map(|token| {
            let token = token.trim_matches(is_space);
            [token.chars().next(), token.chars().next_back()]
        });
        Self { ends: ends.flatten().flat_map(|end| fold(end, normalize)).collect() }
    }

    /// Returns a shield for texts with characters that could begin or end a special token, if they have any.
    pub(crate) fn shield(
        &self,
        texts: &[&str],
        template: &str,
        normalize: Normalize<'_>,
    ) -> Result<Option<Shield>, PromptError> {
        let written: BTreeSet<char> = texts.iter().flat_map(|text| text.chars()).collect();
        let used: BTreeSet<char> = written.iter().copied().chain(template.chars()).collect();
        let mut free = STAND_INS.into_iter().flatten().filter(|stand_in| !used.contains(stand_in));
        let mut shield = Shield::default();
        let is_end = |&character: &char| fold(character, normalize).iter().any(|folded| self.ends.contains(folded));
        for character in written.into_iter().filter(is_end) {
            let stand_in = free.next().ok_or(PromptError::NoShield)?;
            shield.to_stand_in.insert(character, stand_in);
            shield.to_original.insert(stand_in, character);
        }
        Ok((!shield.to_stand_in.is_empty()).then_some(shield))
    }
}

impl Shield {
    /// Replaces dangerous characters of a text by their stand-ins.
    pub(crate) fn raise<'a>(&self, text: &'a str) -> Cow<'a, str> {
        Cow::Owned(text.chars().map(|character| *self.to_stand_in.get(&character).unwrap_or(&character)).collect())
    }

    /// Returns what a character stands for, or the character itself.
    pub(crate) fn lower(&self, character: char) -> char {
        *self.to_original.get(&character).unwrap_or(&character)
    }
}

/// What a template or the normalizer could make of a character: without case, and without the spaces that some
/// normalizers put in front.
fn fold(character: char, normalize: Normalize<'_>) -> Vec<char> {
    if character.is_ascii() {
        return vec![character.to_ascii_lowercase()];
    }
    let normalized = normalize(character);
    let folded = normalized.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    folded.filter(|&folded| !is_space(folded)).collect()
}
