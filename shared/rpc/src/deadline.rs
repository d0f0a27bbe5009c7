//! The time that a caller gives a request, read from `grpc-timeout` and passed on.

use std::future::Future;
use std::time::Duration;

use tessera_api::{Error, Result};
use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::MetadataMap;

const HEADER: &str = "grpc-timeout";

/// When a request must be over, if ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Reads the deadline of a request that just arrived.
    pub fn of(metadata: &MetadataMap) -> Self {
        let timeout = metadata.get(HEADER).and_then(|value| value.to_str().ok()).and_then(parse);
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// The same, but no later than `limit` from now.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        let latest = Instant::now().checked_add(limit);
        Self(match (self.0, latest) {
            (Some(own), Some(latest)) => Some(own.min(latest)),
            (own, latest) => own.or(latest),
        })
    }

    /// True when it is over.
    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    /// What is left of the time; `None` where there is no end.
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Waits until it is over; for ever where there is none.
    pub async fn passed(self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Runs a future until the deadline; `doing` is what the error says was under way.
    ///
    /// # Errors
    /// The future's own error, or [`Error::deadline`].
    pub async fn bound<T>(self, doing: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = future => done,
            () = self.passed() => Err(Error::deadline(doing)),
        }
    }

    /// Makes a request that carries what is left of the time.
    pub fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(at) = self.0 {
            request.set_timeout(at.saturating_duration_since(Instant::now()));
        }
        request
    }
}

/// Up to eight digits and a unit, as the gRPC protocol over HTTP/2 defines it.
fn parse(value: &str) -> Option<Duration> {
    let unit = value.chars().next_back()?;
    let digits = value.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(n * 3600),
        'M' => Duration::from_secs(n * 60),
        'S' => Duration::from_secs(n),
        'm' => Duration::from_millis(n),
        'u' => Duration::from_micros(n),
        'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "5", "5s", "-5S", "123456789S", "5é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_passed_on() {
        let mut request = Request::new(());
        request.set_timeout(Duration::from_secs(10));
        let deadline = Deadline::of(request.metadata());
        tokio::time::advance(Duration::from_secs(4)).await;
        let left = Deadline::of(deadline.request(()).metadata());
        assert_eq!(left, deadline);
        assert_eq!(Deadline::default().request(()).metadata().get(HEADER), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_takes_too_long_is_given_up() {
        let deadline = Deadline::default().within(Duration::from_secs(1));
        let error = deadline.bound("thinking", std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(error, Error::deadline("thinking"));
        assert!(deadline.has_passed());
    }
}
