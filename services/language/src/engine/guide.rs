//! Holds one answer to its form: which tokens may come next is found out while the model computes their scores.

use std::sync::Arc;

use tessera_api::{Error, ErrorKind};

use super::sampler::Mask;
use crate::constraint::{MaskPool, MatchError, Matcher, PendingMask};

impl From<MatchError> for Error {
    fn from(error: MatchError) -> Self {
        Self::new(ErrorKind::Internal, "CONSTRAINT_FAILED", error.to_string())
    }
}

/// The mask of the next token, in the making.
#[derive(Debug)]
pub(super) struct Guide {
    pool: Arc<MaskPool>,
    next: PendingMask,
}

/// Where an answer stands, between the mask of a token and the token.
#[derive(Debug)]
pub(super) struct Stand {
    pool: Arc<MaskPool>,
    matcher: Matcher,
}

impl Guide {
    /// Begins to make the mask of the next token.
    pub(super) fn new(pool: Arc<MaskPool>, matcher: Matcher) -> Self {
        let next = pool.begin(matcher);
        Self { pool, next }
    }

    /// Returns the mask; waits if it is not ready.
    ///
    /// # Errors
    /// When no token fits, or finding out takes too much.
    pub(super) fn take(self) -> Result<(Stand, Mask), MatchError> {
        let (matcher, mask) = self.next.take();
        Ok((Stand { pool: self.pool, matcher }, mask?))
    }

    /// Returns as many guides of answers that stand where this one does.
    pub(super) fn split(self, count: usize) -> Vec<Self> {
        let (matcher, _) = self.next.take();
        let guide = |_| Self::new(self.pool.clone(), matcher.clone());
        (0..count).map(guide).collect()
    }
}

impl Stand {
    /// Goes on by the token that was chosen; `None` when the answer is complete with it.
    ///
    /// # Errors
    /// When the token is not one that the mask allowed.
    pub(super) fn follow(self, token: u32) -> Result<Option<Guide>, MatchError> {
        let Self { pool, mut matcher } = self;
        matcher.consume(token)?;
        Ok((!matcher.is_complete()).then(|| Guide::new(pool, matcher)))
    }
}
