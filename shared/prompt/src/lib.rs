//! Prompts: tokenizer, chat templates, image-token expansion, incremental detokenizer, stop strings.
//!
//! A conversation becomes ids in three steps. The checkpoint's own chat template makes one text of it, with a
//! placeholder where an image stands; the checkpoint's own tokenizer makes ids of that text; each placeholder's id is
//! repeated once per image token. What a user wrote is only ever text: if it spells a special token, a `shield`
//! is carried through the template so that the tokenizer does not take it for one. Whoever has a prompt of their own gives it
//! as it is, special tokens and all; only the second and third step are left then.

mod detokenizer;
mod error;
mod message;
mod prompter;
mod shield;
mod stop;
mod template;
mod tokenizer;

#[cfg(test)]
mod tests;

pub use crate::detokenizer::{Detokenizer, Vocabulary};
pub use crate::error::PromptError;
pub use crate::message::{Message, Part, Role};
pub use crate::prompter::{Prompt, Prompter};
pub use crate::stop::{Released, StopStrings};
