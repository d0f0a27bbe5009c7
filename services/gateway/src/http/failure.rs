//! What goes wrong, in the form that clients of OpenAI's API read; the rest of what we know is beside it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tessera_api::{Error, ErrorKind, http_status};

/// An error on its way to whoever asked over HTTP.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl Failure {
    /// `{"error": {...}}`: `code` is the reason that stays, `param` the first field at fault, `details` all else.
    pub(crate) fn body(&self) -> Value {
        let Error { kind, reason, message, metadata, fields, .. } = &self.0;
        let metadata: Map<_, _> = metadata.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        let fields: Vec<_> = fields
            .iter()
            .map(|violation| json!({"field": violation.field, "description": violation.description}))
            .collect();
        json!({"error": {
            "message": message,
            "type": class(*kind),
            "param": self.0.fields.first().map(|violation| &violation.field),
            "code": reason,
            "details": {"kind": format!("{kind:?}"), "metadata": metadata, "fields": fields},
        }})
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(http_status(self.0.kind)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.0.retry_after {
            // Whole seconds are all that the header knows; OpenAI's clients look for the other one first.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil() as u64));
            let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert("retry-after-ms", HeaderValue::from(milliseconds));
        }
        if self.0.kind == ErrorKind::Unsupported {
            // Clients take any status of 500 and more for something that passes.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}

/// What OpenAI's API calls this kind of failure.
fn class(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid | ErrorKind::Precondition | ErrorKind::Unsupported => "invalid_request_error",
        ErrorKind::Unauthenticated => "authentication_error",
        ErrorKind::Denied => "permission_error",
        ErrorKind::NotFound => "not_found_error",
        ErrorKind::Exhausted => "rate_limit_error",
        ErrorKind::Unavailable => "service_unavailable_error",
        ErrorKind::Deadline | ErrorKind::Cancelled => "timeout_error",
        ErrorKind::Corrupt | ErrorKind::Internal => "server_error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_failure_says_when_to_come_back_and_when_not_to() {
        let header = |error: Error, name: &str| {
            let response = Failure(error).into_response();
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let busy = || Error::exhausted("QUEUE_FULL", "full", Duration::from_millis(1200));
        assert_eq!(header(busy(), "retry-after").as_deref(), Some("2"));
        assert_eq!(header(busy(), "retry-after-ms").as_deref(), Some("1200"));
        assert_eq!(header(busy(), "x-should-retry"), None);
        let never = Error::new(ErrorKind::Unsupported, "METHOD_UNKNOWN", "not here");
        assert_eq!(header(never, "x-should-retry").as_deref(), Some("false"));
    }

    #[test]
    fn a_failure_has_the_form_that_openais_clients_read() {
        let error = Error::field("VALUE_OUT_OF_RANGE", "top_p", "2 is not in (0, 1]").with("limit", 1);
        let body = Failure(error).body();
        assert_eq!(
            body,
            json!({"error": {
                "message": "top_p: 2 is not in (0, 1]",
                "type": "invalid_request_error",
                "param": "top_p",
                "code": "VALUE_OUT_OF_RANGE",
                "details": {
                    "kind": "Invalid",
                    "metadata": {"limit": "1"},
                    "fields": [{"field": "top_p", "description": "2 is not in (0, 1]"}],
                },
            }})
        );
    }
}
