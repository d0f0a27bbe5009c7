//! Channels to other services.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tessera_api::{Error, ErrorKind, Result};
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// HTTP/2 flow control: a stream of features may have this many bytes on the way.
const WINDOW_BYTES: u32 = 4 << 20;

/// Makes a channel that connects when it is first used and again when it is lost.
///
/// # Errors
/// When `url` is no `http://host:port`.
pub fn channel(url: &str) -> Result<Channel> {
    let invalid = |why: String| {
        Error::new(ErrorKind::Invalid, "URL_INVALID", format!("{url:?} is no address: {why}; use http://HOST:PORT"))
            .with("url", url)
    };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| invalid(error.to_string()))?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
        return Err(invalid("it needs http:// and a host".into()));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4)
        .connect_lazy())
}

/// Channels by URL, so that requests to one service share a connection.
#[derive(Clone, Debug)]
pub struct Channels {
    open: Arc<Mutex<HashMap<String, Channel>>>,
    limit: usize,
}

impl Channels {
    /// Makes an empty set of at most `limit` channels.
    pub fn new(limit: usize) -> Self {
        Self { open: Arc::default(), limit }
    }

    /// Returns the channel to `url`. When the set is full, the others are let go: requests on them go on, and the next
    /// one connects again.
    ///
    /// # Errors
    /// When `url` is no `http://host:port`.
    pub fn get(&self, url: &str) -> Result<Channel> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(url) {
            return Ok(channel.clone());
        }
        let channel = channel(url)?;
        if open.len() >= self.limit {
            open.clear();
        }
        open.insert(url.to_owned(), channel.clone());
        Ok(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_must_be_one() {
        for bad in ["", "localhost:1", "ftp://a:1", "http://"] {
            assert_eq!(channel(bad).unwrap_err().reason, "URL_INVALID", "{bad}");
        }
        assert!(channel("http://localhost:50051").is_ok());
    }

    #[tokio::test]
    async fn channels_are_bounded() {
        let channels = Channels::new(2);
        for port in 1..6 {
            channels.get(&format!("http://localhost:{port}")).unwrap();
            assert!(channels.open.lock().unwrap().len() <= 2);
        }
    }
}
