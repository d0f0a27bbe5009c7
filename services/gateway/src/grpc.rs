//! The `Gateway` service: proto to domain, call, domain to proto.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use tessera_api::gateway::GenerateRequest;
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::gateway_server::{Gateway, GatewayServer};
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::{Deadline, Tasks};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::answer::Answer;
use crate::defaults;
use crate::prepare::{Pools, Preparer};
use crate::settings::LimitSettings;
use crate::upstream::Upstream;

/// Events that may wait for a slow reader.
const EVENTS: usize = 64;
/// Longest request id that a client may choose.
const MAX_REQUEST_ID: usize = 128;
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) limits: LimitSettings,
    /// Requests in progress.
    pub(crate) admission: Arc<Semaphore>,
    pub(crate) tasks: Tasks,
}

impl Handler {
    /// Makes the service, with its bounds.
    pub(crate) fn into_service(self) -> GatewayServer<Self> {
        let bytes = self.limits.request.as_usize();
        GatewayServer::new(self).max_decoding_message_size(bytes)
    }

    /// Admits and prepares a request, so that what is wrong with it is said before any stream starts.
    async fn prepare(&self, request: GenerateRequest, deadline: Deadline) -> Result<Answer> {
        let received = Instant::now();
        let request_id = request_id(&request)?;
        let deadline = deadline.within(self.limits.time);
        let fingerprint = async {
            // Without images nothing depends on the vision pool, which may then be down.
            if request.has_images() { self.upstream.fingerprint(deadline).await.map(Some) } else { Ok(None) }
        };
        let (fingerprint, context) = tokio::try_join!(fingerprint, self.upstream.context(deadline))?;
        let preparer = self.preparer.clone();
        let preparing = self.tasks.spawn_blocking(move || preparer.prepare(request, Pools { fingerprint, context }));
        let preparing = async { preparing.await.map_err(|_| crashed())? };
        let prepared = deadline.bound("the request was being prepared", preparing).await?;
        let (upstream, preparer) = (self.upstream.clone(), self.preparer.clone());
        Ok(Answer { request_id, received, deadline, upstream, preparer, prepared })
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
        let permit = self.admission.clone().try_acquire_owned().map_err(|_| {
            let limit = self.limits.requests;
            Error::exhausted("QUEUE_FULL", format!("{limit} requests are in progress already"), RETRY_AFTER)
                .with("limit", limit)
        })?;
        let answer = self.prepare(GenerateRequest::try_from(request.into_inner())?, deadline).await?;
        let (sender, events) = mpsc::channel(EVENTS);
        self.tasks.spawn(async move {
            let _in_progress = permit;
            answer.run(sender).await;
        });
        Ok(Response::new(ReceiverStream::new(events).map(|event| Ok(event?.into())).boxed()))
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
