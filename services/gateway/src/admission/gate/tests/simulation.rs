//! The gate in front of a language pool of which everything is known: requests come at times that are drawn, whatever becomes
//! of those before them, and time passes without a clock.

use std::collections::BTreeMap;

use super::*;

/// What the pool runs at once, and how long each takes: 160 a second.
const SEQUENCES: usize = 16;
const SERVICE: Duration = Duration::from_millis(100);
const CAPACITY: f64 = 160.0;
/// How long is simulated, and from when on is counted: first the line fills.
const TIME: Duration = Duration::from_secs(40);
const WARM: Duration = Duration::from_secs(10);

/// A tenant, and how many of its requests come in a second.
#[derive(Clone, Copy)]
struct Load {
    tenant: &'static str,
    rate: f64,
    until: Duration,
    /// Whoever is refused comes back once, when it was told.
    comes_back: bool,
}

/// What became of the requests of a tenant.
#[derive(Debug, Default)]
struct Outcome {
    came: usize,
    served: usize,
    longest_wait: Duration,
    came_back: usize,
    let_in: usize,
}

#[derive(Clone, Copy)]
enum What {
    Comes { load: usize, again: bool },
    Ends,
}

struct Simulation {
    loads: Vec<Load>,
    outcomes: Vec<Outcome>,
    /// Those who wait, by their tenant and when they came.
    gate: Gate<(usize, Duration)>,
    begin: Instant,
    now: Duration,
    /// What is to happen, by time; the number keeps apart what happens at once.
    events: BTreeMap<(Duration, u64), What>,
    planned: u64,
    random: u64,
}

impl Simulation {
    fn run(loads: &[Load], seed: u64) -> Vec<Outcome> {
        let mut simulation = Self {
            loads: loads.to_vec(),
            outcomes: loads.iter().map(|_| Outcome::default()).collect(),
            gate: Gate::new(Bounds { waiting: 1000, ..BOUNDS }),
            begin: Instant::now(),
            now: Duration::ZERO,
            events: BTreeMap::new(),
            planned: 0,
            random: seed,
        };
        (0..loads.len()).for_each(|load| simulation.plan_next(load));
        while let Some(((now, _), what)) = simulation.events.pop_first()
            && now < TIME
        {
            simulation.now = now;
            match what {
                What::Comes { load, again } => simulation.comes(load, again),
                What::Ends => {
                    simulation.gate.release(tokens(100), Some(SERVICE));
                    simulation.open();
                }
            }
        }
        simulation.outcomes
    }

    fn plan(&mut self, after: Duration, what: What) {
        self.planned += 1;
        self.events.insert((self.now + after, self.planned), what);
    }

    /// Gaps as between people who know nothing of one another.
    fn plan_next(&mut self, load: usize) {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let drawn = ((self.random >> 33) as f64 + 1.0) / f64::from(1_u32 << 31);
        let gap = Duration::from_secs_f64(-drawn.ln() / self.loads[load].rate);
        if self.now + gap < self.loads[load].until {
            self.plan(gap, What::Comes { load, again: false });
        }
    }

    fn comes(&mut self, load: usize, again: bool) {
        let counts = usize::from(self.now >= WARM);
        // While the rush lasts, others take the places of those who come back: nobody can tell them apart.
        let is_after = again && self.now >= self.loads[load].until;
        if again {
            self.outcomes[load].came_back += usize::from(is_after);
        } else {
            self.outcomes[load].came += counts;
            self.plan_next(load);
        }
        let entered = self.enter(load);
        match entered {
            Ok(()) => self.outcomes[load].let_in += usize::from(is_after),
            Err(TooLong { retry_after, .. }) if self.loads[load].comes_back && !again => {
                self.plan(retry_after, What::Comes { load, again: true });
            }
            Err(_) => {}
        }
    }

    fn enter(&mut self, load: usize) -> Result<(), TooLong> {
        let (whose, now) = (whose(self.loads[load].tenant), self.begin + self.now);
        self.gate.foresee_next(&whose, tokens(1), None, now)?;
        let place = self.gate.join(&whose, tokens(100), (load, self.now));
        self.open();
        if self.gate.holds(place) {
            self.gate.foresee(&whose, tokens(100), None, now).inspect_err(|_| _ = self.gate.leave(place))?;
        }
        assert!(self.gate.give_way(now).is_none(), "the time is what bounds the line here");
        Ok(())
    }

    fn open(&mut self) {
        let through = self.gate.open(&room(SEQUENCES, 1 << 20), self.begin + self.now);
        for ((load, came), _) in through {
            self.plan(SERVICE, What::Ends);
            if came >= WARM {
                let outcome = &mut self.outcomes[load];
                outcome.served += 1;
                outcome.longest_wait = outcome.longest_wait.max(self.now - came);
            }
        }
    }
}

fn load(tenant: &'static str, times: f64) -> Load {
    Load { tenant, rate: times * CAPACITY, until: TIME, comes_back: false }
}

#[test]
fn the_pool_does_what_it_can_however_much_more_comes_and_who_is_let_in_waits_no_longer_than_allowed() {
    let seconds = (TIME - WARM).as_secs_f64();
    for (times, seed) in [(0.5, 1), (0.9, 2), (1.5, 3), (3.0, 4), (10.0, 5)] {
        let outcome = &Simulation::run(&[load("a", times)], seed)[0];
        let served = outcome.served as f64 / seconds / CAPACITY;
        // Those who came last still wait when the time is over.
        let expected = 1.0_f64.min(outcome.came as f64 / seconds / CAPACITY);
        assert!(served > 0.95 * expected, "{served} at {times} times the capacity: {outcome:?}");
        assert!(outcome.longest_wait < BOUNDS.time, "{outcome:?} at {times} times the capacity");
    }
}

#[test]
fn a_tenant_within_its_share_is_served_as_if_it_were_alone_while_another_floods() {
    for seed in 0..5 {
        let outcomes = Simulation::run(&[load("fair", 0.4), load("flood", 5.0)], seed);
        let Outcome { came, served, longest_wait, .. } = outcomes[0];
        assert!(served * 100 >= came * 99, "{outcomes:?}");
        assert!(longest_wait < SERVICE * 3, "{outcomes:?}");
        let both = (outcomes[0].served + outcomes[1].served) as f64 / (TIME - WARM).as_secs_f64();
        assert!(both > 0.95 * CAPACITY, "{outcomes:?}");
    }
}

#[test]
fn who_comes_back_when_told_after_a_rush_is_let_in() {
    let rush = Load { until: Duration::from_secs(3), comes_back: true, ..load("a", 3.0) };
    for seed in 0..5 {
        let outcome = &Simulation::run(&[rush], seed)[0];
        assert!(outcome.came_back > 300, "{outcome:?}");
        assert!(outcome.let_in * 100 >= outcome.came_back * 95, "{outcome:?}");
    }
}
