//! The forms that requests ask for, compiled away from the threads that serve them.

use std::sync::Arc;

use tessera_api::language::GenerateRequest;
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::{Deadline, Tasks};
use tokio::sync::Semaphore;

use super::{Grammars, GrammarsError, MatchError, Matcher};

/// Constraints that are compiled at once.
const COMPILING: usize = 2;

/// Compiles the constraints of requests, a few at a time.
#[derive(Clone, Debug)]
pub(crate) struct Forms {
    grammars: Arc<Result<Grammars, GrammarsError>>,
    permits: Arc<Semaphore>,
    tasks: Tasks,
}

impl Forms {
    /// Takes what the tokenizer gave. Without one, everything is served but constraints, and it is said why.
    pub(crate) fn new(grammars: Result<Grammars, GrammarsError>, tasks: Tasks) -> Self {
        if let Err(error) = &grammars {
            tracing::warn!(%error, "constraints are refused");
        }
        Self { grammars: Arc::new(grammars), permits: Arc::new(Semaphore::new(COMPILING)), tasks }
    }

    /// Returns where the answer of a request stands in the form that was asked for: behind the answer that is continued.
    ///
    /// # Errors
    /// `Invalid` for a constraint that cannot be compiled, or that the answer so far does not fit; `Precondition` without a
    /// tokenizer.
    pub(crate) async fn matcher(&self, request: &GenerateRequest, deadline: Deadline) -> Result<Option<Matcher>> {
        let Some(constraint) = request.constraint.clone() else { return Ok(None) };
        let (grammars, ends) = (self.grammars.clone(), request.end_token_ids.clone());
        let answer = request.token_ids[request.token_ids.len() - request.answer_tokens..].to_vec();
        let compile = move || {
            let grammars = grammars
                .as_ref()
                .as_ref()
                .map_err(|error| Error::new(ErrorKind::Precondition, "CONSTRAINTS_UNAVAILABLE", error.to_string()))?;
            let mut matcher = grammars.compile(&constraint, &ends)?;
            for token in answer {
                let misfit = |error: MatchError| Error::field("CONSTRAINT_INVALID", "token_ids", error.to_string());
                matcher.consume(token).map_err(misfit)?;
            }
            Ok(Some(matcher))
        };
        let compiling = async {
            let Ok(_permit) = self.permits.acquire().await else { return Err(Error::draining()) };
            let broken = |_| Error::new(ErrorKind::Internal, "CONSTRAINT_NOT_COMPILED", "compiling was broken off");
            self.tasks.spawn_blocking(compile).await.map_err(broken)?
        };
        deadline.bound("a constraint was being compiled", compiling).await
    }
}
