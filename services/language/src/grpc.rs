//! The `LanguageWorker` service: proto to domain, call, domain to proto.

pub(crate) mod store;

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tessera_api::language::{Description, GenerateRequest};
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_server::{LanguageWorker, LanguageWorkerServer};
use tessera_api::{Error, ErrorKind};
use tessera_rpc::Deadline;
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::constraint::Forms;
use crate::engine::EngineHandle;
use crate::features::Features;

/// Largest request: a prompt of a million tokens and its images.
const MAX_REQUEST_BYTES: usize = 8 << 20;

/// What the service answers with.
#[derive(Debug)]
pub(crate) struct Handler {
    /// The way to the engine.
    pub(crate) engine: EngineHandle,
    /// Where images come from.
    pub(crate) features: Features,
    /// What answers must be.
    pub(crate) forms: Forms,
    /// What this worker can hold.
    pub(crate) description: Description,
    /// Refuses new sequences and ends the streams of load reports: a worker that shuts down waits for none who watch it.
    pub(crate) draining: CancellationToken,
}

impl Handler {
    /// Makes the service, with its bounds.
    pub(crate) fn into_service(self) -> LanguageWorkerServer<Self> {
        LanguageWorkerServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// Refuses a sequence that another model is meant for: this worker may have come back with another one.
    fn check_decoder(&self, request: &GenerateRequest) -> Result<(), Error> {
        let ours = self.description.fingerprint;
        match request.decoder {
            Some(theirs) if theirs != ours => {
                let message = format!("this worker's model is {ours}, the sequence is one of {theirs}");
                Err(Error::new(ErrorKind::Precondition, "DECODER_MISMATCH", message).with("decoder", ours))
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl LanguageWorker for Handler {
    type LoadStream = Pin<Box<dyn Stream<Item = Result<proto::LoadResponse, Status>> + Send>>;
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        if self.draining.is_cancelled() {
            return Err(Error::draining().into());
        }
        let deadline = Deadline::of(request.metadata());
        let request = GenerateRequest::try_from(request.into_inner())?;
        self.check_decoder(&request)?;
        self.features.check(&request.images)?;
        let form = self.forms.matchers(&request, deadline).await?;
        let events = ReceiverStream::new(self.engine.admit(request, form, deadline).await?);
        Ok(Response::new(events.map(|event| Ok(event?.into())).boxed()))
    }

    async fn load(&self, request: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let ticks = tessera_rpc::report_interval(request.into_inner().interval_milliseconds);
        let mut meter = self.engine.meter();
        let reports = IntervalStream::new(ticks).map(move |_| Ok(meter.read().into()));
        Ok(Response::new(reports.take_until(self.draining.clone().cancelled_owned()).boxed()))
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        Ok(Response::new(self.description.clone().into()))
    }
}
