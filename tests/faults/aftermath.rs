//! What must be true once everything is over and quiet: nothing is held any more, by nobody.

use std::time::{Duration, Instant, SystemTime};

use tessera_api::embedding::{KeyStatus, key_bytes};
use tessera_api::language::Load as Busy;
use tessera_api::proto::embedding::v1::StatRequest;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::language::v1::LoadRequest;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_embedding::ImageKey;
use tessera_rpc::client;

use crate::cluster::Cluster;
use crate::load::{LEASE, Load};
use crate::names::{Name, Role};

/// Whatever is still held by then is held for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// A lease whose end was told further from now than it could be was given by a clock that was off.
const ASTRAY: Duration = Duration::from_secs(60);
/// Keys that are asked about at a time.
const KEYS: usize = 500;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) wrong: Vec<String>,
    pub(crate) leases: usize,
    /// Leases that were given while the clock of their worker was off, and end by that clock.
    pub(crate) leases_astray: usize,
    pub(crate) blocks: usize,
}

/// Asks everybody what they still hold, then ends them all.
pub(crate) async fn look(cluster: &Cluster, load: &Load<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for gateway in 0..Role::Gateway.count() {
        found.wrong.extend(load.ask_everything(gateway).await);
    }
    for name in Role::Language.names() {
        let busy = quiet(cluster, name).await?;
        found.blocks += busy.total_blocks;
        if busy.running + busy.waiting > 0 || busy.free_blocks != busy.total_blocks {
            found.wrong.push(format!("{name} still holds something: {busy:?}"));
        }
    }
    let leases = load.leases.take();
    let now = SystemTime::now();
    let is_right = |until: SystemTime| until < now + ASTRAY && until > now - Duration::from_hours(24);
    let (right, astray): (Vec<_>, Vec<_>) = leases.into_iter().partition(|(_, until)| is_right(*until));
    (found.leases, found.leases_astray) = (right.len(), astray.len());
    tokio::time::sleep(LEASE + Duration::from_secs(2)).await;
    let keys: Vec<ImageKey> =
        right.iter().map(|(key, _)| *key).filter(|key| !astray.iter().any(|(a, _)| a == key)).collect();
    for name in Role::Vision.names() {
        found.wrong.extend(leased(cluster, name, &keys).await?);
    }
    for name in Role::ALL.into_iter().rev().flat_map(Role::names) {
        found.wrong.extend(end(cluster, name).await);
    }
    Ok(found)
}

/// How busy a language worker is, once it is not, or when it should not be any more.
async fn quiet(cluster: &Cluster, name: Name) -> anyhow::Result<Busy> {
    let mut worker = LanguageWorkerClient::new(client::channel(&format!("http://{}", cluster.network.listens(name)))?);
    let mut reports = worker.load(LoadRequest { interval_milliseconds: 100 }).await?.into_inner();
    let began = Instant::now();
    loop {
        let report = reports.message().await?.ok_or_else(|| anyhow::anyhow!("{name} makes no reports any more"))?;
        let busy = Busy::from(report);
        let is_idle = busy.running + busy.waiting == 0 && busy.free_blocks == busy.total_blocks;
        if is_idle || began.elapsed() > PATIENCE {
            return Ok(busy);
        }
    }
}

/// Which of these keys a vision worker still has leased.
async fn leased(cluster: &Cluster, name: Name, keys: &[ImageKey]) -> anyhow::Result<Vec<String>> {
    let mut store = EmbeddingStoreClient::new(client::channel(&format!("http://{}", cluster.network.listens(name)))?);
    let mut wrong = Vec::new();
    for keys in keys.chunks(KEYS) {
        for status in store.stat(StatRequest { keys: key_bytes(keys) }).await?.into_inner().keys {
            let KeyStatus { key, stored } = KeyStatus::try_from(status)?;
            if let Some(until) = stored.and_then(|stored| stored.leased_until) {
                wrong.push(format!("{name} still has {key} leased, until {until:?}"));
            }
        }
    }
    Ok(wrong)
}

/// Ends a process by SIGTERM, and reads what it has said: a gateway says in the end what is in flight.
async fn end(cluster: &Cluster, name: Name) -> Vec<String> {
    let mut process = cluster.process(name).await;
    let mut wrong: Vec<String> = process.end().await.err().into_iter().collect();
    let said = process.said();
    wrong.extend(said.lines().filter(|line| line.contains("panicked at")).map(|line| format!("{name}: {line}")));
    if name.role == Role::Gateway {
        let figures: Vec<&str> = said.lines().filter(|line| line.contains("pool is observed no more")).collect();
        // The last two are those of its two pools.
        let last = &figures[figures.len().saturating_sub(2)..];
        if last.len() < 2 || last.iter().any(|line| !has_nothing_in_flight(line)) {
            wrong.push(format!("{name} did not end with nothing in flight: {last:?}"));
        }
    }
    wrong
}

/// Whether every worker of a pool has nothing in flight, as its gateway logs it: `[("http://…", 0), …]`.
fn has_nothing_in_flight(line: &str) -> bool {
    let Some((_, listed)) = line.split_once("in_flight") else { return false };
    let mut counts = listed.split("http://").skip(1).map(|entry| {
        let count = entry.split_once(", ").map_or("", |(_, rest)| rest);
        count.chars().take_while(char::is_ascii_digit).collect::<String>()
    });
    counts.all(|count| count == "0") && listed.contains("http://")
}
