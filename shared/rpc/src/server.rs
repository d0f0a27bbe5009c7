//! One gRPC server: the service's routes, health and reflection on one port, and an orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_config::{Problems, Validate, duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes, Service, StdError, http};
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::util::MapResponseLayer;

use tessera_api::proto::DESCRIPTORS;

use crate::files::FileError;
use crate::tls::ServerTls;

const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// HTTP/2 flow control: an upload may have this many bytes on the way.
const WINDOW_BYTES: u32 = 4 << 20;

/// Bounds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Requests that one connection may have open.
    pub streams_per_connection: u32,
    /// How long requests in progress may take once the service was told to stop.
    #[serde(with = "duration")]
    pub drain: Duration,
    /// A second address, without TLS, where nothing is served but health: for probes that have no certificate.
    pub health_listen: Option<SocketAddr>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { streams_per_connection: 1024, drain: Duration::from_secs(30), health_listen: None }
    }
}

impl Validate for ServerSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.streams_per_connection == 0 {
            problems.add("streams_per_connection", "must be at least 1");
        }
    }
}

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The contract's descriptors could not be read.
    #[error("the reflection service could not be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The network failed.
    #[error("the server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Certificates or keys are missing or wrong.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The port is taken, or not ours to take.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system does not let signals be handled.
    #[error("signals cannot be handled: {0}")]
    Signal(std::io::Error),
}

/// A server that is being put together.
#[derive(Debug)]
pub struct Server {
    settings: ServerSettings,
    tls: Option<ServerTls>,
    routes: RoutesBuilder,
    /// Of the second address.
    probes: Routes,
    health: HealthReporter,
    /// Service names that health answers for; "" is the server as a whole.
    names: Vec<&'static str>,
}

impl Server {
    /// Makes a server with health and reflection.
    ///
    /// # Errors
    /// [`ServerError::Reflection`] when the contract's descriptors are broken.
    pub fn new(settings: ServerSettings) -> Result<Self, ServerError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut routes = Routes::builder();
        let probes = Routes::new(health_service.clone());
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        Ok(Self { settings, tls: None, routes, probes, health, names: vec![""] })
    }

    /// The bounds.
    pub(crate) fn settings(&self) -> ServerSettings {
        self.settings
    }

    /// Lets only those in who speak TLS.
    #[must_use]
    pub fn secure(mut self, tls: Option<ServerTls>) -> Self {
        self.tls = tls;
        self
    }

    /// Adds a service.
    #[must_use]
    pub fn with<S, B>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible, Future: Send>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        B: HttpBody<Data = Bytes, Error: Into<StdError>> + Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// Serves until `stop` is given, then lets requests in progress end for the time that the settings grant.
    ///
    /// # Errors
    /// [`ServerError::Transport`] when the network fails, [`ServerError::Listen`] when the port for probes is not ours.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<(), ServerError> {
        let Self { settings, tls, routes, probes, health, names } = self;
        let answering = answer_probes(settings.health_listen, probes).await?;
        for &name in &names {
            health.set_service_status(name, ServingStatus::Serving).await;
        }
        tracing::info!(services = ?names, tls = tls.is_some(), "serving");
        // Nagle's algorithm would hold every small message back for tens of milliseconds.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let router = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * 4)
            .max_concurrent_streams(settings.streams_per_connection)
            .layer(MapResponseLayer::new(tessera_api::explain))
            .add_routes(routes.routes());
        let stopped = stop.clone().cancelled_owned();
        let serving = async {
            match tls {
                Some(tls) => router.serve_with_incoming_shutdown(tls.accept(incoming), stopped).await,
                None => router.serve_with_incoming_shutdown(incoming, stopped).await,
            }
        };
        let drained = async {
            stop.cancelled().await;
            end_health(health, &names).await;
            tokio::time::sleep(settings.drain).await;
        };
        tokio::select! {
            served = serving => Ok(served?),
            failed = answering => Err(failed.into()),
            () = drained => {
                tracing::warn!(drain = ?settings.drain, "requests were still in progress when the time to drain was over");
                Ok(())
            }
        }
    }
}

/// Serves health alone, without TLS, at a second address if there is one. What is returned ends only when it fails.
///
/// # Errors
/// When the address is taken.
async fn answer_probes(
    address: Option<SocketAddr>,
    probes: Routes,
) -> Result<impl Future<Output = tonic::transport::Error>, ServerError> {
    let listener = match address {
        Some(address) => Some(crate::service::listen(address).await?),
        None => None,
    };
    Ok(async move {
        let Some(listener) = listener else { return std::future::pending().await };
        let serving = tonic::transport::Server::builder().add_routes(probes);
        match serving.serve_with_incoming(TcpIncoming::from(listener)).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    })
}

/// Tells watchers that the services stop, then ends their streams: an open watch would keep its connection for ever.
async fn end_health(mut health: HealthReporter, names: &[&'static str]) {
    for &name in names {
        health.set_service_status(name, ServingStatus::NotServing).await;
    }
    tokio::task::yield_now().await;
    for &name in names {
        health.clear_service_status(name).await;
    }
}
