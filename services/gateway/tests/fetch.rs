//! Rows whose vision worker is lost while they are read: they go on from another one, and whoever reads them cannot tell. The
//! workers are fakes that break at every place.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::embedding::v1::embedding_store_server::{EmbeddingStore, EmbeddingStoreServer};
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::proto::vision::v1 as vision;
use tessera_api::proto::vision::v1::vision_worker_server::{VisionWorker, VisionWorkerServer};
use tessera_api::{Error, ErrorKind};
use tessera_rpc::{Tasks, client};
use tessera_testkit::family_dir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

/// A test that hangs fails.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a chunk, and chunks of the payload.
const CHUNK: usize = 8;
const CHUNKS: usize = 4;

/// What the fakes do, whichever of them is asked.
#[derive(Debug, Default)]
struct Plan {
    /// Behind how many messages the next stream breaks, and how.
    breaks: Mutex<Option<(usize, Status)>>,
    /// The offsets that were asked for.
    offsets: Mutex<Vec<u64>>,
}

struct Fake(Arc<Plan>);

type Answer<T> = Result<Response<T>, Status>;

fn payload() -> Vec<u8> {
    (0..CHUNK * CHUNKS).map(|byte| byte as u8).collect()
}

fn header() -> proto::FetchHeader {
    let image_size = Some(proto::ImageSize { height: 4, width: 4 });
    let (data_type, representation) = (proto::DataType::F32.into(), proto::Representation::Features.into());
    proto::FetchHeader { image_size, data_type, representation, rows: 2, columns: 4, checksum: vec![7; 32].into() }
}

fn unasked<T>() -> Answer<T> {
    Err(Error::new(ErrorKind::Unsupported, "METHOD_UNKNOWN", "nobody asks for this").into())
}

#[tonic::async_trait]
impl EmbeddingStore for Fake {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<proto::FetchResponse, Status>> + Send>>;

    async fn fetch(&self, request: Request<proto::FetchRequest>) -> Answer<Self::FetchStream> {
        let offset = request.into_inner().offset;
        self.0.offsets.lock().unwrap().push(offset);
        let rest = payload().split_off(offset as usize);
        let chunks = rest.chunks(CHUNK).map(|chunk| Part::Chunk(Bytes::copy_from_slice(chunk)));
        let parts: Vec<_> = std::iter::once(Part::Header(header())).chain(chunks).collect();
        let (told, end) =
            self.0.breaks.lock().unwrap().take().map_or((parts.len(), None), |(told, end)| (told, Some(end)));
        let parts = parts.into_iter().take(told).map(|part| Ok(proto::FetchResponse { part: Some(part) }));
        let parts: Vec<_> = parts.chain(end.map(Err)).collect();
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    async fn stat(&self, request: Request<proto::StatRequest>) -> Answer<proto::StatResponse> {
        let stored = || proto::StoredImage {
            image_size: Some(proto::ImageSize { height: 4, width: 4 }),
            data_type: proto::DataType::F32.into(),
            encoder_fingerprint: vec![1; 32].into(),
            ..Default::default()
        };
        let keys = request.into_inner().keys.into_iter();
        Ok(Response::new(proto::StatResponse {
            keys: keys.map(|key| proto::KeyStatus { key, stored: Some(stored()) }).collect(),
        }))
    }

    async fn put(&self, _: Request<Streaming<proto::PutRequest>>) -> Answer<proto::PutResponse> {
        unasked()
    }

    async fn lease(&self, _: Request<proto::LeaseRequest>) -> Answer<proto::LeaseResponse> {
        unasked()
    }

    async fn release(&self, _: Request<proto::ReleaseRequest>) -> Answer<proto::ReleaseResponse> {
        unasked()
    }

    async fn delete(&self, _: Request<proto::DeleteRequest>) -> Answer<proto::DeleteResponse> {
        unasked()
    }
}

#[tonic::async_trait]
impl VisionWorker for Fake {
    type LoadStream = Pin<Box<dyn Stream<Item = Result<vision::LoadResponse, Status>> + Send>>;

    async fn encode(&self, _: Request<vision::EncodeRequest>) -> Answer<vision::EncodeResponse> {
        unasked()
    }

    async fn describe(&self, _: Request<vision::DescribeRequest>) -> Answer<vision::DescribeResponse> {
        let encoder_fingerprint = vec![1; 32].into();
        Ok(Response::new(vision::DescribeResponse { encoder_fingerprint, version: "0".into(), busy_microseconds: 0 }))
    }

    async fn load(&self, _: Request<vision::LoadRequest>) -> Answer<Self::LoadStream> {
        unasked()
    }
}

/// Serves a fake until the test is over; returns its URL.
async fn serve(plan: &Arc<Plan>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(EmbeddingStoreServer::new(Fake(plan.clone())))
        .add_service(VisionWorkerServer::new(Fake(plan.clone())));
    Tasks::default().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    url
}

/// A gateway in front of two fakes, both of which it knows to be well.
async fn gateway(plan: &Arc<Plan>) -> EmbeddingStoreClient<tonic::transport::Channel> {
    let settings = tessera_gateway::Settings {
        model: family_dir("mistral"),
        vision: vec![serve(plan).await, serve(plan).await],
        // Nobody asks a question.
        language: vec!["http://127.0.0.1:9".into()],
        ..Default::default()
    };
    let service = tessera_gateway::build(settings).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    Tasks::default().spawn(service.run(listener, CancellationToken::new()));
    EmbeddingStoreClient::new(client::channel(&url).unwrap())
}

async fn read(mut store: EmbeddingStoreClient<tonic::transport::Channel>) -> Vec<u8> {
    let request = proto::FetchRequest { key: vec![3; 32].into(), ..Default::default() };
    let mut parts = store.fetch(request).await.unwrap().into_inner();
    assert_eq!(parts.message().await.unwrap().unwrap().part, Some(Part::Header(header())));
    let mut read = Vec::new();
    while let Some(response) = parts.message().await.unwrap() {
        let Some(Part::Chunk(chunk)) = response.part else { panic!("the header comes once") };
        read.extend_from_slice(&chunk);
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_on_from_another_worker_where_they_broke_off() {
    for told in 0..=CHUNKS {
        for end in [Status::new(Code::Unknown, "error reading a body from connection"), Error::draining().into()] {
            let plan = Arc::new(Plan { breaks: Mutex::new(Some((told, end))), offsets: Mutex::default() });
            let read = tokio::time::timeout(LIMIT, read(gateway(&plan).await)).await;
            assert_eq!(read.unwrap(), payload());
            let went_on = (told.saturating_sub(1) * CHUNK) as u64;
            assert_eq!(*plan.offsets.lock().unwrap(), [0, went_on], "broken behind {told} messages");
        }
    }
}
