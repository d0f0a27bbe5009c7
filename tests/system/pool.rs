//! Language workers that can be lost: each on a runtime of its own, which ends as a process does, in the middle of everything.

use std::net::SocketAddr;
use std::time::Duration;

use tessera_api::language::Load;
use tessera_api::proto::language::v1::LoadRequest;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_language::Settings;
use tessera_rpc::client;
use tessera_testkit::family_dir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Between two tries to take a port that a worker may still hold, and between two looks.
const AGAIN: Duration = Duration::from_millis(5);
/// A sequence that nobody has for so long is over.
const WHILE: Duration = Duration::from_secs(1);

/// A language worker that can be lost.
pub(crate) struct Mortal {
    pub(crate) address: SocketAddr,
    settings: Settings,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    runtime: Option<Runtime>,
}

impl Mortal {
    /// Starts one that shuts down as fast as it can.
    pub(crate) async fn start(family: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { model: family_dir(family), ..Settings::default() };
        settings.drain.finish = 0.0;
        change(&mut settings);
        Self::start_at(([127, 0, 0, 1], 0).into(), settings).await
    }

    async fn start_at(address: SocketAddr, settings: Settings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, own) = (CancellationToken::new(), settings.clone());
        let (ready, serves) = oneshot::channel();
        let stopped = stop.clone();
        let serving = runtime.spawn(async move {
            let service = tessera_language::build(own, |_| {}).await.unwrap();
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            };
            ready.send(listener.local_addr().unwrap()).unwrap();
            service.run(listener, stopped).await.unwrap();
        });
        Self { address: serves.await.unwrap(), settings, stop, serving, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Loses it: its connections close in the middle of whatever they carry.
    pub(crate) fn kill(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn end(&mut self) {
        self.stop.cancel();
        (&mut self.serving).await.unwrap();
        self.kill();
    }

    /// Starts another one in its place.
    pub(crate) async fn replace(&mut self) {
        let (address, settings) = (self.address, self.settings.clone());
        self.kill();
        *self = Self::start_at(address, settings).await;
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Which of the workers at these URLs has a sequence; none when nobody has had one for a while.
pub(crate) async fn busy(urls: &[String]) -> Option<usize> {
    let looking = async {
        loop {
            for (index, url) in urls.iter().enumerate() {
                if load(url).await.is_some_and(|load| load.running + load.waiting > 0) {
                    return index;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(WHILE, looking).await.ok()
}

/// How busy a worker is; nothing while it is lost.
async fn load(url: &str) -> Option<Load> {
    let mut worker = LanguageWorkerClient::new(client::channel(url).unwrap());
    let mut reports = worker.load(LoadRequest { interval_milliseconds: 20 }).await.ok()?.into_inner();
    reports.message().await.ok()?.map(Load::from)
}
