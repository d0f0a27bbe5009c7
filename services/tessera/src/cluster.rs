//! All three services in this process, talking gRPC over loopback. Holds no logic of theirs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tessera_rpc::{ServerError, ServerSettings, Tasks};
use tessera_tensor::DType;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::output::Progress;

/// How long requests in progress may take when the program ends.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a request and its images may take: a large model on a small machine is slow, and its only user is patient.
const TIME: Duration = Duration::from_secs(24 * 3600);

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) gateway: SocketAddr,
    pub(crate) vision: SocketAddr,
    pub(crate) language: SocketAddr,
}

impl Addresses {
    /// Loopback, on ports that the system chooses.
    pub(crate) fn any() -> Self {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self { gateway: any, vision: any, language: any }
    }

    /// Three ports in a row: gateway, vision worker, language worker.
    pub(crate) fn from(host: IpAddr, port: u16) -> Self {
        let at = |offset| SocketAddr::new(host, port + offset);
        Self { gateway: at(0), vision: at(1), language: at(2) }
    }
}

/// The running services.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Where they listen.
    pub(crate) addresses: Addresses,
    tasks: Tasks,
    services: Vec<JoinHandle<Result<(), ServerError>>>,
}

impl Cluster {
    /// Loads the checkpoint and starts the services. Ports are taken before anything is loaded.
    ///
    /// # Errors
    /// When a port is taken or the checkpoint cannot be used.
    pub(crate) async fn start(model: &Path, compute: DType, addresses: Addresses) -> anyhow::Result<Self> {
        let gateway_listener = bind(addresses.gateway).await?;
        let vision_listener = bind(addresses.vision).await?;
        let language_listener = bind(addresses.language).await?;
        let addresses = Addresses {
            gateway: gateway_listener.local_addr()?,
            vision: vision_listener.local_addr()?,
            language: language_listener.local_addr()?,
        };

        let server = ServerSettings { drain: DRAIN, ..ServerSettings::default() };
        let gateway = tessera_gateway::Settings {
            model: model.to_owned(),
            vision: vec![format!("http://{}", addresses.vision)],
            language: vec![format!("http://{}", addresses.language)],
            limits: tessera_gateway::LimitSettings { time: TIME, ..Default::default() },
            server,
            ..Default::default()
        };
        let vision = tessera_vision::Settings { model: model.to_owned(), compute, server, ..Default::default() };
        let language = tessera_language::Settings {
            model: model.to_owned(),
            compute,
            features: tessera_language::FeatureSettings { wait: TIME, ..Default::default() },
            server,
            ..Default::default()
        };
        // One after the other: each reads at the disk's speed, and the gateway finds a wrong checkpoint at once.
        let gateway = tessera_gateway::build(gateway).await?;
        let vision = tessera_vision::build(vision, shown("loading vision tower")).await?;
        let language = tessera_language::build(language, shown("loading language model")).await?;

        let tasks = Tasks::default();
        let services = vec![
            tasks.spawn(vision.run(vision_listener, tasks.stop().clone())),
            tasks.spawn(language.run(language_listener, tasks.stop().clone())),
            tasks.spawn(gateway.run(gateway_listener, tasks.stop().clone())),
        ];
        Ok(Self { addresses, tasks, services })
    }

    /// Drains and ends the services.
    ///
    /// # Errors
    /// What a service failed with.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.tasks.finish(DRAIN * 2).await;
        for service in self.services {
            service.await??;
        }
        Ok(())
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}; choose other ports with --port"))
}

/// A progress bar as the services report to it.
fn shown(what: &str) -> impl Fn(tessera_model::Progress) + Send + use<> {
    let bar = Arc::new(Progress::new(what));
    move |progress| bar.set(progress.done_bytes, progress.total_bytes)
}
