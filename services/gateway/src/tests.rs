//! The gateway in a simulated cluster: thousands of schedules of faults, in virtual time.
//!
//! *Real*: the gateway from its service on (preparing, discovery, pools, health, routing, hedges, retries, continuations,
//! telling, deadlines), tonic's clients and servers with their HTTP/2, the contract's messages, health and load reports.
//! *Simulated*: time (tokio's paused clock) and the network (`network`): connections are late, held up, cut and refused.
//! *Scripted*: the workers. A `language` worker's answers are a pure function of the request (`answers`), which it
//! continues, ends at deadlines, hands over and breaks; a `vision` worker remembers what it encoded; how features come
//! from one to the other is asked of the simulated stores, and no rows are carried. Clients call the service without a
//! connection.
//!
//! What must hold for every schedule: each answer is, event by event, the one that no fault disturbs (`expected`), or ends
//! with an error or a deadline that the schedule explains (`client`); in gentle schedules, where one machine of each pool
//! is well, it is complete. Nobody waits longer than its time, or for long once all faults are over. Nothing is
//! done for a client who left. Workers that are not listed, or of another model, get nothing. In the end no
//! call is open at any worker, nothing is counted as being in flight, nothing is remembered of any image, and there were
//! no more retries than the budget has.
//!
//! `TESSERA_SIMULATION_SCHEDULES=100000` runs so many; `TESSERA_SIMULATION_SEED=17` runs one, and shows what happens in it.
//! A number gives the same schedule each time; what happens in one and the same instant may come in another order, because
//! requests are prepared by a thread.

mod answers;
mod client;
pub(crate) mod dice;
mod expected;
mod language;
mod machine;
pub(crate) mod network;
mod run;
mod schedule;
mod vision;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use run::{Bench, Run};

/// Schedules of one run of the test, and the threads that share them.
const SCHEDULES: u64 = 2_000;
const THREADS: usize = 2;
/// Failed schedules that are shown.
const SHOWN: usize = 3;

#[expect(clippy::disallowed_methods, reason = "what a test is to do is no setting of the gateway")]
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is {number:?}, no number")))
}

#[test]
fn answers_are_the_same_whatever_befalls_the_workers() {
    let bench = Bench::open();
    if let Some(seed) = told("TESSERA_SIMULATION_SEED") {
        let run = bench.run(seed);
        run.trace.iter().for_each(|line| println!("{line}"));
        assert_eq!(run.violations, [""; 0], "seed {seed}");
        return;
    }
    let schedules = told("TESSERA_SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
    let (next, sums, failed) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()), Mutex::new(Vec::<Run>::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&seed| seed < schedules) {
                    let run = bench.run(seed);
                    for (name, count) in &run.counts {
                        *sums.lock().unwrap().entry(*name).or_insert(0) += count;
                    }
                    if !run.violations.is_empty() {
                        failed.lock().unwrap().push(run);
                    }
                }
            });
        }
    });
    let (mut failed, sums) = (failed.into_inner().unwrap(), sums.into_inner().unwrap());
    println!("{schedules} schedules: {sums:?}");
    failed.sort_by_key(|run| run.seed);
    for run in failed.iter().take(SHOWN) {
        println!("seed {}: {:#?}", run.seed, run.violations);
        run.trace.iter().for_each(|line| println!("{line}"));
    }
    let seeds: Vec<u64> = failed.iter().map(|run| run.seed).collect();
    assert_eq!(seeds, [0; 0], "TESSERA_SIMULATION_SEED=N shows what happens in one");
    // What nobody meets proves nothing.
    for name in ["complete", "late", "left", "continued", "retries", "hedges", "ejections", "POOL_LOST", "UNREACHABLE"]
    {
        assert!(sums.get(name).is_some_and(|&count| count * 200 > schedules), "there was hardly any {name}: {sums:?}");
    }
}
