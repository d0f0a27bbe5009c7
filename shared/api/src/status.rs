//! The only place where status codes are decided. Every status carries `google.rpc.ErrorInfo` with a stable reason.

use std::borrow::Cow;
use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Error, ErrorKind, FieldViolation};

/// `google.rpc.ErrorInfo.domain` of every error.
const DOMAIN: &str = "tessera";

/// Kind and code, side by side. Read in both directions; the first row that matches wins.
const TABLE: [(ErrorKind, Code); 9] = [
    (ErrorKind::Invalid, Code::InvalidArgument),
    (ErrorKind::NotFound, Code::NotFound),
    (ErrorKind::Precondition, Code::FailedPrecondition),
    (ErrorKind::Exhausted, Code::ResourceExhausted),
    (ErrorKind::Unavailable, Code::Unavailable),
    (ErrorKind::Deadline, Code::DeadlineExceeded),
    (ErrorKind::Cancelled, Code::Cancelled),
    (ErrorKind::Corrupt, Code::DataLoss),
    (ErrorKind::Internal, Code::Internal),
];

fn code(kind: ErrorKind) -> Code {
    TABLE.iter().find(|row| row.0 == kind).map_or(Code::Internal, |row| row.1)
}

/// Kind of a status that reached us, and the reason to show when it carries none.
fn kind(code: Code) -> (ErrorKind, &'static str) {
    match TABLE.iter().find(|row| row.1 == code) {
        Some((ErrorKind::Deadline, _)) => (ErrorKind::Deadline, "DEADLINE_EXCEEDED"),
        Some((ErrorKind::Cancelled, _)) => (ErrorKind::Cancelled, "CANCELLED"),
        Some((ErrorKind::Unavailable, _)) => (ErrorKind::Unavailable, "UNREACHABLE"),
        Some(row) => (row.0, "UNSPECIFIED"),
        None if code == Code::OutOfRange => (ErrorKind::Invalid, "MESSAGE_TOO_LARGE"),
        None => (ErrorKind::Internal, "UNSPECIFIED"),
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let metadata: HashMap<_, _> = error.metadata.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(error.reason, DOMAIN, metadata);
        for violation in error.fields {
            details.add_bad_request_violation(violation.field, violation.description);
        }
        if let Some(delay) = error.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code(error.kind), error.message, details)
    }
}

impl From<Status> for Error {
    /// Reads a status that a server of ours, or the transport, produced.
    fn from(status: Status) -> Self {
        let (kind, default_reason) = kind(status.code());
        let mut error = Error::new(kind, default_reason, status.message());
        let Ok(details) = status.check_error_details() else {
            return error;
        };
        if let Some(info) = details.error_info() {
            error.reason = Cow::Owned(info.reason.clone());
            error.metadata = info.metadata.iter().map(|(name, value)| (Cow::Owned(name.clone()), value.clone())).collect();
            error.metadata.sort();
        }
        if let Some(bad) = details.bad_request() {
            let violation = |v: &tonic_types::FieldViolation| FieldViolation {
                field: v.field.clone(),
                description: v.description.clone(),
            };
            error.fields = bad.field_violations.iter().map(violation).collect();
        }
        error.retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        error
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_kind_has_one_code_and_comes_back_as_itself() {
        for (kind, code) in TABLE {
            let status = Status::from(Error::new(kind, "A_REASON", "a message"));
            assert_eq!(status.code(), code);
            assert_eq!(Error::from(status).kind, kind);
        }
    }

    #[test]
    fn details_survive_the_wire() {
        let error = Error {
            retry_after: Some(Duration::from_millis(250)),
            ..Error::field("IMAGE_TOO_LARGE", "messages[0].parts[1].image", "image is 9000x9000").with("limit", 8192)
        };
        assert_eq!(Error::from(Status::from(error.clone())), error);
    }

    #[test]
    fn a_status_without_details_keeps_its_message() {
        let error = Error::from(Status::new(Code::Unavailable, "connection refused"));
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"));
        assert_eq!(error.message, "connection refused");
    }
}
