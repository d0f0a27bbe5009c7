//! A fault as it happens: what is done to the cluster, and what makes it well again.

use std::time::{Duration, Instant, SystemTime};

use crate::clocks;
use crate::cluster::{Cluster, Model};
use crate::names::{Name, Role};
use crate::schedule::{Fault, What};

/// Clients may see of a gateway's trouble for so long after it.
const AFTER: Duration = Duration::from_secs(1);
/// A gateway must have noticed another model by then.
const HEARD: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(200);
/// What a gateway logs of a worker with another model.
const KEPT_OUT: [&str; 2] = ["worker runs another model and is kept out", "MODEL_MISMATCH"];

/// A fault that happened.
#[derive(Debug)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    pub(crate) began: Instant,
    /// Whatever was hit serves again, or the link is well.
    pub(crate) healed: Instant,
    /// What should have been otherwise.
    pub(crate) wrong: Vec<String>,
}

/// Has a fault happen and waits until it is over.
pub(crate) async fn strike(cluster: &Cluster, fault: Fault, told: impl Fn(&str)) -> anyhow::Result<Struck> {
    let (began, mut wrong) = (Instant::now(), Vec::new());
    told(&format!("{} for {:.1} s", fault.what, fault.lasts.as_secs_f64()));
    let troubled: Vec<usize> =
        fault.what.hits().iter().filter(|name| name.role == Role::Gateway).map(|name| name.number).collect();
    troubled.iter().for_each(|&gateway| cluster.trouble(gateway, true));
    match fault.what {
        What::Kill(name) => {
            cluster.process(name).await.kill();
            tokio::time::sleep(fault.lasts).await;
            start(cluster, name, Model::Right).await?;
        }
        What::Freeze(name) => {
            cluster.process(name).await.signal("STOP");
            tokio::time::sleep(fault.lasts).await;
            cluster.process(name).await.signal("CONT");
        }
        What::Restart(name) => {
            let ended = cluster.process(name).await.end().await;
            wrong.extend(ended.err());
            start(cluster, name, Model::Right).await?;
        }
        What::Bad(link, weather) => {
            cluster.network.set(link, Some(weather));
            tokio::time::sleep(fault.lasts).await;
            cluster.network.set(link, None);
        }
        What::FullDisk(number) => {
            cluster.disks.fill(number);
            tokio::time::sleep(fault.lasts).await;
            cluster.disks.free(number);
        }
        What::Clock(number, days) => {
            cluster.clocks.set(number, days);
            tokio::time::sleep(fault.lasts).await;
            wrong.extend(is_off(cluster, number, days).await.err().map(|error| error.to_string()));
            cluster.clocks.set(number, 0);
        }
        What::OtherModel(name) => wrong.extend(other_model(cluster, name, fault.lasts).await?),
        What::SharedStore => {
            cluster.kill_redis().await;
            tokio::time::sleep(fault.lasts).await;
            cluster.start_redis().await;
        }
        What::NoLanguage => {
            cluster.outage(true);
            for name in Role::Language.names() {
                cluster.process(name).await.kill();
            }
            tokio::time::sleep(fault.lasts).await;
            for name in Role::Language.names() {
                cluster.begin(name, Model::Right).await?;
            }
            for name in Role::Language.names() {
                cluster.serves(name).await?;
            }
        }
    }
    let healed = Instant::now();
    told(&format!("over after {:.1} s: {}", (healed - began).as_secs_f64(), fault.what));
    tokio::time::sleep(AFTER).await;
    troubled.iter().for_each(|&gateway| cluster.trouble(gateway, false));
    if matches!(fault.what, What::NoLanguage) {
        cluster.outage(false);
    }
    Ok(Struck { fault, began, healed, wrong })
}

/// Makes sure that the clock of a worker is so many days off.
async fn is_off(cluster: &Cluster, number: usize, days: i32) -> anyhow::Result<()> {
    let name = Name { role: Role::Vision, number };
    let time = clocks::time_at(&format!("http://{}", cluster.network.listens(name))).await?;
    let seconds = |time: SystemTime| Ok::<_, anyhow::Error>(time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64());
    let off = (seconds(time)? - seconds(SystemTime::now())?) / 86_400.0;
    anyhow::ensure!((off - f64::from(days)).abs() < 0.01, "the clock of {name} is {off} days off, not {days}");
    Ok(())
}

async fn start(cluster: &Cluster, name: Name, model: Model) -> anyhow::Result<()> {
    cluster.begin(name, model).await?;
    cluster.serves(name).await
}

/// Restarts a worker with another checkpoint, which some gateway must say aloud, and then with the right one.
async fn other_model(cluster: &Cluster, name: Name, lasts: Duration) -> anyhow::Result<Option<String>> {
    let heard = async || {
        let mut heard = Vec::new();
        for gateway in Role::Gateway.names() {
            let (said, url) = (cluster.process(gateway).await.said(), cluster.network.url(name));
            let is_about_it = |line: &&str| line.contains(&url) && KEPT_OUT.iter().any(|words| line.contains(words));
            heard.push(said.lines().filter(is_about_it).count());
        }
        heard
    };
    let (before, began) = (heard().await, Instant::now());
    cluster.process(name).await.kill();
    start(cluster, name, Model::Other).await?;
    tokio::time::sleep(lasts).await;
    // A worker that was lost several times is asked again after half a minute at the latest.
    while heard().await == before && began.elapsed() < HEARD {
        tokio::time::sleep(LOOK).await;
    }
    let is_silent = heard().await == before;
    cluster.process(name).await.kill();
    start(cluster, name, Model::Right).await?;
    Ok(is_silent.then(|| format!("no gateway said within {HEARD:?} that {name} ran another model")))
}
