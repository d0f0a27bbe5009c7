//! The `VisionWorker` service: proto to domain, call, domain to proto.

pub(crate) mod store;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tessera_api::proto::vision::v1 as proto;
use tessera_api::proto::vision::v1::vision_worker_server::{VisionWorker, VisionWorkerServer};
use tessera_api::vision::{Description, EncodeRequest};
use tessera_rpc::Deadline;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::encoder::Encoder;

/// What a request needs besides the file.
const OVERHEAD_BYTES: usize = 64 << 10;

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler {
    /// From file to features.
    pub(crate) encoder: Arc<Encoder>,
    /// Ends the streams of load reports: a worker that shuts down waits for none who watch it.
    pub(crate) draining: CancellationToken,
}

impl Handler {
    /// Makes the service, for files of at most `max_file_bytes`.
    pub(crate) fn into_service(self, max_file_bytes: usize) -> VisionWorkerServer<Self> {
        VisionWorkerServer::new(self).max_decoding_message_size(max_file_bytes + OVERHEAD_BYTES)
    }
}

#[tonic::async_trait]
impl VisionWorker for Handler {
    type LoadStream = Pin<Box<dyn Stream<Item = Result<proto::LoadResponse, Status>> + Send>>;

    async fn encode(&self, request: Request<proto::EncodeRequest>) -> Result<Response<proto::EncodeResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = EncodeRequest::try_from(request.into_inner())?;
        Ok(Response::new(self.encoder.encode(request, deadline).await?.into()))
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        let version = env!("CARGO_PKG_VERSION").into();
        let busy = self.encoder.device.busy();
        Ok(Response::new(Description { fingerprint: self.encoder.fingerprint, version, busy }.into()))
    }

    async fn load(&self, request: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let ticks = tessera_rpc::report_interval(request.into_inner().interval_milliseconds);
        let encoder = Arc::clone(&self.encoder);
        let reports = IntervalStream::new(ticks).map(move |_| Ok(encoder.load().into()));
        Ok(Response::new(reports.take_until(self.draining.clone().cancelled_owned()).boxed()))
    }
}
