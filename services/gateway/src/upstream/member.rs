//! One worker of a pool, as calls and tasks hold it.

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::ClientTls;
#[cfg(not(test))]
use tessera_rpc::client::channel_with;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use super::failure;
#[cfg(test)]
use crate::tests::network::channel_with;

/// What tells the two pools apart.
pub(super) trait Kind: Debug + Send + Sync + Sized + 'static {
    /// How the pool is called.
    const POOL: &'static str;
    /// What a worker says of itself.
    type Description: Clone + Debug + Send + Sync;
    /// What all workers of a pool must have in common.
    type Model: Clone + Debug + Display + PartialEq + Send + Sync;
    /// What the gateway remembers of a worker in order to give out work.
    type Notes: Debug + Default + Send + Sync;
    /// What a worker reports of its load.
    type Load: Clone + Debug + Send + Sync;

    /// What the worker runs.
    fn model(description: &Self::Description) -> Self::Model;
    /// The worker's version.
    fn version(description: &Self::Description) -> &str;
    /// What the worker reported last, if it makes reports.
    fn load(notes: &Self::Notes) -> Option<Self::Load>;
}

/// A worker that is listed, whatever its state.
#[derive(Debug)]
pub(super) struct Member<K: Kind> {
    pub(super) url: Arc<str>,
    /// Connects when it is first used, and again when it is lost.
    pub(super) channel: Channel,
    pub(super) notes: K::Notes,
    /// Calls that it has from this gateway.
    in_flight: AtomicUsize,
    /// Asks its task to try it now instead of later.
    pub(super) poke: Notify,
    /// Asks its task to ask again what it is.
    pub(super) doubt: Notify,
    /// Tells that it said nothing for so long that whoever waits for it waits in vain.
    silence: watch::Sender<()>,
    /// It is listed no more.
    pub(super) gone: CancellationToken,
}

/// The silence of a worker that somebody waits for.
#[derive(Debug)]
pub(super) struct Silence(watch::Receiver<()>);

/// A call that a worker has; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct InFlight<K: Kind>(pub(super) Arc<Member<K>>);

impl<K: Kind> Member<K> {
    /// Makes a worker of which only the URL is known, to be called by way of `tls`.
    ///
    /// # Errors
    /// When the URL is none.
    pub(super) fn new(url: Arc<str>, tls: &ClientTls) -> Result<Arc<Self>> {
        let channel = channel_with(&url, tls)?;
        let (poke, doubt, gone) = (Notify::new(), Notify::new(), CancellationToken::new());
        Ok(Arc::new(Self {
            url,
            channel,
            notes: K::Notes::default(),
            in_flight: AtomicUsize::new(0),
            poke,
            doubt,
            silence: watch::Sender::new(()),
            gone,
        }))
    }

    /// Counts a call until it is over.
    pub(super) fn call(self: &Arc<Self>) -> InFlight<K> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Waits for what a call comes to, but not for a worker that falls silent: its machine may be gone, or the way to it, and
    /// the connection would not say so for most of a minute.
    pub(super) async fn answer<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T> {
        self.silence().unless(call).await
    }

    /// The silence that may come from now on.
    pub(super) fn silence(&self) -> Silence {
        Silence(self.silence.subscribe())
    }

    /// Ends all calls that wait for it: it has said nothing for too long.
    pub(super) fn fall_silent(&self) {
        self.silence.send_replace(());
    }

    /// How many calls it has from this gateway.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl Silence {
    /// Waits for something of the worker, unless it falls silent, or did since this was made.
    pub(super) async fn unless<T>(&mut self, call: impl Future<Output = Result<T, Status>>) -> Result<T> {
        let silent = || Error::new(ErrorKind::Unavailable, "UNREACHABLE", "it has said nothing for too long");
        tokio::select! {
            biased;
            answered = call => answered.map_err(failure),
            Ok(()) = self.0.changed() => Err(silent()),
        }
    }
}

impl<K: Kind> Drop for InFlight<K> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
