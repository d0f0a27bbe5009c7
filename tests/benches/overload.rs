//! What the gateway does with more than its pools can take: how much is served in time, how long those who are let in wait,
//! how soon the others are told, and whether it is worth while to come back when they were told.
//!
//! The gateway is the real one, over loopback, with nothing changed but its bound of the waiting time. The workers are scripts
//! that take the time of a model and next to no processor (`overload/workers.rs`), because a model would share this machine's
//! cores with the gateway and the clients, and what would be measured is who gets the cores. Requests come at times that are
//! drawn beforehand, whatever becomes of those before them, and their time counts from then on.
//!
//! `cargo bench -p tessera-tests --bench overload`, with `-- --seconds 8 --rounds 3` where that is to be changed.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends at the first error and prints its figures")]

#[path = "overload/clients.rs"]
mod clients;
#[path = "overload/figures.rs"]
mod figures;
#[path = "../system/running.rs"]
mod running;
#[path = "overload/workers.rs"]
mod workers;

use std::time::Duration;

use tessera_checkpoint::Checkpoint;
use tessera_gateway::{AuthSettings, LimitSettings};
use tessera_testkit::{family_dir, picture};

use clients::{BOUND, Clients, Told};
use figures::{Figures, spread};
use running::Running;
use workers::Picture;

/// The checkpoint whose tokenizer and geometry the gateway uses.
const FAMILY: &str = "mistral";
/// Requests wait no longer than this in the gateway.
const QUEUE_TIME: Duration = Duration::from_secs(1);
/// Loads, by the capacity.
const LOADS: [f64; 6] = [0.5, 0.8, 1.0, 1.5, 2.0, 3.0];
/// Clients at once that find out the capacity.
const CLOSED: usize = 48;
/// What is not counted of each load, while the line fills.
const WARM: Duration = Duration::from_secs(2);
/// Between two loads the line empties.
const REST: Duration = Duration::from_millis(2500);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (seconds, rounds) = (value("--seconds", 8), value("--rounds", 3));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(Duration::from_secs(seconds), rounds));
}

async fn measure(time: Duration, rounds: u64) {
    let file = picture("one_image", 0);
    let checkpoint = Checkpoint::open(&family_dir(FAMILY)).unwrap();
    let size = tessera_image::probe(&file, &tessera_image::ImageSettings::default().limits()).unwrap();
    let plan = checkpoint.geometry().plan(size.size_for(tessera_image::ImageSettings::default().source));
    let picture = Picture { size: plan.image, tiles: plan.tile_count(), image_tokens: plan.image_tokens() };
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&tokens, clients::TOKENS).unwrap();
    let settings = tessera_gateway::Settings {
        auth: AuthSettings { tokens: tokens.path().into(), ..AuthSettings::default() },
        model: family_dir(FAMILY),
        vision: vec![workers::vision(picture).await],
        language: vec![workers::language(checkpoint.model.image_token_id).await],
        limits: LimitSettings { queue_time: QUEUE_TIME, ..LimitSettings::default() },
        ..Default::default()
    };
    let gateway = tessera_gateway::build(settings).await.unwrap();
    let mut gateway = Running::start(|listener, stop| gateway.run(listener, stop)).await;
    let clients = Clients::new(&gateway, &file);

    println!(
        "{picture:?}, {} sequences at once, {:?} a step, {:?} a tile",
        workers::RUNNING,
        workers::STEP,
        workers::TILE
    );
    let mut capacities = Vec::new();
    for _ in 0..rounds {
        capacities.push(clients.closed(CLOSED, time).await);
        tokio::time::sleep(REST).await;
    }
    let capacity = capacities.iter().sum::<f64>() / capacities.len() as f64;
    println!("capacity, {CLOSED} clients one request after the other: {} requests a second\n", spread(&capacities));
    curve(&clients, capacity, time, rounds).await;
    rush(&clients, capacity, rounds).await;
    tenants(&clients, capacity, time, rounds).await;
    drop(clients);
    gateway.stop.cancel();
    gateway.ended().await;
}

/// The loads one after the other, in rounds: what else happens on the machine is then in all of them.
async fn curve(clients: &Clients, capacity: f64, time: Duration, rounds: u64) {
    let mut measured: Vec<Vec<Figures>> = LOADS.map(|_| Vec::new()).into();
    for round in 0..rounds {
        for (load, measured) in LOADS.iter().zip(&mut measured) {
            let told = clients.open(capacity * load, WARM + time, round).await;
            measured.push(Figures::of(told.into_iter().filter(|told| told.due >= WARM), time));
            tokio::time::sleep(REST).await;
        }
    }
    let mean = |rounds: &Vec<Figures>| rounds.iter().map(|round| round.goodput).sum::<f64>() / rounds.len() as f64;
    let peak = measured.iter().map(mean).fold(0.0, f64::max);
    println!("Goodput: whole answers within {BOUND:?} of when the request was due, which is also its deadline.\n");
    println!("{}", Figures::head("load"));
    for (load, rounds) in LOADS.iter().zip(&measured) {
        println!("{}", Figures::row(&format!("{load}"), rounds, peak));
    }
    println!();
}

/// A rush of three times the capacity that ends; whoever is refused comes back once, when it was told.
async fn rush(clients: &Clients, capacity: f64, rounds: u64) {
    let (mut let_in, mut first, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let told = clients.rush(capacity * 3.0, Duration::from_secs(3), round).await;
        let came_back: Vec<&Told> = told.iter().filter(|told| told.came_back.is_some()).collect();
        let served = came_back.iter().filter(|told| told.is_good()).count();
        let_in.push(100.0 * served as f64 / came_back.len().max(1) as f64);
        first.push(told.len() as f64);
        again.push(came_back.len() as f64);
        tokio::time::sleep(REST).await;
    }
    println!(
        "A rush of 3 s at three times the capacity: of {} requests {} were refused and came back once, when they were told; \
         served then: {} %",
        spread(&first),
        spread(&again),
        spread(&let_in)
    );
}

/// A tenant that asks for less than its half, alone and beside one that asks for five times of the whole.
async fn tenants(quiet: &Clients, capacity: f64, time: Duration, rounds: u64) {
    let flood = quiet.of("flood");
    let mut measured: [Vec<Figures>; 3] = Default::default();
    let figures = |told: Vec<Told>| Figures::of(told.into_iter().filter(|told| told.due >= WARM), time);
    for round in 0..rounds {
        measured[0].push(figures(quiet.open(capacity * 0.4, WARM + time, round).await));
        tokio::time::sleep(REST).await;
        let beside = quiet.open(capacity * 0.4, WARM + time, round);
        let flooding = flood.open(capacity * 5.0, WARM + time, round + 1000);
        let (beside, flooding) = tokio::join!(beside, flooding);
        measured[1].push(figures(beside));
        measured[2].push(figures(flooding));
        tokio::time::sleep(REST).await;
    }
    let peak = measured.iter().map(|rounds| rounds.iter().map(|round| round.goodput).fold(0.0, f64::max));
    let peak = peak.fold(0.0, f64::max);
    println!("\nOf two tenants of equal weight:\n\n{}", Figures::head("who"));
    for (who, rounds) in ["0.4, alone", "0.4, beside the flood", "the flood, 5.0"].iter().zip(&measured) {
        println!("{}", Figures::row(who, rounds, peak));
    }
}
