//! Workers that take the time of a model, and no processor: what is measured is the gateway, not the machine.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use tessera_anyres::ImageSize;
use tessera_api::language::{self, Event, FinishReason, Finished, GenerateRequest, Load, Timings};
use tessera_api::proto::language::v1 as language_proto;
use tessera_api::proto::language::v1::language_worker_server::{LanguageWorker, LanguageWorkerServer};
use tessera_api::proto::vision::v1 as vision_proto;
use tessera_api::proto::vision::v1::vision_worker_server::{VisionWorker, VisionWorkerServer};
use tessera_api::vision::{self, EncodeRequest, EncodeTimings, Encoded};
use tessera_api::{Error, ErrorKind};
use tessera_embedding::EncoderFingerprint;
use tessera_rpc::Tasks;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::IntervalStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Sequences that the language worker runs at once, and those that may wait there; more are refused.
pub(crate) const RUNNING: usize = 16;
const WAITING: usize = 128;
/// A step: every sequence that runs has one token more.
pub(crate) const STEP: Duration = Duration::from_millis(10);
/// Rows of a prompt in a step.
const STEP_ROWS: usize = 512;
const BLOCKS: usize = 4096;
/// The time of a tile on the vision worker's device, which takes one after the other.
pub(crate) const TILE: Duration = Duration::from_millis(1);
const DECODE: Duration = Duration::from_millis(3);
/// Tiles that may wait there; more are refused.
const WAITING_TILES: usize = 640;
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What every image is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picture {
    pub(crate) size: ImageSize,
    pub(crate) tiles: usize,
    pub(crate) image_tokens: usize,
}

/// A language worker.
struct Language {
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    image_token_id: u32,
}

/// A sequence of it.
struct Sequence {
    running: Arc<Semaphore>,
    /// Its place among those that run, once it has one.
    permit: Option<OwnedSemaphorePermit>,
    waiting: Option<Waiting>,
    prompt: usize,
    left: usize,
    is_over: bool,
}

/// Counts one who waits.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A vision worker.
struct Vision {
    device: Mutex<()>,
    waiting: Semaphore,
    picture: Picture,
}

/// Serves a language worker until the process ends; returns its URL.
pub(crate) async fn language(image_token_id: u32) -> String {
    let worker = Language { running: Arc::new(Semaphore::new(RUNNING)), waiting: Arc::default(), image_token_id };
    let (listener, url) = listen().await;
    let server = tonic::transport::Server::builder().add_service(LanguageWorkerServer::new(worker));
    Tasks::default().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    url
}

/// Serves a vision worker until the process ends; returns its URL.
pub(crate) async fn vision(picture: Picture) -> String {
    let worker = Vision { device: Mutex::default(), waiting: Semaphore::new(WAITING_TILES), picture };
    let (listener, url) = listen().await;
    let server = tonic::transport::Server::builder().add_service(VisionWorkerServer::new(worker));
    Tasks::default().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    url
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

impl Sequence {
    /// Waits for the next event.
    async fn next(mut self) -> Option<(Result<language_proto::GenerateResponse, Status>, Self)> {
        if self.is_over {
            return None;
        }
        if let Some(waiting) = self.waiting.take() {
            self.permit = Arc::clone(&self.running).acquire_owned().await.ok();
            drop(waiting);
            tokio::time::sleep(STEP * u32::try_from(self.prompt.div_ceil(STEP_ROWS)).unwrap()).await;
        }
        if self.left == 0 {
            self.is_over = true;
            let (reason, timings) = (FinishReason::Stop, Timings::default());
            let finished = Event::Finished(Finished { sample: 0, reason, timings, reused_positions: 0 });
            return Some((Ok(finished.into()), self));
        }
        tokio::time::sleep(STEP).await;
        self.left -= 1;
        let tokens = Event::Tokens { sample: 0, token_ids: vec![300], logprobs: Vec::new() };
        Some((Ok(tokens.into()), self))
    }
}

#[tonic::async_trait]
impl LanguageWorker for Language {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<language_proto::GenerateResponse, Status>> + Send>>;
    type LoadStream = Pin<Box<dyn Stream<Item = Result<language_proto::LoadResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<language_proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = GenerateRequest::try_from(request.into_inner())?;
        let waiting = Waiting(Arc::clone(&self.waiting));
        if waiting.0.fetch_add(1, Ordering::Relaxed) >= WAITING {
            return Err(Error::exhausted("QUEUE_FULL", "too many sequences wait", RETRY_AFTER).into());
        }
        // Most answers end before they must: after half of what they may have, on average.
        let (prompt, most) = (request.token_ids.len(), request.max_new_tokens.get());
        let left = 1 + usize::from(request.request_id.as_bytes().iter().fold(0_u8, |sum, byte| sum ^ byte)) % most;
        let running = Arc::clone(&self.running);
        let sequence = Sequence { running, permit: None, waiting: Some(waiting), prompt, left, is_over: false };
        Ok(Response::new(stream::unfold(sequence, Sequence::next).boxed()))
    }

    async fn load(&self, request: Request<language_proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let interval = Duration::from_millis(request.into_inner().interval_milliseconds.max(20));
        let (running, waiting) = (Arc::clone(&self.running), Arc::clone(&self.waiting));
        let report = move |_| {
            let running = RUNNING - running.available_permits();
            let waiting = waiting.load(Ordering::Relaxed);
            let free_blocks = BLOCKS - running * 20;
            Ok(Load { total_blocks: BLOCKS, free_blocks, waiting, running, ..Load::default() }.into())
        };
        Ok(Response::new(IntervalStream::new(tokio::time::interval(interval)).map(report).boxed()))
    }

    async fn describe(
        &self,
        _: Request<language_proto::DescribeRequest>,
    ) -> Result<Response<language_proto::DescribeResponse>, Status> {
        let (max_positions, image_token_id, version) = (4096, self.image_token_id, "script".into());
        let description = language::Description {
            max_positions,
            vocabulary: 640,
            image_token_id,
            version,
            fingerprint: tessera_embedding::DecoderFingerprint::of(&[]),
        };
        Ok(Response::new(description.into()))
    }
}

#[tonic::async_trait]
impl VisionWorker for Vision {
    type LoadStream = Pin<Box<dyn Stream<Item = Result<vision_proto::LoadResponse, Status>> + Send>>;

    async fn encode(
        &self,
        request: Request<vision_proto::EncodeRequest>,
    ) -> Result<Response<vision_proto::EncodeResponse>, Status> {
        EncodeRequest::try_from(request.into_inner())?;
        let Picture { size, tiles, image_tokens } = self.picture;
        let full = |_| Error::exhausted("QUEUE_FULL", "too many tiles wait", RETRY_AFTER);
        let _waiting = self.waiting.try_acquire_many(u32::try_from(tiles).unwrap()).map_err(full)?;
        tokio::time::sleep(DECODE).await;
        let came = Instant::now();
        let device = self.device.lock().await;
        let (queue, forward) = (came.elapsed(), TILE * u32::try_from(tiles).unwrap());
        tokio::time::sleep(forward).await;
        drop(device);
        let timings = EncodeTimings { preprocess: DECODE, queue, forward };
        let encoded = Encoded { image_size: size, image_tokens, stored_before: false, durable: false, timings };
        Ok(Response::new(encoded.into()))
    }

    async fn describe(
        &self,
        _: Request<vision_proto::DescribeRequest>,
    ) -> Result<Response<vision_proto::DescribeResponse>, Status> {
        let (fingerprint, version) = (EncoderFingerprint::of(&[b"script"]), "script".into());
        Ok(Response::new(vision::Description { fingerprint, version, busy: Duration::ZERO }.into()))
    }

    async fn load(&self, _: Request<vision_proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        Err(Error::new(ErrorKind::Unsupported, "METHOD_UNKNOWN", "it makes no reports").into())
    }
}
