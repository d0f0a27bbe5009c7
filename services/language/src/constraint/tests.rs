//! Constraints over the tokenizers of the tiny checkpoints.

mod ahead;
mod bounds;
mod continued;
mod damage;
mod refusals;
mod walks;

use tessera_api::language::Constraint;
use tessera_checkpoint::Checkpoint;
use tessera_prompt::{Prompter, Vocabulary};
use tessera_testkit::family_dir;

use super::{Grammars, Matcher};
use crate::engine::Mask;

/// One for each tokenizer: two at byte level, three of pieces.
const TOKENIZERS: [&str; 5] = ["llama3", "qwen2", "mistral", "vicuna", "yi"];

/// A tokenizer, and what the worker makes of it.
struct Kit {
    family: &'static str,
    prompter: Prompter,
    texts: Vocabulary,
    grammars: Grammars,
    vocabulary: u32,
    ends: Vec<u32>,
}

impl Kit {
    fn open(family: &'static str) -> Self {
        let checkpoint = Checkpoint::open(&family_dir(family)).unwrap();
        let vocabulary = checkpoint.model.text.vocab_size;
        Self {
            family,
            prompter: Prompter::open(&checkpoint).unwrap(),
            texts: Vocabulary::open(&checkpoint).unwrap(),
            grammars: Grammars::open(&checkpoint, vocabulary).unwrap(),
            vocabulary: u32::try_from(vocabulary).unwrap(),
            ends: checkpoint.generation.eos_ids.clone(),
        }
    }

    fn compile(&self, constraint: &Constraint) -> Matcher {
        self.grammars.compile(constraint, &self.ends).unwrap_or_else(|error| panic!("{}: {error}", self.family))
    }

    fn allowed(&self, mask: &Mask) -> Vec<u32> {
        (0..self.vocabulary).filter(|&id| mask.allows(id)).collect()
    }

    /// Goes on by any tokens with this text.
    fn write(&self, matcher: &mut Matcher, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let mask = matcher.mask().unwrap();
            let fits = |id: &u32| self.texts.bytes(*id).is_some_and(|bytes| rest.starts_with(bytes));
            let ids = self.allowed(&mask).into_iter().filter(fits);
            let longest = ids.max_by_key(|&id| self.texts.bytes(id).unwrap().len());
            let id = longest.unwrap_or_else(|| panic!("{}: nothing spells {rest:?}", self.family));
            matcher.consume(id).unwrap();
            rest = &rest[self.texts.bytes(id).unwrap().len()..];
        }
    }
}

fn choices(texts: &[&str]) -> Constraint {
    Constraint::Choices(texts.iter().map(|&text| text.to_owned()).collect())
}

fn regex(text: &str) -> Constraint {
    Constraint::Regex(text.to_owned())
}

fn lark(text: &str) -> Constraint {
    Constraint::Lark(text.to_owned())
}

fn schema(text: &str) -> Constraint {
    Constraint::JsonSchema(text.to_owned())
}

/// Numbers that look drawn, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}
