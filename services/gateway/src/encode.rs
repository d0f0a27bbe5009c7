//! Images that are encoded to be kept: one, or many in a stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tessera_api::embedding::LeaseRequest;
use tessera_api::gateway::{BatchRequest, BatchResponse, EncodeRequest, Encoded};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::ImageKey;
use tessera_rpc::{Deadline, Tasks};

use crate::encoding;
use crate::prepare::{PreparedImage, Preparer, image_plan};
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
    pub(crate) async fn encode(&self, request: EncodeRequest, deadline: Deadline) -> Result<Encoded> {
        let deadline = deadline.within(self.time);
        let image = self.prepare(request.image, deadline).await?;
        let plan = image_plan(&image);
        let encoded = encoding::encode(&self.upstream, image, deadline).await?;
        let spent = encoded.timings;
        let leased_until = match request.lease {
            Some(period) => {
                let lease = LeaseRequest { keys: vec![plan.key], period };
                self.upstream.lease(lease, deadline).await?.first().copied().flatten()
            }
            None => None,
        };
        Ok(Encoded {
            image: plan,
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
    pub(crate) async fn key(&self, image: Bytes, deadline: Deadline) -> Result<ImageKey> {
        Ok(self.prepare(image, deadline).await?.key)
    }

    async fn prepare(&self, file: Bytes, deadline: Deadline) -> Result<PreparedImage> {
        let fingerprint = self.upstream.fingerprint(deadline).await?;
        let preparer = Arc::clone(&self.preparer);
        let preparing = self.tasks.spawn_blocking(move || preparer.image(FIELD.into(), file, &fingerprint));
        preparing.await.map_err(|_| Error::draining())?
    }

    /// Encodes images as they come, `at_once` at a time: the stream is read no faster than that.
    pub(crate) fn batch(
        self,
        requests: impl Stream<Item = Result<BatchRequest>> + Send + 'static,
        in_order: bool,
        at_once: usize,
        deadline: Deadline,
    ) -> futures::stream::BoxStream<'static, Result<BatchResponse>> {
        let answers = requests.map(move |request| {
            let this = self.clone();
            async move {
                let BatchRequest { id, image, .. } = request?;
                let outcome = match image {
                    Ok(image) => this.encode_patiently(image, deadline).await,
                    Err(error) => Err(error),
                };
                Ok(BatchResponse { id, outcome })
            }
        });
        if in_order { answers.buffered(at_once).boxed() } else { answers.buffer_unordered(at_once).boxed() }
    }

    /// Encodes an image of a batch. A pool whose queue is full is asked again when it says so: whoever sends millions of
    /// images wants none of them back for that.
    async fn encode_patiently(&self, request: EncodeRequest, deadline: Deadline) -> Result<Encoded> {
        let deadline = deadline.within(self.time);
        loop {
            match self.encode(request.clone(), deadline).await {
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
