//! One schedule, from its first event to what must be left of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tessera_api::gateway::EncodeRequest;
use tessera_api::proto::gateway::v1 as proto;
use tessera_checkpoint::Checkpoint;
use tessera_rpc::{ClientTls, Tasks};
use tessera_testkit::family_dir;
use tokio::runtime::Builder;

use super::client::{Client, End, Gateway, LONGEST};
use super::dice::{Dice, give_the_gateway};
use super::expected::{Expected, Heard, image};
use super::machine::{Machine, Role};
use super::network::Network;
use super::schedule::{Asked, Schedule, befall};
use super::world::World;
use crate::grpc::Handler;
use crate::prepare::Preparer;
use crate::service::assemble;
use crate::upstream::Upstream;
use crate::{DiscoverySettings, EncodeSettings, Hedge, LimitSettings, RetrySettings, Settings};

/// What every call is over after, once all clients are gone and nothing is held up.
const SETTLING: Duration = Duration::from_secs(5);
/// Encodings that the gateway wants to know of before it hedges.
const WARM_UP: usize = 16;
/// Retries that may be saved up are those of so many seconds.
const SAVED_SECONDS: f64 = 10.0;

/// What all schedules share: the tokenizer and template of a checkpoint, which take long to read.
pub(crate) struct Bench {
    preparer: Arc<Preparer>,
    image_token_id: u32,
}

/// What came of a schedule.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) trace: Vec<String>,
    pub(crate) violations: Vec<String>,
    /// How often what happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Bench {
    pub(crate) fn open() -> Self {
        let checkpoint = Checkpoint::open(&family_dir("mistral")).unwrap();
        let preparer = Arc::new(Preparer::open(&checkpoint, &Settings::default()).unwrap());
        Self { preparer, image_token_id: checkpoint.model.image_token_id }
    }

    /// Runs the schedule of a number.
    pub(crate) fn run(&self, seed: u64) -> Run {
        let schedule = Schedule::of(seed);
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).max_blocking_threads(1).build().unwrap();
        let mut dice = Dice(!seed);
        give_the_gateway(Some(dice.fork()));
        let network = Network::new(schedule.latency.clone(), dice.fork());
        Network::give_this_thread(Some(network.clone()));
        let run = runtime.block_on(self.simulate(&schedule, network, dice));
        Network::give_this_thread(None);
        give_the_gateway(None);
        runtime.shutdown_background();
        run
    }

    async fn simulate(&self, schedule: &Schedule, network: Network, dice: Dice) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let machines = machines(schedule);
        let mut world = World::new(network, machines, dice);
        world.image_token_id = self.image_token_id;
        if schedule.is_gentle {
            (world.most_breaks, world.most_failures) = (3, 1);
        }
        let lists = ["vision", "language"].map(|name| folder.path().join(name));
        world.lists = schedule.in_files.then(|| lists.clone());
        let world = Arc::new(world);
        world.write_lists();
        world.machines.iter().for_each(|machine| machine.start(&world));
        let mut settings = settings(schedule);
        (settings.vision, settings.language) = if schedule.in_files {
            lists.map(|list| vec![format!("file://{}", list.display())]).into()
        } else {
            (urls(&world, true), urls(&world, false))
        };
        let tasks = Tasks::default();
        let front =
            assemble(&settings, self.preparer.clone(), self.image_token_id, ClientTls::default(), &tasks).unwrap();
        let upstream = front.upstream.clone();
        let gateway = Gateway::new(Handler(Arc::new(front)).into_service());
        if schedule.hedges {
            warm_up(&gateway).await;
        }
        let strikes = schedule.strikes.iter().map(|strike| world.tasks.spawn(befall(*strike, world.clone())));
        let strikes: Vec<_> = strikes.collect();
        let ends = join_all(schedule.asked.iter().map(|asked| self.ask(&world, schedule, &gateway, asked))).await;
        for strike in strikes {
            strike.abort();
        }
        let mut counts = BTreeMap::new();
        for (end, continued) in &ends {
            *counts.entry(name(end)).or_insert(0) += 1;
            *counts.entry("continued").or_insert(0) += u64::from(*continued);
        }
        settle(&world, &upstream, schedule, &mut counts).await;
        tasks.draining().cancel();
        tasks.finish(SETTLING).await;
        let (trace, violations) = world.notes();
        Run { seed: schedule.seed, trace, violations, counts }
    }

    async fn ask(&self, world: &Arc<World>, schedule: &Schedule, gateway: &Gateway, asked: &Asked) -> (End, bool) {
        let expected = Expected::of(&self.preparer, asked);
        let (heard, gateway, call) = (Heard::new(&expected), gateway.clone(), (asked.at, LONGEST));
        let mut client = Client { world, schedule, asked, expected: &expected, gateway, heard, call };
        let end = client.ask().await;
        (end, client.heard.continuations > 0)
    }
}

/// Has images encoded that nobody asks about: the gateway hedges once it knows how long that takes.
async fn warm_up(gateway: &Gateway) {
    let encoding = (0..WARM_UP).map(|number| {
        let request = EncodeRequest { image: image(usize::from(u8::MAX) - number), lease: None, rows: None };
        let (mut gateway, pause) = (gateway.clone(), Duration::from_millis(1) * number as u32);
        async move {
            // One after the other: what threads do at once has no order.
            tokio::time::sleep(pause).await;
            gateway.encode(proto::EncodeRequest::from(request)).await.map(drop)
        }
    });
    // What comes of them is nobody's concern.
    let _ = join_all(encoding).await;
}

/// Looks at what is left when every client is gone.
async fn settle(world: &World, upstream: &Upstream, schedule: &Schedule, counts: &mut BTreeMap<&'static str, u64>) {
    for machine in &world.machines {
        world.network.hold(&machine.authority, false);
    }
    tokio::time::sleep(SETTLING).await;
    for (machine, of) in world.open_calls() {
        world.wrong(format!("{machine} goes on with {of}, although every client is gone"));
    }
    let account = upstream.account();
    if (account.in_flight, account.images) != (0, 0) {
        world.wrong(format!("{account:?} although every client is gone"));
    }
    let time = world.began.elapsed().as_secs_f64();
    let budget = (schedule.retries * SAVED_SECONDS).max(1.0) + schedule.retries * time;
    for (pool, again) in [("vision", account.vision), ("language", account.language)] {
        if again as f64 > budget {
            world.wrong(format!("{again} retries and hedges of the {pool} pool, and its budget is {budget}"));
        }
    }
    let figures = [("retries", account.retries), ("hedges", account.hedges), ("ejections", account.ejections)];
    for (name, count) in figures.into_iter().chain([("seconds", time as u64), ("calls", world.calls() as u64)]) {
        *counts.entry(name).or_insert(0) += count;
    }
}

fn machines(schedule: &Schedule) -> Vec<Arc<Machine>> {
    let plans = schedule.machines.iter().enumerate();
    let machines = plans.map(|(number, plan)| {
        let machine = Machine::new(plan.role, number, plan.step.clone(), plan.keeps);
        machine.change(|mood| mood.breaks = plan.breaks);
        machine
    });
    machines.collect()
}

fn settings(schedule: &Schedule) -> Settings {
    let hedge = if schedule.hedges { Hedge::Percentile(50) } else { Hedge::Off };
    Settings {
        discovery: DiscoverySettings { refresh: Duration::from_secs(1), ..DiscoverySettings::default() },
        encode: EncodeSettings { hedge, hedge_floor: Duration::from_millis(50) },
        // A share of the calls would make the bound depend on how many there are.
        retry: RetrySettings { share: 0.0, per_second: schedule.retries },
        limits: LimitSettings { time: LONGEST, continuations: schedule.continuations, ..LimitSettings::default() },
        ..Settings::default()
    }
}

fn urls(world: &World, is_vision: bool) -> Vec<String> {
    let of_the_pool = world.machines.iter().filter(|machine| (machine.role == Role::Vision) == is_vision);
    of_the_pool.map(|machine| machine.url()).collect()
}

/// How the ends of one kind are counted: errors by the reasons that there are.
fn name(end: &End) -> &'static str {
    const REASONS: [&str; 10] = [
        "POOL_LOST",
        "UNREACHABLE",
        "STREAM_BROKEN",
        "HANDED_OVER",
        "DRAINING",
        "POOL_EMPTY",
        "QUEUE_FULL",
        "MODEL_FAILED",
        "EMBEDDING_NOT_FOUND",
        "DEADLINE_EXCEEDED",
    ];
    match end {
        End::Complete => "complete",
        End::Late => "late",
        End::Left => "left",
        End::Failed(error) => REASONS.into_iter().find(|reason| *reason == error.reason).unwrap_or("other errors"),
    }
}
