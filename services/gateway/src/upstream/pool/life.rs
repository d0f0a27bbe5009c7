//! The life of one worker in its pool: it is asked what it is, followed, lost, and asked again.

use std::sync::Arc;
use std::time::Duration;

use tessera_api::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::roll::State;
use super::{Pool, STEADY};
use crate::defaults::random;
use crate::upstream::member::{Kind, Member};

/// A worker that does not say what it is in this time is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Least time between two attempts, however urgent.
const GAP: Duration = Duration::from_millis(50);
/// A worker of another model is asked again after this time.
const AGAIN: Duration = Duration::from_secs(30);

/// How workers are asked; scripted in tests.
pub(in crate::upstream) trait Probe<K: Kind>: Send + Sync + 'static {
    /// Asks a worker what it is.
    fn describe(&self, member: &Member<K>) -> impl Future<Output = Result<K::Description>> + Send;

    /// Follows what a worker says of its health, and of whatever else its pool wants to know, until no more comes;
    /// returns why. `tell` is told whether it takes work.
    fn follow(&self, member: &Member<K>, tell: &(dyn Fn(bool) + Send + Sync)) -> impl Future<Output = Error> + Send;
}

/// Observes one worker for as long as it is listed.
pub(super) async fn live<K: Kind>(pool: &Arc<Pool<K>>, member: &Arc<Member<K>>, probe: &impl Probe<K>) {
    let mut last = None;
    loop {
        pool.turn(member, last).await;
        last = Some(Instant::now());
        match tokio::time::timeout(PATIENCE, probe.describe(member)).await.unwrap_or_else(|_| Err(silent(member))) {
            Ok(description) => pool.join(member, description),
            Err(error) => {
                pool.lose(member, error, Duration::ZERO);
                continue;
            }
        }
        let (began, tell) = (Instant::now(), |serving| pool.tell(member, serving));
        tokio::select! {
            biased;
            () = member.doubt.notified() => {}
            error = probe.follow(member, &tell) => pool.lose(member, error, began.elapsed()),
            () = pool.misfit(member) => {}
        }
    }
}

impl<K: Kind> Pool<K> {
    /// Waits until the worker may be tried: at once, after its pause, or when it is needed.
    async fn turn(&self, member: &Arc<Member<K>>, last: Option<Instant>) {
        let until = match self.roll().row(member).map(|row| row.state) {
            Some(State::Lost { until, .. }) => until,
            _ => Instant::now(),
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => {}
            () = member.poke.notified() => {}
        }
        if let Some(last) = last {
            tokio::time::sleep_until(last + GAP).await;
        }
        if let Some(row) = self.roll().row(member) {
            row.begun += 1;
        }
    }

    /// Takes what a worker says of itself: it is back.
    fn join(&self, member: &Arc<Member<K>>, description: K::Description) {
        let mut roll = self.roll();
        let Some(row) = roll.row(member) else { return };
        let (version, model) = (K::version(&description), K::model(&description));
        match row.state {
            State::New => tracing::info!(pool = K::POOL, worker = %member.url, %model, version, "worker joins"),
            State::Lost { .. } => {
                tracing::info!(pool = K::POOL, worker = %member.url, %model, version, "worker is back");
            }
            State::Serving | State::Refusing => {}
        }
        (row.state, row.error, row.description) = (State::Serving, None, Some(description));
        row.tried = row.begun;
        self.recount(roll);
    }

    /// Takes note of a worker that cannot be reached, or stopped telling of itself after `stayed`.
    fn lose(&self, member: &Arc<Member<K>>, error: Error, stayed: Duration) {
        let mut roll = self.roll();
        let Some(row) = roll.row(member) else { return };
        match row.state {
            State::New => tracing::warn!(pool = K::POOL, worker = %member.url, %error, "worker cannot join"),
            State::Serving | State::Refusing => {
                tracing::warn!(pool = K::POOL, worker = %member.url, %error, "worker is lost");
            }
            State::Lost { .. } => {}
        }
        let pause = if stayed >= STEADY {
            row.health.steady();
            Duration::ZERO
        } else {
            row.health.pause(&self.settings, random())
        };
        row.leave(State::Lost { until: Instant::now() + pause, ejected: row.is_ejected() }, Some(error));
        row.tried = row.begun;
        self.recount(roll);
    }

    /// Takes what a worker says of its health.
    fn tell(&self, member: &Arc<Member<K>>, serving: bool) {
        let mut roll = self.roll();
        let Some(row) = roll.row(member) else { return };
        let state = if serving { State::Serving } else { State::Refusing };
        if row.state == state || !row.can_be_reached() {
            return;
        }
        tracing::info!(pool = K::POOL, worker = %member.url, serving, "worker says whether it takes work");
        row.state = state;
        self.recount(roll);
    }

    /// Waits until it is time to ask again a worker that does not fit.
    async fn misfit(&self, member: &Arc<Member<K>>) {
        loop {
            tokio::time::sleep(AGAIN).await;
            let mut roll = self.roll();
            let model = roll.model.clone();
            if roll.row(member).is_some_and(|row| row.is_misfit(model.as_ref())) {
                return;
            }
        }
    }
}

/// The error of a worker that does not say what it is. Whoever is told of it may have all the time in the world: it is
/// no deadline that passed.
fn silent<K: Kind>(member: &Member<K>) -> Error {
    member.fall_silent();
    Error::new(ErrorKind::Unavailable, "UNREACHABLE", format!("it did not say what it is within {PATIENCE:?}"))
}
