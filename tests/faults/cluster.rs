//! The cluster: its processes with their settings, the network between them, and what else can break.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tessera_rpc::client;
use tessera_testkit::family_dir;
use tokio::sync::{Mutex, MutexGuard};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::clocks::Clocks;
use crate::disks::Disks;
use crate::names::{Name, Role};
use crate::network::Network;
use crate::process::Process;

/// The checkpoint of the cluster, and one whose decoder is as large in every respect. Its tower is the same: a vision worker is
/// another one by how it resizes.
const MODEL: &str = "mistral";
const OTHER: &str = "vicuna";
/// Requests that a gateway takes at once. There are never more by far than the clients send: a place that were not given back
/// would soon be missed.
const PLACES: usize = 48;
/// Whoever does not serve by then will not.
const PATIENCE: Duration = Duration::from_secs(60);
const REDIS_PORT: u16 = 6379;

/// Which checkpoint a worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    Right,
    Other,
}

/// All processes.
pub(crate) struct Cluster {
    // First, so that they are gone before what they use.
    processes: BTreeMap<Name, Mutex<Process>>,
    redis: Mutex<Process>,
    pub(crate) network: Network,
    pub(crate) disks: Disks,
    pub(crate) clocks: Clocks,
    folder: PathBuf,
    /// Faults of each gateway that last: its clients may see it break off then.
    troubles: [AtomicUsize; 2],
    /// Faults that leave no language worker: then a gateway may refuse who begins.
    outages: AtomicUsize,
}

impl Cluster {
    /// Starts everything and waits until all serve.
    pub(crate) async fn start(folder: &Path, network: Network) -> anyhow::Result<Self> {
        let names = || Role::ALL.into_iter().flat_map(Role::names);
        let process = |name: Name| Process::new(name.to_string(), folder.join(format!("{name}.log")));
        let cluster = Self {
            network,
            disks: Disks::make(folder, Role::Vision.count()),
            clocks: Clocks::new(folder),
            folder: folder.to_owned(),
            processes: names().map(|name| (name, Mutex::new(process(name)))).collect(),
            redis: Mutex::new(Process::new("redis-server", folder.join("redis.log"))),
            troubles: Default::default(),
            outages: AtomicUsize::new(0),
        };
        cluster.start_redis().await;
        for name in names() {
            cluster.begin(name, Model::Right).await?;
        }
        for name in names() {
            cluster.serves(name).await?;
        }
        Ok(cluster)
    }

    pub(crate) async fn process(&self, name: Name) -> MutexGuard<'_, Process> {
        self.processes[&name].lock().await
    }

    /// Starts a process that is dead.
    pub(crate) async fn begin(&self, name: Name, model: Model) -> anyhow::Result<()> {
        let file = self.folder.join(format!("{name}-{model:?}.toml").to_lowercase());
        std::fs::write(&file, self.settings(name, model))?;
        let mut command = self.network.command(name, &std::env::current_exe()?);
        command.args(["--serve", name.role.word(), "--settings"]).arg(&file);
        if name.role == Role::Vision {
            self.clocks.give(name.number, &mut command);
        }
        let mut process = self.process(name).await;
        process.start(command);
        if let Some(id) = process.id() {
            self.network.note(name, id);
            if name.role == Role::Vision {
                self.clocks.note(id);
            }
        }
        Ok(())
    }

    /// Waits until a process serves.
    pub(crate) async fn serves(&self, name: Name) -> anyhow::Result<()> {
        let mut health = HealthClient::new(client::channel(&format!("http://{}", self.network.listens(name)))?);
        let began = Instant::now();
        loop {
            let checking = tokio::time::timeout(Duration::from_secs(1), health.check(HealthCheckRequest::default()));
            if let Ok(Ok(answer)) = checking.await
                && answer.into_inner().status == i32::from(ServingStatus::Serving)
            {
                return Ok(());
            }
            let ended = self.process(name).await.has_ended();
            if ended.is_some() || began.elapsed() > PATIENCE {
                let said = self.process(name).await.said();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                anyhow::bail!("{name} does not serve ({ended:?}): {last:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts the shared store, which has kept what it was told to keep.
    pub(crate) async fn start_redis(&self) {
        let mut command = Command::new("redis-server");
        let (host, port) = (self.network.host().to_string(), REDIS_PORT.to_string());
        command.args(["--bind", &host, "--port", &port, "--save", "", "--appendonly", "yes", "--protected-mode", "no"]);
        command.arg("--dir").arg(&self.folder);
        self.redis.lock().await.start(command);
    }

    pub(crate) async fn kill_redis(&self) {
        self.redis.lock().await.kill();
    }

    /// Says that a gateway is in trouble from now on; or that one trouble of it is over.
    pub(crate) fn trouble(&self, gateway: usize, begins: bool) {
        count(&self.troubles[gateway], begins);
    }

    pub(crate) fn is_in_trouble(&self, gateway: usize) -> bool {
        self.troubles[gateway].load(Ordering::Relaxed) > 0
    }

    /// Says that no language worker is left from now on, or that this is over.
    pub(crate) fn outage(&self, begins: bool) {
        count(&self.outages, begins);
    }

    pub(crate) fn has_no_language_worker(&self) -> bool {
        self.outages.load(Ordering::Relaxed) > 0
    }

    /// What a process is told.
    fn settings(&self, name: Name, model: Model) -> String {
        let folder = family_dir(if model == Model::Right { MODEL } else { OTHER });
        let common = format!("listen = \"{}\"\nmodel = {folder:?}\n", self.network.listens(name));
        let resizer = if model == Model::Right { "torchvision" } else { "pillow" };
        let urls = |role: Role| role.names().map(|name| self.network.url(name)).collect::<Vec<_>>();
        let rest = match name.role {
            Role::Gateway => format!(
                "vision = {:?}\nlanguage = {:?}\n[limits]\nrequests = {PLACES}\ncontinuations = 40\n[server]\ndrain = \"3s\"\n",
                urls(Role::Vision),
                urls(Role::Language)
            ),
            // Little memory, so that the other tiers are read, too.
            Role::Vision => format!(
                "device = \"cpu\"\n[image]\nresizer = \"{resizer}\"\n[store]\nmemory = \"1MiB\"\n[store.disk]\nfolder = {:?}\nsize = \"4MiB\"\n\
                 [store.shared]\nurl = \"redis://{}:{REDIS_PORT}\"\nsize = \"16MiB\"\ntimeout = \"500ms\"\n\
                 [server]\ndrain = \"3s\"\n",
                self.disks.folder(name.number),
                self.network.host()
            ),
            // A cache that does not hold all that is asked, and hardly any features: they are pulled again and again.
            Role::Language => "device = \"cpu\"\n[engine]\nkv_cache = \"16MiB\"\n[features]\ncache = \"256KiB\"\n\
                 [drain]\nfinish = 0.3\n[server]\ndrain = \"3s\"\n"
                .to_owned(),
        };
        common + &rest
    }
}

fn count(counter: &AtomicUsize, begins: bool) {
    if begins {
        counter.fetch_add(1, Ordering::Relaxed);
    } else {
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}
