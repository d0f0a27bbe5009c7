//! Answers in a form that was asked for: which tokens may come next.
//!
//! [`Grammars`] compiles a constraint for the checkpoint's tokenizer, [`Matcher`] is where one answer stands in it, and
//! [`MaskPool`] computes masks while the model computes scores. The form is that of the text that a reader gets, so the
//! space that the first piece of a text loses is no part of it.

mod ahead;
mod forms;
mod grammars;
mod matcher;
mod tokens;

#[cfg(test)]
mod tests;

pub(crate) use ahead::{MaskPool, PendingMask};
pub(crate) use forms::Forms;
pub(crate) use grammars::{Grammars, GrammarsError};
pub(crate) use matcher::{MatchError, Matcher};
