//! One server: the service's routes, health, reflection and, if there are any, routes of HTTP on one port, and an orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_config::{Problems, Validate, duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::{Body as HttpBody, Bytes, Service, StdError, http};
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::Builder;
use tower::util::MapResponseLayer;

use tessera_api::proto::DESCRIPTORS;
use tessera_api::{ERROR_DETAILS, Error, ErrorKind};

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
    /// Of HTTP without gRPC.
    http: Option<axum::Router>,
    /// Of the second address.
    probes: Routes,
    health: HealthReporter,
    /// Service names that health answers for; "" is the server as a whole.
    names: Vec<&'static str>,
}

impl Server {
    /// Makes a server with health and reflection.
    pub fn new(settings: ServerSettings) -> Self {
        let (health, health_service) = tonic_health::server::health_reporter();
        let health_service = health_service.accept_compressed(Gzip).send_compressed(Gzip);
        let mut routes = Routes::builder();
        let probes = Routes::new(health_service.clone());
        routes.add_service(health_service);
        Self { settings, tls: None, routes, http: None, probes, health, names: vec![""] }
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

    /// Serves HTTP/1.1 and HTTP/2 without gRPC, too. What neither has is answered in the asker's own terms.
    #[must_use]
    pub fn with_http(mut self, routes: axum::Router) -> Self {
        self.http = Some(routes);
        self
    }

    /// Serves until `stop` is given, then lets requests in progress end for the time that the settings grant.
    ///
    /// # Errors
    /// [`ServerError::Transport`] when the network fails, [`ServerError::Listen`] when the port for probes is not ours,
    /// [`ServerError::Reflection`] when the contract's descriptors are broken.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<(), ServerError> {
        let Self { settings, tls, mut routes, http, probes, health, names } = self;
        reflect(&mut routes, &names)?;
        let has_http = http.is_some();
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
            .accept_http1(has_http)
            .add_routes(together(routes.routes(), http));
        let stopped = stop.clone().cancelled_owned();
        let serving = async {
            match tls {
                Some(tls) => router.serve_with_incoming_shutdown(tls.accept(incoming, has_http), stopped).await,
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

/// Tells clients what is served here, and of which messages: not of what the contract has besides.
fn reflect(routes: &mut RoutesBuilder, names: &[&'static str]) -> Result<(), ServerError> {
    let own = [health_server::SERVICE_NAME, v1::server_reflection_server::SERVICE_NAME];
    let own = own.into_iter().chain([v1alpha::server_reflection_server::SERVICE_NAME]);
    let named: Vec<_> = names.iter().copied().filter(|name| !name.is_empty()).chain(own).collect();
    let builder = || {
        let descriptors = [
            DESCRIPTORS,
            ERROR_DETAILS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            v1::FILE_DESCRIPTOR_SET,
            v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let builder = descriptors.into_iter().fold(Builder::configure(), Builder::register_encoded_file_descriptor_set);
        named.iter().fold(builder, |builder, name| builder.with_service_name(*name))
    };
    routes
        .add_service(builder().build_v1()?.accept_compressed(Gzip).send_compressed(Gzip))
        .add_service(builder().build_v1alpha()?.accept_compressed(Gzip).send_compressed(Gzip));
    Ok(())
}

/// Routes of gRPC and of HTTP.
fn together(grpc: Routes, http: Option<axum::Router>) -> Routes {
    match http {
        Some(http) => grpc.into_axum_router().merge(http).fallback(unknown).into(),
        None => grpc,
    }
}

/// What nobody serves: a method for those who speak gRPC, a page for the others.
async fn unknown(request: http::Request<axum::body::Body>) -> http::Response<Body> {
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let message = format!("nothing is served at {}", request.uri().path());
        return Status::from(Error::new(ErrorKind::Unsupported, "METHOD_UNKNOWN", message)).into_http();
    }
    let text = format!("nothing is served at {}\n", request.uri().path());
    let mut response = http::Response::new(Body::new(text));
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
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
