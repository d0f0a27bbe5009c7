//! A language worker without a model. How many new tokens it is asked for says what it does: see [`generate`].

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{Stream, StreamExt, stream};
use tessera_api::language::{Description, Event, FinishReason, Finished, GenerateRequest, Timings};
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_server::{LanguageWorker, LanguageWorkerServer};
use tessera_api::{Error, ErrorKind};
use tessera_embedding::DecoderFingerprint;
use tessera_rpc::Tasks;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::held::Held;

/// New tokens of an answer that is never told to its end.
pub(crate) const HELD: u32 = 100;
/// New tokens of an answer that breaks after its first.
pub(crate) const BROKEN: u32 = 101;

/// The worker, and what it was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Worker {
    /// Sequences that it has.
    pub(crate) open: Arc<AtomicUsize>,
    /// Those that it ever had.
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Worker {
    /// Serves until the test is over; returns the URL.
    pub(crate) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(LanguageWorkerServer::new(self.clone()));
        Tasks::default().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        url
    }
}

/// An answer: tokens one after the other, each another one in each sample.
fn generate(request: &GenerateRequest) -> Vec<Result<Event, Error>> {
    let (length, samples) = (request.max_new_tokens.get(), request.samples.get());
    let told = if length >= HELD as usize { 1 } else { length };
    let token =
        |sample, at| Event::Tokens { sample, token_ids: vec![(300 + 10 * sample + at) as u32], logprobs: vec![] };
    let tokens = (0..told).flat_map(|at| (0..samples).map(move |sample| Ok(token(sample, at))));
    let finished = |sample| {
        let (reason, timings) = (FinishReason::Length, Timings::default());
        Event::Finished(Finished { sample, reason, timings, reused_positions: 0 })
    };
    let end: Vec<_> = match length as u32 {
        HELD => vec![],
        BROKEN => vec![Err(Error::new(ErrorKind::Invalid, "MODEL_BROKEN", "the model is broken"))],
        _ => (0..samples).map(|sample| Ok(finished(sample))).collect(),
    };
    tokens.chain(end).collect()
}

#[tonic::async_trait]
impl LanguageWorker for Worker {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;
    type LoadStream = stream::Empty<Result<proto::LoadResponse, Status>>;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = GenerateRequest::try_from(request.into_inner())?;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let open = Held::of(&self.open);
        let is_held = request.max_new_tokens.get() == HELD as usize;
        let events = stream::iter(generate(&request)).map(|event| Ok(event?.into()));
        let rest = if is_held { stream::pending().boxed() } else { stream::empty().boxed() };
        let events = events.chain(rest).map(move |event| {
            let _open = &open;
            event
        });
        Ok(Response::new(events.boxed()))
    }

    async fn load(&self, _: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        Err(Error::new(ErrorKind::Unsupported, "METHOD_UNKNOWN", "this worker makes no reports").into())
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        let description = Description {
            max_positions: 4096,
            vocabulary: 640,
            image_token_id: 586,
            version: "0".into(),
            fingerprint: DecoderFingerprint::of(&[]),
        };
        Ok(Response::new(description.into()))
    }
}
