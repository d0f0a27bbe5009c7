//! The gate before the pools: who may go on, who waits, and who is better told at once when to come back. It owns no clock
//! and no task; whoever calls it says what the pools can take and what time it is.

use std::time::Duration;

use tessera_api::vision::EncodeTimings;
use tokio::time::Instant;

use super::cost::{Cost, Lacking};
use super::line::{Ahead, Class, Line, Place, Whose};
use super::rate::Rate;
use super::tiles::Tiles;
use crate::upstream::Room;

/// The shortest and the longest time after which somebody is told to come back.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(60);
/// The part of the longest wait that is foreseen at most: whoever is let into the line shall not come to the end of it.
const FORESEEN: f64 = 0.75;
/// Flows of which it is remembered who was told to come back, at most.
const PROMISED: usize = 1024;

/// Bounds of those who wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How many wait.
    pub(super) waiting: usize,
    /// How long somebody waits for whom another waits.
    pub(super) time: Duration,
    /// Tokens that requests may ask for at once, by the positions that there are.
    pub(super) overcommit: f64,
}

/// The gate. `G` is how one who waits is told.
#[derive(Debug)]
pub(super) struct Gate<G> {
    bounds: Bounds,
    line: Line<G>,
    /// What the pools have of this gateway.
    flight: Cost,
    /// How many of those need the language pool: one sequence each.
    sequences: usize,
    tiles: Tiles,
    vision: Rate,
    language: Rate,
    /// What those who wait now wait for.
    lacking: Lacking,
    /// Of each flow, when the last one that was refused is to come back.
    promises: Vec<(Whose, Instant)>,
    usual: Usual,
}

/// What requests were like, the last counting most.
#[derive(Debug, Default)]
struct Usual {
    cost: Cost,
    /// Time in the pools, of an encoding and of a generation.
    times: [Duration; 2],
}

/// A request whose turn would come too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong {
    /// After this time.
    pub(super) wait: Duration,
    /// When it is worth while to come back.
    pub(super) retry_after: Duration,
}

impl<G> Gate<G> {
    /// Makes a gate that nobody waits at.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            line: Line::new(),
            flight: Cost::default(),
            sequences: 0,
            tiles: Tiles::default(),
            vision: Rate::default(),
            language: Rate::default(),
            lacking: Lacking::default(),
            promises: Vec::new(),
            usual: Usual::default(),
        }
    }

    /// Whether somebody waits.
    pub(super) fn has_line(&self) -> bool {
        self.line.len() > 0
    }

    /// How long a generation usually takes.
    pub(super) fn usual_time(&self) -> Duration {
        self.usual.times[1]
    }

    /// Puts a request in the line.
    pub(super) fn join(&mut self, whose: &Whose, cost: Cost, grant: G) -> Place {
        let usual = &mut self.usual.cost;
        let near = |usual: usize, one: usize| if usual == 0 { one } else { (usual * 7 + one).div_ceil(8) };
        if cost.tiles > 0 {
            usual.tiles = near(usual.tiles, cost.tiles);
        }
        if cost.tokens > 0 {
            usual.tokens = near(usual.tokens, cost.tokens);
        }
        self.line.join(whose, cost, grant)
    }

    /// Takes out one who waits no longer.
    pub(super) fn leave(&mut self, place: Place) -> Option<G> {
        self.line.leave(place)
    }

    /// Whether somebody still waits.
    pub(super) fn holds(&self, place: Place) -> bool {
        self.line.holds(place)
    }

    /// Lets those through whose turn it is.
    pub(super) fn open(&mut self, room: &Room, now: Instant) -> Vec<(G, Cost)> {
        self.pass(now, self.lacking);
        let mut through = Vec::new();
        loop {
            let (bounds, flight, sequences, tiles) = (&self.bounds, self.flight, self.sequences, &self.tiles);
            match self.line.next(|cost| lacks(cost, flight, sequences, room, tiles, bounds)) {
                Ok((grant, cost)) => {
                    self.vision.take(cost.tiles as f64);
                    self.language.take(cost.tokens as f64);
                    self.flight = self.flight.plus(cost);
                    self.sequences += usize::from(cost.tokens > 0);
                    through.push((grant, cost));
                }
                Err(lacking) => {
                    self.pass(now, lacking);
                    self.lacking = lacking;
                    return through;
                }
            }
        }
    }

    /// Takes note that nobody waits.
    pub(super) fn rest(&mut self, now: Instant) {
        self.lacking = Lacking::default();
        self.pass(now, self.lacking);
    }

    /// Takes back what somebody had who went through. `time`, where all of it is over: how long it took.
    pub(super) fn release(&mut self, cost: Cost, time: Option<Duration>) {
        self.flight = self.flight.minus(cost);
        let Some(time) = time else { return };
        let is_generation = cost.tokens > 0;
        self.sequences -= usize::from(is_generation);
        let usual = &mut self.usual.times[usize::from(is_generation)];
        *usual = if usual.is_zero() { time } else { (*usual * 7 + time) / 8 };
    }

    /// Hears how long an encoding took; nothing of one that the vision pool had no room for.
    pub(super) fn hear(&mut self, tiles: usize, spent: Option<(Duration, EncodeTimings)>) {
        match spent {
            Some((elapsed, timings)) => self.tiles.learn(tiles, elapsed, timings, self.lacking.vision),
            None => self.tiles.shrink(tiles),
        }
    }

    /// Says whether the turn of a request that waits, the last one of its flow, comes in time. `left` is what its deadline
    /// leaves it.
    ///
    /// # Errors
    /// How long it would wait, and when to come back.
    pub(super) fn foresee(
        &mut self,
        whose: &Whose,
        cost: Cost,
        left: Option<Duration>,
        now: Instant,
    ) -> Result<(), TooLong> {
        let ahead = self.line.ahead_of(whose, Cost::default());
        self.judge((whose, cost), ahead, left, now)
    }

    /// The same for one that would join now, and of which is known what it takes at least: it is taken for a usual one.
    ///
    /// # Errors
    /// How long it would wait, and when to come back.
    pub(super) fn foresee_next(
        &mut self,
        whose: &Whose,
        least: Cost,
        left: Option<Duration>,
        now: Instant,
    ) -> Result<(), TooLong> {
        let usual = |least: usize, usual: usize| if least > 0 { least.max(usual) } else { 0 };
        let tiles = usual(least.tiles, self.usual.cost.tiles);
        let cost = Cost { tiles, tokens: usual(least.tokens, self.usual.cost.tokens) };
        let ahead = self.line.ahead_of(whose, cost);
        self.judge((whose, cost), ahead, left, now)
    }

    fn judge(
        &mut self,
        (whose, cost): (&Whose, Cost),
        ahead: Ahead,
        left: Option<Duration>,
        now: Instant,
    ) -> Result<(), TooLong> {
        self.pass(now, self.lacking);
        let needed = |rate: &Rate, own: usize, ahead: f64| if own > 0 { rate.wait(ahead) } else { Duration::ZERO };
        let vision = needed(&self.vision, cost.tiles, ahead.tiles);
        let wait = vision.max(needed(&self.language, cost.tokens, ahead.tokens));
        let most = match whose.class {
            Class::Interactive => self.bounds.time.mul_f64(FORESEEN),
            Class::Batch => Duration::MAX,
        };
        // Whoever is served in time must also be done in time.
        let takes = self.usual.times[usize::from(cost.tokens > 0)];
        let most = left.map_or(most, |left| most.min(left.saturating_sub(takes)));
        if !self.has_line() || wait.is_zero() || wait <= most {
            return Ok(());
        }
        Err(TooLong { wait, retry_after: self.promise(whose, cost, wait - most, now) })
    }

    /// Takes out one who gives way where too many wait, and says when to come back.
    pub(super) fn give_way(&mut self, now: Instant) -> Option<(G, Duration)> {
        if self.line.len() <= self.bounds.waiting {
            return None;
        }
        let (whose, cost, grant) = self.line.give_way()?;
        let retry_after = self.promise(&whose, cost, Duration::ZERO, now);
        Some((grant, retry_after))
    }

    /// When one that is refused is to come back: when the line is short enough, and behind those of its flow that were refused
    /// before it, at the rate at which they can be served.
    pub(super) fn promise(&mut self, whose: &Whose, cost: Cost, excess: Duration, now: Instant) -> Duration {
        let served = self.vision.wait(cost.tiles as f64).max(self.language.wait(cost.tokens as f64));
        let share = self.line.share_of(whose).max(1e-3);
        let own = Duration::try_from_secs_f64(served.as_secs_f64() / share).unwrap_or(LONGEST).min(LONGEST);
        self.promises.retain(|(_, until)| *until > now);
        let same = |known: &Whose| known.class == whose.class && known.tenant == whose.tenant;
        let before = self.promises.iter().position(|(known, _)| same(known));
        let slot = before.map_or(now, |index| self.promises[index].1).max(now + excess.min(LONGEST)) + own;
        let slot = slot.min(now + LONGEST);
        match before {
            Some(index) => self.promises[index].1 = slot,
            None => {
                if self.promises.len() == PROMISED {
                    self.promises.swap_remove(0);
                }
                self.promises.push((whose.clone(), slot));
            }
        }
        slot.saturating_duration_since(now).max(SHORTEST)
    }

    fn pass(&mut self, now: Instant, lacking: Lacking) {
        self.vision.pass(now, lacking.vision);
        self.language.pass(now, lacking.language);
    }
}

/// The pools that have no room for so much more. Each has room for one request, however large it is.
fn lacks(cost: Cost, flight: Cost, sequences: usize, room: &Room, tiles: &Tiles, bounds: &Bounds) -> Lacking {
    let more = flight.plus(cost);
    let is_over = |limit: Option<usize>, count: usize| limit.is_some_and(|limit| count > limit);
    let tokens = room.positions.map(|positions| (positions as f64 * bounds.overcommit) as usize);
    let workers = Some(room.vision_workers).filter(|&workers| workers > 0);
    Lacking {
        vision: cost.tiles > 0 && flight.tiles > 0 && is_over(workers.map(|workers| tiles.of(workers)), more.tiles),
        language: cost.tokens > 0
            && sequences > 0
            && (is_over(room.sequences, sequences + 1) || is_over(tokens, more.tokens)),
    }
}

#[cfg(test)]
mod tests;
