//! A language worker without a model: it keeps to the contract, and its answers are those of `answers`. How it comes to
//! features is scripted too: it asks the simulated store, as far as the network lets it, and no bytes are carried.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tessera_api::language::{Description, Event, FinishReason, GenerateRequest, ImageReference, Load};
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_server::{LanguageWorker, LanguageWorkerServer};
use tessera_api::{Error, ErrorKind, Result as ApiResult};
use tessera_embedding::{DecoderFingerprint, WaitError};
use tessera_rpc::Deadline;
use tokio_stream::wrappers::IntervalStream;
use tonic::{Request, Response, Status};

use super::answers;
use super::machine::{Life, Machine, Role, broken, full};
use super::world::{Blow, Open, World};

/// How long features are waited for that are not stored yet, and how long a transfer may take.
const WAIT: Duration = Duration::from_secs(10);
const TRANSFER: Duration = Duration::from_secs(30);
/// A worker that says nothing of its load says nothing ever.
const REPORTS: f64 = 0.3;

/// What decides the scores of all language workers.
fn fingerprint() -> DecoderFingerprint {
    DecoderFingerprint::of(&[b"simulated"])
}

#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) world: Arc<World>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) life: Arc<Life>,
}

/// How a stream breaks.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It ends as if it were complete.
    Early,
    /// The model fails.
    Model,
    /// What the transport says when a connection breaks.
    Transport,
}

/// A sequence in progress.
struct Play {
    worker: Worker,
    request: GenerateRequest,
    deadline: Deadline,
    events: VecDeque<Event>,
    /// Events before it breaks, and how.
    breaks: Option<(usize, Way)>,
    has_features: bool,
    /// Nothing more comes, or only what takes no time.
    state: State,
    _open: Open,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    /// Its time is over: only ends are told.
    Ending,
    Over,
}

impl Worker {
    pub(crate) fn service(self) -> LanguageWorkerServer<Self> {
        LanguageWorkerServer::new(self)
    }

    fn play(&self, request: GenerateRequest, deadline: Deadline) -> ApiResult<Play> {
        let (world, id) = (&self.world, request.request_id.clone());
        let begun: Vec<_> = request.begun.iter().map(|begun| (begun.sample, begun.token_ids.len())).collect();
        let open = world.open(&self.machine, &id);
        if self.machine.mood().sour {
            return Err(broken());
        }
        if self.machine.mood().full {
            world.strike(&id, Blow::Refused);
            return Err(full());
        }
        if request.decoder.is_some_and(|decoder| decoder != fingerprint()) {
            world.wrong(format!("{id} is to be answered by another decoder: {:?}", request.decoder));
        }
        world.note(format!("{id} goes on at {} behind {begun:?}", self.machine.authority));
        let (chunk, share) = world.draw(|dice| (1 + dice.below(3), dice.share()));
        let events = answers::events(&request, chunk).map_err(|why| {
            world.wrong(format!("{id}: {why}"));
            Error::new(ErrorKind::Invalid, "NEVER_SAID", why)
        })?;
        let (is_sick, breaks) = (self.machine.mood().sick, self.machine.mood().breaks);
        let way = world.draw(|dice| dice.one_of(&[Way::Early, Way::Model, Way::Transport]));
        let way = if is_sick { Some(Way::Model) } else { Some(way).filter(|_| share < breaks) };
        let at = world.draw(|dice| dice.below(events.len()));
        let (breaks, has_features) = (way.map(|way| (at, way)), request.images.is_empty());
        let worker = self.clone();
        Ok(Play { worker, request, deadline, events, breaks, has_features, state: State::Running, _open: open })
    }

    /// Comes to the features of an image, as the real worker does.
    async fn fetch(&self, image: &ImageReference) -> ApiResult<()> {
        let named = |what: &str| {
            let message = format!("store {} {what}", image.store);
            Error::new(ErrorKind::Unavailable, "UNREACHABLE", message).with("store", &image.store)
        };
        let Some(store) = self.world.machine(&image.store) else { return Err(named("is unknown")) };
        let wait = if image.is_stored { Duration::ZERO } else { WAIT };
        let fetching = async {
            self.world.network.pass(&store.authority).await;
            let Some(life) = store.life() else { return Err(named("cannot be reached")) };
            let mut images = life.images.subscribe();
            let storing = async { images.wait_for(|images| images.contains(&image.key)).await.is_ok() };
            let stored = life.gone.run_until_cancelled(tokio::time::timeout(wait, storing)).await;
            self.world.network.pass(&store.authority).await;
            match stored {
                Some(Ok(true)) => Ok(()),
                Some(_) => Err(WaitError::<Error>::NotFound(image.key).into()),
                None => Err(named("cannot be reached")),
            }
        };
        match tokio::time::timeout(WAIT + TRANSFER, fetching).await {
            Ok(fetched) => fetched,
            Err(_) => Err(named("takes too long")),
        }
    }
}

impl Play {
    async fn next(&mut self) -> Option<ApiResult<Event>> {
        match self.state {
            State::Over => return None,
            State::Ending => return Some(Ok(self.tell()?)),
            State::Running => {}
        }
        let (handing_over, deadline) = (self.worker.life.handing_over.clone(), self.deadline);
        tokio::select! {
            biased;
            () = handing_over.cancelled() => {
                self.state = State::Over;
                Some(Err(Error::new(ErrorKind::Unavailable, "HANDED_OVER", "it shuts down")))
            }
            () = deadline.passed() => {
                let ends = self.events.iter().filter_map(|event| match event {
                    Event::Finished(end) => Some(answers::finished(end.sample, FinishReason::Deadline)),
                    _ => None,
                });
                (self.events, self.state) = (ends.collect(), State::Ending);
                Some(Ok(self.tell()?))
            }
            outcome = self.step() => {
                if !matches!(outcome, Some(Ok(_))) {
                    self.state = State::Over;
                }
                outcome
            }
        }
    }

    /// Computes for a while, or waits for features, and tells what comes next.
    async fn step(&mut self) -> Option<ApiResult<Event>> {
        let Worker { world, machine, .. } = &self.worker;
        let id = &self.request.request_id;
        if !self.has_features {
            let fetched =
                futures::future::try_join_all(self.request.images.iter().map(|image| self.worker.fetch(image)));
            if let Err(error) = fetched.await {
                world.note(format!("{id} lacks features: {error}"));
                return Some(Err(error));
            }
            self.has_features = true;
        }
        tokio::time::sleep(world.step(machine)).await;
        if let Some((events, way)) = &mut self.breaks {
            if *events == 0 {
                let (way, blow) = (*way, if matches!(way, Way::Model) { Blow::Failed } else { Blow::Broken });
                self.breaks = None;
                if world.strike(id, blow) {
                    return match way {
                        Way::Early => None,
                        Way::Model => Some(Err(Error::new(ErrorKind::Internal, "MODEL_FAILED", "the device is gone"))),
                        Way::Transport => Some(Err(broken())),
                    };
                }
            } else {
                *events -= 1;
            }
        }
        self.tell().map(Ok)
    }

    fn tell(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            self.state = State::Over;
        }
        event
    }
}

#[tonic::async_trait]
impl LanguageWorker for Worker {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;
    type LoadStream = Pin<Box<dyn Stream<Item = Result<proto::LoadResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        if self.life.draining.is_cancelled() {
            return Err(Error::draining().into());
        }
        let deadline = Deadline::of(request.metadata());
        let request = GenerateRequest::try_from(request.into_inner()).inspect_err(|error| self.world.wrong(error))?;
        let play = self.play(request, deadline)?;
        let events = stream::unfold(play, |mut play| async move { Some((play.next().await?, play)) });
        Ok(Response::new(events.map(|event| Ok(event?.into())).boxed()))
    }

    async fn load(&self, request: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        if self.world.draw(|dice| !dice.chance(REPORTS)) {
            return Err(Error::new(ErrorKind::Unsupported, "METHOD_UNKNOWN", "this worker makes no reports").into());
        }
        let interval = Duration::from_millis(request.into_inner().interval_milliseconds);
        let this = self.clone();
        let reports = IntervalStream::new(tokio::time::interval(interval)).map(move |_| {
            let open = this.world.open_calls();
            let running = open.iter().filter(|(machine, _)| *machine == this.machine.authority).count();
            Ok(Load { total_blocks: 512, free_blocks: 512 - running, running, ..Load::default() }.into())
        });
        Ok(Response::new(reports.take_until(self.life.draining.clone().cancelled_owned()).boxed()))
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        let ours = self.world.image_token_id;
        let image_token_id = if self.machine.role == Role::Stranger { ours + 1 } else { ours };
        let (max_positions, vocabulary, version, fingerprint) = (4096, 640, "0".into(), fingerprint());
        let description = Description { max_positions, vocabulary, image_token_id, version, fingerprint };
        Ok(Response::new(description.into()))
    }
}
