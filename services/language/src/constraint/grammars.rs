//! Compiles constraints for one tokenizer.

use std::sync::Arc;

use llguidance::TokenParser;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use moka::sync::Cache;
use serde_json::{Value, json};
use tessera_api::language::Constraint;
use tessera_api::{Error, ErrorKind};
use tessera_checkpoint::Checkpoint;
use tessera_prompt::{PromptError, Vocabulary};

use super::matcher::Matcher;
use super::tokens::Tokens;

/// Blanks that may stand in one place of a JSON answer: enough to indent, too few to fill an answer with.
const BLANKS: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// A recursive compiler meets 256 KiB of whatever somebody wrote. Only what is touched is ever memory.
const STACK_BYTES: usize = 256 << 20;

/// Compiled constraints that are kept: clients ask for the same form again and again, and to copy a compiled one takes a
/// hundredth of the time.
const KEPT: u64 = 32;

/// Longest reason that is sent back, in characters.
const MAX_REASON: usize = 500;

/// Why no constraint can be compiled for a checkpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrammarsError {
    /// Its tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] PromptError),
    /// Its vocabulary cannot be made a trie.
    #[error("the tokenizer's vocabulary cannot be used for constraints: {reason}")]
    Vocabulary {
        /// What llguidance says.
        reason: String,
    },
}

/// Compiles constraints for one tokenizer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Grammars {
    tokens: Arc<Tokens>,
    /// By what the constraint says.
    compiled: Cache<String, Arc<TokenParser>>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("vocabulary", &self.tokens.vocabulary).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Reads the tokenizer of a checkpoint whose model knows `vocabulary` ids.
    ///
    /// # Errors
    /// A tokenizer that is missing, invalid or of a kind that is not known.
    pub(crate) fn open(checkpoint: &Checkpoint, vocabulary: usize) -> Result<Self, GrammarsError> {
        let texts = Vocabulary::open(checkpoint)?;
        let image = checkpoint.model.image_token_id;
        let limits = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        let tokens = Tokens::new(&texts, vocabulary, image, limits);
        let tokens = tokens.map_err(|error| GrammarsError::Vocabulary { reason: one_line(&error.to_string()) })?;
        Ok(Self { tokens: Arc::new(tokens), compiled: Cache::new(KEPT) })
    }

    /// Compiles a constraint of answers that end with one of `end_token_ids`. Computes for milliseconds up to a second.
    ///
    /// # Errors
    /// `CONSTRAINT_INVALID` with the field and the reason why it cannot be compiled; `CONSTRAINT_NOT_COMPILED` when that
    /// is not the constraint's fault.
    pub(crate) fn compile(&self, constraint: &Constraint, end_token_ids: &[u32]) -> Result<Matcher, Error> {
        let compiled = self.compiled.try_get_with(format!("{constraint:?}"), || self.parser(constraint).map(Arc::new));
        // What one answer makes the parser remember is not for the next.
        let parser = compiled.map_err(|error: Arc<Error>| Error::clone(&error))?.deep_clone();
        Ok(Matcher::new(parser, Arc::clone(&self.tokens), end_token_ids))
    }

    fn parser(&self, constraint: &Constraint) -> Result<TokenParser, Error> {
        let (field, grammar) = match constraint {
            Constraint::JsonSchema(text) => ("constraint.json_schema", json_schema(text)),
            Constraint::Regex(text) => ("constraint.regex", regex(text)),
            Constraint::Lark(text) => ("constraint.lark", Ok(TopLevelGrammar::from_lark(text.clone()))),
            Constraint::Choices(texts) => ("constraint.choices", Ok(choices(texts))),
        };
        let invalid = |reason| Error::field("CONSTRAINT_INVALID", field, reason);
        let compiled = self.on_a_large_stack(grammar.map_err(invalid)?)?;
        compiled.map_err(|error| invalid(one_line(&format!("{error:#}"))))
    }

    fn on_a_large_stack(&self, grammar: TopLevelGrammar) -> Result<Result<TokenParser, anyhow::Error>, Error> {
        let compile = move || {
            let mut parser = self.tokens.factory.create_parser(grammar)?;
            parser.start_without_prompt();
            Ok(parser)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
            let compiling = thread.spawn_scoped(scope, compile).map_err(|error| error.to_string())?;
            compiling.join().map_err(|_| "the grammar compiler panicked".to_owned())
        })
        .map_err(|reason| Error::new(ErrorKind::Internal, "CONSTRAINT_NOT_COMPILED", reason))
    }
}

/// Reads a schema; it says itself how blank the answer may be, or it is given [`BLANKS`].
fn json_schema(text: &str) -> Result<TopLevelGrammar, String> {
    let mut schema: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(object) = schema.as_object_mut() {
        object.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": BLANKS}));
    }
    Ok(TopLevelGrammar::from_json_schema(schema))
}

fn regex(text: &str) -> Result<TopLevelGrammar, String> {
    // The conversion to Lark would drop it.
    let backslashes = text.len() - text.trim_end_matches('\\').len();
    if backslashes % 2 == 1 {
        return Err("the last backslash escapes nothing".into());
    }
    Ok(TopLevelGrammar::from_regex(text))
}

/// One terminal with all the texts, as JSON writes strings.
fn choices(texts: &[String]) -> TopLevelGrammar {
    let texts: Vec<String> = texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
    TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}", texts.join(" | ")))
}

/// What llguidance says, without its state and backtrace, in one line.
fn one_line(reason: &str) -> String {
    let end = ["<state>", "<non-verbose/>", "<backtrace>"].iter().filter_map(|mark| reason.find(mark)).min();
    let words: Vec<&str> = reason[..end.unwrap_or(reason.len())].split_whitespace().collect();
    words.join(" ").chars().take(MAX_REASON).collect()
}
