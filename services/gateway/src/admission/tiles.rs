//! How many tiles the vision pool is given at once: so many that it is never idle, and no more than that.
//!
//! Vision workers make no reports, but each encoding says how long it took; the rest of the time its image waited. That is
//! followed up and down, as a network's congestion control follows the delay of its packets.

use std::time::Duration;

use tessera_api::vision::EncodeTimings;

/// Tiles for each worker before anything is known.
const FIRST: f64 = 40.0;
/// And at least: two images of five.
const LEAST: f64 = 10.0;
/// The part of the tiles that were encoded by which the bound moves.
const STEP: f64 = 0.25;
/// Images wait as long as they are worked on, and this; then the pool has enough.
const SLACK: Duration = Duration::from_millis(50);

/// The bound, for each worker.
#[derive(Debug)]
pub(super) struct Tiles(f64);

impl Default for Tiles {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Tiles {
    /// Tiles that so many workers are given at once.
    pub(super) fn of(&self, workers: usize) -> usize {
        (self.0 * workers as f64) as usize
    }

    /// Learns from an encoding of so many tiles that took `elapsed` in all. `is_used`: the bound was what kept more away.
    pub(super) fn learn(&mut self, tiles: usize, elapsed: Duration, timings: EncodeTimings, is_used: bool) {
        let worked = timings.preprocess + timings.forward;
        if worked.is_zero() {
            // It was stored, or somebody else's.
            return;
        }
        let (waited, enough) = (elapsed.saturating_sub(worked), worked + SLACK);
        if waited > enough * 2 {
            self.shrink(tiles);
        } else if waited <= enough && is_used {
            self.0 += tiles as f64 * STEP;
        }
    }

    /// Learns that so many tiles were too many.
    pub(super) fn shrink(&mut self, tiles: usize) {
        self.0 = (self.0 - tiles as f64 * STEP).max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of one worker that encodes a tile in a millisecond, one after the other, and is given as much as the bound lets
    /// through for a while; returns the bound and how long images wait then.
    fn settled(preprocess: Duration) -> (usize, Duration) {
        let (mut bound, mut waited) = (Tiles::default(), Duration::ZERO);
        for _ in 0..2000 {
            let forward = Duration::from_millis(5);
            waited = Duration::from_millis(bound.of(1) as u64).saturating_sub(forward);
            let timings = EncodeTimings { preprocess, forward, queue: waited };
            bound.learn(5, preprocess + forward + waited, timings, true);
        }
        (bound.of(1), waited)
    }

    #[test]
    fn the_bound_settles_where_images_wait_a_little() {
        let (tiles, waited) = settled(Duration::ZERO);
        assert!((50..=120).contains(&tiles) && waited < Duration::from_millis(120), "{tiles} tiles wait {waited:?}");
    }

    #[test]
    fn it_grows_only_where_it_is_in_the_way_and_never_shrinks_to_nothing() {
        let mut bound = Tiles::default();
        let fast = EncodeTimings { forward: Duration::from_millis(5), ..EncodeTimings::default() };
        bound.learn(5, Duration::from_millis(6), fast, false);
        assert_eq!(bound.of(2), 80);
        bound.learn(5, Duration::from_millis(6), fast, true);
        assert_eq!(bound.of(2), 82);
        // What was stored says nothing.
        bound.learn(5, Duration::from_secs(9), EncodeTimings::default(), true);
        assert_eq!(bound.of(2), 82);
        (0..1000).for_each(|_| bound.shrink(5));
        assert_eq!(bound.of(2), 20);
    }
}
