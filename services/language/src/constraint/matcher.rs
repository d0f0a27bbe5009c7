//! Where one answer stands in its grammar.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::TokenParser;
use llguidance::api::StopReason;

use super::tokens::{Place, Tokens};
use crate::engine::Mask;

/// Why an answer cannot go on in its grammar.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MatchError {
    /// The token is not among those that may come next.
    #[error("token {token} does not fit the constraint here")]
    Refused {
        /// Its id.
        token: u32,
    },
    /// No token fits: the grammar cannot be satisfied, or not with this vocabulary.
    #[error("no token fits the constraint here")]
    DeadEnd,
    /// The work for one token is bounded.
    #[error("the constraint takes too much work here: {reason}")]
    TooComplex {
        /// What llguidance says.
        reason: String,
    },
    /// A bug in the parser, or a matcher that failed before.
    #[error("the constraint cannot be followed: {reason}")]
    Failed {
        /// What llguidance says.
        reason: String,
    },
}

/// Where an answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// It has no token yet.
    First,
    /// It has tokens.
    Next,
    /// An end token ended it.
    Ended,
}

/// Where one answer stands in its grammar. A clone goes on by itself.
pub(crate) struct Matcher {
    parser: Box<TokenParser>,
    tokens: Arc<Tokens>,
    ends: Arc<[u32]>,
    stand: Stand,
}

impl Clone for Matcher {
    fn clone(&self) -> Self {
        // The other kind of clone shares a lock, and what it counts against its limits.
        let parser = Box::new(self.parser.deep_clone());
        Self { parser, tokens: Arc::clone(&self.tokens), ends: Arc::clone(&self.ends), stand: self.stand }
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("stand", &self.stand).field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Matcher {
    /// Starts an answer with a parser that is fresh.
    pub(super) fn new(parser: TokenParser, tokens: Arc<Tokens>, end_token_ids: &[u32]) -> Self {
        let ends = end_token_ids.iter().copied().filter(|&id| (id as usize) < tokens.vocabulary).collect();
        let mut matcher = Self { parser: Box::new(parser), tokens, ends, stand: Stand::First };
        let first = matcher.tokens.first.clone();
        matcher.place(first);
        matcher
    }

    /// Computes which ids may come next: the end tokens where the answer may end, and no other special token anywhere.
    ///
    /// # Errors
    /// No id may; or finding out takes too much work.
    pub(crate) fn mask(&mut self) -> Result<Mask, MatchError> {
        let mut words = if self.is_complete() { self.only_the_end() } else { self.computed()? };
        let end = self.tokens.end as usize;
        let may_end = words[end / 32] >> (end % 32) & 1 == 1;
        words.truncate(self.tokens.speaking.len());
        for (word, speaking) in words.iter_mut().zip(&self.tokens.speaking) {
            *word &= speaking;
        }
        if self.stand == Stand::First {
            set(&mut words, &self.tokens.silent, true);
        }
        // An end token ends the answer even if it has a text.
        set(&mut words, &self.ends, may_end);
        if words.iter().all(|&word| word == 0) { Err(MatchError::DeadEnd) } else { Ok(Mask::new(words)) }
    }

    /// Goes on by a token. An end token ends the answer.
    ///
    /// # Errors
    /// A token that [`Self::mask`] does not allow; the answer cannot go on then.
    pub(crate) fn consume(&mut self, token: u32) -> Result<(), MatchError> {
        let refused = MatchError::Refused { token };
        let is_end = self.ends.contains(&token);
        match self.stand {
            Stand::Ended => return Err(refused),
            Stand::First | Stand::Next if is_end => {
                if !self.is_complete() {
                    self.advance(self.tokens.end).map_err(|_| refused)?;
                }
                self.stand = Stand::Ended;
                return Ok(());
            }
            Stand::First if self.tokens.silent.contains(&token) => {}
            Stand::First | Stand::Next => {
                if self.is_complete() || !self.tokens.speaks(token) {
                    return Err(refused);
                }
                self.advance(token)?;
            }
        }
        if self.stand == Stand::First {
            self.stand = Stand::Next;
            let next = self.tokens.next.clone();
            self.place(next);
        }
        Ok(())
    }

    /// Says whether nothing but an end may follow: the answer is complete and cannot go on.
    pub(crate) fn is_complete(&self) -> bool {
        let stopped = matches!(self.parser.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence);
        self.stand == Stand::Ended || stopped
    }

    /// What ids mean from here on.
    fn place(&mut self, place: Place) {
        self.parser.token_env = place.env;
        self.parser.bias_computer = place.bias;
        // The parser may not have moved.
        self.parser.invalidate_bias_cache();
    }

    /// The words of a mask with nothing but the row for the end.
    fn only_the_end(&self) -> Vec<u32> {
        let end = self.tokens.end;
        let mut words = vec![0; end as usize / 32 + 1];
        set(&mut words, &[end], true);
        words
    }

    /// The words of the parser's mask, the row for the end among them.
    fn computed(&mut self) -> Result<Vec<u32>, MatchError> {
        if self.stand == Stand::First && !self.tokens.silent.is_empty() {
            // A parser without a way on stops for good, but a token without text may still be in front of one.
            let mut probe = self.parser.clone();
            return match guarded(&mut probe, |parser| parser.compute_mask()) {
                Ok(words) => Ok(words.into()),
                Err(MatchError::DeadEnd) => Ok(vec![0; self.tokens.end as usize / 32 + 1]),
                Err(error) => Err(error),
            };
        }
        guarded(&mut self.parser, |parser| parser.compute_mask()).map(Into::into)
    }

    fn advance(&mut self, token: u32) -> Result<(), MatchError> {
        let advanced = guarded(&mut self.parser, |parser| {
            parser.consume_token(token)?;
            parser.check_stop()
        });
        match advanced {
            Ok(_) => Ok(()),
            Err(MatchError::TooComplex { .. }) if self.parser.error_message().is_some_and(|text| is_refusal(&text)) => {
                Err(MatchError::Refused { token })
            }
            Err(error) => Err(error),
        }
    }
}

/// The parser calls every refusal too complex.
fn is_refusal(message: &str) -> bool {
    message.contains("doesn't satisfy the grammar")
}

/// Runs the parser, and makes of its errors and panics what they mean.
fn guarded<T>(
    parser: &mut TokenParser,
    work: impl FnOnce(&mut TokenParser) -> anyhow::Result<T>,
) -> Result<T, MatchError> {
    match catch_unwind(AssertUnwindSafe(|| work(parser))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match parser.stop_reason() {
            StopReason::NoExtensionBias => MatchError::DeadEnd,
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                MatchError::TooComplex { reason: error.to_string() }
            }
            _ => MatchError::Failed { reason: error.to_string() },
        }),
        Err(_) => Err(MatchError::Failed { reason: "the parser failed".into() }),
    }
}

/// Sets or clears the bits of some ids.
fn set(words: &mut [u32], ids: &[u32], allowed: bool) {
    for &id in ids {
        let (word, bit) = (&mut words[id as usize / 32], 1 << (id % 32));
        *word = if allowed { *word | bit } else { *word & !bit };
    }
}
