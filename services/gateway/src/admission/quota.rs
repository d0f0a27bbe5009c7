//! What one tenant may have: so many requests, tiles and tokens a minute, and so many requests at a time.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tessera_api::{Error, Result};
use tokio::time::Instant;

use super::cost::Cost;
use crate::tenant::TenantSettings;

const MINUTE: f64 = 60.0;

/// The quotas of a tenant, and what there is of them now.
#[derive(Debug)]
pub(crate) struct Quota {
    /// Requests at a time.
    concurrent: Option<NonZeroUsize>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests in progress.
    open: usize,
    requests: Option<Bucket>,
    tiles: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// What may be taken: it fills evenly, up to what there is for a minute. Who wants more than that at once has it when it is
/// full, and it is filled from below nothing.
#[derive(Debug)]
struct Bucket {
    size: f64,
    level: f64,
    filled: Instant,
}

impl Quota {
    /// Makes those of these settings, untouched.
    pub(crate) fn new(settings: &TenantSettings) -> Self {
        let state = State {
            open: 0,
            requests: settings.requests_per_minute.map(Bucket::new),
            tiles: settings.tiles_per_minute.map(Bucket::new),
            tokens: settings.tokens_per_minute.map(Bucket::new),
        };
        Self { concurrent: settings.concurrent, state: Mutex::new(state) }
    }

    /// Requests in progress.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.state().open
    }

    /// Counts a request that begins. `usual` is how long requests take.
    ///
    /// # Errors
    /// `Exhausted` when there are too many, with the time until there may be another.
    pub(super) fn begin(&self, usual: Duration) -> Result<()> {
        let mut state = self.state();
        if let Some(limit) = self.concurrent.map(NonZeroUsize::get)
            && state.open >= limit
        {
            // One of so many ends each of these times.
            let retry_after = (usual / u32::try_from(limit).unwrap_or(u32::MAX)).max(Duration::from_millis(100));
            let message = format!("{limit} requests of this tenant are in progress already");
            return Err(exceeded("concurrent", limit, message, retry_after));
        }
        if let Some(bucket) = &mut state.requests {
            let taken = bucket.take(1.0);
            taken.map_err(|wait| bucket.exceeded("requests_per_minute", "requests", 1, wait))?;
        }
        state.open += 1;
        Ok(())
    }

    /// Counts a request that is over.
    pub(super) fn end(&self) {
        self.state().open -= 1;
    }

    /// Gives the place of a request back that was refused for other reasons.
    pub(super) fn forget(&self) {
        self.state().requests.iter_mut().for_each(|bucket| bucket.give_back(1.0));
    }

    /// Takes what a request may need.
    ///
    /// # Errors
    /// `Exhausted` when there is too little of something, with the time until there is enough; then nothing is taken.
    pub(super) fn take(&self, cost: Cost) -> Result<()> {
        let mut state = self.state();
        if let Some(bucket) = &mut state.tiles {
            let taken = bucket.take(cost.tiles as f64);
            taken.map_err(|wait| bucket.exceeded("tiles_per_minute", "tiles", cost.tiles, wait))?;
        }
        if let Some(bucket) = &mut state.tokens
            && let Err(wait) = bucket.take(cost.tokens as f64)
        {
            let error = bucket.exceeded("tokens_per_minute", "tokens", cost.tokens, wait);
            state.tiles.iter_mut().for_each(|bucket| bucket.give_back(cost.tiles as f64));
            return Err(error);
        }
        Ok(())
    }

    /// Gives back what was taken and not needed.
    pub(super) fn give_back(&self, cost: Cost) {
        let mut state = self.state();
        state.tiles.iter_mut().for_each(|bucket| bucket.give_back(cost.tiles as f64));
        state.tokens.iter_mut().for_each(|bucket| bucket.give_back(cost.tokens as f64));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn new(per_minute: NonZeroU64) -> Self {
        let size = per_minute.get() as f64;
        Self { size, level: size, filled: Instant::now() }
    }

    /// Takes so much, or tells when there will be enough.
    fn take(&mut self, amount: f64) -> Result<(), Duration> {
        let now = Instant::now();
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        (self.level, self.filled) = ((self.level + seconds * self.size / MINUTE).min(self.size), now);
        let missing = amount.min(self.size) - self.level;
        // Less than that is an error of rounding.
        if missing > 1e-6 * self.size {
            // Not a moment too early, however the time is rounded.
            return Err(Duration::from_secs_f64(missing * MINUTE / self.size) + Duration::from_millis(1));
        }
        self.level -= amount;
        Ok(())
    }

    fn give_back(&mut self, amount: f64) {
        self.level = (self.level + amount).min(self.size);
    }

    fn exceeded(&self, quota: &'static str, what: &str, asked: usize, wait: Duration) -> Error {
        let (limit, seconds) = (self.size, wait.as_secs_f64());
        let message = format!(
            "this tenant may have {limit} {what} a minute, {asked} more are there in {seconds:.1} s: ask for less, or later"
        );
        exceeded(quota, limit, message, wait)
    }
}

fn exceeded(quota: &'static str, limit: impl std::fmt::Display, message: String, retry_after: Duration) -> Error {
    Error::exhausted("QUOTA_EXCEEDED", message, retry_after).with("quota", quota).with("limit", limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(set: impl FnOnce(&mut TenantSettings)) -> Quota {
        let mut settings = TenantSettings::default();
        set(&mut settings);
        Quota::new(&settings)
    }

    fn tokens(tokens: usize) -> Cost {
        Cost { tiles: 0, tokens }
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_when_told_is_served_and_who_comes_earlier_is_not() {
        let quota = quota(|settings| settings.tokens_per_minute = NonZeroU64::new(600));
        quota.take(tokens(600)).unwrap();
        let error = quota.take(tokens(50)).unwrap_err();
        assert_eq!(error.reason, "QUOTA_EXCEEDED");
        assert_eq!(error.metadata[0].1, "tokens_per_minute");
        let told = error.retry_after.unwrap();
        assert_eq!(told.as_millis(), 5001);
        pass(told - Duration::from_millis(200)).await;
        assert!(quota.take(tokens(50)).is_err());
        pass(Duration::from_millis(200)).await;
        quota.take(tokens(50)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_given_back() {
        let quota = quota(|settings| {
            settings.tokens_per_minute = NonZeroU64::new(600);
            settings.tiles_per_minute = NonZeroU64::new(10);
        });
        quota.take(Cost { tiles: 5, tokens: 600 }).unwrap();
        quota.give_back(Cost { tiles: 5, tokens: 500 });
        // Where one is lacking, nothing of the other is taken.
        assert!(quota.take(Cost { tiles: 10, tokens: 501 }).is_err());
        quota.take(Cost { tiles: 10, tokens: 500 }).unwrap();
        // However much comes back, there is never more than for a minute.
        quota.give_back(tokens(5000));
        quota.take(tokens(600)).unwrap();
        assert!(quota.take(tokens(10)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_more_than_there_is_for_a_minute_has_it_when_all_is_there_and_pays_later() {
        let quota = quota(|settings| settings.tokens_per_minute = NonZeroU64::new(600));
        quota.take(tokens(1200)).unwrap();
        assert_eq!(quota.take(tokens(1)).unwrap_err().retry_after.unwrap().as_millis(), 60_101);
        assert_eq!(quota.take(tokens(9999)).unwrap_err().retry_after.unwrap().as_millis(), 120_001);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_counted_by_the_minute_and_at_a_time() {
        let quota = quota(|settings| {
            settings.requests_per_minute = NonZeroU64::new(3);
            settings.concurrent = NonZeroUsize::new(2);
        });
        let begin = || quota.begin(Duration::from_secs(4));
        begin().unwrap();
        begin().unwrap();
        let error = begin().unwrap_err();
        assert_eq!((error.metadata[0].1.as_str(), error.retry_after), ("concurrent", Some(Duration::from_secs(2))));
        quota.end();
        begin().unwrap();
        quota.end();
        let error = begin().unwrap_err();
        assert_eq!(error.metadata[0].1, "requests_per_minute");
        quota.forget();
        begin().unwrap();
        assert_eq!(quota.open(), 2);
        pass(Duration::from_secs(60)).await;
        quota.end();
        begin().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_bounded_that_is_not_set() {
        let quota = quota(|_| {});
        for _ in 0..1000 {
            quota.begin(Duration::ZERO).unwrap();
            quota.take(Cost { tiles: 1 << 40, tokens: 1 << 40 }).unwrap();
        }
    }
}
