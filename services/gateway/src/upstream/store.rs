//! What the vision pool stores: every key is asked of the worker that it belongs to.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures::future::try_join_all;
use tessera_api::embedding::{
    DeleteRequest, FetchRequest, KeyStatus, LeaseRequest, Upload, Uploaded, key_bytes, lease_ends, upload_parts,
};
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::ImageKey;
use tessera_rpc::Deadline;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Upstream, Worker, unreachable};

impl Upstream {
    /// Streams a stored image from the worker that has it.
    ///
    /// # Errors
    /// The worker's.
    pub(crate) async fn fetch(
        &self,
        request: FetchRequest,
        deadline: Deadline,
    ) -> Result<Streaming<proto::FetchResponse>> {
        let worker = &self.vision[self.vision_index(&request.key)];
        let response = client(worker).fetch(deadline.request(request.into())).await;
        answer(worker, response)
    }

    /// Says what is stored under keys, in their order.
    ///
    /// # Errors
    /// The workers'.
    pub(crate) async fn stat(&self, keys: &[ImageKey], deadline: Deadline) -> Result<Vec<KeyStatus>> {
        let ask = |index: usize, keys: Vec<ImageKey>| async move {
            let worker = &self.vision[index];
            let request = proto::StatRequest { keys: key_bytes(&keys) };
            let response = answer(worker, client(worker).stat(deadline.request(request)).await)?;
            response.keys.into_iter().map(KeyStatus::try_from).collect()
        };
        self.by_worker(keys, ask).await
    }

    /// Keeps keys for a time; tells the end for each, in their order.
    ///
    /// # Errors
    /// The workers'.
    pub(crate) async fn lease(&self, request: LeaseRequest, deadline: Deadline) -> Result<Vec<Option<SystemTime>>> {
        let period = request.period;
        let ask = |index: usize, keys: Vec<ImageKey>| async move {
            let worker = &self.vision[index];
            let request = LeaseRequest { keys, period };
            let response = client(worker).lease(deadline.request(request.into())).await;
            Ok(lease_ends(&answer(worker, response)?))
        };
        self.by_worker(&request.keys, ask).await
    }

    /// Ends leases; tells how many there were.
    ///
    /// # Errors
    /// The workers'.
    pub(crate) async fn release(&self, keys: &[ImageKey], deadline: Deadline) -> Result<u32> {
        let ask = |index: usize, keys: Vec<ImageKey>| async move {
            let worker = &self.vision[index];
            let request = proto::ReleaseRequest { keys: key_bytes(&keys) };
            Ok::<_, Error>(answer(worker, client(worker).release(deadline.request(request)).await)?.released)
        };
        let released = try_join_all(self.shares(keys).into_iter().map(|(index, share)| ask(index, share.keys))).await?;
        Ok(released.into_iter().sum())
    }

    /// Forgets what is named; an image file must have become its key. Tells how many artifacts there were.
    ///
    /// # Errors
    /// The workers'.
    pub(crate) async fn delete(&self, request: DeleteRequest, deadline: Deadline) -> Result<u64> {
        let ask = |index: usize, request: DeleteRequest| async move {
            let worker = &self.vision[index];
            Ok::<_, Error>(answer(worker, client(worker).delete(deadline.request(request.into())).await)?.deleted)
        };
        let shares: Vec<(usize, DeleteRequest)> = match request {
            DeleteRequest::Keys(keys) => {
                let shares = self.shares(&keys).into_iter();
                shares.map(|(index, share)| (index, DeleteRequest::Keys(share.keys))).collect()
            }
            request => (0..self.vision.len()).map(|index| (index, request.clone())).collect(),
        };
        let deleted = try_join_all(shares.into_iter().map(|(index, request)| ask(index, request))).await?;
        Ok(deleted.into_iter().sum())
    }

    /// Has an upload kept by the worker of its key.
    ///
    /// # Errors
    /// The worker's.
    pub(crate) async fn put(&self, upload: Upload, deadline: Deadline) -> Result<Uploaded> {
        let encoder = self.fingerprint(deadline).await?;
        let key = ImageKey::of_upload(&upload.tenant_salt, &encoder, upload.image_size, &upload.features);
        let worker = &self.vision[self.vision_index(&key)];
        let parts = futures::stream::iter(upload_parts(upload)?);
        let uploaded = Uploaded::try_from(answer(worker, client(worker).put(deadline.request(parts)).await)?)?;
        if uploaded.key != key {
            let message = format!("vision worker {} keeps the upload as {}, not as {key}", worker.url, uploaded.key);
            return Err(Error::new(ErrorKind::Precondition, "KEY_MISMATCH", message));
        }
        Ok(uploaded)
    }

    /// Asks each worker for its share of the keys, and puts the answers in the order of the keys.
    async fn by_worker<T, F>(&self, keys: &[ImageKey], ask: impl Fn(usize, Vec<ImageKey>) -> F) -> Result<Vec<T>>
    where
        F: Future<Output = Result<Vec<T>>>,
    {
        let shares = self.shares(keys);
        let answers = try_join_all(shares.iter().map(|(&index, share)| ask(index, share.keys.clone()))).await?;
        let mut places = Vec::with_capacity(keys.len());
        for (share, answers) in shares.values().zip(answers) {
            if answers.len() != share.keys.len() {
                let message =
                    format!("{} answers for {} keys came from a vision worker", answers.len(), share.keys.len());
                return Err(Error::new(ErrorKind::Internal, "CONTRACT_BROKEN", message));
            }
            places.extend(share.places.iter().copied().zip(answers));
        }
        places.sort_by_key(|&(place, _)| place);
        Ok(places.into_iter().map(|(_, answer)| answer).collect())
    }

    fn shares(&self, keys: &[ImageKey]) -> BTreeMap<usize, Share> {
        let mut shares: BTreeMap<usize, Share> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            let share = shares.entry(self.vision_index(key)).or_default();
            share.keys.push(*key);
            share.places.push(place);
        }
        shares
    }
}

/// The keys of one worker, and where each stands among all.
#[derive(Default)]
struct Share {
    keys: Vec<ImageKey>,
    places: Vec<usize>,
}

fn client(worker: &Worker) -> EmbeddingStoreClient<Channel> {
    EmbeddingStoreClient::new(worker.channel.clone())
}

fn answer<T>(worker: &Worker, response: Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    match response {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(unreachable("vision", &worker.url, status.into())),
    }
}
