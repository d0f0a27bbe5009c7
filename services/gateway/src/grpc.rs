//! The `Gateway` service: proto to domain, call, domain to proto.

pub(crate) mod store;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tessera_api::Result;
use tessera_api::embedding::{FetchRequest, Representation};
use tessera_api::gateway::{BatchRequest, EncodeRequest, GenerateRequest};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::encode_response::Part;
use tessera_api::proto::gateway::v1::gateway_server::{Gateway, GatewayServer};
use tessera_embedding::{ImageKey, TenantId};
use tessera_rpc::Deadline;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::front::Front;
use crate::tenant::{Door, Tenants};

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler(pub(crate) Arc<Front>);

impl Handler {
    /// Makes the service, with its bounds.
    pub(crate) fn into_service(self) -> InterceptedService<GatewayServer<Self>, Door> {
        let (door, bytes) = (Door(Arc::clone(&self.0.tenants)), self.0.limits.request.as_usize());
        let server = GatewayServer::new(self).max_decoding_message_size(bytes);
        InterceptedService::new(server.accept_compressed(Gzip).send_compressed(Gzip), door)
    }

    /// The rows of an image that was just encoded, as parts of its answer.
    async fn rows(
        &self,
        owner: TenantId,
        key: ImageKey,
        representation: Option<Representation>,
        deadline: Deadline,
    ) -> Result<impl Stream<Item = Result<Part, Status>> + use<>> {
        let rows = match representation {
            Some(representation) => {
                let request = FetchRequest { key, representation, wait: Duration::ZERO, offset: 0 };
                self.0.upstream.fetch(owner, request, deadline).await?.boxed()
            }
            None => stream::empty().boxed(),
        };
        Ok(rows.map(|part| Ok(Part::Rows(part?))))
    }
}

#[tonic::async_trait]
impl Gateway for Handler {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let deadline = Deadline::of(request.metadata());
        let tenant = Tenants::of(request.extensions())?;
        let request = GenerateRequest::try_from(request.into_inner())?;
        let events = self.0.generate(&tenant, request, deadline).await?;
        Ok(Response::new(events.map(|event| Ok(event?.into())).boxed()))
    }

    type EncodeStream = Pin<Box<dyn Stream<Item = Result<proto::EncodeResponse, Status>> + Send>>;

    async fn encode(&self, request: Request<proto::EncodeRequest>) -> Result<Response<Self::EncodeStream>, Status> {
        let deadline = Deadline::of(request.metadata()).within(self.0.limits.time);
        let tenant = Tenants::of(request.extensions())?;
        let request = EncodeRequest::try_from(request.into_inner())?;
        let representation = request.rows;
        let (encoded, admitted) = self.0.encode(&tenant, request, deadline).await?;
        let rows = self.rows(tenant.id, encoded.image.key, representation, deadline).await?;
        let parts = stream::iter([Ok(Part::Encoded(encoded.into()))]).chain(rows).map(move |part| {
            let _in_progress = &admitted;
            Ok(proto::EncodeResponse { part: Some(part?) })
        });
        Ok(Response::new(parts.boxed()))
    }

    type EncodeBatchStream = Pin<Box<dyn Stream<Item = Result<proto::EncodeBatchResponse, Status>> + Send>>;

    async fn encode_batch(
        &self,
        request: Request<Streaming<proto::EncodeBatchRequest>>,
    ) -> Result<Response<Self::EncodeBatchStream>, Status> {
        let deadline = Deadline::of(request.metadata());
        let tenant = Tenants::of(request.extensions())?;
        let permit = self.0.admission.enter_batch()?;
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else { return Ok(Response::new(stream::empty().boxed())) };
        let first = BatchRequest::from(first);
        let in_order = first.in_order;
        let requests = stream::iter([Ok(first)]).chain(requests.map(|request| Ok(request?.into())));
        let encodes = self.0.encodes.clone();
        let answers = encodes.batch(tenant, requests, in_order, self.0.limits.batch, deadline).map(move |answer| {
            let _in_progress = &permit;
            Ok(answer?.into())
        });
        Ok(Response::new(answers.boxed()))
    }
}
