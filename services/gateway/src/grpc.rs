//! The `Gateway` service: proto to domain, call, domain to proto.

pub(crate) mod store;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use tessera_api::embedding::{FetchRequest, Representation};
use tessera_api::gateway::{BatchRequest, EncodeRequest, GenerateRequest};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::encode_response::Part;
use tessera_api::proto::gateway::v1::gateway_server::{Gateway, GatewayServer};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{ImageKey, TenantId};
use tessera_rpc::{Deadline, Tasks};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::admission::{Admission, Class, Cost, Entry};
use crate::answer::Answer;
use crate::defaults;
use crate::encode::{self, Encodes};
use crate::prepare::{Pools, Preparer};
use crate::settings::LimitSettings;
use crate::tenant::{Door, Tenants};
use crate::upstream::Upstream;
use crate::urls::Fetcher;

/// Events that may wait for a slow reader.
const EVENTS: usize = 64;
/// Longest request id that a client may choose.
const MAX_REQUEST_ID: usize = 128;

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler {
    /// Who may ask.
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) encodes: Encodes,
    /// Where images by URL are fetched.
    pub(crate) urls: Option<Arc<Fetcher>>,
    pub(crate) limits: LimitSettings,
    pub(crate) admission: Arc<Admission>,
    pub(crate) tasks: Tasks,
}

impl Handler {
    /// Makes the service, with its bounds.
    pub(crate) fn into_service(self) -> InterceptedService<GatewayServer<Self>, Door> {
        let (door, bytes) = (Door(Arc::clone(&self.tenants)), self.limits.request.as_usize());
        InterceptedService::new(GatewayServer::new(self).max_decoding_message_size(bytes), door)
    }

    /// Prepares a request and admits it, so that what is wrong with it is said before any stream starts.
    async fn prepare(&self, entry: Entry, mut request: GenerateRequest, deadline: Deadline) -> Result<Answer> {
        let received = Instant::now();
        let request_id = request_id(&request)?;
        let tenant = Arc::clone(&entry.tenant);
        tracing::debug!(request_id, tenant = tenant.name, "a request is being prepared");
        let deadline = deadline.within(self.limits.time);
        self.preparer.check(&request)?;
        let fingerprint = async {
            // Without images nothing depends on the vision pool, which may then be down.
            if request.has_images() { self.upstream.fingerprint(deadline).await.map(Some) } else { Ok(None) }
        };
        let handles = request.handles();
        let stored = async {
            if handles.is_empty() { Ok(Vec::new()) } else { self.upstream.stat(tenant.id, &handles, deadline).await }
        };
        let (fingerprint, context, stored) = tokio::try_join!(fingerprint, self.upstream.context(deadline), stored)?;
        if let Some(urls) = &self.urls {
            urls.fetch(&mut request, self.limits.request.as_u64(), deadline).await?;
        }
        let (preparer, of) = (self.preparer.clone(), tenant.clone());
        let pools = Pools { fingerprint, context, stored };
        let preparing = self.tasks.spawn_blocking(move || preparer.prepare(&of, request, &pools));
        let preparing = async { AbortOnDropHandle::new(preparing).await.map_err(|_| crashed())? };
        let prepared = deadline.bound("the request was being prepared", preparing).await?;
        let admitted = entry.admit(prepared.cost(), deadline).await?;
        let (upstream, preparer) = (self.upstream.clone(), self.preparer.clone());
        let continuations = self.limits.continuations;
        Ok(Answer { request_id, tenant, received, deadline, upstream, preparer, prepared, admitted, continuations })
    }
}

impl Handler {
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
                self.upstream.fetch(owner, request, deadline).await?.boxed()
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
        let least = Cost { tiles: usize::from(request.has_images()), tokens: 1 };
        let entry = self.admission.enter(&tenant, Class::Interactive, least, deadline)?;
        let answer = self.prepare(entry, request, deadline).await?;
        let (sender, events) = mpsc::channel(EVENTS);
        self.tasks.spawn(answer.run(sender));
        Ok(Response::new(ReceiverStream::new(events).map(|event| Ok(event?.into())).boxed()))
    }

    type EncodeStream = Pin<Box<dyn Stream<Item = Result<proto::EncodeResponse, Status>> + Send>>;

    async fn encode(&self, request: Request<proto::EncodeRequest>) -> Result<Response<Self::EncodeStream>, Status> {
        let deadline = Deadline::of(request.metadata()).within(self.limits.time);
        let tenant = Tenants::of(request.extensions())?;
        let request = EncodeRequest::try_from(request.into_inner())?;
        let representation = request.rows;
        let entry = self.admission.enter(&tenant, Class::Interactive, encode::LEAST, deadline)?;
        let (encoded, admitted) = self.encodes.encode(entry, request, deadline).await?;
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
        let permit = self.admission.enter_batch()?;
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else { return Ok(Response::new(stream::empty().boxed())) };
        let first = BatchRequest::from(first);
        let in_order = first.in_order;
        let requests = stream::iter([Ok(first)]).chain(requests.map(|request| Ok(request?.into())));
        let answers =
            self.encodes.clone().batch(tenant, requests, in_order, self.limits.batch, deadline).map(move |answer| {
                let _in_progress = &permit;
                Ok(answer?.into())
            });
        Ok(Response::new(answers.boxed()))
    }
}

/// The client's name for the request, or one that we make.
fn request_id(request: &GenerateRequest) -> Result<String> {
    let id = &request.request_id;
    if id.len() > MAX_REQUEST_ID || id.chars().any(char::is_control) {
        let description = format!("must be at most {MAX_REQUEST_ID} bytes without control characters");
        return Err(Error::field("REQUEST_ID_INVALID", "request_id", description));
    }
    Ok(if id.is_empty() { format!("{:016x}", defaults::random()) } else { id.clone() })
}

fn crashed() -> Error {
    Error::new(ErrorKind::Internal, "PREPARE_FAILED", "preparing the request failed")
}
