//! What the vision pool stores: every key is asked of the workers that may have it, and of keys that belong to another than
//! the owner they say that they are not stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::join_all;
use tessera_api::embedding::{
    DeleteRequest, KeyStatus, LeaseRequest, Upload, Uploaded, key_bytes, lease_ends, set_owner, upload_parts,
};
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{ImageKey, TenantId};
use tessera_rpc::Deadline;
use tonic::Request;
use tonic::transport::Channel;

use super::Upstream;
use super::member::Member;
use super::retry::is_worth_a_retry;
use super::vision::Vision;

/// A vision worker, as it is asked here.
type Worker = Arc<Member<Vision>>;

impl Upstream {
    /// Says what is stored under keys, in their order.
    ///
    /// # Errors
    /// The workers'.
    pub(crate) async fn stat(&self, owner: TenantId, keys: &[ImageKey], deadline: Deadline) -> Result<Vec<KeyStatus>> {
        let ask = |worker: Worker, keys: Vec<ImageKey>| async move {
            let request = owned(owner, deadline.request(proto::StatRequest { keys: key_bytes(&keys) }));
            let response = self.answer(&worker, client(&worker).stat(request)).await?;
            response.keys.into_iter().map(KeyStatus::try_from).collect()
        };
        self.search(keys, deadline, ask, |status| status.stored.is_some()).await
    }

    /// Keeps keys for a time; tells the end for each, in their order.
    ///
    /// # Errors
    /// The workers'.
    pub(crate) async fn lease(
        &self,
        owner: TenantId,
        request: LeaseRequest,
        deadline: Deadline,
    ) -> Result<Vec<Option<SystemTime>>> {
        let period = request.period;
        let ask = |worker: Worker, keys: Vec<ImageKey>| async move {
            let request = owned(owner, deadline.request(LeaseRequest { keys, period }.into()));
            Ok(lease_ends(&self.answer(&worker, client(&worker).lease(request)).await?))
        };
        self.search(&request.keys, deadline, ask, Option::is_some).await
    }

    /// Ends leases; tells how many there were.
    ///
    /// # Errors
    /// The workers'.
    pub(crate) async fn release(&self, owner: TenantId, keys: &[ImageKey], deadline: Deadline) -> Result<u32> {
        let ask = |worker: Worker, keys: Vec<ImageKey>| async move {
            let request = owned(owner, deadline.request(proto::ReleaseRequest { keys: key_bytes(&keys) }));
            Ok(self.answer(&worker, client(&worker).release(request)).await?.released)
        };
        let members = self.vision.pool.members(deadline).await?;
        let released = join_all(self.everywhere(&members, keys).into_iter().map(|(worker, keys)| ask(worker, keys)));
        released.await.into_iter().sum()
    }

    /// Forgets what is named; an image file must have become its key. Asks whoever may have it, those who are lost
    /// included, and tells how many artifacts there were: what two workers have counts twice.
    ///
    /// # Errors
    /// A worker's; then the others have forgotten it nevertheless.
    pub(crate) async fn delete(&self, owner: TenantId, request: DeleteRequest, deadline: Deadline) -> Result<u64> {
        let ask = |worker: Worker, request: DeleteRequest| async move {
            let request = owned(owner, deadline.request(request.into()));
            Ok::<_, Error>(self.answer(&worker, client(&worker).delete(request)).await?.deleted)
        };
        self.vision.pool.members(deadline).await?;
        let members = self.vision.pool.listed();
        let shares: Vec<(Worker, DeleteRequest)> = match request {
            DeleteRequest::Keys(keys) => {
                let shares = self.everywhere(&members, &keys).into_iter();
                shares.map(|(worker, keys)| (worker, DeleteRequest::Keys(keys))).collect()
            }
            request => members.into_iter().map(|worker| (worker, request.clone())).collect(),
        };
        let deleted = join_all(shares.into_iter().map(|(worker, request)| ask(worker, request))).await;
        deleted.into_iter().sum()
    }

    /// Has an upload kept by the worker of its key.
    ///
    /// # Errors
    /// The worker's.
    pub(crate) async fn put(&self, upload: Upload, deadline: Deadline) -> Result<Uploaded> {
        let encoder = self.fingerprint(deadline).await?;
        let key = ImageKey::of_upload(&upload.tenant_salt, &encoder, upload.image_size, &upload.features);
        let members = self.vision.pool.members(deadline).await?;
        let candidates = self.vision.candidates(&members, &key);
        let worker = candidates.first().ok_or_else(nobody)?;
        let parts = futures::stream::iter(upload_parts(upload)?);
        let uploaded = self.answer(worker, client(worker).put(deadline.request(parts))).await;
        let uploaded = Uploaded::try_from(uploaded?)?;
        if uploaded.key != key {
            let message = format!("vision worker {} keeps the upload as {}, not as {key}", worker.url, uploaded.key);
            return Err(Error::new(ErrorKind::Precondition, "KEY_MISMATCH", message));
        }
        self.vision.places.note(key, &worker.url);
        Ok(uploaded)
    }

    /// Asks for each key the workers that may have it, one after the other, until one has; puts the answers in the
    /// order of the keys, and notes where each was found. A worker that cannot be reached has nothing, unless nobody
    /// else was there.
    async fn search<T, F>(
        &self,
        keys: &[ImageKey],
        deadline: Deadline,
        ask: impl Fn(Worker, Vec<ImageKey>) -> F,
        is_found: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>>
    where
        F: Future<Output = Result<Vec<T>>>,
    {
        let members = self.vision.pool.members(deadline).await?;
        let mut candidates: Vec<_> = keys.iter().map(|key| self.vision.candidates(&members, key).into_iter()).collect();
        let mut answers: Vec<Option<T>> = keys.iter().map(|_| None).collect();
        let mut failed = nobody();
        loop {
            let mut shares: BTreeMap<Arc<str>, Share> = BTreeMap::new();
            for (place, key) in keys.iter().enumerate() {
                if !answers[place].as_ref().is_some_and(&is_found)
                    && let Some(worker) = candidates[place].next()
                {
                    shares.entry(Arc::clone(&worker.url)).or_insert_with(|| Share::of(worker)).add(*key, place);
                }
            }
            if shares.is_empty() {
                break;
            }
            let asked = shares.values().map(|share| ask(Arc::clone(&share.worker), share.keys.clone()));
            for (share, answered) in shares.values().zip(join_all(asked).await) {
                match answered {
                    Ok(answered) => {
                        for (place, answer) in share.places(answered)? {
                            if is_found(&answer) {
                                self.vision.places.note(keys[place], &share.worker.url);
                            }
                            answers[place] = Some(answer);
                        }
                    }
                    Err(error) if is_worth_a_retry(&error) => failed = error,
                    Err(error) => return Err(error),
                }
            }
        }
        answers.into_iter().map(|answer| answer.ok_or_else(|| failed.clone())).collect()
    }

    /// The keys that each worker may have.
    fn everywhere(&self, members: &[Worker], keys: &[ImageKey]) -> Vec<(Worker, Vec<ImageKey>)> {
        let mut shares: BTreeMap<Arc<str>, Share> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            for worker in self.vision.candidates(members, key) {
                shares.entry(Arc::clone(&worker.url)).or_insert_with(|| Share::of(worker)).add(*key, place);
            }
        }
        shares.into_values().map(|share| (share.worker, share.keys)).collect()
    }

    async fn answer<T>(
        &self,
        worker: &Worker,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        Ok(self.vision.pool.hear(worker, worker.answer(call).await)?.into_inner())
    }
}

/// The keys that one worker is asked for, and where each stands among all.
struct Share {
    worker: Worker,
    keys: Vec<ImageKey>,
    places: Vec<usize>,
}

impl Share {
    fn of(worker: Worker) -> Self {
        Self { worker, keys: Vec::new(), places: Vec::new() }
    }

    fn add(&mut self, key: ImageKey, place: usize) {
        self.keys.push(key);
        self.places.push(place);
    }

    /// The answers, each with its place.
    ///
    /// # Errors
    /// `Internal` when they are not as many as the keys.
    fn places<T>(&self, answers: Vec<T>) -> Result<impl Iterator<Item = (usize, T)>> {
        if answers.len() != self.keys.len() {
            let message = format!("{} answers for {} keys came from a vision worker", answers.len(), self.keys.len());
            return Err(Error::new(ErrorKind::Internal, "CONTRACT_BROKEN", message));
        }
        Ok(self.places.iter().copied().zip(answers))
    }
}

/// The request, about the keys of one tenant.
pub(super) fn owned<T>(owner: TenantId, mut request: Request<T>) -> Request<T> {
    set_owner(&mut request, &owner);
    request
}

fn client(worker: &Worker) -> EmbeddingStoreClient<Channel> {
    EmbeddingStoreClient::new(worker.channel.clone())
}

fn nobody() -> Error {
    Error::new(ErrorKind::Unavailable, "POOL_EMPTY", "there is no vision worker")
}
