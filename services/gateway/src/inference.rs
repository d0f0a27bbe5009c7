//! The Open Inference Protocol, as clients of KServe and Triton speak it: one model, whose tensors are those of Triton's vLLM
//! backend.
//!
//! `model` says what there is, `request` reads what is asked (`tensor` its tensors, `sampling` its parameters), `answer`
//! makes responses of events, `statistics` counts.

mod answer;
mod model;
mod request;
mod sampling;
mod statistics;
mod tensor;

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt, stream};
use tessera_api::proto::inference as proto;
use tessera_api::proto::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use tessera_api::proto::inference::repository_index_response::ModelIndex;
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::Deadline;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::MetadataMap;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use crate::front::{Events, Front};
use crate::tenant::{Door, Tenant, Tenants};
use crate::words::Words;
use answer::{Answer, Place, Told};
use model::{Model, VERSION};
use request::Asked;
use statistics::{Measured, Statistics};

/// What a client of Triton sends to have an error end its stream.
const ERRORS_END: &str = "triton_grpc_error";
/// Why shared memory is refused, and what to do.
const SHARED_MEMORY: (&str, &str) =
    ("SHARED_MEMORY_UNSUPPORTED", "tensors travel in the message itself: send them in raw_input_contents");
/// Why models are neither loaded nor unloaded.
const MODEL_CONTROL: (&str, &str) = (
    "MODEL_CONTROL_UNSUPPORTED",
    "a gateway serves the model that its settings name as long as it runs: start another one",
);
/// Why traces are not set.
const TRACES: (&str, &str) = ("TRACE_SETTING_UNSUPPORTED", "there are no traces to set");
/// Why logs are not set.
const LOGS: (&str, &str) =
    ("LOG_SETTINGS_UNSUPPORTED", "logs are set when the gateway starts, under `log` in its settings");

/// What the service answers with.
#[derive(Clone, Debug)]
pub(crate) struct Handler {
    front: Arc<Front>,
    model: Arc<Model>,
    statistics: Arc<Statistics>,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Unary,
    Stream,
}

/// An answer that is on its way. To drop it ends the request and frees what it held.
struct Answering {
    call: Call,
    events: Events,
    answer: Answer,
    words: Words,
    measured: Measured,
    is_over: bool,
}

impl Handler {
    /// What answers for the model of this gateway.
    pub(crate) fn new(front: &Arc<Front>) -> Self {
        let model = Arc::new(Model { name: front.served.name.clone() });
        Self { front: Arc::clone(front), model, statistics: Arc::default() }
    }

    /// Makes the service, with its bounds.
    pub(crate) fn into_service(self) -> InterceptedService<GrpcInferenceServiceServer<Self>, Door> {
        let (door, bytes) = (Door(Arc::clone(&self.front.tenants)), self.front.limits.request.as_usize());
        let server = GrpcInferenceServiceServer::new(self).max_decoding_message_size(bytes);
        InterceptedService::new(server.accept_compressed(Gzip).send_compressed(Gzip), door)
    }

    fn is_ready(&self) -> bool {
        self.front.upstream.is_ready()
    }

    /// Begins to answer; what is wrong with a request is said here, in the words of its client.
    async fn begin(
        &self,
        call: Call,
        tenant: &Arc<Tenant>,
        request: proto::ModelInferRequest,
        deadline: Deadline,
    ) -> Result<Answering> {
        self.model.check(&request.model_name, &request.model_version)?;
        let measured = Measured::start(&self.statistics);
        // Images in base64 take their time.
        let preparer = Arc::clone(&self.front.preparer);
        let reading = self.front.compute(deadline, move || request::read(request, preparer.prompter.image_token()));
        let Asked { request, reply, words, time } = reading.await?;
        if call == Call::Unary && reply.in_pieces {
            let what = "must be false, or left out: ModelInfer has one response, ModelStreamInfer answers in pieces";
            return Err(Error::field("STREAM_IN_UNARY_CALL", model::input("stream"), what));
        }
        let deadline = time.map_or(deadline, |time| deadline.within(time));
        let events = self.front.generate(tenant, request, deadline).await;
        let events = events.map_err(|error| words.of(error))?;
        Ok(Answering { call, events, answer: Answer::new(&self.model, reply), words, measured, is_over: false })
    }

    /// All responses to one request of a stream; an error is the last.
    fn responses(
        self,
        tenant: Arc<Tenant>,
        request: proto::ModelInferRequest,
        deadline: Deadline,
    ) -> impl Stream<Item = Result<proto::ModelInferResponse>> + Send + 'static {
        let begun = async move { self.begin(Call::Stream, &tenant, request, deadline).await };
        begun
            .map(|begun| match begun {
                Ok(answering) => answering.responses().left_stream(),
                Err(error) => stream::once(ready(Err(error))).right_stream(),
            })
            .flatten_stream()
    }
}

impl Answering {
    /// The next response; none behind the last one. An answer that does not come in pieces has one.
    ///
    /// # Errors
    /// What the request failed of, in the client's words.
    async fn next(&mut self) -> Result<Option<proto::ModelInferResponse>> {
        while !self.is_over {
            let Some(event) = self.events.next().await else {
                let message = "the answer was broken off: the gateway is shutting down, ask another one";
                return Err(Error::new(ErrorKind::Unavailable, "DRAINING", message));
            };
            let event = event.map_err(|error| self.words.of(error))?;
            match self.answer.take(event) {
                Told::End => {
                    self.is_over = true;
                    self.measured.succeed(&self.answer.timings);
                    let place = if self.call == Call::Stream { Place::Last } else { Place::Alone };
                    return Ok(Some(self.answer.response(place)));
                }
                Told::Piece if self.answer.reply.in_pieces => return Ok(Some(self.answer.response(Place::Within))),
                Told::Piece | Told::Nothing => {}
            }
        }
        Ok(None)
    }

    /// All of them, and an error as the last.
    fn responses(self) -> impl Stream<Item = Result<proto::ModelInferResponse>> + Send {
        stream::unfold(Some(self), |answering| async {
            let mut answering = answering?;
            match answering.next().await {
                Ok(response) => Some((Ok(response?), Some(answering))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

/// A response as it stands in a stream, which goes on after an error.
fn in_stream(id: &str, response: Result<proto::ModelInferResponse>) -> proto::ModelStreamInferResponse {
    match response {
        Ok(response) => {
            proto::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
        }
        Err(error) => proto::ModelStreamInferResponse {
            error_message: format!("{}: {}", error.reason, error.message),
            infer_response: Some(answer::failed(id)),
        },
    }
}

/// The error of a method that the protocol has and the gateway has not.
fn unsupported<T>((reason, message): (&'static str, &'static str)) -> Result<T, Status> {
    Err(Error::new(ErrorKind::Unsupported, reason, message).into())
}

/// Whether an error shall end its stream.
fn errors_end(metadata: &MetadataMap) -> bool {
    metadata.get(ERRORS_END).is_some_and(|value| value == "true")
}

#[tonic::async_trait]
impl GrpcInferenceService for Handler {
    async fn server_live(
        &self,
        _: Request<proto::ServerLiveRequest>,
    ) -> Result<Response<proto::ServerLiveResponse>, Status> {
        Ok(Response::new(proto::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Result<Response<proto::ServerReadyResponse>, Status> {
        Ok(Response::new(proto::ServerReadyResponse { ready: self.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<proto::ModelReadyRequest>,
    ) -> Result<Response<proto::ModelReadyResponse>, Status> {
        let proto::ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.model.is(&name, &version) && self.is_ready();
        Ok(Response::new(proto::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<proto::ServerMetadataRequest>,
    ) -> Result<Response<proto::ServerMetadataResponse>, Status> {
        Ok(Response::new(proto::ServerMetadataResponse {
            name: "tessera".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: ["model_configuration", "model_repository", "parameters", "statistics"].map(Into::into).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Result<Response<proto::ModelMetadataResponse>, Status> {
        let proto::ModelMetadataRequest { name, version } = request.into_inner();
        self.model.check(&name, &version)?;
        Ok(Response::new(self.model.metadata()))
    }

    async fn model_infer(
        &self,
        request: Request<proto::ModelInferRequest>,
    ) -> Result<Response<proto::ModelInferResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let tenant = Tenants::of(request.extensions())?;
        let mut answering = self.begin(Call::Unary, &tenant, request.into_inner(), deadline).await?;
        let response = answering.next().await?;
        Ok(Response::new(response.unwrap_or_default()))
    }

    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<proto::ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<proto::ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let deadline = Deadline::of(request.metadata());
        let tenant = Tenants::of(request.extensions())?;
        let errors_end = errors_end(request.metadata());
        let (this, at_once) = (self.clone(), self.front.limits.stream);
        // A client may keep its stream open for ever: what it asked is answered, and then it is over.
        let draining = self.front.tasks.draining().clone().cancelled_owned();
        let responses = request.into_inner().take_until(draining).map(move |request| match request {
            Ok(request) => {
                let id = request.id.clone();
                let responses = this.clone().responses(Arc::clone(&tenant), request, deadline);
                let told = move |response: Result<_>| match response {
                    Err(error) if errors_end => Err(error.into()),
                    response => Ok(in_stream(&id, response)),
                };
                responses.map(told).boxed()
            }
            Err(status) => stream::once(ready(Err(status))).boxed(),
        });
        Ok(Response::new(responses.flatten_unordered(at_once).boxed()))
    }

    async fn model_config(
        &self,
        request: Request<proto::ModelConfigRequest>,
    ) -> Result<Response<proto::ModelConfigResponse>, Status> {
        let proto::ModelConfigRequest { name, version } = request.into_inner();
        self.model.check(&name, &version)?;
        Ok(Response::new(proto::ModelConfigResponse { config: Some(self.model.config()) }))
    }

    async fn model_statistics(
        &self,
        request: Request<proto::ModelStatisticsRequest>,
    ) -> Result<Response<proto::ModelStatisticsResponse>, Status> {
        let proto::ModelStatisticsRequest { name, version } = request.into_inner();
        if !(name.is_empty() && version.is_empty()) {
            self.model.check(&name, &version)?;
        }
        Ok(Response::new(proto::ModelStatisticsResponse { model_stats: vec![self.statistics.of(&self.model)] }))
    }

    async fn repository_index(
        &self,
        request: Request<proto::RepositoryIndexRequest>,
    ) -> Result<Response<proto::RepositoryIndexResponse>, Status> {
        let proto::RepositoryIndexRequest { repository_name, ready } = request.into_inner();
        if !repository_name.is_empty() {
            let message = "there is one repository, which has no name: leave repository_name empty";
            return Err(Error::new(ErrorKind::NotFound, "REPOSITORY_NOT_FOUND", message).into());
        }
        let (state, reason) =
            if self.is_ready() { ("READY", "") } else { ("UNAVAILABLE", "a pool has no worker that takes work") };
        let model = ModelIndex {
            name: self.model.name.clone(),
            version: VERSION.into(),
            state: state.into(),
            reason: reason.into(),
        };
        let models = if ready && !reason.is_empty() { Vec::new() } else { vec![model] };
        Ok(Response::new(proto::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        _: Request<proto::RepositoryModelLoadRequest>,
    ) -> Result<Response<proto::RepositoryModelLoadResponse>, Status> {
        unsupported(MODEL_CONTROL)
    }

    async fn repository_model_unload(
        &self,
        _: Request<proto::RepositoryModelUnloadRequest>,
    ) -> Result<Response<proto::RepositoryModelUnloadResponse>, Status> {
        unsupported(MODEL_CONTROL)
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<proto::SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<proto::SystemSharedMemoryStatusResponse>, Status> {
        unsupported(SHARED_MEMORY)
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<proto::SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<proto::SystemSharedMemoryRegisterResponse>, Status> {
        unsupported(SHARED_MEMORY)
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<proto::SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<proto::SystemSharedMemoryUnregisterResponse>, Status> {
        unsupported(SHARED_MEMORY)
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<proto::CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<proto::CudaSharedMemoryStatusResponse>, Status> {
        unsupported(SHARED_MEMORY)
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<proto::CudaSharedMemoryRegisterRequest>,
    ) -> Result<Response<proto::CudaSharedMemoryRegisterResponse>, Status> {
        unsupported(SHARED_MEMORY)
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<proto::CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<proto::CudaSharedMemoryUnregisterResponse>, Status> {
        unsupported(SHARED_MEMORY)
    }

    async fn trace_setting(
        &self,
        _: Request<proto::TraceSettingRequest>,
    ) -> Result<Response<proto::TraceSettingResponse>, Status> {
        unsupported(TRACES)
    }

    async fn log_settings(
        &self,
        _: Request<proto::LogSettingsRequest>,
    ) -> Result<Response<proto::LogSettingsResponse>, Status> {
        unsupported(LOGS)
    }
}
