//! The forms that requests ask for, compiled away from the threads that serve them.

use std::sync::Arc;

use tessera_api::language::{Begun, GenerateRequest};
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::{Deadline, Tasks};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

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

    /// Returns where the answers of a request stand in the form that was asked for: one for all at the beginning, or each
    /// behind what there is of it. None without a form.
    ///
    /// # Errors
    /// `Invalid` for a constraint that cannot be compiled, or that the answer so far does not fit; `Precondition` without a
    /// tokenizer.
    pub(crate) async fn matchers(&self, request: &GenerateRequest, deadline: Deadline) -> Result<Vec<Matcher>> {
        let Some(constraint) = request.constraint.clone() else { return Ok(Vec::new()) };
        let (grammars, ends) = (self.grammars.clone(), request.end_token_ids.clone());
        let begun = request.begun.clone();
        let compile = move || {
            let grammars = grammars
                .as_ref()
                .as_ref()
                .map_err(|error| Error::new(ErrorKind::Precondition, "CONSTRAINTS_UNAVAILABLE", error.to_string()))?;
            let matcher = grammars.compile(&constraint, &ends)?;
            if begun.is_empty() {
                return Ok(vec![matcher]);
            }
            let follow = |(index, begun): (usize, Begun)| {
                let field = || format!("begun[{index}].token_ids");
                let misfit = |error: MatchError| Error::field("CONSTRAINT_INVALID", field(), error.to_string());
                let mut matcher = matcher.clone();
                begun.token_ids.into_iter().try_for_each(|token| matcher.consume(token)).map_err(misfit)?;
                Ok(matcher)
            };
            begun.into_iter().enumerate().map(follow).collect()
        };
        let compiling = async {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return Err(Error::draining()) };
            let broken = |_| Error::new(ErrorKind::Internal, "CONSTRAINT_NOT_COMPILED", "compiling was broken off");
            // What began keeps its place until it is done, whoever left; what did not begin never does.
            let compiled = self.tasks.spawn_blocking(move || {
                let _permit = permit;
                compile()
            });
            AbortOnDropHandle::new(compiled).await.map_err(broken)?
        };
        deadline.bound("a constraint was being compiled", compiling).await
    }
}
