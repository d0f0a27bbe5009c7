//! A service put together: its server, its tasks, and the thread that owns its device.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::server::{Server, ServerError};
use crate::tasks::{Tasks, interrupted};

/// A service that is ready to serve.
#[derive(Debug)]
pub struct Service {
    server: Server,
    tasks: Tasks,
    device: Option<JoinHandle<()>>,
}

impl Service {
    /// Puts a service together. `device` is the thread that ends once nothing that the server or a task holds can reach
    /// it any more.
    pub fn new(server: Server, tasks: Tasks, device: Option<JoinHandle<()>>) -> Self {
        Self { server, tasks, device }
    }

    /// Serves until `stop` is given, then drains: requests, tasks, device.
    ///
    /// # Errors
    /// [`ServerError`] when the network fails.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> Result<(), ServerError> {
        let Self { server, tasks, device } = self;
        let drain = server.settings().drain;
        let (draining, stopping) = (tasks.draining().clone(), stop.clone());
        tasks.spawn(async move {
            if draining.run_until_cancelled(stopping.cancelled()).await.is_some() {
                draining.cancel();
            }
        });
        let served = server.serve(listener, stop).await;
        tasks.draining().cancel();
        // The thread ends when the last one who could ask it is gone; it is waited for like a task.
        let device = device.map(|thread| tasks.spawn_blocking(move || thread.join()));
        if !tasks.finish(drain).await {
            tracing::warn!(?drain, "tasks were still running when the time to drain was over");
        } else if let Some(device) = device
            && let Ok(Err(_)) = device.await
        {
            tracing::error!("the device's thread ended in a panic");
        }
        served
    }

    /// Serves until the program is interrupted, then drains.
    ///
    /// # Errors
    /// [`ServerError`] when the network fails or signals cannot be handled.
    pub async fn run_until_interrupted(self, listener: TcpListener) -> Result<(), ServerError> {
        let stop = CancellationToken::new();
        let serving = self.run(listener, stop.clone());
        tokio::pin!(serving);
        tokio::select! {
            // First, so that a signal is handled from the moment on at which the service serves.
            biased;
            signal = interrupted() => {
                signal.map_err(ServerError::Signal)?;
                tracing::info!("draining");
                stop.cancel();
                serving.await
            }
            served = &mut serving => served,
        }
    }
}

/// Takes a port.
///
/// # Errors
/// [`ServerError::Listen`] names the address.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "listening");
    Ok(listener)
}
