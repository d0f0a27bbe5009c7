//! Which faults there are, when, and whom they hit: all of it from one seed.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::doors::{Link, Weather};
use crate::names::{Name, Role};

/// Once a fault is over, whom it hit is not counted on for so long: it starts, and others find it again.
const SETTLING: Duration = Duration::from_millis(2500);

/// A fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Since the first one may come.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) what: What,
}

/// What happens, and to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// SIGKILL; it is started again in the end.
    Kill(Name),
    /// SIGSTOP, SIGCONT in the end.
    Freeze(Name),
    /// SIGTERM; it is started again when it has ended.
    Restart(Name),
    /// A link is bad.
    Bad(Link, Weather),
    /// The disk of a vision worker is full.
    FullDisk(usize),
    /// The wall clock of a vision worker jumps by so many days, and back in the end.
    Clock(usize, i32),
    /// SIGKILL, and a start with another checkpoint; with the right one in the end.
    OtherModel(Name),
    /// SIGKILL of the shared store.
    SharedStore,
    /// SIGKILL of all language workers.
    NoLanguage,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Kill(Role),
    Freeze(Role),
    Restart(Role),
    Cut(Role),
    Closed(Role),
    Slow(Role),
    FullDisk,
    Clock,
    OtherModel(Role),
    SharedStore,
    NoLanguage,
}

/// What this machine lets happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Possible {
    /// A link can be bad for one process only, and its connections be broken.
    pub(crate) doors: bool,
    pub(crate) full_disks: bool,
    pub(crate) clocks: bool,
}

/// How often each kind is among the cards that are dealt.
const DECK: [(Kind, usize); 21] = [
    (Kind::Kill(Role::Vision), 3),
    (Kind::Kill(Role::Language), 4),
    (Kind::Kill(Role::Gateway), 2),
    (Kind::Freeze(Role::Vision), 2),
    (Kind::Freeze(Role::Language), 2),
    (Kind::Freeze(Role::Gateway), 1),
    (Kind::Restart(Role::Vision), 2),
    (Kind::Restart(Role::Language), 2),
    (Kind::Restart(Role::Gateway), 1),
    (Kind::Cut(Role::Vision), 2),
    (Kind::Cut(Role::Language), 2),
    (Kind::Closed(Role::Vision), 2),
    (Kind::Closed(Role::Language), 2),
    (Kind::Slow(Role::Vision), 1),
    (Kind::Slow(Role::Language), 1),
    (Kind::FullDisk, 2),
    (Kind::Clock, 1),
    (Kind::OtherModel(Role::Vision), 1),
    (Kind::OtherModel(Role::Language), 2),
    (Kind::SharedStore, 2),
    (Kind::NoLanguage, 1),
];

impl Kind {
    /// Whether the machine lets it happen.
    fn is_possible(self, possible: Possible) -> bool {
        match self {
            Self::Closed(_) => possible.doors,
            Self::FullDisk => possible.full_disks,
            Self::Clock => possible.clocks,
            _ => true,
        }
    }
}

impl What {
    /// Whom it hits: those who are not to be counted on meanwhile.
    pub(crate) fn hits(&self) -> Vec<Name> {
        match *self {
            Self::Kill(name) | Self::Freeze(name) | Self::Restart(name) | Self::OtherModel(name) => vec![name],
            Self::Bad(link, _) => vec![link.to],
            Self::FullDisk(number) | Self::Clock(number, _) => vec![Name { role: Role::Vision, number }],
            Self::SharedStore => Vec::new(),
            Self::NoLanguage => Role::Language.names().collect(),
        }
    }

    /// Whether it may happen while those are hit: nobody is hit twice at a time, and of every role somebody is left, but where
    /// that is what the fault is about.
    pub(crate) fn may_happen_beside(&self, hit: &[Name]) -> bool {
        let own = self.hits();
        let is_left = |role: Role| role.names().any(|name| !own.contains(&name) && !hit.contains(&name));
        let is_about_all = |role: Role| matches!(self, Self::NoLanguage) && role == Role::Language;
        let is_free = own.iter().all(|name| !hit.contains(name));
        is_free && Role::ALL.into_iter().all(|role| is_about_all(role) || is_left(role))
    }
}

impl Fault {
    fn overlaps(&self, other: &Self) -> bool {
        self.at < other.at + other.lasts + SETTLING && other.at < self.at + self.lasts + SETTLING
    }

    /// Whether it may happen beside those.
    fn fits(&self, others: &[Self]) -> bool {
        let meanwhile: Vec<&Self> = others.iter().filter(|other| self.overlaps(other)).collect();
        let is_store = |fault: &Self| matches!(fault.what, What::SharedStore);
        let hit: Vec<Name> = meanwhile.iter().flat_map(|other| other.what.hits()).collect();
        self.what.may_happen_beside(&hit) && !(is_store(self) && meanwhile.iter().any(|other| is_store(other)))
    }
}

/// So many faults, each about `pace` after the one before.
pub(crate) fn schedule(seed: u64, count: usize, pace: Duration, possible: Possible) -> Vec<Fault> {
    let mut dice = Dice::new(seed, 1);
    let (mut faults, mut deck, mut at) = (Vec::<Fault>::new(), Vec::new(), Duration::ZERO);
    while faults.len() < count {
        if deck.is_empty() {
            let cards = DECK.iter().filter(|(kind, _)| kind.is_possible(possible));
            // The first time each kind comes once, so that a short run has them all.
            let often = |number: usize| if faults.is_empty() { 1 } else { number };
            deck = cards.flat_map(|&(kind, number)| std::iter::repeat_n(kind, often(number))).collect();
            dice.shuffle(&mut deck);
        }
        at += dice.between(Duration::ZERO, pace * 2);
        // The first card that fits now; if none does, a little later one will.
        let drawn = (0..deck.len()).find_map(|place| {
            let kind: Kind = deck[place];
            let fault = draw(&mut dice, kind, at, possible);
            fault.fits(&faults).then_some((place, fault))
        });
        if let Some((place, fault)) = drawn {
            deck.remove(place);
            faults.push(fault);
        }
    }
    faults
}

fn draw(dice: &mut Dice, kind: Kind, at: Duration, possible: Possible) -> Fault {
    let seconds = |least: f64, most: f64| (Duration::from_secs_f64(least), Duration::from_secs_f64(most));
    let any = |dice: &mut Dice, role: Role| Name { role, number: dice.below(role.count()) };
    let bad = |dice: &mut Dice, role: Role, weather: Weather| {
        let from = match role {
            _ if !possible.doors || dice.percent(60) => None,
            // A vision worker is asked by gateways, and by language workers for its features.
            Role::Vision if dice.percent(50) => Some(any(dice, Role::Language)),
            _ => Some(any(dice, Role::Gateway)),
        };
        What::Bad(Link { from, to: any(dice, role) }, weather)
    };
    let (what, (least, most)) = match kind {
        Kind::Kill(role) => (What::Kill(any(dice, role)), seconds(0.1, 2.5)),
        Kind::Freeze(Role::Gateway) => (What::Freeze(any(dice, Role::Gateway)), seconds(0.3, 3.0)),
        Kind::Freeze(role) => (What::Freeze(any(dice, role)), seconds(0.3, 9.0)),
        // What it has may take most of that to end; it is started again as soon as it has.
        Kind::Restart(role) => (What::Restart(any(dice, role)), seconds(3.0, 4.0)),
        Kind::Cut(role) => (bad(dice, role, Weather::Cut), seconds(0.3, 9.0)),
        Kind::Closed(role) => (bad(dice, role, Weather::Closed), seconds(0.1, 4.0)),
        Kind::Slow(role) => {
            let delay = dice.between(Duration::from_millis(20), Duration::from_millis(200));
            (bad(dice, role, Weather::Slow { delay, bytes_per_second: 100_000 }), seconds(1.0, 5.0))
        }
        Kind::FullDisk => (What::FullDisk(dice.below(Role::Vision.count())), seconds(1.0, 5.0)),
        Kind::Clock => {
            let days = dice.choose(&[-4000, -400, -1, 1, 400, 4000]);
            (What::Clock(dice.below(Role::Vision.count()), days), seconds(2.0, 5.0))
        }
        Kind::OtherModel(role) => (What::OtherModel(any(dice, role)), seconds(2.0, 4.0)),
        Kind::SharedStore => (What::SharedStore, seconds(0.2, 6.0)),
        Kind::NoLanguage => (What::NoLanguage, seconds(0.2, 4.0)),
    };
    Fault { kind, at, lasts: dice.between(least, most), what }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(role) => write!(f, "kill -9, {}", role.word()),
            Self::Freeze(role) => write!(f, "SIGSTOP, SIGCONT, {}", role.word()),
            Self::Restart(role) => write!(f, "SIGTERM and restart, {}", role.word()),
            Self::Cut(role) => write!(f, "link cut, {}", role.word()),
            Self::Closed(role) => write!(f, "link closed, {}", role.word()),
            Self::Slow(role) => write!(f, "link slow, {}", role.word()),
            Self::FullDisk => write!(f, "disk full, vision"),
            Self::Clock => write!(f, "clock off by days, vision"),
            Self::OtherModel(role) => write!(f, "restart with another model, {}", role.word()),
            Self::SharedStore => write!(f, "shared store lost"),
            Self::NoLanguage => write!(f, "all language workers lost"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(name) => write!(f, "kill -9 {name}"),
            Self::Freeze(name) => write!(f, "SIGSTOP {name}"),
            Self::Restart(name) => write!(f, "SIGTERM {name}"),
            Self::Bad(Link { from: None, to }, weather) => write!(f, "link from everybody to {to}: {weather:?}"),
            Self::Bad(Link { from: Some(from), to }, weather) => write!(f, "link from {from} to {to}: {weather:?}"),
            Self::FullDisk(number) => write!(f, "disk of vision-{number} is full"),
            Self::Clock(number, days) => write!(f, "clock of vision-{number} jumps by {days} days"),
            Self::OtherModel(name) => write!(f, "kill -9 {name}, start with another model"),
            Self::SharedStore => write!(f, "kill -9 redis-server"),
            Self::NoLanguage => write!(f, "kill -9 all language workers"),
        }
    }
}
