//! How fast a pool takes work while more waits for it than it can take.

use std::time::Duration;

use tokio::time::Instant;

/// What was seen so long ago counts half as much as what is seen now, in seconds.
const HALF: f64 = 5.0;
/// Nothing is said before so many seconds were seen.
const ENOUGH: f64 = 0.2;
/// A pool that took nothing for so many seconds stands still.
const STILL: f64 = 5.0;
/// The wait for a pool that stands still.
const NEVER: Duration = Duration::from_secs(3600);

/// The rate of one pool.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// What it took while it was full, the last counting most.
    work: f64,
    /// The seconds in which it was full, in the same way.
    seconds: f64,
    /// Since when it is full.
    full: Option<Instant>,
}

impl Rate {
    /// Goes on to now, from when on the pool is full or not.
    pub(super) fn pass(&mut self, now: Instant, is_full: bool) {
        if let Some(since) = self.full {
            let seconds = now.saturating_duration_since(since).as_secs_f64();
            let kept = (-seconds / HALF).exp2();
            (self.work, self.seconds) = (self.work * kept, self.seconds * kept + seconds);
        }
        self.full = is_full.then_some(now);
    }

    /// Takes note of work that the pool was given; it counts while the pool is full.
    pub(super) fn take(&mut self, work: f64) {
        if self.full.is_some() {
            self.work += work;
        }
    }

    /// How long it takes until the pool has taken so much; nothing while it is not full, or nothing is known.
    pub(super) fn wait(&self, work: f64) -> Duration {
        if self.full.is_none() || self.seconds < ENOUGH {
            return Duration::ZERO;
        }
        if self.work > 0.0 {
            return Duration::try_from_secs_f64(work * self.seconds / self.work).unwrap_or(NEVER).min(NEVER);
        }
        if self.seconds < STILL { Duration::ZERO } else { NEVER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_time_in_which_the_pool_was_full() {
        let mut rate = Rate::default();
        assert_eq!(rate.wait(1000.0), Duration::ZERO);
        rate.take(500.0);
        rate.pass(Instant::now(), true);
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(100)).await;
            rate.pass(Instant::now(), true);
            rate.take(10.0);
        }
        let wait = rate.wait(200.0).as_secs_f64();
        assert!((1.9..2.1).contains(&wait), "{wait}");
        // While it is not full nobody waits, and the time does not count.
        rate.pass(Instant::now(), false);
        assert_eq!(rate.wait(200.0), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(100)).await;
        rate.pass(Instant::now(), true);
        let again = rate.wait(200.0).as_secs_f64();
        assert!((wait - again).abs() < 1e-9, "{again}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_becomes_faster_is_soon_seen_to_be() {
        let mut rate = Rate::default();
        for work in [10.0, 40.0] {
            for _ in 0..300 {
                rate.pass(Instant::now(), true);
                rate.take(work);
                tokio::time::advance(Duration::from_millis(100)).await;
            }
        }
        rate.pass(Instant::now(), true);
        let wait = rate.wait(400.0).as_secs_f64();
        assert!((0.95..1.1).contains(&wait), "{wait}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_stands_still_is_waited_for_in_vain() {
        let mut rate = Rate::default();
        rate.pass(Instant::now(), true);
        tokio::time::advance(Duration::from_secs(4)).await;
        rate.pass(Instant::now(), true);
        assert_eq!(rate.wait(1.0), Duration::ZERO, "it may be slow");
        for _ in 0..4 {
            tokio::time::advance(Duration::from_secs(4)).await;
            rate.pass(Instant::now(), true);
        }
        assert_eq!(rate.wait(1.0), NEVER);
    }
}
