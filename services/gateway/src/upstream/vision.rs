//! The vision pool: every image goes to the worker that it belongs to, or to the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::try_join_all;
use tessera_api::Result;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::vision::{Description, EncodeRequest, Encoded, Load};
use tessera_embedding::{EncoderFingerprint, ImageKey};
use tessera_rpc::{ClientTls, Deadline};
use tokio::time::Instant;

use super::hedge::Patience;
use super::member::{Kind, Member};
use super::places::Places;
use super::pool::{Members, Pool};
use super::rendezvous;
use super::retry::{Budget, Turn, ask_in_order};
use super::settings::{EncodeSettings, HealthSettings, RetrySettings};

/// Workers behind the one that an image belongs to which are asked whether they have it: a pool that grew or shrank by
/// a few still finds what is stored.
const NEXT: usize = 3;

/// Vision workers.
#[derive(Debug)]
pub(super) struct Vision;

/// What a vision worker reported last.
#[derive(Debug, Default)]
pub(super) struct Reported(Mutex<Option<Load>>);

/// The vision pool.
#[derive(Debug)]
pub(super) struct VisionPool {
    pub(super) pool: Arc<Pool<Vision>>,
    pub(super) places: Places,
    budget: Budget,
    patience: Patience,
    /// Images that somebody here is concerned with now.
    concerns: Mutex<HashMap<ImageKey, Concern>>,
}

/// An image that somebody is concerned with.
#[derive(Debug, Default)]
struct Concern {
    /// How often it is being encoded.
    encoding: usize,
    /// Sequences that may still need it.
    holding: usize,
    /// What it is encoded by; nothing where a handle stands for it.
    request: Option<EncodeRequest>,
}

/// An image that is being encoded for as long as this lives.
struct UnderWay<'a> {
    pool: &'a VisionPool,
    key: ImageKey,
}

/// Images that a sequence may need for as long as this lives: their files are kept, so that they can be encoded again.
#[derive(Debug)]
pub(super) struct Held {
    pool: Arc<VisionPool>,
    keys: Vec<ImageKey>,
}

impl Kind for Vision {
    const POOL: &'static str = "vision";
    type Description = Description;
    type Model = EncoderFingerprint;
    type Notes = Reported;
    type Load = Load;

    fn model(description: &Description) -> EncoderFingerprint {
        description.fingerprint
    }

    fn version(description: &Description) -> &str {
        &description.version
    }

    fn load(notes: &Reported) -> Option<Load> {
        *notes.lock()
    }
}

impl Reported {
    /// Takes a report, or that there is none any more.
    pub(super) fn report(&self, load: Option<Load>) {
        *self.lock() = load;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Load>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VisionPool {
    /// Makes a pool of nobody, whose workers will be called by way of `tls`.
    pub(super) fn new(health: HealthSettings, retry: RetrySettings, encode: EncodeSettings, tls: ClientTls) -> Self {
        Self {
            pool: Pool::new(health, tls),
            places: Places::new(),
            budget: Budget::new(retry),
            patience: Patience::new(encode),
            concerns: Mutex::default(),
        }
    }

    /// The URL of the worker that an image is given to, or was given to lately; nothing when there is no worker.
    pub(super) fn store_of(&self, key: &ImageKey) -> Option<Arc<str>> {
        if self.is_under_way(key) {
            return self.places.of(key);
        }
        let url = self.order(&self.pool.available(), key).first().map(|member| Arc::clone(&member.url))?;
        self.places.note(*key, &url);
        Some(url)
    }

    /// The URL of the worker that an image was given to last, however long ago, if that one still takes work; otherwise
    /// of the one that it is given to.
    pub(super) fn last_store_of(&self, key: &ImageKey) -> Option<Arc<str>> {
        let takes_work = |url: &Arc<str>| self.pool.available().iter().any(|member| member.url == *url);
        self.places.of(key).filter(takes_work).or_else(|| self.store_of(key))
    }

    /// Has an image encoded by the worker that it belongs to, or by another one when that one is too busy, cannot be
    /// reached or takes too long.
    ///
    /// # Errors
    /// The worker's.
    pub(super) async fn encode(&self, request: EncodeRequest, deadline: Deadline) -> Result<Encoded> {
        let (key, _under_way) = (request.key, self.begin(&request));
        let members = self.pool.members(deadline).await?;
        let order = self.order(&members, &key);
        let ask = |member: &Arc<Member<Vision>>, turn| {
            // Of two who are both at it, the one who is done first has it.
            if turn != Turn::Hedge {
                self.places.note(key, &member.url);
            }
            self.encode_at(Arc::clone(member), request.clone(), deadline)
        };
        ask_in_order(&order, self.patience.hedge(), (&self.budget, &self.pool.figures), ask).await
    }

    async fn encode_at(
        &self,
        member: Arc<Member<Vision>>,
        request: EncodeRequest,
        deadline: Deadline,
    ) -> Result<Encoded> {
        let (_in_flight, began, key) = (member.call(), Instant::now(), request.key);
        let mut client = VisionWorkerClient::new(member.channel.clone());
        let encoded = member.answer(client.encode(deadline.request(request.into()))).await;
        let encoded = Encoded::try_from(self.pool.hear(&member, encoded)?.into_inner())?;
        self.places.note(key, &member.url);
        if !encoded.stored_before {
            self.patience.took(began.elapsed());
        }
        Ok(encoded)
    }

    /// The workers that an image may be given to, best first.
    fn order(&self, members: &Members<Vision>, key: &ImageKey) -> Vec<Arc<Member<Vision>>> {
        let mut order = rendezvous::order(members.iter().map(|member| &*member.url), key);
        let fresh = self.places.fresh(key);
        let first = order.iter().copied().find(|&index| Some(&members[index].url) == fresh.as_ref());
        let first = first.or_else(|| rendezvous::bounded(&order, |index| members[index].in_flight()));
        order.sort_by_key(|&index| Some(index) != first);
        order.into_iter().map(|index| Arc::clone(&members[index])).collect()
    }

    /// The workers that may have an image, likeliest first: where it was last, where it belongs, and the next ones.
    pub(super) fn candidates(&self, members: &[Arc<Member<Vision>>], key: &ImageKey) -> Vec<Arc<Member<Vision>>> {
        let known = self.places.of(key);
        let mut order = rendezvous::order(members.iter().map(|member| &*member.url), key);
        order.sort_by_key(|&index| Some(&members[index].url) != known.as_ref());
        order.into_iter().take(1 + NEXT).map(|index| Arc::clone(&members[index])).collect()
    }

    /// Whether an image is being encoded for somebody here.
    pub(super) fn is_under_way(&self, key: &ImageKey) -> bool {
        self.concerns().get(key).is_some_and(|concern| concern.encoding > 0)
    }

    /// Keeps the files of images while a sequence may need them.
    pub(super) fn hold(self: &Arc<Self>, keys: Vec<ImageKey>) -> Held {
        let mut concerns = self.concerns();
        keys.iter().for_each(|key| concerns.entry(*key).or_default().holding += 1);
        drop(concerns);
        Held { pool: Arc::clone(self), keys }
    }

    fn begin(&self, request: &EncodeRequest) -> UnderWay<'_> {
        let mut concerns = self.concerns();
        let concern = concerns.entry(request.key).or_default();
        (concern.encoding, concern.request) = (concern.encoding + 1, Some(request.clone()));
        UnderWay { pool: self, key: request.key }
    }

    /// Ends a concern, and forgets the image when it was the last one.
    fn end(&self, key: &ImageKey, end: impl FnOnce(&mut Concern)) {
        let mut concerns = self.concerns();
        let Some(concern) = concerns.get_mut(key) else { return };
        end(concern);
        if concern.encoding == 0 && concern.holding == 0 {
            concerns.remove(key);
        }
    }

    fn concerns(&self) -> MutexGuard<'_, HashMap<ImageKey, Concern>> {
        self.concerns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Has the images encoded once more, where their files are known: a worker that has one says so at once, and
    /// whatever was lost is somewhere again. Returns whether there was any.
    ///
    /// # Errors
    /// Of an image that cannot be encoded.
    pub(super) async fn encode_again(&self, deadline: Deadline) -> Result<bool> {
        let known = |key: &ImageKey| self.pool.concerns().get(key)?.request.clone();
        let requests: Vec<EncodeRequest> = self.keys.iter().filter_map(known).collect();
        let is_any = !requests.is_empty();
        try_join_all(requests.into_iter().map(|request| self.pool.encode(request, deadline))).await?;
        Ok(is_any)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.pool.end(&self.key, |concern| concern.encoding -= 1);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keys.iter().for_each(|key| self.pool.end(key, |concern| concern.holding -= 1));
    }
}

#[cfg(test)]
mod tests;
