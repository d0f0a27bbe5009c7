//! A client of the cluster: it asks at its gateway, and keeps to what a client has to do.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use tessera_api::embedding::Representation;
use tessera_api::gateway::{BatchResponse, EncodeRequest, Encoded, Event, GenerateRequest};
use tessera_api::proto::embedding::v1::fetch_response::Part as RowPart;
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::encode_response::Part;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::{Error, ErrorKind};
use tessera_rpc::client;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::transport::Channel;

use crate::cluster::Cluster;
use crate::names::{Name, Role};
use crate::told::Told;

/// Whatever is not over by then is lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before a client comes back to whom nobody could be given.
const PAUSE: Duration = Duration::from_millis(100);

/// A client.
pub(crate) struct Client<'a> {
    cluster: &'a Cluster,
    gateways: [Channel; 2],
    /// The gateway that it asks now.
    pub(crate) gateway: usize,
}

/// What a client went through until it had what it asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// Its gateway was lost or ended, and it asked the other one.
    pub(crate) moved: usize,
    /// A gateway had no worker for it, while there was none.
    pub(crate) refused: usize,
    /// A queue was full.
    pub(crate) waited: usize,
    /// Continuations of the answer.
    pub(crate) continuations: usize,
}

/// Why a client does not have what it asked for.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// It is another one.
    Wrong(String),
    /// It did not come, or not to its end.
    Lost(String),
    /// A handle stands for nothing any more, as a gateway said before anything else.
    Gone,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(what) => write!(f, "WRONG: {what}"),
            Self::Lost(why) => write!(f, "LOST: {why}"),
            Self::Gone => write!(f, "LOST: its handle stands for nothing again and again"),
        }
    }
}

/// Why one call did not come to its end.
pub(crate) struct Broken {
    error: Error,
    /// The connection broke: this is no word of the gateway's.
    is_transport: bool,
    /// Something was told before.
    has_begun: bool,
}

impl Broken {
    fn of(status: Status, has_begun: bool) -> Self {
        let is_transport = status.details().is_empty();
        Self { error: status.into(), is_transport, has_begun }
    }
}

/// Why a call failed.
pub(crate) enum Wound {
    Broken(Broken),
    Wrong(String),
}

impl From<String> for Wound {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

impl<'a> Client<'a> {
    pub(crate) fn new(cluster: &'a Cluster, gateway: usize) -> Self {
        let channel = |number| {
            let address = cluster.network.listens(Name { role: Role::Gateway, number });
            client::channel(&format!("http://{address}")).expect("an address makes a URL")
        };
        Self { cluster, gateways: [channel(0), channel(1)], gateway }
    }

    /// Asks, and reads the answer to its end; it must be `expected`, where that is known.
    pub(crate) async fn ask(
        &mut self,
        request: &GenerateRequest,
        expected: Option<&Told>,
    ) -> Result<(Told, Way), Failure> {
        let (answer, mut way) = self.insist(async |channel| generate(channel, request, expected).await).await?;
        let (told, continuations) = answer;
        way.continuations = continuations;
        match expected.and_then(|expected| told.differs_from(expected)) {
            Some(difference) => Err(Failure::Wrong(difference)),
            None => Ok((told, way)),
        }
    }

    /// Has an image encoded and reads its rows; these must be `expected`, where that is known.
    pub(crate) async fn encode(
        &mut self,
        image: &Bytes,
        lease: Option<Duration>,
        expected: Option<&Bytes>,
    ) -> Result<(Encoded, Bytes, Way), Failure> {
        let rows = Some(Representation::Features);
        let request = EncodeRequest { image: image.clone(), lease, rows };
        let ((encoded, rows), way) = self.insist(async |channel| encode(channel, &request).await).await?;
        match expected.filter(|expected| **expected != rows) {
            Some(expected) => {
                Err(Failure::Wrong(format!("{} bytes of rows are not the {} expected", rows.len(), expected.len())))
            }
            None => Ok((encoded, rows, way)),
        }
    }

    /// Has many images encoded: every one of them, once each and in order.
    pub(crate) async fn batch(&mut self, images: &[Bytes]) -> Result<Way, Failure> {
        Ok(self.insist(async |channel| batch(channel, images).await).await?.1)
    }

    /// Calls until there is an outcome that counts.
    async fn insist<T>(&mut self, call: impl AsyncFn(Channel) -> Result<T, Wound>) -> Result<(T, Way), Failure> {
        let (deadline, mut way) = (Instant::now() + PATIENCE, Way::default());
        loop {
            let called = timeout_at(deadline, call(self.gateways[self.gateway].clone())).await;
            let broken = match called.map_err(|_| Failure::Lost(format!("no end within {PATIENCE:?}")))? {
                Ok(done) => return Ok((done, way)),
                Err(Wound::Wrong(what)) => return Err(Failure::Wrong(what)),
                Err(Wound::Broken(broken)) => broken,
            };
            self.bear(broken, &mut way).await?;
        }
    }

    /// Decides what a client may do after a call that failed: it asks the other gateway when its own is lost, and comes back
    /// when it was told to. Everything else is lost.
    async fn bear(&mut self, broken: Broken, way: &mut Way) -> Result<(), Failure> {
        let Broken { error, is_transport, has_begun } = broken;
        let gateway = self.gateway;
        let ends = error.kind == ErrorKind::Unavailable && (is_transport || error.reason == "DRAINING");
        if ends && self.cluster.is_in_trouble(gateway) {
            way.moved += 1;
            self.gateway = 1 - gateway;
            tokio::time::sleep(PAUSE / 10).await;
            return Ok(());
        }
        let when = if has_begun { "after it had begun" } else { "before anything else" };
        let lost = || Failure::Lost(format!("gateway-{gateway}, {when}: {error:?}"));
        match (error.kind, error.retry_after) {
            _ if has_begun => Err(lost()),
            (ErrorKind::Exhausted, Some(after)) => {
                way.waited += 1;
                tokio::time::sleep(after).await;
                Ok(())
            }
            (ErrorKind::Unavailable, _) if self.cluster.has_no_language_worker() => {
                way.refused += 1;
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            (ErrorKind::NotFound, _) if error.reason == "EMBEDDING_NOT_FOUND" => Err(Failure::Gone),
            _ => Err(lost()),
        }
    }
}

async fn generate(
    channel: Channel,
    request: &GenerateRequest,
    expected: Option<&Told>,
) -> Result<(Told, usize), Wound> {
    let broken = |has_begun| move |status| Wound::Broken(Broken::of(status, has_begun));
    let mut client = GatewayClient::new(channel).max_encoding_message_size(usize::MAX);
    let opened = client.generate(proto::GenerateRequest::from(request.clone())).await;
    let mut events = opened.map_err(broken(false))?.into_inner();
    let (mut told, mut continuations, mut has_begun) = (Told::default(), 0, false);
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => event,
            Ok(None) if told.is_over() => return Ok((told, continuations)),
            Ok(None) => return Err(Wound::Wrong("the stream ended before its samples".into())),
            Err(status) => {
                // What was told before must be right, too.
                let difference = expected.and_then(|expected| told.differs_from_a_beginning_of(expected));
                return Err(difference.map_or_else(|| broken(has_begun)(status), Wound::Wrong));
            }
        };
        has_begun = true;
        let event = Event::try_from(event).map_err(|error| error.to_string())?;
        continuations = continuations.max(told.take(event)?);
    }
}

async fn encode(channel: Channel, request: &EncodeRequest) -> Result<(Encoded, Bytes), Wound> {
    let broken = |has_begun| move |status| Wound::Broken(Broken::of(status, has_begun));
    let opened = GatewayClient::new(channel).encode(proto::EncodeRequest::from(request.clone())).await;
    let mut parts = opened.map_err(broken(false))?.into_inner();
    let (mut encoded, mut rows) = (None, Vec::new());
    while let Some(response) = parts.message().await.map_err(broken(encoded.is_some()))? {
        match response.part {
            Some(Part::Encoded(told)) => encoded = Some(Encoded::try_from(told).map_err(|error| error.to_string())?),
            Some(Part::Rows(told)) => match told.part {
                Some(RowPart::Chunk(chunk)) => rows.extend_from_slice(&chunk),
                Some(RowPart::Header(_)) if rows.is_empty() => {}
                other => return Err(Wound::Wrong(format!("rows do not go on with {other:?}"))),
            },
            None => return Err(Wound::Wrong("an empty part".into())),
        }
    }
    let encoded = encoded.ok_or_else(|| Wound::Wrong("nothing was said of the image".into()))?;
    Ok((encoded, rows.into()))
}

async fn batch(channel: Channel, images: &[Bytes]) -> Result<(), Wound> {
    let broken = |status| Wound::Broken(Broken::of(status, false));
    let request = |(index, image): (usize, &Bytes)| proto::EncodeBatchRequest {
        id: index.to_string(),
        image: image.clone(),
        lease_seconds: 0,
        in_order: true,
    };
    let requests: Vec<_> = images.iter().enumerate().map(request).collect();
    let opened = GatewayClient::new(channel).encode_batch(stream::iter(requests)).await;
    let mut answers = opened.map_err(broken)?.into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await.map_err(broken)? {
        let answer = BatchResponse::try_from(answer).map_err(|error| error.to_string())?;
        if answer.id != count.to_string() {
            return Err(Wound::Wrong(format!("image {} of a batch came in the place of {count}", answer.id)));
        }
        // A client of a batch is told of each image that failed, and nothing of the kind may happen to a good one.
        answer.outcome.map_err(|error| Wound::Broken(Broken { error, is_transport: false, has_begun: true }))?;
        count += 1;
    }
    if count == images.len() { Ok(()) } else { Err(Wound::Wrong(format!("{count} of {} images came", images.len()))) }
}
