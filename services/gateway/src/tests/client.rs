//! A client of the simulated gateway: it calls the gateway's own service, without a connection between them.

use std::sync::Arc;
use std::time::Duration;

use tessera_api::gateway::{EncodeRequest, Encoded, Event, ImageSource, Part};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::encode_response;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::proto::gateway::v1::gateway_server::GatewayServer;
use tessera_api::{Error, ErrorKind};
use tonic::Request;
use tonic::service::interceptor::InterceptedService;

use super::expected::{Expected, Heard};
use super::schedule::{Asked, Leave, Schedule};
use super::world::{Blow, World};
use crate::grpc::Handler;
use crate::tenant::Door;

/// The longest time that the gateway grants a request.
pub(crate) const LONGEST: Duration = Duration::from_secs(120);
/// How long it may take to say that a time is over.
const GRACE: Duration = Duration::from_millis(1_500);
/// Times on the wire are written in whole milliseconds, and nobody is asked for more than there is.
const ROUNDING: Duration = Duration::from_millis(5);
/// An answer comes in this time once all faults are over: connections that are held up are given up after 40 seconds, and
/// pauses of those that were lost are up to 30.
const RECOVERY: Duration = Duration::from_secs(75);
/// Once a client left nothing is done for it any more after this.
const LEAVING: Duration = Duration::from_secs(1);

pub(crate) type Gateway = GatewayClient<InterceptedService<GatewayServer<Handler>, Door>>;

/// What came of a request.
#[derive(Debug)]
pub(crate) enum End {
    /// All of it came.
    Complete,
    /// Its time was over, and what there was by then came.
    Late,
    Failed(Error),
    /// The client left.
    Left,
}

/// One client and its request.
pub(crate) struct Client<'a> {
    pub(crate) world: &'a Arc<World>,
    pub(crate) schedule: &'a Schedule,
    pub(crate) asked: &'a Asked,
    pub(crate) expected: &'a Expected,
    pub(crate) gateway: Gateway,
    pub(crate) heard: Heard<'a>,
    /// When its last call began, and the time that this one has.
    pub(crate) call: (Duration, Duration),
}

impl Client<'_> {
    /// Asks, listens to the end, and looks at everything that is told, and when.
    pub(crate) async fn ask(&mut self) -> End {
        let (world, asked) = (self.world, self.asked);
        tokio::time::sleep_until(world.began + asked.at).await;
        world.note(format!("{} is asked", asked.id));
        let leaves = match asked.leaves {
            Some(Leave::After(time)) => time,
            // Both of its calls, and then some.
            _ => 3 * LONGEST,
        };
        let end = match tokio::time::timeout(leaves, self.converse()).await {
            Ok(end) => end,
            Err(_) => End::Left,
        };
        world.note(format!("{} ends behind {} tokens: {end:?}", asked.id, self.heard.tokens()));
        if let Err(wrong) = self.judge(&end) {
            world.wrong(format!("{}: {wrong}", asked.id));
        }
        if matches!(end, End::Left) {
            self.is_let_go().await;
        }
        end
    }

    async fn converse(&mut self) -> End {
        let (asked, mut request) = (self.asked, self.expected.request.clone());
        let parts = request.input.parts_mut();
        for part in parts.filter(|_| asked.by_handle) {
            let Part::Image(source) = part else { continue };
            let ImageSource::File(file) = source.clone() else { continue };
            match self.encode(EncodeRequest { image: file, lease: None, rows: None }).await {
                Ok(encoded) => *source = ImageSource::Stored(encoded.image.key),
                Err(error) => return End::Failed(error),
            }
        }
        let mut request = Request::new(proto::GenerateRequest::from(request));
        asked.time.into_iter().for_each(|time| request.set_timeout(time));
        self.call = (self.world.began.elapsed(), asked.time.map_or(LONGEST, |time| time.min(LONGEST)));
        let mut events = match self.gateway.generate(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return End::Failed(status.into()),
        };
        let mut count = 0;
        while !matches!(asked.leaves, Some(Leave::AtEvent(at)) if at == count) {
            count += 1;
            let heard = match events.message().await {
                Ok(Some(event)) => match Event::try_from(event) {
                    Ok(event) => self.heard.hear(event),
                    Err(error) => Err(error.to_string()),
                },
                Ok(None) => match self.heard.complete() {
                    Ok(is_late) => return if is_late { End::Late } else { End::Complete },
                    Err(wrong) => Err(wrong),
                },
                Err(status) => match self.heard.broken_off() {
                    Ok(()) => return End::Failed(status.into()),
                    Err(wrong) => Err(wrong),
                },
            };
            if let Err(wrong) = heard {
                self.world.wrong(format!("{}: {wrong}", asked.id));
                break;
            }
        }
        End::Left
    }

    async fn encode(&mut self, request: EncodeRequest) -> Result<Encoded, Error> {
        self.call = (self.world.began.elapsed(), LONGEST);
        let mut parts = self.gateway.encode(proto::EncodeRequest::from(request)).await?.into_inner();
        let Some(encode_response::Part::Encoded(encoded)) = parts.message().await?.and_then(|response| response.part)
        else {
            return Err(Error::new(ErrorKind::Internal, "NO_ANSWER", "the gateway does not say what it encoded"));
        };
        let encoded = Encoded::try_from(encoded)?;
        if encoded.image.key != self.expected.keys[0] {
            return Err(Error::new(ErrorKind::Internal, "WRONG_ANSWER", format!("another image: {encoded:?}")));
        }
        Ok(encoded)
    }

    /// Looks at when and how the request ended.
    ///
    /// # Errors
    /// Says what nothing explains.
    fn judge(&self, end: &End) -> Result<(), String> {
        let ((began, limit), ended) = (self.call, self.world.began.elapsed());
        let calm = self.schedule.calm();
        if ended > began + limit + GRACE {
            return Err(format!("it took from {began:?} to {ended:?}, and had {limit:?}"));
        }
        if ended > calm.max(began) + RECOVERY {
            return Err(format!("it took from {began:?} to {ended:?} although all is well since {calm:?}"));
        }
        match end {
            End::Complete | End::Left => Ok(()),
            End::Late if ended + ROUNDING >= began + limit => Ok(()),
            End::Late => Err(format!("it ended at {ended:?} as if the time were over that it had from {began:?} on")),
            End::Failed(error) if self.is_explained(error, ended) => Ok(()),
            End::Failed(error) => Err(format!("nothing explains {error:?}")),
        }
    }

    fn is_explained(&self, error: &Error, ended: Duration) -> bool {
        let Self { world, schedule, asked, expected, heard, call: (began, limit), .. } = self;
        let has_images = !expected.keys.is_empty();
        let whom: Vec<String> = expected.keys.iter().map(ToString::to_string).chain([asked.id.clone()]).collect();
        let blows = |blow| whom.iter().map(|whom| world.blows(whom, blow)).sum::<usize>();
        let struck = |is_vision| schedule.is_struck(is_vision, asked.at, ended);
        match (error.kind, error.reason.as_ref()) {
            (ErrorKind::Deadline, _) => ended + ROUNDING >= *began + *limit,
            (ErrorKind::Exhausted, "QUEUE_FULL") => blows(Blow::Refused) > 0 && heard.tokens() == 0,
            (ErrorKind::Internal, "MODEL_FAILED") => {
                // One failure of a language worker's model is overcome, unless it is one loss too many; a vision worker's
                // is said at once.
                let is_second = blows(Blow::Failed) > usize::from(!has_images);
                let is_last = blows(Blow::Failed) > 0 && schedule.continuations < 8;
                !schedule.is_gentle && (is_second || is_last)
            }
            (ErrorKind::NotFound, "EMBEDDING_NOT_FOUND") => {
                // A handle does not outlive its worker's memory.
                struck(true) && (asked.by_handle || !schedule.is_gentle)
            }
            (ErrorKind::Unavailable, reason) => {
                let says =
                    |name: &str, value: usize| error.metadata.contains(&(name.to_owned().into(), value.to_string()));
                let is_told = says("tokens", heard.tokens()) && says("continuations", schedule.continuations);
                let is_struck = struck(false) || has_images && struck(true) || blows(Blow::Broken) > 0;
                !schedule.is_gentle && is_struck && (is_told || reason != "POOL_LOST")
            }
            _ => false,
        }
    }

    /// Waits a moment, and sees that no language worker does anything for a client who left, unless it could not hear of
    /// it.
    async fn is_let_go(&self) {
        tokio::time::sleep(LEAVING).await;
        for (machine, of) in self.world.open_calls() {
            if of == self.asked.id && !self.world.network.is_held(&machine) {
                self.world.wrong(format!("{machine} goes on with {of}, whose client left"));
            }
        }
    }
}
