//! Images that are encoded to be kept: one, or many in a stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tessera_anyres::Plan;
use tessera_api::embedding::LeaseRequest;
use tessera_api::gateway::{BatchRequest, BatchResponse, EncodeRequest, Encoded};
use tessera_api::{Error, ErrorKind, Result, vision};
use tessera_embedding::ImageKey;
use tessera_rpc::{Deadline, Tasks};
use tokio_util::task::AbortOnDropHandle;

use crate::admission::{Admission, Admitted, Class, Cost, Entry};
use crate::encoding;
use crate::prepare::{Preparer, image_plan};
use crate::tenant::Tenant;
use crate::upstream::Upstream;

/// The path of the image in these requests.
const FIELD: &str = "image";
/// What every image takes: it has a tile.
pub(crate) const LEAST: Cost = Cost { tiles: 1, tokens: 0 };

/// Encodes images by way of the vision pool.
#[derive(Clone, Debug)]
pub(crate) struct Encodes {
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) admission: Arc<Admission>,
    /// Longest time that one image may take.
    pub(crate) time: Duration,
    pub(crate) tasks: Tasks,
}

impl Encodes {
    /// Encodes an image and keeps it, once the vision pool can take it. It is in progress until the second value is dropped.
    ///
    /// # Errors
    /// Of the image or of the vision pool, or that it cannot take the image now.
    pub(crate) async fn encode(
        &self,
        entry: Entry,
        request: EncodeRequest,
        deadline: Deadline,
    ) -> Result<(Encoded, Admitted)> {
        let deadline = deadline.within(self.time);
        let (file, plan) = self.prepare(&entry.tenant, request.image, deadline).await?;
        let (key, tiles, owner) = (file.key, plan.tile_count(), entry.tenant.id);
        let admitted = entry.admit(Cost { tiles, tokens: 0 }, deadline).await?;
        let encoding = encoding::encode(&self.upstream, FIELD, file, &plan, deadline);
        let encoded = admitted.encoding(tiles, encoding).await?;
        let spent = encoded.timings;
        let leased_until = match request.lease {
            Some(period) => {
                let lease = LeaseRequest { keys: vec![key], period };
                self.upstream.lease(owner, lease, deadline).await?.first().copied().flatten()
            }
            None => None,
        };
        let encoded = Encoded {
            image: image_plan(key, &plan),
            stored_before: encoded.stored_before,
            durable: encoded.durable,
            leased_until,
            encode: spent.preprocess + spent.queue + spent.forward,
        };
        Ok((encoded, admitted))
    }

    /// The key that an image file has.
    ///
    /// # Errors
    /// Of the image or of the vision pool.
    pub(crate) async fn key(&self, tenant: &Arc<Tenant>, image: Bytes, deadline: Deadline) -> Result<ImageKey> {
        Ok(self.prepare(tenant, image, deadline).await?.0.key)
    }

    async fn prepare(
        &self,
        tenant: &Arc<Tenant>,
        file: Bytes,
        deadline: Deadline,
    ) -> Result<(vision::EncodeRequest, Plan)> {
        let fingerprint = self.upstream.fingerprint(deadline).await?;
        let (preparer, tenant) = (Arc::clone(&self.preparer), Arc::clone(tenant));
        let preparing = self.tasks.spawn_blocking(move || preparer.file(&tenant, FIELD, file, &fingerprint));
        AbortOnDropHandle::new(preparing).await.map_err(|_| Error::draining())?
    }

    /// Encodes images as they come, `at_once` at a time: the stream is read no faster than that.
    pub(crate) fn batch(
        self,
        tenant: Arc<Tenant>,
        requests: impl Stream<Item = Result<BatchRequest>> + Send + 'static,
        in_order: bool,
        at_once: usize,
        deadline: Deadline,
    ) -> futures::stream::BoxStream<'static, Result<BatchResponse>> {
        let answers = requests.map(move |request| {
            let (this, tenant) = (self.clone(), Arc::clone(&tenant));
            async move {
                let BatchRequest { id, image, .. } = request?;
                let outcome = match image {
                    Ok(image) => this.encode_patiently(&tenant, image, deadline).await,
                    Err(error) => Err(error),
                };
                Ok(BatchResponse { id, outcome })
            }
        });
        if in_order { answers.buffered(at_once).boxed() } else { answers.buffer_unordered(at_once).boxed() }
    }

    /// Encodes an image of a batch: a request of its own, behind those that somebody waits for. One that is refused for lack of
    /// room is tried again when it may be: whoever sends millions of images wants none of them back for that.
    async fn encode_patiently(
        &self,
        tenant: &Arc<Tenant>,
        request: EncodeRequest,
        deadline: Deadline,
    ) -> Result<Encoded> {
        let deadline = deadline.within(self.time);
        loop {
            let encoded = async {
                let entry = self.admission.enter(tenant, Class::Batch, LEAST, deadline)?;
                Ok(self.encode(entry, request.clone(), deadline).await?.0)
            };
            match encoded.await {
                Err(Error { kind: ErrorKind::Exhausted, retry_after: Some(pause), .. }) => {
                    let waiting = async {
                        tokio::time::sleep(pause).await;
                        Ok(())
                    };
                    deadline.bound("the vision pool's queue was full", waiting).await?;
                }
                outcome => return outcome,
            }
        }
    }
}
