//! The `VisionWorker` service: proto to domain, call, domain to proto.

pub(crate) mod store;

use std::sync::Arc;

use tessera_api::proto::vision::v1 as proto;
use tessera_api::proto::vision::v1::vision_worker_server::{VisionWorker, VisionWorkerServer};
use tessera_api::vision::{Description, EncodeRequest};
use tessera_rpc::Deadline;
use tonic::{Request, Response, Status};

use crate::encoder::Encoder;

/// What a request needs besides the file.
const OVERHEAD_BYTES: usize = 64 << 10;

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler {
    /// From file to features.
    pub(crate) encoder: Arc<Encoder>,
}

impl Handler {
    /// Makes the service, for files of at most `max_file_bytes`.
    pub(crate) fn into_service(self, max_file_bytes: usize) -> VisionWorkerServer<Self> {
        VisionWorkerServer::new(self).max_decoding_message_size(max_file_bytes + OVERHEAD_BYTES)
    }
}

#[tonic::async_trait]
impl VisionWorker for Handler {
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
}
