//! The client: what all calls share, questions, and images one by one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tessera_api::gateway::{EncodeRequest, Encoded, Event, GenerateRequest};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::encode_response::Part;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::proto::gateway::v1::gateway_server::SERVICE_NAME;
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::{Deadline, Tasks};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bearer::Bearer;
use crate::builder::Builder;
use crate::reply::broken;
use crate::retry::{Attempts, Retries};
use crate::store::Store;

/// A gateway whose time is over says so itself, or how far it came by then. One that is silent is given so much longer.
const GRACE: Duration = Duration::from_secs(2);
/// A gateway that does not say for so long how it is, is not there.
const HEALTH_TIME: Duration = Duration::from_secs(10);

/// A client of one gateway. Clones share its connection.
#[derive(Clone, Debug)]
pub struct Client(Arc<Connection>);

/// What the clones of a client share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) url: String,
    pub(crate) channel: Channel,
    pub(crate) bearer: Bearer,
    pub(crate) deadline: Option<Duration>,
    pub(crate) retries: Retries,
    pub(crate) compresses: bool,
    /// They look at files again and again.
    pub(crate) tasks: Tasks,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

/// What a gateway says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It takes requests.
    Serving,
    /// It does not, now.
    NotServing,
}

/// An image to be encoded and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Encode {
    pub(crate) image: Bytes,
    pub(crate) lease: Option<Duration>,
}

impl Encode {
    /// The file of an image.
    pub fn new(image: impl Into<Bytes>) -> Self {
        Self { image: image.into(), lease: None }
    }

    /// Promises to keep it for so long, in whole seconds.
    pub fn lease(mut self, period: Duration) -> Self {
        self.lease = Some(period);
        self
    }
}

impl<T: Into<Bytes>> From<T> for Encode {
    fn from(image: T) -> Self {
        Self::new(image)
    }
}

impl Client {
    /// Reaches a gateway at `http://host:port`, or at `https://host:port` by TLS with the authorities that the system
    /// believes. For anything else, see [`builder`](Self::builder).
    ///
    /// # Errors
    /// Those of [`Builder::connect`].
    pub async fn connect(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Says how a gateway is reached, step by step.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    pub(crate) fn over(connection: Connection) -> Self {
        Self(Arc::new(connection))
    }

    /// Where the gateway is, as it was named.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Asks, and waits until the request was understood and admitted. Until then it is made again where that is safe, and
    /// handles that are gone are replaced ([`Image::stored_or`](crate::Image::stored_or)).
    ///
    /// # Errors
    /// The gateway's: what is wrong with the request, or why it cannot be answered now.
    pub async fn generate(&self, ask: impl Into<Ask>) -> Result<Answer> {
        let mut ask = ask.into();
        if let Some(wrong) = ask.wrong.take() {
            return Err(wrong);
        }
        let deadline = self.deadline(ask.deadline);
        let mut attempts = self.attempts(deadline);
        loop {
            match self.begin(ask.request.clone(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) if ask.replace_gone(&error) => {}
                Err(error) => attempts.wait(error).await?,
            }
        }
    }

    async fn begin(&self, request: GenerateRequest, deadline: Deadline) -> Result<Answer> {
        let mut gateway = self.gateway();
        let patience = patience(deadline);
        let asked = gateway.generate(self.request(deadline, request.into()));
        let asked = async { asked.await.map_err(|status| self.explained(status)) };
        let response = patience.bound("the answer was awaited", asked).await?;
        Answer::begin(self.clone().events(response.into_inner(), patience).boxed()).await
    }

    fn events(
        self,
        events: Streaming<proto::GenerateResponse>,
        patience: Deadline,
    ) -> impl Stream<Item = Result<Event>> {
        stream::try_unfold((events, self), move |(mut events, client)| async move {
            let next = async { events.message().await.map_err(|status| client.explained(status)) };
            match patience.bound("the answer was made", next).await? {
                Some(event) => Ok(Some((event.try_into()?, (events, client)))),
                None => Ok(None),
            }
        })
    }

    /// Encodes an image and keeps it. `image.key` of what comes back is the handle that stands for it in questions and in
    /// the [`Store`], for as long as it is stored. An image that is stored already is not encoded again.
    ///
    /// # Errors
    /// The gateway's: what is wrong with the image, or why it cannot be encoded now.
    pub async fn encode(&self, image: impl Into<Encode>) -> Result<Encoded> {
        let Encode { image, lease } = image.into();
        let request = EncodeRequest { image, lease, rows: None };
        let deadline = self.deadline(None);
        let call = || {
            let (mut gateway, request) = (self.gateway(), self.request(deadline, request.clone().into()));
            async move { gateway.encode(request).await?.into_inner().message().await }
        };
        match self.again(deadline, call).await?.and_then(|response| response.part) {
            Some(Part::Encoded(encoded)) => encoded.try_into(),
            _ => Err(broken("the gateway does not say what it encoded")),
        }
    }

    /// The images that the gateway keeps.
    pub fn store(&self) -> Store {
        Store::new(self.clone())
    }

    /// Asks the gateway whether it takes requests. It says nothing of its pools.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be reached, `NotFound` (`NO_GATEWAY`) when whoever is there is no gateway.
    pub async fn health(&self) -> Result<Health> {
        let request = HealthCheckRequest { service: SERVICE_NAME.into() };
        let request = self.request(self.deadline(None).within(HEALTH_TIME), request);
        match HealthClient::new(self.channel()).check(request).await {
            Ok(response) if response.get_ref().status() == ServingStatus::Serving => Ok(Health::Serving),
            Ok(_) => Ok(Health::NotServing),
            Err(status) => {
                let mut error = self.explained(status);
                if error.kind == ErrorKind::NotFound {
                    let message = format!("{} is no gateway: is it the address of a worker?", self.0.url);
                    error = Error::new(ErrorKind::NotFound, "NO_GATEWAY", message).with("url", &self.0.url);
                }
                Err(error)
            }
        }
    }

    pub(crate) fn gateway(&self) -> GatewayClient<Channel> {
        let gateway = GatewayClient::new(self.0.channel.clone());
        if self.0.compresses { gateway.send_compressed(Gzip).accept_compressed(Gzip) } else { gateway }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.0.channel.clone()
    }

    /// When a request must be over that was given this time.
    pub(crate) fn deadline(&self, own: Option<Duration>) -> Deadline {
        own.or(self.0.deadline).map_or_else(Deadline::default, |time| Deadline::default().within(time))
    }

    pub(crate) fn attempts(&self, deadline: Deadline) -> Attempts {
        Attempts::new(self.0.retries, deadline)
    }

    /// Makes a request that carries what is left of its time, and who asks.
    pub(crate) fn request<T>(&self, deadline: Deadline, message: T) -> Request<T> {
        let mut request = deadline.request(message);
        self.0.bearer.sign(&mut request);
        request
    }

    /// Makes a call that changes nothing when it is made twice, until it passes.
    pub(crate) async fn again<T, F>(&self, deadline: Deadline, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let (mut attempts, patience) = (self.attempts(deadline), patience(deadline));
        loop {
            let called = async { call().await.map_err(|status| self.explained(status)) };
            match patience.bound("the gateway was asked", called).await {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.wait(error).await?,
            }
        }
    }

    /// The gateway's error; that of the transport names the gateway.
    pub(crate) fn explained(&self, status: Status) -> Error {
        let is_ours = status.details().is_empty();
        let mut error = Error::from(status);
        if is_ours && error.reason == "UNREACHABLE" {
            error.message = format!("no gateway at {} ({})", self.0.url, error.message);
        }
        error
    }
}

/// When a gateway is given up that should have answered by then.
pub(crate) fn patience(deadline: Deadline) -> Deadline {
    deadline.remaining().map_or(deadline, |left| Deadline::default().within(left + GRACE))
}
