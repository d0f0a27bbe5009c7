//! Language workers without a model, which break when they are told to.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt, stream};
use tessera_api::language::{Description, Event, FinishReason, Finished, GenerateRequest, Logprobs, Timings};
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_server::{LanguageWorker, LanguageWorkerServer};
use tessera_api::{Error, ErrorKind};
use tessera_embedding::DecoderFingerprint;
use tessera_rpc::Tasks;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Ends every answer of a fake that is not ended by its length.
pub(crate) const END: u32 = 2;

/// How a stream breaks.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It ends as if it were complete.
    Early,
    /// With an error of the worker.
    Error(Error),
    /// With what the transport says when a connection breaks.
    Transport(tonic::Code, &'static str),
    /// Before it begins, with an error of the worker.
    Refused(Error),
    /// It does not, but its answer is another one.
    Otherwise,
}

/// What the workers of a pool do, whichever of them is asked.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// After how many events each of the next streams breaks, and how. Those behind them do not.
    pub(crate) breaks: Mutex<VecDeque<(usize, End)>>,
    /// What they were asked.
    pub(crate) asked: Mutex<Vec<GenerateRequest>>,
    /// How many streams each of them was asked for.
    pub(crate) streams: Mutex<HashMap<usize, usize>>,
    /// Events of all streams.
    pub(crate) events: Mutex<usize>,
}

struct Fake {
    name: usize,
    plan: Arc<Plan>,
}

impl Plan {
    /// Serves a worker that follows the plan until the test is over; returns its URL.
    pub(crate) async fn serve(self: &Arc<Self>, name: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = LanguageWorkerServer::new(Fake { name, plan: self.clone() });
        let server = tonic::transport::Server::builder().add_service(fake);
        Tasks::default().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        url
    }
}

fn mix(past: u64, input: u64) -> u64 {
    let mut x = (past ^ input.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x2545_f491_4f6c_dd1d);
    x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 29)
}

/// The whole answer of a sample: each token depends on the prompt and on all that come before it.
fn answer(request: &GenerateRequest, sample: usize, seed: u64) -> (Vec<u32>, FinishReason) {
    let mut past = request.token_ids.iter().fold(mix(sample as u64, seed), |past, &id| mix(past, u64::from(id)));
    let mut token_ids = Vec::new();
    // Samples end one after the other.
    let length = 5 + 3 * sample;
    while token_ids.len() < length.min(request.max_new_tokens.get()) {
        past = mix(past, 1);
        token_ids.push(if token_ids.len() + 1 == length { END } else { 300 + (past % 250) as u32 });
    }
    let reason = if token_ids.len() == length { FinishReason::Stop } else { FinishReason::Length };
    (token_ids, reason)
}

fn logprobs(id: u32, likeliest: usize) -> Logprobs {
    let chosen = -1.0 / id as f32;
    Logprobs { chosen, likeliest: (0..likeliest as u32).map(|rank| (id + rank, chosen * rank as f32)).collect() }
}

/// Everything that is told of a request. What there is of its samples must be what this worker would have told.
fn events(request: &GenerateRequest, seed: u64) -> Result<Vec<Event>, Error> {
    let (mut events, mut open) = (Vec::new(), Vec::new());
    if let Some(top) = request.prompt_logprobs {
        let positions = request.token_ids[1..].iter().map(|&id| logprobs(id, top)).collect();
        events.push(Event::PromptLogprobs(positions));
    }
    for sample in 0..request.samples.get() {
        let begun = request.begun.iter().find(|begun| begun.sample == sample);
        let (token_ids, reason) = answer(request, sample, seed);
        match begun {
            Some(begun) if !token_ids.starts_with(&begun.token_ids) => {
                return Err(Error::new(ErrorKind::Invalid, "NEVER_SAID", format!("{begun:?} of {token_ids:?}")));
            }
            None if !request.begun.is_empty() => {}
            begun => open.push((sample, begun.map_or(0, |begun| begun.token_ids.len()), token_ids, reason)),
        }
    }
    let tokens = |sample, ids: &[u32]| Event::Tokens {
        sample,
        token_ids: ids.to_vec(),
        logprobs: request.logprobs.map(|top| ids.iter().map(|&id| logprobs(id, top)).collect()).unwrap_or_default(),
    };
    let finished =
        |sample, reason| Event::Finished(Finished { sample, reason, timings: Timings::default(), reused_positions: 0 });
    if request.beam_search.is_some() {
        for (sample, _, token_ids, reason) in open {
            let (first, rest) = token_ids.split_at(token_ids.len() / 2);
            events.extend([tokens(sample, first), tokens(sample, rest), finished(sample, reason)]);
        }
        return Ok(events);
    }
    while !open.is_empty() {
        open.retain_mut(|(sample, told, token_ids, reason)| {
            if *told < token_ids.len() {
                events.push(tokens(*sample, &token_ids[*told..=*told]));
                *told += 1;
            }
            let is_over = *told == token_ids.len();
            if is_over {
                events.push(finished(*sample, *reason));
            }
            !is_over
        });
    }
    Ok(events)
}

#[tonic::async_trait]
impl LanguageWorker for Fake {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;
    type LoadStream = stream::Empty<Result<proto::LoadResponse, Status>>;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = GenerateRequest::try_from(request.into_inner())?;
        self.plan.asked.lock().unwrap().push(request.clone());
        *self.plan.streams.lock().unwrap().entry(self.name).or_default() += 1;
        let next = self.plan.breaks.lock().unwrap().pop_front();
        if let Some((_, End::Refused(error))) = next {
            return Err(error.into());
        }
        let events = events(&request, u64::from(matches!(next, Some((_, End::Otherwise)))))?;
        let told = next.as_ref().map_or(usize::MAX, |(told, _)| *told).min(events.len());
        *self.plan.events.lock().unwrap() += told;
        let end = match next.map(|(_, end)| end) {
            None | Some(End::Early | End::Refused(_) | End::Otherwise) => stream::empty().boxed(),
            Some(End::Error(error)) => stream::iter([Err(error.into())]).boxed(),
            Some(End::Transport(code, message)) => stream::iter([Err(Status::new(code, message))]).boxed(),
        };
        let events = stream::iter(events.into_iter().take(told).map(|event| Ok(event.into())));
        Ok(Response::new(events.chain(end).boxed()))
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
