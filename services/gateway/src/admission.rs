//! Which requests go on to the pools, and when.
//!
//! A request is first counted (`enter`): so many are in progress at most, and of a tenant as many as it may have (`quota`).
//! Once it was prepared it is known what it takes of the pools (`cost`). It goes on when both can take that, by what the
//! language workers report and what encodings say (`tiles`). Until then it waits in a `line` that is fair to tenants, whose
//! `rate` is measured; one whose turn would come too late is told at once when to come back (`gate`).

mod cost;
mod gate;
mod line;
mod quota;
mod rate;
mod tiles;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tessera_api::vision::Encoded;
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::Deadline;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

pub(crate) use cost::Cost;
use gate::{Bounds, Gate, TooLong};
pub(crate) use line::Class;
use line::{Place, Whose};
pub(crate) use quota::Quota;

use crate::defaults::random;
use crate::settings::{LimitSettings, Settings};
use crate::tenant::Tenant;
use crate::upstream::Room;

/// While somebody waits, the pools are asked so often whether they can take more.
const LOOK: Duration = Duration::from_millis(50);
/// Who is told to come back is told up to such a part more, so that not all come at once.
const JITTER: f64 = 0.25;

/// Lets requests through to the pools.
pub(crate) struct Admission {
    limits: LimitSettings,
    /// Requests in progress.
    requests: Arc<Semaphore>,
    /// Batches in progress; each of their images is a request.
    batches: Arc<Semaphore>,
    /// How many of these each tenant has, where tenants are told apart.
    shares: Option<Mutex<HashMap<String, usize>>>,
    /// What the pools can take.
    room: Box<dyn Fn() -> Room + Send + Sync>,
    gate: Mutex<Gate<Grant>>,
    /// Somebody waits.
    joined: Notify,
}

type Grant = oneshot::Sender<Result<Slot>>;

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Entry {
    admission: Arc<Admission>,
    pub(crate) tenant: Arc<Tenant>,
    class: Class,
    _place: OwnedSemaphorePermit,
}

/// A request that went on to the pools; what it holds of them is free once this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    slot: Slot,
    reserved: Reserved,
    _entry: Entry,
}

/// What a request holds of the pools.
#[derive(Debug)]
struct Slot {
    admission: Arc<Admission>,
    held: Mutex<Cost>,
    since: Instant,
}

/// What was taken of a tenant's quotas; what was not used is given back.
#[derive(Debug)]
struct Reserved {
    tenant: Arc<Tenant>,
    taken: Cost,
    used: Mutex<Cost>,
}

/// A place in the line, for as long as somebody wants it.
struct Standing<'a> {
    admission: &'a Arc<Admission>,
    place: Place,
}

impl Admission {
    /// Lets requests through as these settings and `room`, which says what the pools can take, allow it.
    pub(crate) fn new(settings: &Settings, room: impl Fn() -> Room + Send + Sync + 'static) -> Arc<Self> {
        let limits = settings.limits.clone();
        let bounds = Bounds { waiting: limits.waiting, time: limits.queue_time, overcommit: limits.overcommit };
        // More than that is no bound either.
        let most = limits.requests.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            requests: Arc::new(Semaphore::new(most)),
            batches: Arc::new(Semaphore::new(most)),
            shares: settings.auth.is_on().then(Mutex::default),
            room: Box::new(room),
            gate: Mutex::new(Gate::new(bounds)),
            joined: Notify::new(),
            limits,
        })
    }

    /// Looks after those who wait: the pools may come to take more without a request of this gateway being over.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            self.joined.notified().await;
            while self.gate().has_line() {
                tokio::time::sleep(LOOK).await;
                self.open();
            }
        }
    }

    /// Counts a request, before anything is done for it. `least` is what it takes of the pools in any case.
    ///
    /// # Errors
    /// `Exhausted` when too many are in progress, when its tenant may have no more, and when its turn would come too late.
    pub(crate) fn enter(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        class: Class,
        least: Cost,
        deadline: Deadline,
    ) -> Result<Entry> {
        let whose = whose(tenant, class);
        let too_many = || {
            let retry_after = {
                let mut gate = self.gate();
                // One of so many places is free after each of these times.
                let limit = u32::try_from(self.limits.requests).unwrap_or(u32::MAX);
                let excess = gate.usual_time() / limit;
                gate.promise(&whose, Cost::default(), excess, Instant::now())
            };
            full("requests are in progress", self.limits.requests, retry_after)
        };
        // The last places are for those who have few.
        let (limit, free) = (self.limits.requests, self.requests.available_permits());
        if free * 4 < limit && self.share_of(tenant) * 2 > limit {
            return Err(too_many());
        }
        let place = self.requests.clone().try_acquire_owned().map_err(|_| too_many())?;
        let usual = self.gate().usual_time();
        tenant.quota.begin(usual)?;
        self.change_share(tenant, |open| open + 1);
        let entry = Entry { admission: Arc::clone(self), tenant: Arc::clone(tenant), class, _place: place };
        let foreseen = self.gate().foresee_next(&whose, least, deadline.remaining(), Instant::now());
        foreseen.map_err(|too_long| {
            tenant.quota.forget();
            too_late(too_long)
        })?;
        Ok(entry)
    }

    /// Counts a batch. Its images enter one by one.
    ///
    /// # Errors
    /// `Exhausted` when there are too many.
    pub(crate) fn enter_batch(&self) -> Result<OwnedSemaphorePermit> {
        let usual = self.gate().usual_time();
        self.batches
            .clone()
            .try_acquire_owned()
            .map_err(|_| full("batches are in progress", self.limits.requests, usual.max(Duration::from_secs(1))))
    }

    /// How many requests a tenant has in progress; none where tenants are not told apart.
    fn share_of(&self, tenant: &Tenant) -> usize {
        let shares = self.shares.as_ref().map(|shares| shares.lock().unwrap_or_else(PoisonError::into_inner));
        shares.and_then(|shares| shares.get(&tenant.name).copied()).unwrap_or(0)
    }

    fn change_share(&self, tenant: &Tenant, change: impl FnOnce(usize) -> usize) {
        let Some(shares) = &self.shares else { return };
        let mut shares = shares.lock().unwrap_or_else(PoisonError::into_inner);
        let open = change(shares.get(&tenant.name).copied().unwrap_or(0));
        if open > 0 {
            shares.insert(tenant.name.clone(), open);
        } else {
            shares.remove(&tenant.name);
        }
    }

    /// Lets those through whose turn it is.
    fn open(self: &Arc<Self>) {
        if !self.gate().has_line() {
            return self.gate().rest(Instant::now());
        }
        let room = (self.room)();
        let through = self.gate().open(&room, Instant::now());
        for (grant, cost) in through {
            // One who left in this moment drops the slot, which is free then.
            let _ = grant.send(Ok(Slot { admission: Arc::clone(self), held: Mutex::new(cost), since: Instant::now() }));
        }
    }

    /// Has those give way who are too many.
    fn give_way(&self) {
        let refused = std::iter::from_fn(|| self.gate().give_way(Instant::now()));
        for (grant, retry_after) in refused.collect::<Vec<_>>() {
            let _ = grant.send(Err(full("requests wait", self.limits.waiting, retry_after)));
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate<Grant>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Waits until both pools can take what the request takes.
    ///
    /// # Errors
    /// `Exhausted` when its tenant may not have that much now, when its turn comes too late and when too many wait; `Deadline`.
    pub(crate) async fn admit(self, cost: Cost, deadline: Deadline) -> Result<Admitted> {
        let admitted = async {
            self.tenant.quota.take(cost)?;
            let reserved = Reserved { tenant: Arc::clone(&self.tenant), taken: cost, used: Mutex::default() };
            Ok::<_, Error>((self.stand(cost, deadline).await?, reserved))
        };
        match admitted.await {
            Ok((slot, reserved)) => Ok(Admitted { slot, reserved, _entry: self }),
            Err(error) => {
                if error.kind == ErrorKind::Exhausted {
                    self.tenant.quota.forget();
                }
                Err(error)
            }
        }
    }

    async fn stand(&self, cost: Cost, deadline: Deadline) -> Result<Slot> {
        let Self { admission, tenant, class, .. } = self;
        let whose = whose(tenant, *class);
        let (grant, granted) = oneshot::channel();
        let place = admission.gate().join(&whose, cost, grant);
        let standing = Standing { admission, place };
        admission.open();
        standing.foresee(&whose, cost, deadline)?;
        admission.give_way();
        admission.joined.notify_one();
        let waiting = async { granted.await.map_err(|_| Error::draining())? };
        let waiting = deadline.bound("the request waited for its turn", waiting);
        match class {
            Class::Batch => waiting.await,
            Class::Interactive => match tokio::time::timeout(admission.limits.queue_time, waiting).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let wait = admission.limits.queue_time;
                    let retry_after = admission.gate().promise(&whose, cost, Duration::ZERO, Instant::now());
                    Err(too_late(TooLong { wait, retry_after }))
                }
            },
        }
    }
}

impl Standing<'_> {
    /// Fails for one whose turn will come too late.
    fn foresee(&self, whose: &Whose, cost: Cost, deadline: Deadline) -> Result<()> {
        let mut gate = self.admission.gate();
        if !gate.holds(self.place) {
            return Ok(());
        }
        gate.foresee(whose, cost, deadline.remaining(), Instant::now()).map_err(too_late)
    }
}

impl Admitted {
    /// Waits for the encoding of an image of so many tiles, and takes note of what it says of the vision pool.
    ///
    /// # Errors
    /// The encoding's.
    pub(crate) async fn encoding(
        &self,
        tiles: usize,
        encoding: impl Future<Output = Result<Encoded>>,
    ) -> Result<Encoded> {
        let (began, cost) = (Instant::now(), Cost { tiles, tokens: 0 });
        self.reserved.add(cost);
        let encoded = encoding.await;
        let spent = match &encoded {
            Ok(encoded) => Some(Some((began.elapsed(), encoded.timings))),
            Err(error) => (error.kind == ErrorKind::Exhausted).then_some(None),
        };
        if let Some(spent) = spent {
            self.slot.admission.gate().hear(tiles, spent);
        }
        if encoded.as_ref().is_ok_and(|encoded| encoded.stored_before) {
            self.reserved.remove(cost);
        }
        self.slot.release(cost);
        encoded
    }

    /// Takes note of how many tokens were used, those of the prompt included.
    pub(crate) fn used_tokens(&self, tokens: usize) {
        self.reserved.used().tokens = tokens;
    }
}

impl Slot {
    /// Takes back a part before all of it is over.
    fn release(&self, part: Cost) {
        {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = held.minus(part);
            let released = held.minus(rest);
            *held = rest;
            self.admission.gate().release(released, None);
        }
        self.admission.open();
    }
}

impl Reserved {
    fn add(&self, cost: Cost) {
        let mut used = self.used();
        *used = used.plus(cost);
    }

    fn remove(&self, cost: Cost) {
        let mut used = self.used();
        *used = used.minus(cost);
    }

    fn used(&self) -> MutexGuard<'_, Cost> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.admission.change_share(&self.tenant, |open| open.saturating_sub(1));
        self.tenant.quota.end();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.admission.gate().release(held, Some(self.since.elapsed()));
        self.admission.open();
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let used = *self.used();
        self.tenant.quota.give_back(self.taken.minus(used));
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let left = self.admission.gate().leave(self.place);
        if left.is_some() {
            // Whoever stood behind it may need less.
            self.admission.open();
        }
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("limits", &self.limits).finish_non_exhaustive()
    }
}

fn whose(tenant: &Tenant, class: Class) -> Whose {
    Whose { tenant: tenant.name.clone(), class, weight: tenant.weight }
}

fn full(what: &str, limit: usize, retry_after: Duration) -> Error {
    Error::exhausted("QUEUE_FULL", format!("{limit} {what} already"), jittered(retry_after)).with("limit", limit)
}

fn too_late(TooLong { wait, retry_after }: TooLong) -> Error {
    let message = format!("the request would wait for {:.1} s, which is too long", wait.as_secs_f64());
    Error::exhausted("QUEUE_TOO_LONG", message, jittered(retry_after)).with("wait_seconds", wait.as_secs_f64())
}

fn jittered(time: Duration) -> Duration {
    let part = (random() >> 32) as f64 / f64::from(u32::MAX);
    time.mul_f64(1.0 + JITTER * part)
}

#[cfg(test)]
mod tests;
