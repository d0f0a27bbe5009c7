//! The `EmbeddingStore` service of the whole vision pool.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tessera_api::embedding::{DeleteRequest, FetchRequest, LeaseRequest, keys, lease_response, read_upload};
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_server::{EmbeddingStore, EmbeddingStoreServer};
use tessera_api::{Error, Result};
use tessera_embedding::Salt;
use tessera_rpc::Deadline;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::encode::Encodes;
use crate::front::Front;
use crate::tenant::{Door, Tenants};

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) encodes: Encodes,
    /// Who may ask.
    pub(crate) tenants: Arc<Tenants>,
    /// Largest upload, and largest image file by which something is deleted.
    pub(crate) max_bytes: usize,
}

impl Handler {
    /// The service of what stands behind all faces.
    pub(crate) fn of(front: &Front) -> Self {
        Self {
            encodes: front.encodes.clone(),
            tenants: Arc::clone(&front.tenants),
            max_bytes: front.limits.request.as_usize(),
        }
    }

    /// Makes the service, with its bounds.
    pub(crate) fn into_service(self) -> InterceptedService<EmbeddingStoreServer<Self>, Door> {
        let (door, bytes) = (Door(Arc::clone(&self.tenants)), self.max_bytes);
        let server = EmbeddingStoreServer::new(self).max_decoding_message_size(bytes);
        InterceptedService::new(server.accept_compressed(Gzip).send_compressed(Gzip), door)
    }
}

/// Refuses a salt from outside: whose keys are meant is decided by who asks, not by what they say.
fn check_salt(field: &str, salt: &Salt) -> Result<()> {
    if salt.is_empty() {
        return Ok(());
    }
    Err(Error::field("TENANT_NOT_YOURS_TO_NAME", field, "must be empty: the gateway knows whose keys are meant"))
}

#[tonic::async_trait]
impl EmbeddingStore for Handler {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<proto::FetchResponse, Status>> + Send>>;

    async fn fetch(&self, request: Request<proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let deadline = Deadline::of(request.metadata()).within(self.encodes.time);
        let owner = Tenants::of(request.extensions())?.id;
        let request = FetchRequest::try_from(request.into_inner())?;
        Ok(Response::new(self.encodes.upstream.fetch(owner, request, deadline).await?.boxed()))
    }

    async fn stat(&self, request: Request<proto::StatRequest>) -> Result<Response<proto::StatResponse>, Status> {
        let deadline = Deadline::of(request.metadata()).within(self.encodes.time);
        let owner = Tenants::of(request.extensions())?.id;
        let statuses = self.encodes.upstream.stat(owner, &keys(&request.into_inner().keys)?, deadline).await?;
        Ok(Response::new(proto::StatResponse { keys: statuses.into_iter().map(Into::into).collect() }))
    }

    async fn put(
        &self,
        request: Request<Streaming<proto::PutRequest>>,
    ) -> Result<Response<proto::PutResponse>, Status> {
        let deadline = Deadline::of(request.metadata()).within(self.encodes.time);
        let tenant = Tenants::of(request.extensions())?;
        let reading = read_upload(request.into_inner(), self.max_bytes);
        let mut upload = deadline.bound("an upload was being read", reading).await?;
        check_salt("header.tenant_salt", &upload.tenant_salt)?;
        upload.tenant_salt = tenant.salt.clone();
        Ok(Response::new(self.encodes.upstream.put(upload, deadline).await?.into()))
    }

    async fn lease(&self, request: Request<proto::LeaseRequest>) -> Result<Response<proto::LeaseResponse>, Status> {
        let deadline = Deadline::of(request.metadata()).within(self.encodes.time);
        let owner = Tenants::of(request.extensions())?.id;
        let request = LeaseRequest::try_from(request.into_inner())?;
        Ok(Response::new(lease_response(&self.encodes.upstream.lease(owner, request, deadline).await?)))
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseResponse>, Status> {
        let deadline = Deadline::of(request.metadata()).within(self.encodes.time);
        let owner = Tenants::of(request.extensions())?.id;
        let released = self.encodes.upstream.release(owner, &keys(&request.into_inner().keys)?, deadline).await?;
        Ok(Response::new(proto::ReleaseResponse { released }))
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::DeleteResponse>, Status> {
        let deadline = Deadline::of(request.metadata()).within(self.encodes.time);
        let tenant = Tenants::of(request.extensions())?;
        let request = match DeleteRequest::try_from(request.into_inner())? {
            DeleteRequest::Image(image) => DeleteRequest::Keys(vec![self.encodes.key(&tenant, image, deadline).await?]),
            DeleteRequest::Tenant { salt } => {
                check_salt("tenant.salt", &salt)?;
                DeleteRequest::Tenant { salt: tenant.salt.clone() }
            }
            keys => keys,
        };
        let deleted = self.encodes.upstream.delete(tenant.id, request, deadline).await?;
        Ok(Response::new(proto::DeleteResponse { deleted }))
    }
}
