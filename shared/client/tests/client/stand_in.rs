//! A gateway without pools, which does what a plan says, over connections in memory: time is virtual.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use tessera_anyres::ImageSize;
use tessera_api::embedding::{DeleteRequest, FetchHeader, FetchRequest, KeyStatus, LeaseRequest, Uploaded, keys};
use tessera_api::embedding::{lease_response, read_upload};
use tessera_api::gateway::{
    BatchRequest, BatchResponse, EncodeRequest, Encoded, Event, FinishReason, Finished, GenerateRequest, ImagePlan,
    Started, Timings, Usage,
};
use tessera_api::proto::embedding::v1 as store;
use tessera_api::proto::embedding::v1::embedding_store_server::{EmbeddingStore, EmbeddingStoreServer};
use tessera_api::proto::embedding::v1::fetch_response::Part as RowsPart;
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::encode_response::Part;
use tessera_api::proto::gateway::v1::gateway_server::{Gateway, GatewayServer};
use tessera_api::{Error, ErrorKind};
use tessera_client::{Builder, Client};
use tessera_embedding::{ImageFeatures, ImageKey};
use tessera_rpc::{Deadline, Server, Tasks, client};
use tokio::io::duplex;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::http::Uri;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// What becomes of a call.
pub(crate) enum Step {
    /// It fails before anything is answered.
    Refuse(Error),
    /// It answers with these, and then breaks.
    Break(Vec<Event>, Error),
    /// It answers with these, and then ends.
    End(Vec<Event>),
    /// It answers with these, and then says nothing more.
    Hang(Vec<Event>),
}

/// What was heard of a call.
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) timeout: Option<Duration>,
    pub(crate) metadata: MetadataMap,
    /// Of questions.
    pub(crate) request: Option<GenerateRequest>,
}

/// What the gateway is told to do, and what it saw.
pub(crate) struct Plan {
    /// Of the next calls; those behind them pass.
    pub(crate) steps: Mutex<VecDeque<Step>>,
    pub(crate) heard: Mutex<Vec<Heard>>,
    /// Streams of answers that ended or were let go.
    pub(crate) left: Mutex<usize>,
    /// Images of a batch that came, and how many may be answered.
    pub(crate) came: Mutex<usize>,
    pub(crate) may_answer: Semaphore,
    /// Behind how many answers a batch breaks off.
    pub(crate) batch_breaks: Mutex<Option<usize>>,
    /// Of every image.
    pub(crate) rows: Mutex<ImageFeatures>,
    /// Behind how many bytes the next streams of rows break, and their offsets.
    pub(crate) rows_break: Mutex<VecDeque<usize>>,
    pub(crate) offsets: Mutex<Vec<u64>>,
}

pub(crate) const SIZE: ImageSize = ImageSize { height: 4, width: 6 };

impl Plan {
    pub(crate) fn new() -> Arc<Self> {
        let rows = tessera_tensor::HostTensor::from_f32(vec![4, 8], (0..32_u8).map(f32::from).collect()).unwrap();
        Arc::new(Self {
            steps: Mutex::default(),
            heard: Mutex::default(),
            left: Mutex::default(),
            came: Mutex::default(),
            may_answer: Semaphore::new(0),
            batch_breaks: Mutex::default(),
            rows: Mutex::new(ImageFeatures::seal(SIZE, rows)),
            rows_break: Mutex::default(),
            offsets: Mutex::default(),
        })
    }

    pub(crate) fn of(steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        let plan = Self::new();
        plan.steps.lock().unwrap().extend(steps);
        plan
    }

    /// How often it was asked.
    pub(crate) fn calls(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// The server's services.
    pub(crate) fn server(self: &Arc<Self>) -> Server {
        let gateway = GatewayServer::new(Fake(self.clone())).accept_compressed(Gzip).send_compressed(Gzip);
        let store = EmbeddingStoreServer::new(Fake(self.clone()));
        Server::new(tessera_rpc::ServerSettings::default()).with(gateway).with(store)
    }

    /// A client of it, whose connection is in memory.
    pub(crate) fn client(self: &Arc<Self>) -> Client {
        self.client_of(Client::builder("http://gateway"))
    }

    pub(crate) fn client_of(self: &Arc<Self>, builder: Builder) -> Client {
        let (door, doors) = mpsc::channel(8);
        let gateway = GatewayServer::new(Fake(self.clone())).accept_compressed(Gzip).send_compressed(Gzip);
        let server = tonic::transport::Server::builder()
            .add_service(gateway)
            .add_service(EmbeddingStoreServer::new(Fake(self.clone())));
        Tasks::default().spawn(server.serve_with_incoming(ReceiverStream::new(doors)));
        let connect = move |_: Uri| {
            let door = door.clone();
            async move {
                let (near, far) = duplex(16 << 10);
                let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
                door.send(Ok::<_, io::Error>(far)).await.map_err(refused)?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        };
        let endpoint = client::endpoint("http://gateway").unwrap();
        builder.build_over(endpoint.connect_with_connector_lazy(tower::service_fn(connect))).unwrap()
    }

    fn hear<T>(&self, request: &Request<T>, question: Option<GenerateRequest>) -> Option<Step> {
        let timeout = Deadline::of(request.metadata()).remaining();
        let metadata = request.metadata().clone();
        self.heard.lock().unwrap().push(Heard { at: Instant::now(), timeout, metadata, request: question });
        self.steps.lock().unwrap().pop_front()
    }

    /// Of a call that is answered at once.
    fn pass<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match self.hear(request, None) {
            Some(Step::Refuse(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// The key of an image, which needs no model here.
pub(crate) fn key(image: &[u8]) -> ImageKey {
    let encoder = tessera_embedding::EncoderFingerprint::of(&[]);
    ImageKey::of(b"", &encoder, image)
}

fn plan(key: ImageKey) -> ImagePlan {
    ImagePlan { key, image_size: SIZE, grid: ImageSize { height: 8, width: 8 }, tiles: 2, image_tokens: 12 }
}

fn encoded(image: &[u8]) -> Encoded {
    let encode = Duration::from_millis(3);
    Encoded { image: plan(key(image)), stored_before: false, durable: false, leased_until: None, encode }
}

pub(crate) fn started() -> Event {
    Event::Started(Started { request_id: "r".into(), prompt_tokens: 7, images: Vec::new(), seed: 11 })
}

pub(crate) fn delta(text: &str) -> Event {
    Event::Delta { sample: 0, text: text.into(), token_ids: vec![5], logprobs: Vec::new() }
}

pub(crate) fn finished() -> Event {
    let (usage, timings) = (Usage { completion_tokens: 2, ..Usage::default() }, Timings::default());
    Event::Finished(Finished { sample: 0, reason: FinishReason::Stop, usage, timings })
}

/// What it answers when nothing else is planned.
pub(crate) fn usual() -> Vec<Event> {
    vec![started(), delta("a "), delta(""), delta("bar"), finished()]
}

struct Fake(Arc<Plan>);

/// Counts when a stream is let go.
struct Leaving(Arc<Plan>);

impl Drop for Leaving {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap() += 1;
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Gateway for Fake {
    type GenerateStream = Boxed<proto::GenerateResponse>;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let question = GenerateRequest::try_from(request.get_ref().clone())?;
        let step = self.0.hear(&request, Some(question)).unwrap_or_else(|| Step::End(usual()));
        let (events, end) = match step {
            Step::Refuse(error) => return Err(error.into()),
            Step::Break(events, error) => (events, stream::iter([Err(Status::from(error))]).boxed()),
            Step::End(events) => (events, stream::empty().boxed()),
            Step::Hang(events) => (events, stream::pending().boxed()),
        };
        let leaving = Leaving(self.0.clone());
        let events = stream::iter(events).map(|event| Ok(event.into())).chain(end).map(move |event| {
            let _ = &leaving;
            event
        });
        Ok(Response::new(events.boxed()))
    }

    type EncodeStream = Boxed<proto::EncodeResponse>;

    async fn encode(&self, request: Request<proto::EncodeRequest>) -> Result<Response<Self::EncodeStream>, Status> {
        self.0.pass(&request)?;
        let request = EncodeRequest::try_from(request.into_inner())?;
        let part = Some(Part::Encoded(encoded(&request.image).into()));
        Ok(Response::new(stream::iter([Ok(proto::EncodeResponse { part })]).boxed()))
    }

    type EncodeBatchStream = Boxed<proto::EncodeBatchResponse>;

    /// Reads everything that comes, and answers when it may.
    async fn encode_batch(
        &self,
        request: Request<Streaming<proto::EncodeBatchRequest>>,
    ) -> Result<Response<Self::EncodeBatchStream>, Status> {
        self.0.pass(&request)?;
        let (plan, breaks) = (self.0.clone(), *self.0.batch_breaks.lock().unwrap());
        let read = request.into_inner().map(move |request| {
            *plan.came.lock().unwrap() += 1;
            request
        });
        let plan = self.0.clone();
        let answers = read.map(move |request| {
            let plan = plan.clone();
            async move {
                let BatchRequest { id, image, .. } = request?.into();
                plan.may_answer.acquire().await.unwrap().forget();
                let outcome = image.and_then(|request| {
                    if &request.image[..] == b"broken" {
                        return Err(Error::new(ErrorKind::Invalid, "IMAGE_TRUNCATED", "it is cut off"));
                    }
                    Ok(encoded(&request.image))
                });
                Ok(BatchResponse { id, outcome }.into())
            }
        });
        let answers = answers.buffer_unordered(1000);
        let end = breaks.map(|_| Err(Error::draining().into()));
        Ok(Response::new(answers.take(breaks.unwrap_or(usize::MAX)).chain(stream::iter(end)).boxed()))
    }
}

#[tonic::async_trait]
impl EmbeddingStore for Fake {
    type FetchStream = Boxed<store::FetchResponse>;

    async fn fetch(&self, request: Request<store::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        self.0.pass(&request)?;
        let FetchRequest { representation, offset, .. } = request.into_inner().try_into()?;
        self.0.offsets.lock().unwrap().push(offset);
        let ImageFeatures { image_size, rows, checksum } = self.0.rows.lock().unwrap().clone();
        let (count, columns) = rows.dims2().unwrap();
        let header = FetchHeader { image_size, dtype: rows.dtype(), representation, rows: count, columns, checksum };
        let rest = rows.into_data().slice(offset as usize..);
        let told = self.0.rows_break.lock().unwrap().pop_front();
        let told_rest = rest.slice(..told.unwrap_or(rest.len()));
        let chunks: Vec<Bytes> = told_rest.chunks(8).map(Bytes::copy_from_slice).collect();
        let parts = [RowsPart::Header(header.into())].into_iter().chain(chunks.into_iter().map(RowsPart::Chunk));
        let parts: Vec<_> = parts.map(|part| Ok(store::FetchResponse { part: Some(part) })).collect();
        let end = told.map(|_| Err(Status::from(Error::draining())));
        Ok(Response::new(stream::iter(parts.into_iter().chain(end)).boxed()))
    }

    async fn stat(&self, request: Request<store::StatRequest>) -> Result<Response<store::StatResponse>, Status> {
        self.0.pass(&request)?;
        let statuses = keys(&request.into_inner().keys)?.into_iter().map(|key| KeyStatus { key, stored: None }.into());
        Ok(Response::new(store::StatResponse { keys: statuses.collect() }))
    }

    async fn put(
        &self,
        request: Request<Streaming<store::PutRequest>>,
    ) -> Result<Response<store::PutResponse>, Status> {
        self.0.pass(&request)?;
        let upload = read_upload(request.into_inner(), 1 << 20).await?;
        let key = key(upload.features.data());
        Ok(Response::new(Uploaded { key, image_tokens: 12, stored_before: false, durable: false }.into()))
    }

    async fn lease(&self, request: Request<store::LeaseRequest>) -> Result<Response<store::LeaseResponse>, Status> {
        self.0.pass(&request)?;
        let LeaseRequest { keys, period } = request.into_inner().try_into()?;
        let end = std::time::SystemTime::UNIX_EPOCH + period;
        Ok(Response::new(lease_response(&vec![Some(end); keys.len()])))
    }

    async fn release(
        &self,
        request: Request<store::ReleaseRequest>,
    ) -> Result<Response<store::ReleaseResponse>, Status> {
        self.0.pass(&request)?;
        let released = u32::try_from(keys(&request.into_inner().keys)?.len()).unwrap();
        Ok(Response::new(store::ReleaseResponse { released }))
    }

    async fn delete(&self, request: Request<store::DeleteRequest>) -> Result<Response<store::DeleteResponse>, Status> {
        self.0.pass(&request)?;
        let deleted = match request.into_inner().try_into()? {
            DeleteRequest::Keys(keys) => keys.len() as u64,
            DeleteRequest::Image(_) => 1,
            DeleteRequest::Tenant { .. } => 1000,
        };
        Ok(Response::new(store::DeleteResponse { deleted }))
    }
}

/// Serves it at a port of this machine until the test is over; returns its address.
pub(crate) async fn listen(server: Server) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Tasks::default().spawn(server.serve(listener, CancellationToken::new()));
    address
}
