//! Calls that are made again on another worker: how many, and which answer counts.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tessera_api::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::figures::Figures;
use super::pool::is_of_another_model;
use super::settings::RetrySettings;

/// Workers that one call is made on at most.
pub(super) const ATTEMPTS: usize = 3;
/// Retries that may be saved up are those of so many seconds.
const SAVED_SECONDS: f64 = 10.0;

/// How many retries there may be: a share of all calls and so many a second, as a bucket of tokens. A pool that fails
/// as a whole is not asked much more often for it.
#[derive(Debug)]
pub(super) struct Budget {
    settings: RetrySettings,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// Why a worker is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is the first.
    First,
    /// Another one failed.
    Retry,
    /// Another one takes long.
    Hedge,
}

impl Budget {
    /// Starts with all that can be saved up.
    pub(super) fn new(settings: RetrySettings) -> Self {
        let bucket = Bucket { tokens: settings.per_second * SAVED_SECONDS, filled: Instant::now() };
        Self { settings, bucket: Mutex::new(bucket) }
    }

    /// Counts a call that is no retry.
    pub(super) fn count(&self) {
        self.change(|bucket| bucket.tokens += self.settings.share);
    }

    /// Takes one retry, if there is one.
    pub(super) fn take(&self) -> bool {
        self.change(|bucket| {
            let granted = bucket.tokens >= 1.0;
            bucket.tokens -= f64::from(u8::from(granted));
            granted
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, most) = (Instant::now(), (self.settings.per_second * SAVED_SECONDS).max(1.0));
        let filled = bucket.tokens + self.settings.per_second * (now - bucket.filled).as_secs_f64();
        (bucket.tokens, bucket.filled) = (filled.min(most), now);
        change(&mut bucket)
    }
}

/// Whether another worker may do what this one did not.
pub(super) fn is_worth_a_retry(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Exhausted) || is_of_another_model(error)
}

/// Asks workers in this order: the first; the next when one fails in a way that another may not, or when it takes
/// longer than `hedge`. The first answer counts; whoever is still being asked then is let go, which cancels its call.
///
/// # Errors
/// One that no other worker would change, at once; otherwise, when nobody is left or the budget is spent, the last one,
/// or that of a full queue: it says when to come back.
pub(super) async fn ask_in_order<W, T, F>(
    order: &[W],
    hedge: Option<Duration>,
    (budget, figures): (&Budget, &Figures),
    ask: impl Fn(&W, Turn) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    budget.count();
    let mut others = order.iter().take(ATTEMPTS);
    let Some(first) = others.next() else { return Err(nobody()) };
    let mut asked = FuturesUnordered::from_iter([ask(first, Turn::First)]);
    let mut patience = pin!(tokio::time::sleep(hedge.unwrap_or_default()));
    let mut may_hedge = hedge.is_some();
    let mut full = None;
    loop {
        let turn = tokio::select! {
            biased;
            Some(outcome) = asked.next() => match outcome {
                Err(error) if is_worth_a_retry(&error) => {
                    if error.kind == ErrorKind::Exhausted {
                        full = Some(error.clone());
                    }
                    if !asked.is_empty() {
                        continue;
                    }
                    if others.len() == 0 || !budget.take() {
                        return Err(full.unwrap_or(error));
                    }
                    Turn::Retry
                }
                outcome => return outcome,
            },
            () = &mut patience, if may_hedge => {
                may_hedge = false;
                if others.len() == 0 || !budget.take() {
                    continue;
                }
                Turn::Hedge
            }
        };
        if let Some(next) = others.next() {
            figures.count(turn);
            asked.push(ask(next, turn));
        }
    }
}

fn nobody() -> Error {
    Error::new(ErrorKind::Unavailable, "POOL_EMPTY", "there is no worker to ask")
}

#[cfg(test)]
mod tests;
