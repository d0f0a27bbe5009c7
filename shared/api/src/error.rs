//! One small closed set of error kinds. The producer says what failed; `status` decides the status code.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use tessera_embedding::{Abandoned, Busy, WaitError};

/// Result of anything that a request can fail with.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; each has one status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong and stays wrong.
    Invalid,
    /// It is not known who asks.
    Unauthenticated,
    /// Who asks may not.
    Denied,
    /// Something that the request names is not there.
    NotFound,
    /// The system is not in the state that the request needs.
    Precondition,
    /// A bound is reached; the same request may pass later.
    Exhausted,
    /// Somebody who is needed cannot be reached now.
    Unavailable,
    /// The caller's time ran out.
    Deadline,
    /// The caller went away.
    Cancelled,
    /// Stored or sent data do not match their checksum.
    Corrupt,
    /// Not in this version.
    Unsupported,
    /// A bug or a broken machine.
    Internal,
}

/// A field of the request that is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path such as `messages[0].parts[1].image`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// Why a request failed: a kind, a reason that never changes, the values that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Decides the status code.
    pub kind: ErrorKind,
    /// Stable `UPPER_SNAKE` reason for programs (`google.rpc.ErrorInfo.reason`).
    pub reason: Cow<'static, str>,
    /// One line for people: what, and with which value.
    pub message: String,
    /// The values that matter, by name (`google.rpc.ErrorInfo.metadata`).
    pub metadata: Vec<(Cow<'static, str>, String)>,
    /// Fields at fault (`google.rpc.BadRequest`).
    pub fields: Vec<FieldViolation>,
    /// When to try again (`google.rpc.RetryInfo`).
    pub retry_after: Option<Duration>,
}

impl Error {
    /// Makes an error without details.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            metadata: Vec::new(),
            fields: Vec::new(),
            retry_after: None,
        }
    }

    /// Makes an error about one field: the message, shown with the field's path.
    pub fn field(reason: &'static str, field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        let mut error = Self::new(ErrorKind::Invalid, reason, format!("{field}: {description}"));
        error.fields.push(FieldViolation { field, description });
        error
    }

    /// Makes the error of a full queue or a reached bound: try again after `retry_after`.
    pub fn exhausted(reason: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Exhausted, reason, message) }
    }

    /// Makes the error of a caller whose time ran out while `doing` was under way.
    pub fn deadline(doing: &str) -> Self {
        Self::new(ErrorKind::Deadline, "DEADLINE_EXCEEDED", format!("the deadline passed while {doing}"))
    }

    /// Makes the error of a service that is shutting down.
    pub fn draining() -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(ErrorKind::Unavailable, "DRAINING", "the service is shutting down, try another one")
        }
    }

    /// Adds a value that matters.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.metadata.push((Cow::Borrowed(name), value.to_string()));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Abandoned> for Error {
    fn from(abandoned: Abandoned) -> Self {
        Self::new(ErrorKind::Internal, "ENCODE_ABANDONED", abandoned.to_string())
    }
}

impl From<Busy> for Error {
    fn from(busy: Busy) -> Self {
        Self::exhausted("QUEUE_FULL", busy.to_string(), Duration::from_millis(500)).with("limit", busy.limit)
    }
}

impl From<WaitError<Self>> for Error {
    fn from(error: WaitError<Self>) -> Self {
        match error {
            WaitError::NotFound(key) => {
                Self::new(ErrorKind::NotFound, "EMBEDDING_NOT_FOUND", error.to_string()).with("key", key)
            }
            WaitError::Failed(_, error) => error,
            WaitError::Busy(busy) => busy.into(),
        }
    }
}
