//! When an answer goes on that a language worker did not end: what is tried again, how often, and after how long.

use std::time::Duration;

use tessera_api::{Error, ErrorKind, Result};

use crate::defaults;

/// Waited for before the second of several tries without a new token, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The tries of one request.
#[derive(Debug)]
pub(crate) struct Continuations {
    limit: usize,
    /// How often the request was sent again.
    pub(crate) begun: usize,
    /// A worker's model failed once: twice is the request's own fault.
    has_model_failed: bool,
    /// Tokens that were there when it was sent last.
    tokens: usize,
    pause: Duration,
}

/// How an answer goes on.
#[derive(Debug, PartialEq)]
pub(crate) struct Next {
    /// What is waited for, on average.
    pub(crate) pause: Duration,
    /// Images lack their features, which this error tells of.
    pub(crate) images: Option<Error>,
}

/// What a sequence failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Its worker is lost, shuts down, or runs another model now.
    Worker,
    /// Its worker's model or device.
    Model,
    /// Its worker has no room.
    Queue,
    /// A store does not have the features of an image, or cannot be reached.
    Features,
    /// The request, or its time: it would fail anywhere.
    Request,
}

impl Continuations {
    /// A request that may be sent again so often.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, begun: 0, has_model_failed: false, tokens: 0, pause: Duration::ZERO }
    }

    /// Says how an answer goes on that has so many tokens and failed.
    ///
    /// # Errors
    /// The same error where it does not go on, or `POOL_LOST` after too many tries.
    pub(crate) fn next(&mut self, error: Error, tokens: usize) -> Result<Next> {
        let cause = cause(&error);
        let is_final = match cause {
            Cause::Request => true,
            // Who has nothing yet comes back when the worker says so.
            Cause::Queue => self.begun == 0 && tokens == 0,
            Cause::Model => std::mem::replace(&mut self.has_model_failed, true),
            Cause::Worker | Cause::Features => false,
        };
        if is_final || self.limit == 0 {
            return Err(error);
        }
        if self.begun == self.limit {
            return Err(if matches!(cause, Cause::Worker | Cause::Queue) { self.lost(error, tokens) } else { error });
        }
        self.begun += 1;
        if tokens > self.tokens {
            (self.tokens, self.pause) = (tokens, Duration::ZERO);
        }
        let pause = match error.retry_after {
            Some(after) if cause == Cause::Queue => self.pause.max(after),
            _ => self.pause,
        };
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        Ok(Next { pause, images: (cause == Cause::Features).then_some(error) })
    }

    /// The error of an answer that no worker went on with.
    fn lost(&self, error: Error, tokens: usize) -> Error {
        let message = format!(
            "no language worker went on with the answer behind its {tokens} tokens, {} tries: {}",
            self.limit, error.message
        );
        let lost = Error { kind: ErrorKind::Unavailable, reason: "POOL_LOST".into(), message, ..error };
        lost.with("tokens", tokens).with("continuations", self.limit)
    }
}

/// A pause of this length on average: those who lost the same worker do not come back all at once.
pub(crate) async fn pause(average: Duration) {
    let part = (defaults::random() >> 32) as f64 / f64::from(u32::MAX);
    tokio::time::sleep(average.mul_f64(0.5 + part)).await;
}

fn cause(error: &Error) -> Cause {
    let names_store = error.metadata.iter().any(|(name, _)| name == "store");
    match (error.kind, error.reason.as_ref()) {
        (_, "EMBEDDING_NOT_FOUND" | "ENCODE_ABANDONED" | "FEATURES_CORRUPT") => Cause::Features,
        (ErrorKind::Unavailable, _) if names_store => Cause::Features,
        (ErrorKind::Unavailable | ErrorKind::Cancelled, _) | (_, "DECODER_MISMATCH") => Cause::Worker,
        (ErrorKind::Exhausted, _) => Cause::Queue,
        (ErrorKind::Internal, reason) if reason == "MODEL_FAILED" || reason.starts_with("DEVICE") => Cause::Model,
        _ => Cause::Request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> Error {
        Error::new(ErrorKind::Unavailable, "UNREACHABLE", "gone").with("worker", "http://a")
    }

    fn pauses(continuations: &mut Continuations, tokens: usize, count: usize) -> Vec<u128> {
        let next = |_| continuations.next(unreachable(), tokens).unwrap().pause.as_millis();
        (0..count).map(next).collect()
    }

    #[test]
    fn a_lost_worker_is_replaced_at_once_and_then_after_longer_and_longer_pauses() {
        let mut continuations = Continuations::new(20);
        assert_eq!(pauses(&mut continuations, 0, 8), [0, 50, 100, 200, 400, 800, 1600, 2000]);
        // A worker that had something to tell was no vain try.
        assert_eq!(pauses(&mut continuations, 5, 3), [0, 50, 100]);
        assert_eq!(pauses(&mut continuations, 5, 1), [200]);
        assert_eq!(pauses(&mut continuations, 6, 2), [0, 50]);
    }

    #[test]
    fn after_too_many_tries_it_is_said_how_far_the_answer_came() {
        let mut continuations = Continuations::new(3);
        pauses(&mut continuations, 7, 3);
        let error = continuations.next(unreachable(), 9).unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "POOL_LOST"));
        assert!(error.message.contains("9 tokens") && error.message.ends_with("gone"), "{error}");
        let metadata = [("worker", "http://a"), ("tokens", "9"), ("continuations", "3")];
        assert_eq!(error.metadata, metadata.map(|(name, value)| (name.into(), value.to_owned())));
    }

    #[test]
    fn nothing_is_tried_again_where_that_is_not_wanted() {
        assert_eq!(Continuations::new(0).next(unreachable(), 3).unwrap_err(), unreachable());
    }

    #[test]
    fn what_is_tried_again_depends_on_what_failed() {
        let error = |kind, reason| Error::new(kind, reason, "a message");
        let store = || error(ErrorKind::Unavailable, "UNREACHABLE").with("store", "http://v");
        for (error, expected) in [
            (error(ErrorKind::Unavailable, "UNREACHABLE"), Cause::Worker),
            (error(ErrorKind::Unavailable, "STREAM_BROKEN"), Cause::Worker),
            (error(ErrorKind::Unavailable, "HANDED_OVER"), Cause::Worker),
            (error(ErrorKind::Precondition, "DECODER_MISMATCH"), Cause::Worker),
            (Error::draining(), Cause::Worker),
            (error(ErrorKind::Internal, "MODEL_FAILED"), Cause::Model),
            (error(ErrorKind::Internal, "DEVICE_LOST"), Cause::Model),
            (error(ErrorKind::Exhausted, "QUEUE_FULL"), Cause::Queue),
            (store(), Cause::Features),
            (error(ErrorKind::NotFound, "EMBEDDING_NOT_FOUND"), Cause::Features),
            (error(ErrorKind::Corrupt, "FEATURES_CORRUPT"), Cause::Features),
            (error(ErrorKind::Invalid, "SEQUENCE_TOO_LONG"), Cause::Request),
            (error(ErrorKind::Deadline, "DEADLINE_EXCEEDED"), Cause::Request),
            (error(ErrorKind::Precondition, "FEATURES_MISMATCH"), Cause::Request),
            (error(ErrorKind::Internal, "CONSTRAINT_FAILED"), Cause::Request),
        ] {
            assert_eq!(cause(&error), expected, "{error:?}");
        }
        let images = Continuations::new(1).next(store(), 0).unwrap().images;
        assert_eq!(images, Some(store()));
    }

    #[test]
    fn a_model_that_fails_twice_fails_the_request() {
        let failed = || Error::new(ErrorKind::Internal, "MODEL_FAILED", "no");
        let mut continuations = Continuations::new(8);
        assert_eq!(continuations.next(failed(), 0).unwrap().pause, Duration::ZERO);
        assert!(continuations.next(unreachable(), 0).is_ok());
        assert_eq!(continuations.next(failed(), 4).unwrap_err(), failed());
    }

    #[test]
    fn a_full_queue_refuses_who_begins_and_is_waited_for_by_who_goes_on() {
        let full = || Error::exhausted("QUEUE_FULL", "full", Duration::from_millis(500));
        assert_eq!(Continuations::new(8).next(full(), 0).unwrap_err(), full());
        assert_eq!(Continuations::new(8).next(full(), 1).unwrap().pause, Duration::from_millis(500));
        let mut lost = Continuations::new(8);
        assert!(lost.next(unreachable(), 0).is_ok() && lost.next(full(), 0).is_ok());
    }
}
