//! Which calls are made again, and when.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::Deadline;

/// How patiently calls are made again that failed with what passes: somebody could not be reached (`Unavailable`), or a bound
/// was reached and the gateway says when there will be room (`Exhausted`). It waits for as long as the gateway says, otherwise
/// for a pause that doubles, and for up to a quarter longer, so that clients do not come back together. A call is not made
/// again when its deadline would come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Calls after the first one.
    pub most: u32,
    /// The first pause where the gateway names none.
    pub first_pause: Duration,
    /// The longest pause. A gateway that wants more is not asked again: its error says when it would be worth while.
    pub longest_pause: Duration,
}

impl Retries {
    /// Nothing is tried again.
    pub const NONE: Self = Self { most: 0, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };

    /// How long to wait for the next call after so many retries; nothing where there is to be none. `random` is any number.
    fn pause(&self, made: u32, error: &Error, random: u64) -> Option<Duration> {
        let passes = match error.kind {
            ErrorKind::Unavailable => true,
            ErrorKind::Exhausted => error.retry_after.is_some(),
            _ => false,
        };
        let told = error.retry_after.unwrap_or_default();
        if !passes || made >= self.most || told > self.longest_pause {
            return None;
        }
        let own = self.first_pause.saturating_mul(1 << made.min(16)).min(self.longest_pause);
        let share = 1.0 + (random % 1024) as f64 / 4096.0;
        Some(told.max(own).mul_f64(share))
    }
}

impl Default for Retries {
    /// Four, after pauses of 0.1 s and more, but never more than 10 s.
    fn default() -> Self {
        Self { most: 4, first_pause: Duration::from_millis(100), longest_pause: Duration::from_secs(10) }
    }
}

/// The calls of one request.
#[derive(Debug)]
pub(crate) struct Attempts {
    retries: Retries,
    deadline: Deadline,
    made: u32,
}

impl Attempts {
    pub(crate) fn new(retries: Retries, deadline: Deadline) -> Self {
        Self { retries, deadline, made: 0 }
    }

    /// Waits until a call that failed may be made again.
    ///
    /// # Errors
    /// Gives the error back when it may not.
    pub(crate) async fn wait(&mut self, error: Error) -> Result<()> {
        let pause = self.retries.pause(self.made, &error, RandomState::new().hash_one(0_u8));
        let Some(pause) = pause.filter(|&pause| self.deadline.remaining().is_none_or(|left| pause < left)) else {
            return Err(error);
        };
        tracing::debug!(reason = %error.reason, %error, ?pause, "a call failed and is made again");
        tokio::time::sleep(pause).await;
        self.made += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn unavailable() -> Error {
        Error::new(ErrorKind::Unavailable, "UNREACHABLE", "nobody is there")
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        let retries = Retries::default();
        let pause = |error: &Error| retries.pause(0, error, 0);
        assert_eq!(pause(&unavailable()), Some(retries.first_pause));
        assert_eq!(pause(&Error::exhausted("QUEUE_FULL", "full", SECOND)), Some(SECOND));
        assert_eq!(pause(&Error { retry_after: None, ..Error::exhausted("MESSAGE_TOO_LARGE", "large", SECOND) }), None);
        for kind in [ErrorKind::Invalid, ErrorKind::Deadline, ErrorKind::Internal, ErrorKind::NotFound] {
            let error = Error { retry_after: Some(SECOND), ..Error::new(kind, "UNSPECIFIED", "no") };
            assert_eq!(pause(&error), None, "{kind:?}");
        }
    }

    #[test]
    fn pauses_double_and_have_a_bound() {
        let retries = Retries { most: 100, ..Retries::default() };
        let pause = |made| retries.pause(made, &unavailable(), 0).unwrap();
        assert_eq!([0, 1, 2].map(pause), [100, 200, 400].map(Duration::from_millis));
        assert_eq!(pause(99), retries.longest_pause);
        assert_eq!(retries.pause(100, &unavailable(), 0), None);
        let jittered = retries.pause(99, &unavailable(), u64::MAX).unwrap();
        assert!(jittered > retries.longest_pause && jittered < retries.longest_pause.mul_f64(1.25));
    }

    #[test]
    fn a_gateway_that_wants_a_long_pause_is_not_asked_again() {
        let retries = Retries::default();
        let told = |after| retries.pause(0, &Error::exhausted("QUOTA_EXCEEDED", "spent", after), 0);
        assert_eq!(told(retries.longest_pause), Some(retries.longest_pause));
        assert_eq!(told(retries.longest_pause + SECOND), None);
        assert_eq!(Retries::NONE.pause(0, &unavailable(), 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_is_made_again_behind_its_deadline() {
        let mut attempts = Attempts::new(Retries::default(), Deadline::default().within(SECOND));
        let full = |after| Error::exhausted("QUEUE_FULL", "full", after);
        attempts.wait(full(SECOND / 2)).await.unwrap();
        let error = attempts.wait(full(SECOND / 2)).await.unwrap_err();
        assert_eq!(error, full(SECOND / 2));
    }
}
