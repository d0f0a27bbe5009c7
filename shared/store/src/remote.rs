//! The tier that all workers share: a server that keeps artifacts by key.
//!
//! [`connect`] makes a [`Remote`] from a URL; a [`Breaker`] around it bounds the time and the number of its operations and
//! stops asking a server that is away. Nothing here is trusted or needed: a server comes and goes, and whoever reads an
//! artifact checks it.

mod breaker;
mod objects;
mod options;
mod redis;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tessera_embedding::ImageKey;

pub use breaker::{Breaker, BreakerOptions, BreakerState, BreakerStatus};
pub use options::{Credentials, RemoteOptions};

use options::Address;

/// Why a server of the shared tier did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The options name no server.
    #[error("{0}")]
    Options(String),
    /// The server cannot be reached, or it broke off.
    #[error("shared store is away: {0}")]
    Away(#[source] Box<dyn Error + Send + Sync>),
    /// The server took too long.
    #[error("shared store did not answer within {0:?}")]
    Slow(Duration),
    /// The server answered with an error: no permission, no such bucket, still loading.
    #[error("shared store refused: {0}")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// The server has no room, and none could be made.
    #[error("shared store is full: {0}")]
    Full(String),
    /// An artifact is empty or larger than any can be.
    #[error("artifact of {bytes} bytes, the shared store holds 1 to {limit}")]
    Size {
        /// Its size, or the least that is known of it.
        bytes: u64,
        /// The largest that is kept or read.
        limit: u64,
    },
    /// The key holds something that is no artifact.
    #[error("shared store holds something else under {0}")]
    Foreign(ImageKey),
    /// What the server holds is not counted yet, so nothing may be added.
    #[error("shared store is still being counted")]
    Counting,
    /// The breaker is open: the server failed lately and is asked again after this time.
    #[error("shared store is taken to be away, asked again in {0:?}")]
    Open(Duration),
    /// Every place was taken for as long as an operation may last.
    #[error("all {0} places at the shared store are taken")]
    Busy(usize),
}

impl RemoteError {
    /// Whether the server, not what it was asked, is at fault: enough of these in a row open a [`Breaker`].
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Slow(_) | Self::Refused(_))
    }
}

/// A server of the shared tier. It is never trusted: whoever reads an artifact checks it.
pub trait Remote: Send + Sync + 'static {
    /// The artifact of a key, or nothing.
    fn get<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<Option<Bytes>, RemoteError>>;
    /// Keeps an artifact.
    fn put<'a>(&'a self, key: &'a ImageKey, artifact: Bytes) -> BoxFuture<'a, Result<(), RemoteError>>;
    /// Forgets a key; tells whether it was there.
    fn delete<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<bool, RemoteError>>;
}

/// Makes a client of the server that the options name. The server need not be there; it is first asked when it is
/// needed. Put a [`Breaker`] around the client: by itself it bounds sizes, but not how many operations run at once.
///
/// | URL | server | who goes first when the budget is used up |
/// |---|---|---|
/// | `redis://[[user]:password@]host[:port][/database]`, `rediss://` with TLS | Redis 5 or later, Valkey | least recently used by anybody |
/// | `s3://bucket[/prefix]` | S3 or what speaks it, at `endpoint` | least recently written, or read by this worker |
/// | `file:///folder` | a folder that the machines share | least recently written, or read by this worker |
///
/// # Errors
/// [`RemoteError::Options`] when the options name no server or contradict one another.
pub fn connect(options: &RemoteOptions) -> Result<Arc<dyn Remote>, RemoteError> {
    // Both clients take the process's library of ciphers; if it was chosen already, that one will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(match options.address()? {
        Address::Redis(url) => Arc::new(redis::Redis::new(&url, options)?),
        Address::S3 { bucket, prefix } => Arc::new(objects::Objects::s3(&bucket, &prefix, options)?),
        Address::Folder(path) => Arc::new(objects::Objects::folder(&path, options)?),
    })
}

/// Refuses an artifact that is empty, or larger than the limit.
fn check_size(bytes: u64, limit: u64) -> Result<(), RemoteError> {
    if (1..=limit).contains(&bytes) { Ok(()) } else { Err(RemoteError::Size { bytes, limit }) }
}
