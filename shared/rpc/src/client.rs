//! Channels to other services.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tessera_api::{Error, ErrorKind, Result};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::tls::ClientTls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// HTTP/2 flow control: a stream of features may have this many bytes on the way.
const WINDOW_BYTES: u32 = 4 << 20;
/// The scheme of URLs that are connected to by TLS.
const SECURE: &str = "https";

/// Makes a channel that connects when it is first used and again when it is lost. To `https://` URLs it connects by TLS, and
/// believes the authorities that the system does.
///
/// # Errors
/// When `url` is neither `http://host:port` nor `https://host:port`.
pub fn channel(url: &str) -> Result<Channel> {
    channel_with(url, &ClientTls::default())
}

/// The same, with TLS as it is set.
///
/// # Errors
/// When `url` is neither `http://host:port` nor `https://host:port`.
pub fn channel_with(url: &str, tls: &ClientTls) -> Result<Channel> {
    Ok(channel_of(&endpoint(url)?, tls))
}

/// The same, of an endpoint, some of whose settings may be the caller's own.
pub fn channel_of(endpoint: &Endpoint, tls: &ClientTls) -> Channel {
    if endpoint.uri().scheme_str() != Some(SECURE) {
        return endpoint.connect_lazy();
    }
    let tls = tls.clone();
    let connect = move |uri| {
        let tls = tls.clone();
        async move { tls.connect(uri).await }
    };
    endpoint.connect_with_connector_lazy(service_fn(connect))
}

/// Makes what a channel is made of: the address with the settings of every connection. For callers that have a network
/// of their own, as simulations do.
///
/// # Errors
/// When `url` is neither `http://host:port` nor `https://host:port`.
pub fn endpoint(url: &str) -> Result<Endpoint> {
    let invalid = |why: String| {
        let message = format!("{url:?} is no address: {why}; use http://HOST:PORT or https://HOST:PORT");
        Error::new(ErrorKind::Invalid, "URL_INVALID", message).with("url", url)
    };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| invalid(error.to_string()))?;
    let is_known = matches!(endpoint.uri().scheme_str(), Some("http" | SECURE));
    if !is_known || endpoint.uri().authority().is_none() {
        return Err(invalid("it needs http:// or https:// and a host".into()));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4))
}

/// Channels by URL, so that requests to one service share a connection.
#[derive(Clone, Debug)]
pub struct Channels {
    open: Arc<Mutex<HashMap<String, Channel>>>,
    limit: usize,
    tls: ClientTls,
}

impl Channels {
    /// Makes an empty set of at most `limit` channels.
    pub fn new(limit: usize, tls: ClientTls) -> Self {
        Self { open: Arc::default(), limit, tls }
    }

    /// Returns the channel to `url`. When the set is full, the others are let go: requests on them go on, and the next
    /// one connects again.
    ///
    /// # Errors
    /// When `url` is neither `http://host:port` nor `https://host:port`.
    pub fn get(&self, url: &str) -> Result<Channel> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(url) {
            return Ok(channel.clone());
        }
        let channel = channel_with(url, &self.tls)?;
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
        for bad in ["", "localhost:1", "ftp://a:1", "http://", "https://"] {
            assert_eq!(channel(bad).unwrap_err().reason, "URL_INVALID", "{bad}");
        }
        for good in ["http://localhost:50051", "https://localhost:50051"] {
            assert!(channel(good).is_ok(), "{good}");
        }
    }

    #[tokio::test]
    async fn channels_are_bounded() {
        let channels = Channels::new(2, ClientTls::default());
        for port in 1..6 {
            channels.get(&format!("http://localhost:{port}")).unwrap();
            assert!(channels.open.lock().unwrap().len() <= 2);
        }
    }
}
