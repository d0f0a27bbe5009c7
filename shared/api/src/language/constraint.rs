//! The form that an answer must have.

use crate::convert::{missing, out_of_range};
use crate::error::{Error, Result};
use crate::proto::language::v1 as proto;
use crate::proto::language::v1::constraint::Form;

/// Longest description of a form, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// The form that an answer must have. Whether it can be compiled is found out by the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// A JSON schema, as JSON.
    JsonSchema(String),
    /// A regular expression that the whole answer matches.
    Regex(String),
    /// A context-free grammar in Lark's notation.
    Lark(String),
    /// One of these; there is at least one, and none is empty.
    Choices(Vec<String>),
}

impl Constraint {
    /// Checks lengths; `field` is the path of the message that holds it.
    ///
    /// # Errors
    /// Names the field that is empty or too long.
    pub fn check(self, field: &str) -> Result<Self> {
        let (name, empty, bytes) = match &self {
            Self::JsonSchema(text) => ("json_schema", text.is_empty(), text.len()),
            Self::Regex(text) => ("regex", text.is_empty(), text.len()),
            Self::Lark(text) => ("lark", text.is_empty(), text.len()),
            Self::Choices(texts) => {
                let empty = texts.is_empty() || texts.iter().any(String::is_empty);
                ("choices", empty, texts.iter().map(String::len).sum())
            }
        };
        let field = format!("{field}.{name}");
        if empty {
            return Err(Error::field("VALUE_OUT_OF_RANGE", field, "must not be empty"));
        }
        if bytes > MAX_BYTES {
            return Err(out_of_range(&field, format!("{bytes} bytes"), &format!("at most {MAX_BYTES} bytes")));
        }
        Ok(self)
    }
}

impl TryFrom<proto::Constraint> for Constraint {
    type Error = Error;

    fn try_from(constraint: proto::Constraint) -> Result<Self> {
        let constraint = match constraint.form.ok_or_else(|| missing("constraint.form"))? {
            Form::JsonSchema(text) => Self::JsonSchema(text),
            Form::Regex(text) => Self::Regex(text),
            Form::Lark(text) => Self::Lark(text),
            Form::Choices(choices) => Self::Choices(choices.texts),
        };
        constraint.check("constraint")
    }
}

impl From<Constraint> for proto::Constraint {
    fn from(constraint: Constraint) -> Self {
        let form = match constraint {
            Constraint::JsonSchema(text) => Form::JsonSchema(text),
            Constraint::Regex(text) => Form::Regex(text),
            Constraint::Lark(text) => Form::Lark(text),
            Constraint::Choices(texts) => Form::Choices(proto::Choices { texts }),
        };
        Self { form: Some(form) }
    }
}
