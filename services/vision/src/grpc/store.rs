//! The `EmbeddingStore` service: proto to domain, call, domain to proto; streams stored images in chunks.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use tessera_api::embedding::{
    DeleteRequest, FetchHeader, FetchRequest, LeaseRequest, Representation, chunks, keys, lease_response, owner,
    read_upload,
};
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_server::{EmbeddingStore, EmbeddingStoreServer};
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::{Error, Result};
use tessera_embedding::ImageFeatures;
use tessera_rpc::Deadline;
use tonic::{Request, Response, Status, Streaming};

use crate::stored::Stored;

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) stored: Stored,
    /// Largest upload, and largest image file by which something is deleted.
    pub(crate) max_bytes: usize,
}

impl Handler {
    /// Makes the service.
    pub(crate) fn into_service(self) -> EmbeddingStoreServer<Self> {
        let bytes = self.max_bytes;
        EmbeddingStoreServer::new(self).max_decoding_message_size(bytes)
    }
}

#[tonic::async_trait]
impl EmbeddingStore for Handler {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<proto::FetchResponse, Status>> + Send>>;

    async fn fetch(&self, request: Request<proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let deadline = Deadline::of(request.metadata());
        let owner = owner(request.metadata())?;
        let request = FetchRequest::try_from(request.into_inner())?;
        let features = self.stored.read(request, owner, deadline).await?;
        let header = header(&features, request.representation)?;
        let payload = features.rows.into_data();
        let offset =
            usize::try_from(request.offset).ok().filter(|&offset| offset <= payload.len()).ok_or_else(|| {
                let description = format!("{} is beyond the payload's {} bytes", request.offset, payload.len());
                Error::field("OFFSET_OUT_OF_RANGE", "offset", description)
            })?;
        let parts = std::iter::once(Part::Header(header.into()))
            .chain(chunks(payload.slice(offset..)).map(Part::Chunk))
            .map(|part| Ok(proto::FetchResponse { part: Some(part) }));
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    async fn stat(&self, request: Request<proto::StatRequest>) -> Result<Response<proto::StatResponse>, Status> {
        let owner = owner(request.metadata())?;
        let statuses = self.stored.stat(keys(&request.into_inner().keys)?, owner).await;
        Ok(Response::new(proto::StatResponse { keys: statuses.into_iter().map(Into::into).collect() }))
    }

    async fn put(
        &self,
        request: Request<Streaming<proto::PutRequest>>,
    ) -> Result<Response<proto::PutResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let reading = read_upload(request.into_inner(), self.max_bytes);
        let upload = deadline.bound("an upload was being read", reading).await?;
        Ok(Response::new(self.stored.put(upload).await?.into()))
    }

    async fn lease(&self, request: Request<proto::LeaseRequest>) -> Result<Response<proto::LeaseResponse>, Status> {
        let owner = owner(request.metadata())?;
        let request = LeaseRequest::try_from(request.into_inner())?;
        Ok(Response::new(lease_response(&self.stored.lease(request, owner).await?)))
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseResponse>, Status> {
        let owner = owner(request.metadata())?;
        let released = self.stored.release(keys(&request.into_inner().keys)?, owner).await;
        Ok(Response::new(proto::ReleaseResponse { released }))
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::DeleteResponse>, Status> {
        let owner = owner(request.metadata())?;
        let request = DeleteRequest::try_from(request.into_inner())?;
        Ok(Response::new(proto::DeleteResponse { deleted: self.stored.delete(request, owner).await }))
    }
}

fn header(features: &ImageFeatures, representation: Representation) -> Result<FetchHeader> {
    let (rows, columns) = features
        .rows
        .dims2()
        .map_err(|error| Error::new(tessera_api::ErrorKind::Internal, "ARTIFACT_MISSHAPEN", error.to_string()))?;
    Ok(FetchHeader {
        image_size: features.image_size,
        dtype: features.rows.dtype(),
        representation,
        rows,
        columns,
        checksum: features.checksum,
    })
}
