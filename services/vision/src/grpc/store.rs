//! The `EmbeddingStore` service: streams stored images in chunks.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tessera_api::embedding::{FetchHeader, FetchRequest, Representation};
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_server::{EmbeddingStore, EmbeddingStoreServer};
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::{Error, Result};
use tessera_embedding::Artifact;
use tessera_rpc::Deadline;
use tonic::{Request, Response, Status};

use crate::encoder::Encoder;

/// Bytes of a chunk: well below the limit of 4 MiB that gRPC clients have by default.
const CHUNK_BYTES: usize = 1 << 20;

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler {
    /// Whose store.
    pub(crate) encoder: Arc<Encoder>,
}

impl Handler {
    /// Makes the service.
    pub(crate) fn into_service(self) -> EmbeddingStoreServer<Self> {
        EmbeddingStoreServer::new(self)
    }

    async fn read(&self, request: FetchRequest, deadline: Deadline) -> Result<Arc<Artifact>> {
        let waiting = async { Ok(self.encoder.store.wait(request.key, request.wait).await?) };
        let artifact = deadline.bound("waiting for an image to be stored", waiting).await?;
        match request.representation {
            Representation::Features => Ok(artifact),
            Representation::Projected => {
                let plan = self.encoder.geometry.plan(artifact.image_size);
                let rows = self.encoder.device.project(artifact.clone(), plan);
                let rows = deadline.bound("an image was being projected", rows).await?;
                Ok(Arc::new(Artifact::seal(artifact.image_size, rows)))
            }
        }
    }
}

#[tonic::async_trait]
impl EmbeddingStore for Handler {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<proto::FetchResponse, Status>> + Send>>;

    async fn fetch(&self, request: Request<proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = FetchRequest::try_from(request.into_inner())?;
        let artifact = self.read(request, deadline).await?;
        let header = header(&artifact, request.representation)?;
        let parts = std::iter::once(Part::Header(header.into()))
            .chain(chunks(artifact.features.data().clone()).map(Part::Chunk))
            .map(|part| Ok(proto::FetchResponse { part: Some(part) }));
        Ok(Response::new(stream::iter(parts).boxed()))
    }
}

fn header(artifact: &Artifact, representation: Representation) -> Result<FetchHeader> {
    let (rows, columns) = artifact
        .features
        .dims2()
        .map_err(|error| Error::new(tessera_api::ErrorKind::Internal, "ARTIFACT_MISSHAPEN", error.to_string()))?;
    Ok(FetchHeader {
        image_size: artifact.image_size,
        dtype: artifact.features.dtype(),
        representation,
        rows,
        columns,
        checksum: artifact.checksum,
    })
}

/// Pieces of a payload, without copying it.
fn chunks(mut payload: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || (!payload.is_empty()).then(|| payload.split_to(CHUNK_BYTES.min(payload.len()))))
}
