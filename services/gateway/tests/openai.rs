//! What becomes of a request over HTTP whose client leaves, and of bodies that no client of OpenAI's makes. The language
//! worker here counts the sequences that it has, and tells a token of each, again and again, until it is let go.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "workers/held.rs"]
mod held;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tessera_api::language::{Description, Event, Load};
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_server::{LanguageWorker, LanguageWorkerServer};
use tessera_config::ByteSize;
use tessera_gateway::{LimitSettings, Settings};
use tessera_rpc::Tasks;
use tessera_testkit::family_dir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use held::Held;

/// Between two tokens.
const STEP: Duration = Duration::from_millis(20);
/// A test that hangs fails.
const LIMIT: Duration = Duration::from_secs(60);
const REQUEST: ByteSize = ByteSize::mib(1);

/// A worker that never ends a sequence.
#[derive(Clone, Default)]
struct Endless {
    /// Sequences that it has.
    open: Arc<AtomicUsize>,
    /// Whether it tells of samples that nobody asked for.
    strays: Arc<AtomicBool>,
    /// Whether it tells nothing.
    silent: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl LanguageWorker for Endless {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;
    type LoadStream = Pin<Box<dyn Stream<Item = Result<proto::LoadResponse, Status>> + Send>>;

    async fn generate(&self, _: Request<proto::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let held = Held::of(&self.open);
        if self.silent.load(Ordering::Relaxed) {
            let nothing = stream::pending().map(move |event| {
                let _held = &held;
                event
            });
            return Ok(Response::new(nothing.boxed()));
        }
        let strays = Arc::clone(&self.strays);
        let tokens = IntervalStream::new(tokio::time::interval(STEP)).map(move |_| {
            let _held = &held;
            let sample = usize::from(strays.load(Ordering::Relaxed));
            Ok(Event::Tokens { sample, token_ids: vec![300], logprobs: Vec::new() }.into())
        });
        Ok(Response::new(tokens.boxed()))
    }

    async fn load(&self, _: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let report = |_| Ok(Load { total_blocks: 1000, free_blocks: 500, ..Load::default() }.into());
        Ok(Response::new(IntervalStream::new(tokio::time::interval(STEP)).map(report).boxed()))
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        let description = Description {
            max_positions: 4096,
            vocabulary: 640,
            image_token_id: 586,
            version: "0".into(),
            fingerprint: tessera_embedding::DecoderFingerprint::of(&[]),
        };
        Ok(Response::new(description.into()))
    }
}

struct Bench {
    worker: Endless,
    address: std::net::SocketAddr,
}

impl Bench {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let worker = Endless::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let language = vec![format!("http://{}", listener.local_addr().unwrap())];
        let server = tonic::transport::Server::builder().add_service(LanguageWorkerServer::new(worker.clone()));
        Tasks::default().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let mut settings = Settings {
            model: family_dir("mistral"),
            // Nobody asks about images.
            vision: vec!["http://127.0.0.1:9".into()],
            language,
            limits: LimitSettings { request: REQUEST, ..LimitSettings::default() },
            ..Settings::default()
        };
        change(&mut settings);
        let service = tessera_gateway::build(settings).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Tasks::default().spawn(service.run(listener, CancellationToken::new()));
        Self { worker, address }
    }

    /// Sends a request by hand.
    async fn send(&self, head: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{head}\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that has heard enough does not wait for the rest.
        let _ = stream.write_all(body).await;
        stream
    }

    async fn chat(&self, body: &Value) -> TcpStream {
        let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json";
        self.send(head, body.to_string().as_bytes()).await
    }

    /// Waits until the worker has so many sequences.
    async fn has_open(&self, count: usize) {
        while self.worker.open.load(Ordering::Relaxed) != count {
            tokio::time::sleep(STEP / 4).await;
        }
    }

    /// Status and error of a request that fails.
    async fn refused(&self, head: &str, body: &[u8]) -> (u16, Value) {
        let (status, _, error) = self.refused_with(head, body).await;
        (status, error)
    }

    /// The same with the head of the response between them.
    async fn refused_with(&self, head: &str, body: &[u8]) -> (u16, String, Value) {
        let mut stream = self.send(&format!("{head}\r\nconnection: close"), body).await;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        let response = String::from_utf8(response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), serde_json::from_str::<Value>(body).unwrap()["error"].take())
    }
}

/// A question whose answer would be long.
fn question(stream: bool) -> Value {
    json!({
        "model": "mistral",
        "messages": [{"role": "user", "content": "What is shown?"}],
        "max_tokens": 4000,
        "stream": stream,
    })
}

fn limited(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, test).await });
    runtime.shutdown_background();
    ended.expect("the test hangs");
}

/// Reads until so many events were seen.
async fn read_events(stream: &mut TcpStream, count: usize) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while text.matches("data: {").count() < count {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

#[test]
fn a_stream_on_which_nothing_comes_says_that_it_goes_on() {
    limited(async {
        let bench = Bench::start().await;
        bench.worker.silent.store(true, Ordering::Relaxed);
        let mut stream = bench.chat(&question(true)).await;
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.contains("\n: ") {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the stream ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        assert_eq!((text.matches("data: {").count(), bench.worker.open.load(Ordering::Relaxed)), (1, 1), "{text}");
    });
}

#[test]
fn whoever_leaves_a_stream_frees_its_sequence_at_once() {
    limited(async {
        let bench = Bench::start().await;
        let mut streams = Vec::new();
        for count in 1..=4 {
            let mut stream = bench.chat(&question(true)).await;
            read_events(&mut stream, 4).await;
            bench.has_open(count).await;
            streams.push(stream);
        }
        let left = std::time::Instant::now();
        streams.truncate(1);
        bench.has_open(1).await;
        assert!(left.elapsed() < STEP * 20, "{:?}", left.elapsed());
        // Who stays hears more.
        read_events(&mut streams[0], 4).await;
    });
}

#[test]
fn whoever_leaves_before_the_whole_answer_frees_its_sequence() {
    limited(async {
        let bench = Bench::start().await;
        let stream = bench.chat(&question(false)).await;
        bench.has_open(1).await;
        drop(stream);
        bench.has_open(0).await;
    });
}

#[test]
fn bodies_that_are_no_requests_are_refused_in_openais_form() {
    limited(async {
        let bench = Bench::start().await;
        let post = "POST /v1/chat/completions HTTP/1.1\r\n";
        let json = &format!("{post}content-type: application/json");
        for (head, body, code) in [
            (json.as_str(), "{", "JSON_MALFORMED"),
            (json, "", "JSON_MALFORMED"),
            (json, "[]", "VALUE_INVALID"),
            (json, "{}", "FIELD_MISSING"),
            (&format!("{post}content-type: text/plain"), "{}", "CONTENT_TYPE_UNSUPPORTED"),
            (&format!("{post}accept: */*"), "{}", "CONTENT_TYPE_UNSUPPORTED"),
        ] {
            let (status, error) = bench.refused(head, body.as_bytes()).await;
            assert_eq!((status, &error["code"]), (400, &json!(code)), "{error}");
            assert_eq!(error["type"], "invalid_request_error");
        }
        let charset = format!("{post}content-type: Application/JSON; charset=utf-8");
        assert_eq!(bench.refused(&charset, b"{}").await.1["param"], "model");
        let (status, error) = bench.refused("GET /v1/unheard-of HTTP/1.1", b"").await;
        assert_eq!((status, &error["code"]), (404, &json!("ENDPOINT_UNKNOWN")));
    });
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_whole() {
    limited(async {
        let bench = Bench::start().await;
        // Base64 takes a third more.
        let most = REQUEST.as_usize() * 4 / 3;
        let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json";
        let (status, error) = bench.refused(head, &vec![b' '; most + 1]).await;
        assert_eq!((status, &error["code"]), (400, &json!("MESSAGE_TOO_LARGE")));
        // As large as may be, it is only no JSON.
        let (status, error) = bench.refused(head, &vec![b' '; most]).await;
        assert_eq!((status, &error["code"]), (400, &json!("JSON_MALFORMED")));
    });
}

const POST: &str = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json";

#[test]
fn whoever_is_not_known_is_told_so_before_anything_is_read() {
    limited(async {
        let tokens = tempfile::NamedTempFile::new().unwrap();
        // Of the token `letmein`.
        let hash = "1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032";
        std::fs::write(tokens.path(), format!("{hash} acme\n")).unwrap();
        let bench = Bench::with(|settings| settings.auth.tokens = tokens.path().to_owned()).await;
        for path in ["POST /v1/chat/completions", "GET /v1/models", "POST /tokenize"] {
            let (status, error) = bench.refused(&format!("{path} HTTP/1.1"), b"{").await;
            assert_eq!((status, &error["type"]), (401, &json!("authentication_error")), "{path}: {error}");
        }
        let known = format!("{POST}\r\nauthorization: Bearer letmein");
        assert_eq!(bench.refused(&known, b"{").await.1["code"], "JSON_MALFORMED");
        // Who looks whether a gateway is there has no token.
        for path in ["/health", "/version", "/openapi.json"] {
            let mut stream = bench.send(&format!("GET {path} HTTP/1.1\r\nconnection: close"), b"").await;
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        }
    });
}

#[test]
fn whoever_comes_when_all_is_full_is_told_when_to_come_back() {
    limited(async {
        let bench = Bench::with(|settings| settings.limits.requests = 1).await;
        let mut stream = bench.chat(&question(true)).await;
        read_events(&mut stream, 1).await;
        let body = question(false).to_string();
        let (status, head, error) = bench.refused_with(POST, body.as_bytes()).await;
        assert_eq!((status, &error["type"], &error["code"]), (429, &json!("rate_limit_error"), &json!("QUEUE_FULL")));
        assert!(head.contains("retry-after: ") && head.contains("retry-after-ms: "), "{head}");
    });
}

#[test]
fn whoever_comes_when_nobody_is_there_is_told_so() {
    limited(async {
        let bench = Bench::with(|settings| settings.language = vec!["http://127.0.0.1:9".into()]).await;
        let (status, error) = bench.refused(POST, question(true).to_string().as_bytes()).await;
        assert_eq!((status, &error["type"]), (503, &json!("service_unavailable_error")), "{error}");
    });
}

#[test]
fn an_error_in_the_middle_of_an_answer_is_an_event_of_its_stream() {
    limited(async {
        let bench = Bench::start().await;
        let mut stream = bench.chat(&question(true)).await;
        read_events(&mut stream, 3).await;
        // A sample that nobody asked for breaks the contract.
        bench.worker.strays.store(true, Ordering::Relaxed);
        let mut text = String::new();
        while !text.contains("data: {\"error\":") {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the stream ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        assert!(text.contains("\"code\":\"CONTRACT_BROKEN\""), "{text}");
        assert!(!text.contains("[DONE]"), "{text}");
        bench.has_open(0).await;
    });
}
