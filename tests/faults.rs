//! Faults, with real processes: two gateways, three vision and three language workers and a Redis, clients who ask without a
//! pause, and faults of every kind from one seed. Whatever happens, every answer must be the undisturbed one.
//!
//! `cargo test -p tessera-tests --test faults` makes a short run, as `.ci/run` does; `-- --faults 320` a long one, `-- --help`
//! says the rest. `deploy/faults.md` says what is promised, and what is not. Needs Linux and `redis-server`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a harness ends at what it cannot do and prints what it does"
)]

#[path = "system/conversation.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod conversation;

#[path = "faults/aftermath.rs"]
mod aftermath;
#[path = "faults/client.rs"]
mod client;
#[path = "faults/clocks.rs"]
mod clocks;
#[path = "faults/cluster.rs"]
mod cluster;
#[path = "faults/dice.rs"]
mod dice;
#[path = "faults/disks.rs"]
mod disks;
#[path = "faults/doors.rs"]
mod doors;
#[path = "faults/field.rs"]
mod field;
#[path = "faults/load.rs"]
mod load;
#[path = "faults/log.rs"]
mod log;
#[path = "faults/names.rs"]
mod names;
#[path = "faults/namespaces.rs"]
mod namespaces;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/process.rs"]
mod process;
#[path = "faults/questions.rs"]
mod questions;
#[path = "faults/schedule.rs"]
mod schedule;
#[path = "faults/strike.rs"]
mod strike;
#[path = "faults/table.rs"]
mod table;
#[path = "faults/told.rs"]
mod told;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::future::join_all;

use cluster::Cluster;
use disks::Full;
use field::Field;
use load::Load;
use log::Log;
use names::Role;
use network::Network;
use schedule::{Possible, schedule};
use table::Run;

/// What answers take under this load when nothing happens is seen before the first fault.
const BEFORE: Duration = Duration::from_secs(8);
/// Clients go on for so long after the last fault.
const BEHIND: Duration = Duration::from_secs(3);

/// Faults of every kind, while clients ask: every answer must be the undisturbed one.
#[derive(Debug, Parser)]
#[command(name = "faults")]
struct Arguments {
    /// Decides which faults there are, when and to whom, and what is asked
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many faults
    #[arg(long, default_value_t = 26)]
    faults: usize,
    /// Seconds from one to the next, on average
    #[arg(long, default_value_t = 1.2)]
    pace: f64,
    /// Clients, half of them at each gateway
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Give every process a network namespace and an address of its own (needs root)
    #[arg(long)]
    namespaces: bool,
    /// Keep settings and logs of the processes in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Be one of the processes
    #[arg(long, hide = true)]
    serve: Option<Role>,
    /// What that process is told
    #[arg(long, hide = true, requires = "serve")]
    settings: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = match (arguments.serve, &arguments.settings) {
        (Some(role), Some(settings)) => runtime.block_on(serve(role, settings)),
        _ => runtime.block_on(run(&arguments)),
    };
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until it is told to end, or whoever started it is gone.
async fn serve(role: Role, settings: &Path) -> anyhow::Result<()> {
    let (gone, orphaned) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // Nothing is ever written there: it ends when the other end is closed.
        let _ = std::io::stdin().read(&mut [0]);
        drop(gone);
    });
    tokio::select! {
        served = role.serve(settings) => served,
        _ = orphaned => Ok(()),
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("tessera-faults-").tempdir()?;
    let folder = arguments.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let log = Log::start();
    let network = if arguments.namespaces { Network::namespaces()? } else { Network::loopback().await? };
    let cluster = Cluster::start(&folder, network).await?;
    let outcome = disturb(arguments, &cluster, &log).await;
    drop(cluster);
    if outcome.is_err() && arguments.keep.is_none() {
        log.say(&format!("settings and logs of the processes are in {}", temporary.keep().display()));
    }
    outcome
}

/// Asks, disturbs, and says what came of it.
async fn disturb(arguments: &Arguments, cluster: &Cluster, log: &Log) -> anyhow::Result<()> {
    let possible = Possible {
        doors: cluster.network.has_doors(),
        full_disks: cluster.disks.full != Full::Never,
        clocks: cluster.clocks.can_be_set(),
    };
    log.say(&format!("seed {}, {}, full disks: {:?}", arguments.seed, cluster.network.describe(), cluster.disks.full));
    if !possible.clocks {
        log.say("there is no libfaketime: no clock will be off (on Debian: apt-get install faketime)");
    }
    let load = Load::prepare(cluster, log, arguments.seed).await?;
    log.say(&format!("{} questions, {} tokens of undisturbed answers", load.questions(), load.tokens()));
    let faults = schedule(arguments.seed, arguments.faults, Duration::from_secs_f64(arguments.pace), possible);
    let field = Field::new(cluster, log);
    let disturbing = async {
        tokio::time::sleep(BEFORE).await;
        let began = Instant::now();
        let struck = join_all(faults.into_iter().map(|fault| field.strike(fault, began))).await;
        tokio::time::sleep(BEHIND).await;
        load.over.set(true);
        (began, struck)
    };
    let clients = join_all((0..arguments.clients).map(|number| load.client(number)));
    let ((began, struck), _) = tokio::join!(disturbing, clients);
    let struck = struck.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let records = load.records.take();
    log.say("looking for what is still held");
    let found = aftermath::look(cluster, &load).await?;

    let run = Run { struck: &struck, records: &records, began };
    log.print(&format!("\n{}", run.markdown()));
    log.print(&format!(
        "Afterwards: {} blocks, all free; {} leases over{}; nothing in flight.\n",
        found.blocks,
        found.leases,
        if found.leases_astray > 0 {
            format!(", {} given by a clock that was off", found.leases_astray)
        } else {
            String::new()
        }
    ));
    let wrong: Vec<&String> = struck.iter().flat_map(|struck| &struck.wrong).chain(&found.wrong).collect();
    wrong.iter().for_each(|what| log.say(&format!("not as it should be: {what}")));
    let (lost, differing) = (run.lost(), run.wrong());
    if lost + differing + wrong.len() == 0 {
        return Ok(());
    }
    anyhow::bail!(
        "{lost} lost, {differing} wrong, {} more is not as it should be; the same faults once more: \
         cargo test -p tessera-tests --test faults -- --seed {} --faults {} --pace {} --clients {}{}",
        wrong.len(),
        arguments.seed,
        arguments.faults,
        arguments.pace,
        arguments.clients,
        if arguments.namespaces { " --namespaces" } else { "" }
    )
}
