//! The workers of one pool: who is listed, who runs the pool's model, who may be given work now.

mod life;
mod model;
mod roll;
mod snapshot;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::{ClientTls, Deadline, Tasks};
use tokio::sync::watch;
use tokio::time::Instant;

pub(super) use life::Probe;
use roll::{Row, State};
pub(crate) use snapshot::{PoolSnapshot, Standing};

use super::discovery::{Discovery, Look};
use super::figures::Figures;
use super::health;
use super::member::{Kind, Member};
use super::settings::HealthSettings;
use crate::defaults::random;

/// After its start a pool waits for so long until everybody has said what it is, so that the first one alone does not
/// decide which model the pool runs.
const SETTLING: Duration = Duration::from_secs(1);
/// Where those who said so do not run the same, it waits longer for the others, who decide.
const DISPUTE: Duration = Duration::from_secs(10);
/// A worker that stayed for so long is tried again at once when it is lost.
const STEADY: Duration = Duration::from_secs(1);

/// Those who may be given work, in the order in which they are listed.
pub(super) type Members<K> = Arc<[Arc<Member<K>>]>;

/// The workers of one pool.
#[derive(Debug)]
pub(super) struct Pool<K: Kind> {
    settings: HealthSettings,
    tls: ClientTls,
    roll: Mutex<Roll<K>>,
    /// Tells that the roll changed.
    changed: watch::Sender<()>,
    started: Instant,
    pub(super) figures: Figures,
}

/// What is known, under one lock.
#[derive(Debug)]
struct Roll<K: Kind> {
    rows: Vec<Row<K>>,
    /// What the pool runs, once somebody said so.
    model: Option<K::Model>,
    /// Those of the rows who may be given work.
    available: Members<K>,
    /// All entries of the settings were looked up once.
    listed: bool,
    /// Everybody was asked once, or long enough.
    settled: bool,
}

impl<K: Kind> Pool<K> {
    /// Makes a pool of nobody, whose workers will be called by way of `tls`.
    pub(super) fn new(settings: HealthSettings, tls: ClientTls) -> Arc<Self> {
        let nobody = Members::<K>::from([]);
        let roll = Roll { rows: Vec::new(), model: None, available: nobody, listed: false, settled: false };
        Arc::new(Self {
            settings,
            tls,
            roll: Mutex::new(roll),
            changed: watch::Sender::new(()),
            started: Instant::now(),
            figures: Figures::default(),
        })
    }

    /// Keeps the pool as it is listed, and each worker under observation, until the gateway takes no more work.
    pub(super) fn start<L: Look, P: Probe<K>>(
        self: &Arc<Self>,
        mut discovery: Discovery<L>,
        refresh: Duration,
        probe: &Arc<P>,
        tasks: &Tasks,
    ) {
        let (pool, probe, spawning, draining) = (Arc::clone(self), Arc::clone(probe), tasks.clone(), tasks.draining());
        let observe = move |member: Arc<Member<K>>| {
            let (pool, probe, draining) = (Arc::clone(&pool), Arc::clone(&probe), spawning.draining().clone());
            spawning.spawn(async move {
                let gone = member.gone.clone();
                let life = life::live(&pool, &member, &*probe);
                let _ = draining.run_until_cancelled(gone.run_until_cancelled(life)).await;
            });
        };
        self.list(&discovery.urls(), discovery.is_fixed()).into_iter().for_each(&observe);
        let (pool, draining) = (Arc::clone(self), draining.clone());
        tasks.spawn(async move {
            let looking = async {
                while !discovery.is_fixed() {
                    discovery.refresh().await;
                    pool.list(&discovery.urls(), true).into_iter().for_each(&observe);
                    tokio::time::sleep(refresh).await;
                }
                std::future::pending::<()>().await;
            };
            let _ = draining.run_until_cancelled(looking).await;
            pool.tell_figures();
        });
    }

    /// Takes what is listed now: newcomers, who are returned, have to be asked what they are; who is not listed any
    /// more gets nothing new, and what it does goes on. `whole` says that every entry was looked up.
    fn list(&self, urls: &[Arc<str>], whole: bool) -> Vec<Arc<Member<K>>> {
        let mut roll = self.roll();
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut roll.rows).into_iter().partition(|row| urls.contains(&row.member.url));
        let mut known: HashMap<Arc<str>, Row<K>> =
            stay.into_iter().map(|row| (Arc::clone(&row.member.url), row)).collect();
        let mut newcomers = Vec::new();
        for url in urls {
            let row = match known.remove(url) {
                Some(row) => Ok(row),
                None => Member::new(Arc::clone(url), &self.tls).map(|member| {
                    newcomers.push(Arc::clone(&member));
                    Row::new(member)
                }),
            };
            match row {
                Ok(row) => roll.rows.push(row),
                // Discovery lets only URLs through.
                Err(error) => tracing::error!(pool = K::POOL, worker = %url, %error, "worker cannot be called"),
            }
        }
        for row in go {
            tracing::info!(pool = K::POOL, worker = %row.member.url, "worker is listed no more");
            row.member.gone.cancel();
        }
        roll.listed |= whole;
        self.recount(roll);
        newcomers
    }

    /// Those who may be given work, and at least one. Waits for workers that were never asked; when nobody is there,
    /// tries all who were lost at once, whatever the pause that they are in.
    ///
    /// # Errors
    /// Why the first of them cannot be had, when nobody can.
    pub(super) async fn members(&self, deadline: Deadline) -> Result<Members<K>> {
        if let Some(members) = self.ready() {
            return Ok(members);
        }
        let mut changed = self.changed.subscribe();
        let asked = self.poke();
        let waiting = async {
            loop {
                changed.borrow_and_update();
                if let Some(members) = self.ready() {
                    return Ok(members);
                }
                if self.all_were_tried(&asked) {
                    return Err(self.why_nobody());
                }
                let _ = tokio::time::timeout(SETTLING, changed.changed()).await;
            }
        };
        deadline.bound("a worker was awaited", waiting).await
    }

    /// Those who may be given work now.
    pub(super) fn available(&self) -> Members<K> {
        Arc::clone(&self.roll().available)
    }

    /// All who are listed and run the pool's model, whether they can be reached or not.
    pub(super) fn listed(&self) -> Vec<Arc<Member<K>>> {
        let roll = self.roll();
        let rows = roll.rows.iter().filter(|row| row.model().is_none() || row.model() == roll.model);
        rows.map(|row| Arc::clone(&row.member)).collect()
    }

    /// What the pool runs.
    pub(super) fn model(&self) -> Option<K::Model> {
        self.roll().model.clone()
    }

    /// What those who may be given work say of themselves.
    pub(super) fn descriptions(&self) -> Vec<K::Description> {
        let roll = self.roll();
        let rows = roll.rows.iter().filter(|row| row.may_work(roll.model.as_ref()));
        rows.filter_map(|row| row.description.clone()).collect()
    }

    /// Takes the outcome of a call to a worker, and note of what that says of the worker.
    ///
    /// # Errors
    /// That of the call; it names a worker that could not be reached.
    pub(super) fn hear<T>(&self, member: &Arc<Member<K>>, outcome: Result<T>) -> Result<T> {
        outcome
            .map_err(|error| {
                if is_unreachable(&error) {
                    self.failed(member, &error);
                    return named(member, error);
                }
                self.answered(member);
                if is_of_another_model(&error) {
                    self.doubt(member);
                }
                error
            })
            .inspect(|_| self.answered(member))
    }

    /// Takes note of a call that a worker answered, be it with an error of its own.
    fn answered(&self, member: &Arc<Member<K>>) {
        if let Some(row) = self.roll().row(member) {
            row.health.answered();
        }
    }

    /// Takes note of a call that failed in the transport: the worker gets nothing more until it has said again what it
    /// is, and waits for a while before that if there were many in a row.
    pub(super) fn failed(&self, member: &Arc<Member<K>>, error: &Error) {
        let mut roll = self.roll();
        let (ejected, all) = (roll.rows.iter().filter(|row| row.is_ejected()).count(), roll.rows.len());
        let Some(row) = roll.row(member) else { return };
        let enough = row.health.failed(&self.settings);
        if row.state != State::Serving {
            return;
        }
        let eject = enough && health::may_eject(ejected, all, &self.settings);
        let pause = if eject { row.health.pause(&self.settings, random()) } else { Duration::ZERO };
        row.leave(State::Lost { until: Instant::now() + pause, ejected: eject }, Some(error.clone()));
        if eject {
            self.figures.count_ejection();
            let ejections = self.figures.ejections();
            tracing::warn!(pool = K::POOL, worker = %member.url, ?pause, ejections, %error, "worker is ejected");
        }
        member.doubt.notify_one();
        self.recount(roll);
    }

    /// Has a worker asked again what it is, because of what it answered.
    fn doubt(&self, member: &Arc<Member<K>>) {
        let mut roll = self.roll();
        if let Some(row) = roll.row(member)
            && row.state == State::Serving
        {
            row.leave(State::Lost { until: Instant::now(), ejected: false }, None);
            member.doubt.notify_one();
        }
        self.recount(roll);
    }

    /// Derives from the rows what follows from them, and tells whoever waits.
    fn recount(&self, mut roll: MutexGuard<'_, Roll<K>>) {
        roll.settled |= roll.listed && roll.rows.iter().all(|row| row.tried > 0) && !roll.is_disputed();
        let said = roll.rows.iter().filter_map(|row| Some((row.model()?, row.is_expected())));
        let model = model::of_the_pool(roll.model.as_ref(), said);
        if roll.model.is_some() && model != roll.model {
            let (before, now) = (shown(roll.model.as_ref()), shown(model.as_ref()));
            tracing::warn!(pool = K::POOL, before, now, "the pool runs another model now");
        }
        roll.model = model;
        let Roll { rows, model, available, .. } = &mut *roll;
        rows.iter_mut().for_each(|row| row.tell_misfit(model.as_ref()));
        let may_work = rows.iter().filter(|row| row.may_work(model.as_ref()));
        *available = may_work.map(|row| Arc::clone(&row.member)).collect();
        drop(roll);
        self.changed.send_replace(());
    }

    /// Those who may be given work, once the pool knows what it runs.
    fn ready(&self) -> Option<Members<K>> {
        let mut roll = self.roll();
        let time = if roll.is_disputed() { DISPUTE } else { SETTLING };
        roll.settled |= self.started.elapsed() >= time;
        (roll.settled && !roll.available.is_empty()).then(|| Arc::clone(&roll.available))
    }

    /// Has all who were lost tried at once; returns for each which attempt that will be.
    fn poke(&self) -> Vec<(Arc<Member<K>>, u64)> {
        let roll = self.roll();
        let lost = roll.rows.iter().filter(|row| matches!(row.state, State::Lost { .. }));
        let poked = lost.map(|row| {
            row.member.poke.notify_one();
            (Arc::clone(&row.member), row.begun + 1)
        });
        poked.collect()
    }

    /// Whether each of these attempts is over, and nobody else was never tried.
    fn all_were_tried(&self, asked: &[(Arc<Member<K>>, u64)]) -> bool {
        let roll = self.roll();
        let is_waiting = !roll.settled && roll.is_disputed();
        roll.listed
            && !is_waiting
            && roll.rows.iter().all(|row| {
                let attempt =
                    asked.iter().find(|(member, _)| Arc::ptr_eq(member, &row.member)).map_or(1, |asked| asked.1);
                row.tried >= attempt || matches!(row.state, State::Serving | State::Refusing)
            })
    }

    fn why_nobody(&self) -> Error {
        let roll = self.roll();
        let Some(row) = roll.rows.iter().find(|row| row.error.is_some()).or(roll.rows.first()) else {
            return Error::new(ErrorKind::Unavailable, "POOL_EMPTY", format!("there is no {} worker", K::POOL));
        };
        let refusing = || Error::new(ErrorKind::Unavailable, "UNREACHABLE", "it takes no work");
        let error = row.error.clone().unwrap_or_else(refusing);
        if is_unreachable(&error) { named(&row.member, error) } else { error }
    }

    fn tell_figures(&self) {
        let (ejections, retries, hedges) = (self.figures.ejections(), self.figures.retries(), self.figures.hedges());
        let in_flight: Vec<_> =
            self.listed().iter().map(|member| (Arc::clone(&member.url), member.in_flight())).collect();
        tracing::info!(pool = K::POOL, ejections, retries, hedges, ?in_flight, "pool is observed no more");
    }

    fn roll(&self) -> MutexGuard<'_, Roll<K>> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Kind> Roll<K> {
    /// Whether workers run different models, none of which is that of most who are listed, and somebody has not said yet.
    fn is_disputed(&self) -> bool {
        let models: Vec<K::Model> = self.rows.iter().filter_map(Row::model).collect();
        let votes = |model: &K::Model| models.iter().filter(|other| *other == model).count();
        let most = models.iter().map(votes).max().unwrap_or(0);
        most < models.len() && 2 * most <= self.rows.len() && models.len() < self.rows.len()
    }

    fn row(&mut self, member: &Arc<Member<K>>) -> Option<&mut Row<K>> {
        self.rows.iter_mut().find(|row| Arc::ptr_eq(&row.member, member))
    }
}

/// Whether the worker itself could not be reached; one that could not reach another says which.
fn is_unreachable(error: &Error) -> bool {
    error.reason == "UNREACHABLE" && error.metadata.is_empty()
}

/// Whether a worker says that it runs something else than it did: it may have been replaced at its address.
pub(super) fn is_of_another_model(error: &Error) -> bool {
    matches!(error.reason.as_ref(), "KEY_MISMATCH" | "DECODER_MISMATCH")
}

/// Names the worker in the error of one that could not be reached.
fn named<K: Kind>(member: &Member<K>, error: Error) -> Error {
    let (pool, url) = (K::POOL, &member.url);
    Error { message: format!("{pool} worker {url} cannot be reached: {}", error.message), ..error }.with("worker", url)
}

fn shown<M: ToString>(model: Option<&M>) -> String {
    model.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests;
