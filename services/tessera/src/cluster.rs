//! The services in this process, talking gRPC over loopback. Holds no logic of theirs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tessera_gateway::{HttpSettings, UrlSettings};
use tessera_rpc::{ServerError, ServerSettings, Tasks};
use tessera_vision::StoreSettings;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::cli::MachineFlags;
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
    /// Without it no language worker is started: images can be encoded, and nothing can be asked.
    pub(crate) language: Option<SocketAddr>,
}

impl Addresses {
    /// Loopback, on ports that the system chooses.
    pub(crate) fn any() -> Self {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self { gateway: any, vision: any, language: Some(any) }
    }

    /// The same, of a gateway and a vision worker only.
    pub(crate) fn without_language() -> Self {
        Self { language: None, ..Self::any() }
    }

    /// Three ports in a row: gateway, vision worker, language worker.
    pub(crate) fn from(host: IpAddr, port: u16) -> Self {
        let at = |offset| SocketAddr::new(host, port + offset);
        Self { gateway: at(0), vision: at(1), language: Some(at(2)) }
    }
}

/// What the services are told besides where and what they are.
#[derive(Clone, Debug)]
pub(crate) struct ClusterSettings {
    /// Where encoded images are kept.
    pub(crate) store: StoreSettings,
    /// Which images the gateway fetches.
    pub(crate) urls: UrlSettings,
    /// What it serves over HTTP.
    pub(crate) http: HttpSettings,
    /// What clients call the model; its folder's name if this is empty.
    pub(crate) model_name: String,
}

impl From<StoreSettings> for ClusterSettings {
    fn from(store: StoreSettings) -> Self {
        Self { store, urls: UrlSettings::default(), http: HttpSettings::default(), model_name: String::new() }
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
    /// When a port is taken, or the checkpoint or the device cannot be used.
    pub(crate) async fn start(
        model: &Path,
        machine: &MachineFlags,
        settings: ClusterSettings,
        addresses: Addresses,
    ) -> anyhow::Result<Self> {
        let gateway_listener = bind(addresses.gateway).await?;
        let vision_listener = bind(addresses.vision).await?;
        let language_listener = match addresses.language {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let addresses = Addresses {
            gateway: gateway_listener.local_addr()?,
            vision: vision_listener.local_addr()?,
            language: language_listener.as_ref().map(TcpListener::local_addr).transpose()?,
        };

        let server = ServerSettings { drain: DRAIN, ..ServerSettings::default() };
        let gateway = tessera_gateway::Settings {
            model: model.to_owned(),
            model_name: settings.model_name,
            vision: vec![format!("http://{}", addresses.vision)],
            language: addresses.language.iter().map(|address| format!("http://{address}")).collect(),
            limits: tessera_gateway::LimitSettings { time: TIME, ..Default::default() },
            urls: settings.urls,
            http: settings.http,
            server,
            ..Default::default()
        };
        let compute = machine.compute;
        let vision = tessera_vision::Settings {
            model: model.to_owned(),
            device: machine.first_device(),
            compute,
            store: settings.store,
            server,
            ..Default::default()
        };
        let language = tessera_language::Settings {
            model: model.to_owned(),
            device: machine.device.clone(),
            compute,
            features: tessera_language::FeatureSettings { wait: TIME, ..Default::default() },
            server,
            ..Default::default()
        };
        // One after the other: each reads at the disk's speed, and the gateway finds a wrong checkpoint at once.
        let gateway = tessera_gateway::build(gateway).await?;
        let vision = tessera_vision::build(vision, shown("loading vision tower")).await?;
        let language = match language_listener {
            Some(listener) => {
                Some((tessera_language::build(language, shown("loading language model")).await?, listener))
            }
            None => None,
        };

        let tasks = Tasks::default();
        let mut services = vec![tasks.spawn(vision.run(vision_listener, tasks.stop().clone()))];
        services.extend(language.map(|(language, listener)| tasks.spawn(language.run(listener, tasks.stop().clone()))));
        services.push(tasks.spawn(gateway.run(gateway_listener, tasks.stop().clone())));
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
    let bar = Arc::new(Progress::of_bytes(what));
    move |progress| bar.set(progress.done_bytes, progress.total_bytes)
}
