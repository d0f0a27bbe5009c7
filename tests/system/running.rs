//! One service on a loopback port of this process.

use std::future::Future;
use std::net::SocketAddr;

use tessera_rpc::{ServerError, Tasks, client};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// One service that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    serving: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    /// Runs a service on a port that the system chooses.
    pub(crate) async fn start<F>(run: impl FnOnce(TcpListener, CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), ServerError>> + Send + 'static,
    {
        Self::start_at(([127, 0, 0, 1], 0).into(), run).await
    }

    /// Runs it on this port.
    pub(crate) async fn start_at<F>(address: SocketAddr, run: impl FnOnce(TcpListener, CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), ServerError>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = Tasks::default().spawn(run(listener, stop.clone()));
        Self { address, stop, serving }
    }

    /// Where others reach it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A connection to it.
    pub(crate) fn channel(&self) -> Channel {
        client::channel(&self.url()).unwrap()
    }

    /// Waits until it has ended, which it must do without an error.
    pub(crate) async fn ended(&mut self) {
        (&mut self.serving).await.unwrap().unwrap();
    }
}
