//! What happens in a schedule: who is there, what is asked, which faults come when. All of it follows from one number.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tessera_api::gateway::{BeamSettings, Settings};

use super::dice::Dice;
use super::machine::{Machine, Role};
use super::world::World;

/// Requests and faults begin within this time.
const ASKING: u64 = 10_000;
/// Images that are asked about: so few that several ask about the same.
const IMAGES: usize = 4;

/// A schedule.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    /// One machine of each pool meets no fault, and no request too many: every answer must be complete then.
    pub(crate) is_gentle: bool,
    pub(crate) latency: Range<Duration>,
    pub(crate) machines: Vec<Plan>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) strikes: Vec<Strike>,
    /// How often an answer may go on.
    pub(crate) continuations: usize,
    /// Retries a second; besides these there are none.
    pub(crate) retries: f64,
    pub(crate) hedges: bool,
    /// Workers are listed in files, which are rewritten.
    pub(crate) in_files: bool,
}

/// A machine.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) role: Role,
    pub(crate) step: Range<Duration>,
    /// Its images outlive a crash.
    pub(crate) keeps: bool,
    pub(crate) breaks: f64,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) at: Duration,
    pub(crate) settings: Settings,
    /// The images that it is about, by number.
    pub(crate) images: Vec<usize>,
    /// They are encoded first, and named by their handles.
    pub(crate) by_handle: bool,
    /// Part of its own text stops the first sample.
    pub(crate) stops: bool,
    /// The time that the client gives it.
    pub(crate) time: Option<Duration>,
    pub(crate) leaves: Option<Leave>,
}

/// When a client leaves who does not wait for the end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leave {
    After(Duration),
    AtEvent(usize),
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    pub(crate) at: Duration,
    pub(crate) machine: usize,
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
}

/// What befalls a machine, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its worker is gone from one moment to the next.
    Crash,
    /// Its worker is told to stop.
    Drain,
    /// Nothing comes to or from it.
    Hold,
    /// The same, and then every connection breaks.
    Lose,
    /// Every connection breaks, once.
    Cut,
    /// It has no room.
    Full,
    /// It is twenty times slower.
    Slow,
    /// Its model fails.
    Sick,
    /// Calls break in the transport, although it says that all is well.
    Sour,
    /// It is not listed.
    Unlist,
}

const FAULTS: [Fault; 10] = [
    Fault::Crash,
    Fault::Drain,
    Fault::Hold,
    Fault::Lose,
    Fault::Cut,
    Fault::Full,
    Fault::Slow,
    Fault::Sick,
    Fault::Sour,
    Fault::Unlist,
];

impl Schedule {
    /// The schedule of a number.
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let is_gentle = dice.chance(0.5);
        let in_files = dice.chance(0.3);
        let machines = machines(&mut dice, is_gentle);
        let asked = (0..2 + dice.below(5)).map(|number| asked(&mut dice, number)).collect();
        let milliseconds = |range: Range<u64>| Duration::from_millis(range.start)..Duration::from_millis(range.end);
        let latency = dice.one_of(&[milliseconds(0..1), milliseconds(1..5), milliseconds(5..50)]);
        let mut schedule = Self {
            seed,
            is_gentle,
            latency,
            machines,
            asked,
            strikes: Vec::new(),
            continuations: if is_gentle { 8 } else { dice.one_of(&[0, 1, 2, 8, 8, 8]) },
            retries: if is_gentle { 10.0 } else { dice.one_of(&[0.1, 1.0, 10.0]) },
            hedges: dice.chance(0.2),
            in_files,
        };
        for _ in 0..dice.below(8) {
            let strike = schedule.strike(&mut dice);
            schedule.strikes.extend(strike);
        }
        schedule
    }

    /// A fault that the schedule has room for.
    fn strike(&self, dice: &mut Dice) -> Option<Strike> {
        let (machine, fault) = (dice.below(self.machines.len()), dice.one_of(&FAULTS));
        let at = dice.milliseconds(0..ASKING);
        let long = matches!(fault, Fault::Hold | Fault::Lose) && dice.chance(0.25);
        let lasts = dice.milliseconds(if long { 15_000..60_000 } else { 50..8_000 });
        let is_first = self.machines.iter().position(|plan| plan.role == self.machines[machine].role) == Some(machine);
        let is_vision = self.machines[machine].role == Role::Vision;
        // Whoever asks a vision worker whose model fails is told so.
        let spared = self.is_gentle && (is_first || fault == Fault::Sick && is_vision);
        let overlaps = self
            .strikes
            .iter()
            .any(|other| other.machine == machine && other.at <= at + lasts && at <= other.at + other.lasts);
        let is_possible = self.in_files || fault != Fault::Unlist;
        (!spared && !overlaps && is_possible).then_some(Strike { at, machine, fault, lasts })
    }

    /// Whether a fault of a pool can have been felt in this time, measured from the beginning.
    pub(crate) fn is_struck(&self, is_vision: bool, from: Duration, to: Duration) -> bool {
        /// The longest pause of a worker that was lost, and how long it takes to find out that it was.
        const AFTERMATH: Duration = Duration::from_secs(70);
        self.strikes.iter().any(|strike| {
            let of_the_pool = (self.machines[strike.machine].role == Role::Vision) == is_vision;
            of_the_pool && strike.at <= to && from <= strike.at + strike.lasts + AFTERMATH
        })
    }

    /// When the last fault is over.
    pub(crate) fn calm(&self) -> Duration {
        self.strikes.iter().map(|strike| strike.at + strike.lasts).max().unwrap_or_default()
    }
}

fn machines(dice: &mut Dice, is_gentle: bool) -> Vec<Plan> {
    let least = if is_gentle { 2 } else { 1 };
    let mut machines = Vec::new();
    for (role, count, steps) in [
        (Role::Vision, least + dice.below(2), [5..20, 50..300]),
        (Role::Language, least + dice.below(3), [1..5, 20..80]),
        (Role::Stranger, usize::from(dice.chance(0.15)), [1..2, 1..2]),
    ] {
        for number in 0..count {
            let step = dice.one_of(&steps);
            let breaks = dice.one_of(&[0.0, 0.0, 0.3, 0.7]);
            machines.push(Plan {
                role,
                step: Duration::from_millis(step.start)..Duration::from_millis(step.end),
                keeps: dice.chance(0.5),
                breaks: if is_gentle && number == 0 { 0.0 } else { breaks },
            });
        }
    }
    machines
}

fn asked(dice: &mut Dice, number: usize) -> Asked {
    let samples = NonZeroUsize::new(1 + dice.below(3));
    let greedy = Settings { temperature: Some(0.0), ..Settings::default() };
    let search = BeamSettings { beams: NonZeroUsize::new(3).unwrap(), length_penalty: None, early_stopping: None };
    let settings = match dice.below(4) {
        0 => greedy,
        1 => Settings { beam_search: Some(search), samples, ..greedy },
        _ => Settings { temperature: Some(0.7), samples, ..Settings::default() },
    };
    let settings = Settings {
        seed: Some(dice.roll() >> 40),
        max_tokens: Some(1 + dice.below(30) as u32),
        logprobs: dice.chance(0.2).then_some(2),
        prompt_logprobs: dice.chance(0.2).then_some(1),
        include_stop: dice.chance(0.5),
        ..settings
    };
    let images: Vec<usize> = (0..dice.below(3)).map(|_| dice.below(IMAGES)).collect();
    let (is_late, leaves) = (dice.chance(0.25), dice.chance(0.2));
    let leave = [Leave::After(dice.milliseconds(0..3_000)), Leave::AtEvent(dice.below(6))];
    Asked {
        id: format!("r{number}"),
        at: dice.milliseconds(0..ASKING),
        settings,
        by_handle: images.len() == 1 && dice.chance(0.3),
        images,
        stops: dice.chance(0.2),
        time: is_late.then(|| dice.milliseconds(200..6_000)),
        leaves: leaves.then(|| dice.one_of(&leave)),
    }
}

/// Lets a fault happen, and lets it be over.
pub(crate) async fn befall(strike: Strike, world: Arc<World>) {
    let Strike { at, machine, fault, lasts } = strike;
    let machine: &Arc<Machine> = &world.machines[machine];
    tokio::time::sleep_until(world.began + at).await;
    world.note(format!("{fault:?} befalls {} for {lasts:?}", machine.authority));
    let (network, at) = (&world.network, &machine.authority);
    match fault {
        Fault::Crash => machine.crash(&world),
        Fault::Drain => machine.drain(&world, lasts / 4).await,
        Fault::Hold | Fault::Lose => network.hold(at, true),
        Fault::Cut => network.cut(at),
        Fault::Full => machine.change(|mood| mood.full = true),
        Fault::Slow => machine.change(|mood| mood.slow = 20),
        Fault::Sick => machine.change(|mood| mood.sick = true),
        Fault::Sour => machine.change(|mood| mood.sour = true),
        Fault::Unlist => {
            machine.change(|mood| mood.unlisted = Some(tokio::time::Instant::now()));
            world.write_lists();
        }
    }
    tokio::time::sleep(if fault == Fault::Drain { lasts / 2 } else { lasts }).await;
    match fault {
        Fault::Crash | Fault::Drain => machine.start(&world),
        Fault::Lose => {
            network.cut(at);
            network.hold(at, false);
        }
        Fault::Hold => network.hold(at, false),
        Fault::Cut => {}
        Fault::Full => machine.change(|mood| mood.full = false),
        Fault::Slow => machine.change(|mood| mood.slow = 1),
        Fault::Sick => machine.change(|mood| mood.sick = false),
        Fault::Sour => machine.change(|mood| mood.sour = false),
        Fault::Unlist => {
            machine.change(|mood| mood.unlisted = None);
            world.write_lists();
        }
    }
    world.note(format!("{fault:?} at {at} is over"));
}
