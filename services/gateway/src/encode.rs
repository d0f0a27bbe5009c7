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

use crate::encoding;
use crate::prepare::{Preparer, image_plan};
use crate::tenant::Tenant;
use crate::upstream::Upstream;

/// The path of the image in these requests.
const FIELD: &str = "image";

/// Encodes images by way of the vision pool.
#[derive(Clone, Debug)]
pub(crate) struct Encodes {
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) upstream: Arc<Upstream>,
    /// Longest time that one image may take.
    pub(crate) time: Duration,
    pub(crate) tasks: Tasks,
}

impl Encodes {
    /// Encodes an image and keeps it.
    ///
    /// # Errors
    /// Of the image or of the vision pool.
    pub(crate) async fn encode(
        &self,
        tenant: &Arc<Tenant>,
        request: EncodeRequest,
        deadline: Deadline,
    ) -> Result<Encoded> {
        let deadline = deadline.within(self.time);
        let (file, plan) = self.prepare(tenant, request.image, deadline).await?;
        let key = file.key;
        let encoded = encoding::encode(&self.upstream, FIELD, file, &plan, deadline).await?;
        let spent = encoded.timings;
        let leased_until = match request.lease {
            Some(period) => {
                let lease = LeaseRequest { keys: vec![key], period };
                self.upstream.lease(lease, deadline).await?.first().copied().flatten()
            }
            None => None,
        };
        Ok(Encoded {
            image: image_plan(key, &plan),
            stored_before: encoded.stored_before,
            durable: encoded.durable,
            leased_until,
            encode: spent.preprocess + spent.queue + spent.forward,
        })
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
        preparing.await.map_err(|_| Error::draining())?
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

    /// Encodes an image of a batch. A pool whose queue is full is asked again when it says so: whoever sends millions of
    /// images wants none of them back for that.
    async fn encode_patiently(
        &self,
        tenant: &Arc<Tenant>,
        request: EncodeRequest,
        deadline: Deadline,
    ) -> Result<Encoded> {
        let deadline = deadline.within(self.time);
        loop {
            match self.encode(tenant, request.clone(), deadline).await {
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
