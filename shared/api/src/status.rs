//! The only place where status codes are decided. Every status carries `google.rpc.ErrorInfo` with a stable reason.

use std::borrow::Cow;
use std::collections::HashMap;

use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Error, ErrorKind, FieldViolation};

/// `google.rpc.ErrorInfo.domain` of every error.
const DOMAIN: &str = "tessera";

/// The messages that errors carry, as an encoded descriptor set: with it, tools that learn messages from reflection show them.
pub const ERROR_DETAILS: &[u8] = tonic_types::pb::FILE_DESCRIPTOR_SET;

/// Kind, code and HTTP's status, side by side, and the reason of a status that carries none. Read in both directions.
const TABLE: [(ErrorKind, Code, u16, &str); 12] = [
    (ErrorKind::Invalid, Code::InvalidArgument, 400, "UNSPECIFIED"),
    (ErrorKind::Unauthenticated, Code::Unauthenticated, 401, "UNSPECIFIED"),
    (ErrorKind::Denied, Code::PermissionDenied, 403, "UNSPECIFIED"),
    (ErrorKind::NotFound, Code::NotFound, 404, "UNSPECIFIED"),
    (ErrorKind::Precondition, Code::FailedPrecondition, 412, "UNSPECIFIED"),
    (ErrorKind::Exhausted, Code::ResourceExhausted, 429, "UNSPECIFIED"),
    (ErrorKind::Unavailable, Code::Unavailable, 503, "UNREACHABLE"),
    (ErrorKind::Deadline, Code::DeadlineExceeded, 504, "DEADLINE_EXCEEDED"),
    (ErrorKind::Cancelled, Code::Cancelled, 499, "CANCELLED"),
    (ErrorKind::Corrupt, Code::DataLoss, 500, "UNSPECIFIED"),
    (ErrorKind::Unsupported, Code::Unimplemented, 501, "METHOD_UNKNOWN"),
    (ErrorKind::Internal, Code::Internal, 500, "UNSPECIFIED"),
];

/// How the transport's own words begin when a request is no message of the contract.
const UNDECODABLE: &str = "failed to decode Protobuf message";
/// The transport's own words when it ends a request at its deadline.
const TIMED_OUT: &str = "Timeout expired";

/// What a stream is whose connection broke.
const BROKEN_OFF: (ErrorKind, &str) = (ErrorKind::Unavailable, "UNREACHABLE");
/// How the transport's own words begin when a connection ends in the middle of a stream.
const BROKEN: &str = "h2 protocol error";

/// The status code of an error kind.
pub(crate) fn code(kind: ErrorKind) -> Code {
    TABLE.iter().find(|row| row.0 == kind).map_or(Code::Internal, |row| row.1)
}

/// The status of an error kind in HTTP.
pub fn http_status(kind: ErrorKind) -> u16 {
    TABLE.iter().find(|row| row.0 == kind).map_or(500, |row| row.2)
}

/// The error kind of a status code, as a number on the wire.
pub(crate) fn kind_of(code: i32) -> ErrorKind {
    TABLE.iter().find(|row| row.1 == Code::from(code)).map_or(ErrorKind::Internal, |row| row.0)
}

/// Kind and reason of a status without details: one of the transport, or of somebody else's server.
fn kind(status: &Status) -> (ErrorKind, &'static str) {
    match status.code() {
        Code::OutOfRange => (ErrorKind::Invalid, "MESSAGE_TOO_LARGE"),
        Code::Internal if status.message().starts_with(UNDECODABLE) => (ErrorKind::Invalid, "REQUEST_MALFORMED"),
        Code::Cancelled if status.message() == TIMED_OUT => (ErrorKind::Deadline, "DEADLINE_EXCEEDED"),
        Code::Internal if status.message().starts_with(BROKEN) => BROKEN_OFF,
        // Who cancels a call is not there to hear of it.
        Code::Cancelled if status.details().is_empty() => BROKEN_OFF,
        Code::Unknown => BROKEN_OFF,
        code => {
            let row = TABLE.iter().find(|row| row.1 == code);
            row.map_or((ErrorKind::Internal, "UNSPECIFIED"), |row| (row.0, row.3))
        }
    }
}

/// Gives a response that ends before it began, by the transport's own doing, the details that our errors have; leaves
/// any other as it is.
pub fn explain(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok && status.details().is_empty() => {
            Status::from(Error::from(status)).into_http()
        }
        _ => response,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let metadata: HashMap<_, _> =
            error.metadata.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
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
        let (kind, default_reason) = kind(&status);
        let mut error = Error::new(kind, default_reason, status.message());
        let Ok(details) = status.check_error_details() else {
            return error;
        };
        if let Some(info) = details.error_info() {
            error.reason = Cow::Owned(info.reason.clone());
            error.metadata =
                info.metadata.iter().map(|(name, value)| (Cow::Owned(name.clone()), value.clone())).collect();
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
        for (kind, code, _, _) in TABLE {
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
    fn the_transports_own_errors_get_a_reason() {
        let cases = [
            (Code::OutOfRange, "decoded message length too large", ErrorKind::Invalid, "MESSAGE_TOO_LARGE"),
            (Code::Internal, "failed to decode Protobuf message: x", ErrorKind::Invalid, "REQUEST_MALFORMED"),
            (Code::Cancelled, "Timeout expired", ErrorKind::Deadline, "DEADLINE_EXCEEDED"),
            (Code::Unimplemented, "", ErrorKind::Unsupported, "METHOD_UNKNOWN"),
            (Code::Unknown, "error reading a body from connection", ErrorKind::Unavailable, "UNREACHABLE"),
            (Code::Internal, "h2 protocol error: stream closed", ErrorKind::Unavailable, "UNREACHABLE"),
            (Code::Cancelled, "operation was canceled", ErrorKind::Unavailable, "UNREACHABLE"),
        ];
        for (code, message, kind, reason) in cases {
            let explained = explain(Status::new(code, message).into_http());
            let error = Error::from(Status::from_header_map(explained.headers()).unwrap());
            assert_eq!((error.kind, error.reason.as_ref(), error.message.as_str()), (kind, reason, message));
        }
        let ours = Status::from(Error::new(ErrorKind::NotFound, "A_REASON", "gone"));
        let response = explain(ours.into_http());
        assert_eq!(Error::from(Status::from_header_map(response.headers()).unwrap()).reason, "A_REASON");
    }

    #[test]
    fn a_status_without_details_keeps_its_message() {
        let error = Error::from(Status::new(Code::Unavailable, "connection refused"));
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"));
        assert_eq!(error.message, "connection refused");
    }
}
