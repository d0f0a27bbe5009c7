//! More requests than the pools can take, over the wire: the language worker here holds every sequence until it is told to let
//! go, so the gateway's line fills.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "workers/held.rs"]
mod held;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{FutureExt, Stream, StreamExt, stream};
use tessera_api::gateway::{GenerateRequest, Input, Message, Part, Role, Settings};
use tessera_api::language::{Description, Load};
use tessera_api::proto::gateway::v1 as gateway_proto;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_server::{LanguageWorker, LanguageWorkerServer};
use tessera_api::{Error, ErrorKind};
use tessera_gateway::LimitSettings;
use tessera_rpc::{Tasks, client};
use tessera_testkit::family_dir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use held::Held;

/// Long enough for whatever happens at once, on a busy machine too.
const MOMENT: Duration = Duration::from_millis(500);
/// A test that hangs fails.
const LIMIT: Duration = Duration::from_secs(60);
/// Sequences that a worker is given before it has said anything, those included that would wait.
const FIRST: usize = 18;

/// A worker that tells nothing of its sequences.
#[derive(Clone, Default)]
struct Holding {
    /// Sequences that it has.
    open: Arc<AtomicUsize>,
    /// Those that it ever had.
    asked: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl LanguageWorker for Holding {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;
    type LoadStream = Pin<Box<dyn Stream<Item = Result<proto::LoadResponse, Status>> + Send>>;

    async fn generate(&self, _: Request<proto::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let held = Held::of(&self.open);
        let nothing = stream::pending().map(move |event: Result<_, Status>| {
            let _held = &held;
            event
        });
        Ok(Response::new(nothing.boxed()))
    }

    /// It is full, and leaves as many waiting as is usual then.
    async fn load(&self, _: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let open = Arc::clone(&self.open);
        let report = move |_| {
            let open = open.load(Ordering::Relaxed);
            let running = open.min(FIRST - 2);
            let waiting = (open - running).max(usize::from(running == FIRST - 2));
            Ok(Load { total_blocks: 1000, free_blocks: 500, waiting, running, ..Load::default() }.into())
        };
        Ok(Response::new(IntervalStream::new(tokio::time::interval(Duration::from_millis(20))).map(report).boxed()))
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
    worker: Holding,
    client: GatewayClient<Channel>,
}

type Events = Streaming<gateway_proto::GenerateResponse>;

impl Bench {
    /// A gateway in front of a worker that has as many sequences as it is given.
    async fn full(limits: LimitSettings) -> (Self, Vec<Events>) {
        let worker = Holding::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let language = vec![format!("http://{}", listener.local_addr().unwrap())];
        let server = tonic::transport::Server::builder().add_service(LanguageWorkerServer::new(worker.clone()));
        Tasks::default().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let settings = tessera_gateway::Settings {
            model: family_dir("mistral"),
            // Nobody asks about images.
            vision: vec!["http://127.0.0.1:9".into()],
            language,
            limits,
            ..Default::default()
        };
        let service = tessera_gateway::build(settings).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Tasks::default().spawn(service.run(listener, CancellationToken::new()));
        let bench = Self { worker, client: GatewayClient::new(client::channel(&url).unwrap()) };
        let opened = join_all((0..FIRST).map(|_| bench.ask(LIMIT))).await;
        (bench, opened.into_iter().map(Result::unwrap).collect())
    }

    /// Asks; comes back once the gateway lets the request through, or says why it does not.
    async fn ask(&self, time: Duration) -> Result<Events, Error> {
        let message = Message { role: Role::User, parts: vec![Part::Text("What is shown?".into())] };
        let settings = Settings { max_tokens: Some(8), ..Settings::default() };
        let asked = GenerateRequest { request_id: String::new(), input: Input::Conversation(vec![message]), settings };
        let mut asked = Request::new(gateway_proto::GenerateRequest::from(asked));
        asked.set_timeout(time);
        Ok(self.client.clone().generate(asked).await?.into_inner())
    }
}

fn limited(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, test).await });
    runtime.shutdown_background();
    ended.expect("the test hangs");
}

#[test]
fn a_request_goes_on_when_another_is_over() {
    limited(async {
        let (bench, mut running) = Bench::full(LimitSettings::default()).await;
        let mut waiting = Box::pin(bench.ask(LIMIT));
        assert!(tokio::time::timeout(MOMENT, &mut waiting).await.is_err());
        assert_eq!(bench.worker.asked.load(Ordering::Relaxed), FIRST, "it never came to the worker");
        running.pop();
        waiting.await.unwrap();
    });
}

#[test]
fn a_request_whose_deadline_passes_in_the_line_never_comes_to_a_worker() {
    limited(async {
        let (bench, mut running) = Bench::full(LimitSettings::default()).await;
        assert_eq!(bench.ask(MOMENT).await.unwrap_err().kind, ErrorKind::Deadline);
        running.pop();
        // The next one has the place that is free: nobody stands before it.
        let _admitted = bench.ask(LIMIT).await.unwrap();
        // An answer begins before its worker is asked.
        while bench.worker.asked.load(Ordering::Relaxed) < FIRST + 1 {
            tokio::time::sleep(MOMENT / 10).await;
        }
        tokio::time::sleep(MOMENT).await;
        assert_eq!(bench.worker.asked.load(Ordering::Relaxed), FIRST + 1);
    });
}

#[test]
fn whoever_finds_the_line_full_is_told_at_once_when_to_come_back_and_whoever_leaves_it_makes_room() {
    limited(async {
        let (bench, _running) = Bench::full(LimitSettings { waiting: 2, ..LimitSettings::default() }).await;
        let (mut first, mut second) = (Box::pin(bench.ask(LIMIT)), Box::pin(bench.ask(LIMIT)));
        assert!(tokio::time::timeout(MOMENT, &mut first).await.is_err());
        assert!(tokio::time::timeout(MOMENT, &mut second).await.is_err());
        let began = Instant::now();
        let error = bench.ask(LIMIT).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Exhausted, "QUEUE_FULL"));
        assert!(error.retry_after.is_some_and(|after| after >= Duration::from_millis(200)), "{error:?}");
        assert!(began.elapsed() < LIMIT / 10);

        drop(first);
        tokio::time::sleep(MOMENT).await;
        let mut third = Box::pin(bench.ask(LIMIT));
        assert!(tokio::time::timeout(MOMENT, &mut third).await.is_err(), "it waits");
        assert!(second.now_or_never().is_none());
    });
}

#[test]
fn nobody_waits_for_longer_than_the_settings_allow() {
    limited(async {
        let (bench, _running) = Bench::full(LimitSettings { queue_time: MOMENT, ..LimitSettings::default() }).await;
        let error = bench.ask(LIMIT).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Exhausted, "QUEUE_TOO_LONG"));
        assert!(error.retry_after.is_some());
    });
}
