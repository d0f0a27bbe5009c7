//! The Open Inference Protocol over the wire, in front of a language worker without a model.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "workers/held.rs"]
mod held;
#[path = "inference/worker.rs"]
mod worker;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use tessera_api::gateway::{Event, GenerateRequest, Input, Message, Part, Role, Settings};
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::proto::inference as proto;
use tessera_api::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tessera_api::proto::inference::infer_parameter::ParameterChoice;
use tessera_api::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tessera_api::{Error, ErrorKind};
use tessera_gateway::{AuthSettings, LimitSettings};
use tessera_rpc::{Tasks, client};
use tessera_testkit::family_dir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use worker::{BROKEN, HELD, Worker};

/// Long enough for whatever happens at once, on a busy machine too.
const MOMENT: Duration = Duration::from_millis(500);
/// A test that hangs fails.
const LIMIT: Duration = Duration::from_secs(60);
const QUESTION: &str = "What is shown?";

type Client = GrpcInferenceServiceClient<Channel>;

/// A gateway in front of a worker.
struct Bench {
    worker: Worker,
    channel: Channel,
    /// Tells the gateway to stop.
    stop: CancellationToken,
}

/// A stream of requests, and of responses.
struct Open {
    requests: mpsc::Sender<proto::ModelInferRequest>,
    responses: Streaming<proto::ModelStreamInferResponse>,
}

impl Bench {
    async fn new(settings: tessera_gateway::Settings) -> Self {
        let worker = Worker::default();
        let settings = tessera_gateway::Settings {
            model: family_dir("mistral"),
            model_name: "llava".into(),
            // Nobody asks about images.
            vision: vec!["http://127.0.0.1:9".into()],
            language: vec![worker.serve().await],
            ..settings
        };
        let service = tessera_gateway::build(settings).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let channel = client::channel(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let stop = CancellationToken::new();
        Tasks::default().spawn(service.run(listener, stop.clone()));
        Self { worker, channel, stop }
    }

    fn client(&self) -> Client {
        Client::new(self.channel.clone())
    }

    async fn open(&self, metadata: &[(&'static str, &'static str)]) -> Open {
        let (requests, receiver) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(receiver));
        for (name, value) in metadata {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        let responses = self.client().model_stream_infer(request).await.unwrap().into_inner();
        Open { requests, responses }
    }

    /// Waits until the worker has so many sequences.
    async fn has(&self, sequences: usize) {
        while self.worker.open.load(Ordering::Relaxed) != sequences {
            tokio::time::sleep(MOMENT / 50).await;
        }
    }
}

impl Open {
    async fn ask(&self, request: proto::ModelInferRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// The next response, with what is said of an error.
    async fn next(&mut self) -> (proto::ModelInferResponse, String) {
        let response = self.responses.message().await.unwrap().unwrap();
        (response.infer_response.unwrap(), response.error_message)
    }
}

fn tensor(name: &str, datatype: &str) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: vec![1], ..Default::default() }
}

fn element(text: &str) -> Bytes {
    let mut raw = BytesMut::new();
    raw.put_u32_le(text.len() as u32);
    raw.put_slice(text.as_bytes());
    raw.freeze()
}

/// A question, to be answered in so many tokens.
fn question(id: &str, tokens: u32, stream: bool) -> proto::ModelInferRequest {
    let parameters = format!("{{\"max_tokens\": {tokens}}}");
    proto::ModelInferRequest {
        model_name: "llava".into(),
        id: id.into(),
        inputs: vec![
            tensor("text_input", "BYTES"),
            tensor("sampling_parameters", "BYTES"),
            tensor("stream", "BOOL"),
            tensor("exclude_input_in_output", "BOOL"),
        ],
        raw_input_contents: vec![
            element(QUESTION),
            element(&parameters),
            Bytes::copy_from_slice(&[u8::from(stream)]),
            Bytes::from_static(&[1]),
        ],
        ..Default::default()
    }
}

fn text(response: &proto::ModelInferResponse) -> String {
    let index = response.outputs.iter().position(|output| output.name == "text_output").unwrap();
    String::from_utf8(response.raw_output_contents[index][4..].to_vec()).unwrap()
}

fn is_last(response: &proto::ModelInferResponse) -> Option<bool> {
    match response.parameters.get("triton_final_response")?.parameter_choice {
        Some(ParameterChoice::BoolParam(last)) => Some(last),
        _ => None,
    }
}

fn reason<T>(result: Result<T, Status>) -> (ErrorKind, String) {
    let error = Error::from(result.err().unwrap());
    (error.kind, error.reason.into_owned())
}

fn limited(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, test).await });
    runtime.shutdown_background();
    ended.expect("the test hangs");
}

#[test]
fn an_answer_is_that_of_our_own_protocol_whole_and_in_pieces() {
    limited(async {
        let bench = Bench::new(tessera_gateway::Settings::default()).await;
        let message = Message { role: Role::User, parts: vec![Part::Text(QUESTION.into())] };
        let settings = Settings { max_tokens: Some(5), ..Settings::default() };
        let asked = GenerateRequest { request_id: String::new(), input: Input::Conversation(vec![message]), settings };
        let mut events = GatewayClient::new(bench.channel.clone()).generate(Request::new(asked.into())).await.unwrap();
        let mut expected = String::new();
        while let Some(event) = events.get_mut().message().await.unwrap() {
            if let Event::Delta { text, .. } = event.try_into().unwrap() {
                expected += &text;
            }
        }
        assert!(!expected.is_empty());

        let whole = bench.client().model_infer(question("a", 5, false)).await.unwrap().into_inner();
        assert_eq!((text(&whole), whole.id.as_str(), is_last(&whole)), (expected.clone(), "a", None));
        assert_eq!((whole.model_name.as_str(), whole.model_version.as_str()), ("llava", "1"));
        let with_input = proto::ModelInferRequest {
            inputs: vec![tensor("text_input", "BYTES")],
            raw_input_contents: vec![element(QUESTION)],
            parameters: [(
                "max_tokens".to_owned(),
                proto::InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(5)) },
            )]
            .into(),
            ..question("a", 5, false)
        };
        let whole = bench.client().model_infer(with_input).await.unwrap().into_inner();
        assert_eq!(text(&whole), format!("{QUESTION}{expected}"));

        let mut stream = bench.open(&[]).await;
        stream.ask(question("whole", 5, false)).await;
        let (response, error) = stream.next().await;
        assert_eq!((text(&response), is_last(&response), error.as_str()), (expected.clone(), Some(true), ""));
        stream.ask(question("pieces", 5, true)).await;
        let (mut pieces, mut told) = (0, String::new());
        loop {
            let (response, error) = stream.next().await;
            assert_eq!((response.id.as_str(), error.as_str()), ("pieces", ""));
            told += &text(&response);
            if is_last(&response).unwrap() {
                break;
            }
            pieces += 1;
        }
        assert_eq!((pieces, told), (5, expected));
        drop(stream.requests);
        assert!(stream.responses.message().await.unwrap().is_none(), "the stream ends after its last request");
    });
}

#[test]
fn samples_and_what_else_is_asked_for_are_outputs() {
    limited(async {
        let bench = Bench::new(tessera_gateway::Settings::default()).await;
        let output = |name: &str| InferRequestedOutputTensor { name: name.into(), ..Default::default() };
        let mut request = question("a", 3, false);
        request.raw_input_contents[1] = element("{\"max_tokens\": \"3\", \"n\": 2, \"temperature\": 1}");
        request.outputs = ["token_ids", "finish_reason", "num_output_tokens"].map(output).into();
        let response = bench.client().model_infer(request).await.unwrap().into_inner();
        assert_eq!(response.outputs.iter().map(|output| output.shape[0]).collect::<Vec<_>>(), [2, 2, 2]);
        let texts = |texts: [&str; 2]| texts.map(element).concat();
        assert_eq!(response.raw_output_contents[0], texts(["[300,301,302]", "[310,311,312]"]));
        assert_eq!(response.raw_output_contents[1], texts(["length", "length"]));
        assert_eq!(&response.raw_output_contents[2][..], [3, 0, 0, 0, 3, 0, 0, 0]);
    });
}

#[test]
fn a_request_that_fails_does_not_end_its_stream_unless_its_client_wants_that() {
    limited(async {
        let bench = Bench::new(tessera_gateway::Settings::default()).await;
        let mut stream = bench.open(&[]).await;
        let unknown = proto::ModelInferRequest { model_name: "llama".into(), ..question("first", 3, true) };
        stream.ask(unknown).await;
        let (response, error) = stream.next().await;
        assert!(error.starts_with("MODEL_NOT_FOUND: there is no model \"llama\""), "{error}");
        assert_eq!((response.id.as_str(), is_last(&response)), ("first", Some(true)));
        stream.ask(question("second", BROKEN, true)).await;
        let (piece, error) = stream.next().await;
        assert_eq!((error.as_str(), is_last(&piece)), ("", Some(false)));
        let (response, error) = stream.next().await;
        assert_eq!((response.id.as_str(), error.as_str()), ("second", "MODEL_BROKEN: the model is broken"));
        stream.ask(question("third", 3, false)).await;
        let (response, error) = stream.next().await;
        assert_eq!((response.id.as_str(), error.as_str()), ("third", ""));

        let mut strict = bench.open(&[("triton_grpc_error", "true")]).await;
        strict.ask(question("first", 0, true)).await;
        let error = Error::from(strict.responses.message().await.unwrap_err());
        assert_eq!(error.reason, "VALUE_OUT_OF_RANGE");
        assert_eq!(error.fields[0].field, "inputs[\"sampling_parameters\"].max_tokens");
    });
}

#[test]
fn a_stream_has_no_more_in_progress_than_may_be_and_frees_all_of_it_when_it_is_let_go() {
    limited(async {
        let limits = LimitSettings { stream: 2, ..LimitSettings::default() };
        let bench = Bench::new(tessera_gateway::Settings { limits, ..Default::default() }).await;
        let mut stream = bench.open(&[]).await;
        for id in ["a", "b", "c"] {
            stream.ask(question(id, HELD, true)).await;
        }
        bench.has(2).await;
        let mut begun = [stream.next().await.0.id, stream.next().await.0.id];
        begun.sort();
        assert_eq!(begun, ["a", "b"]);
        tokio::time::sleep(MOMENT).await;
        assert_eq!(bench.worker.asked.load(Ordering::Relaxed), 2, "the third was not read");
        drop(stream);
        bench.has(0).await;

        let asked = bench.worker.asked.load(Ordering::Relaxed);
        let mut client = bench.client();
        let call = client.model_infer(question("d", HELD, false));
        assert!(tokio::time::timeout(MOMENT, call).await.is_err());
        assert_eq!(bench.worker.asked.load(Ordering::Relaxed), asked + 1);
        bench.has(0).await;
        let statistics = client.model_statistics(proto::ModelStatisticsRequest::default()).await.unwrap().into_inner();
        let stats = statistics.model_stats[0].inference_stats.unwrap();
        assert_eq!((stats.success.unwrap().count, stats.fail.unwrap().count), (0, 3));
    });
}

#[test]
fn an_open_stream_does_not_keep_a_gateway_from_stopping() {
    limited(async {
        let bench = Bench::new(tessera_gateway::Settings::default()).await;
        let mut stream = bench.open(&[]).await;
        stream.ask(question("a", 3, false)).await;
        stream.next().await;
        bench.stop.cancel();
        assert!(stream.responses.next().await.is_none(), "it ends in order");
    });
}

#[test]
fn the_model_is_described_and_its_pools_are_watched() {
    limited(async {
        let bench = Bench::new(tessera_gateway::Settings::default()).await;
        let mut client = bench.client();
        assert!(client.server_live(proto::ServerLiveRequest {}).await.unwrap().into_inner().live);
        let ready = client.server_ready(proto::ServerReadyRequest {}).await.unwrap().into_inner().ready;
        assert!(!ready, "there is no vision worker");
        let index = |ready| proto::RepositoryIndexRequest { ready, ..Default::default() };
        let models = client.repository_index(index(false)).await.unwrap().into_inner().models;
        assert_eq!((models[0].name.as_str(), models[0].state.as_str()), ("llava", "UNAVAILABLE"));
        assert!(client.repository_index(index(true)).await.unwrap().into_inner().models.is_empty());

        let name = || "llava".to_owned();
        let metadata = proto::ModelMetadataRequest { name: name(), version: "1".into() };
        let metadata = client.model_metadata(metadata).await.unwrap().into_inner();
        assert_eq!(
            (metadata.inputs[0].name.as_str(), metadata.outputs[0].name.as_str()),
            ("text_input", "text_output")
        );
        let config = proto::ModelConfigRequest { name: name(), version: String::new() };
        let config = client.model_config(config).await.unwrap().into_inner().config.unwrap();
        assert!(config.model_transaction_policy.unwrap().decoupled);
        let unknown = proto::ModelMetadataRequest { name: name(), version: "2".into() };
        let not_found = (ErrorKind::NotFound, "MODEL_NOT_FOUND".to_owned());
        assert_eq!(reason(client.model_metadata(unknown).await), not_found);
        let unknown = proto::ModelReadyRequest { name: "llama".into(), version: String::new() };
        assert!(!client.model_ready(unknown).await.unwrap().into_inner().ready);
        let refused = client.model_infer(question("a", 3, true)).await;
        assert_eq!(reason(refused), (ErrorKind::Invalid, "STREAM_IN_UNARY_CALL".into()));
    });
}

#[test]
fn what_is_not_served_says_why() {
    limited(async {
        let bench = Bench::new(tessera_gateway::Settings::default()).await;
        let mut client = bench.client();
        let refused = [
            reason(client.repository_model_load(proto::RepositoryModelLoadRequest::default()).await),
            reason(client.repository_model_unload(proto::RepositoryModelUnloadRequest::default()).await),
            reason(client.system_shared_memory_status(proto::SystemSharedMemoryStatusRequest::default()).await),
            reason(client.system_shared_memory_register(proto::SystemSharedMemoryRegisterRequest::default()).await),
            reason(client.system_shared_memory_unregister(proto::SystemSharedMemoryUnregisterRequest::default()).await),
            reason(client.cuda_shared_memory_status(proto::CudaSharedMemoryStatusRequest::default()).await),
            reason(client.cuda_shared_memory_register(proto::CudaSharedMemoryRegisterRequest::default()).await),
            reason(client.cuda_shared_memory_unregister(proto::CudaSharedMemoryUnregisterRequest::default()).await),
            reason(client.trace_setting(proto::TraceSettingRequest::default()).await),
            reason(client.log_settings(proto::LogSettingsRequest::default()).await),
        ];
        for (kind, reason) in refused {
            assert_eq!(kind, ErrorKind::Unsupported);
            assert!(reason.ends_with("_UNSUPPORTED"), "{reason}");
        }
    });
}

#[test]
fn nobody_is_let_in_without_a_token_where_one_is_wanted() {
    limited(async {
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("tokens");
        // Of `printf %s open-sesame | sha256sum`.
        std::fs::write(&tokens, "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7 acme\n").unwrap();
        let auth = AuthSettings { tokens, ..AuthSettings::default() };
        let bench = Bench::new(tessera_gateway::Settings { auth, ..Default::default() }).await;
        let refused = bench.client().model_infer(question("a", 3, false)).await;
        assert_eq!(reason(refused).0, ErrorKind::Unauthenticated);
        let mut known = Request::new(question("a", 3, false));
        known.metadata_mut().insert("authorization", "Bearer open-sesame".parse().unwrap());
        assert!(!text(&bench.client().model_infer(known).await.unwrap().into_inner()).is_empty());
    });
}
