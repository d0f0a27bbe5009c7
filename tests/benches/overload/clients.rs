//! Clients of the gateway: some that wait for their answers, and some that do not care what became of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use tessera_api::gateway::{Event, GenerateRequest, ImageSource, Input, Message, Part, Role, Settings};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::{Error, ErrorKind};
use tessera_rpc::Tasks;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::running::Running;

/// An answer that comes later is worth nothing; it is the deadline of each request.
pub(crate) const BOUND: Duration = Duration::from_secs(2);
const MAX_TOKENS: u32 = 32;
/// The gateway's file of tokens: of `printf %s token-of-quiet | sha256sum`, and of the other.
pub(crate) const TOKENS: &str = "\
25625ea1ba0e2bc34e34e42134a503c93a561c8e8e059b6c98051b101f5835e2 quiet
4331536b4ebf63d1f54a90b5c2c01e0f57f2381ba76f25cbbd86cf4ad12a7f81 flood
";
/// Connections to the gateway.
const CHANNELS: usize = 4;

/// Everybody who asks.
#[derive(Clone)]
pub(crate) struct Clients {
    channels: Vec<Channel>,
    tenant: &'static str,
    file: Bytes,
    asked: Arc<AtomicUsize>,
}

/// What one request was told.
#[derive(Debug)]
pub(crate) struct Told {
    /// When it was due, from the beginning on.
    pub(crate) due: Duration,
    /// What it was told after which time, from when it was due.
    pub(crate) outcome: Result<(), Error>,
    pub(crate) took: Duration,
    /// After which time it came back, if it did: then the rest is about that.
    pub(crate) came_back: Option<Duration>,
}

/// Numbers that look drawn.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 33) as f64 + 1.0) / f64::from(1_u32 << 31)
    }

    /// A time between two requests as between people who know nothing of one another.
    fn gap(&mut self, rate: f64) -> Duration {
        Duration::from_secs_f64(-self.next().ln() / rate)
    }
}

impl Told {
    /// A whole answer in time.
    pub(crate) fn is_good(&self) -> bool {
        self.outcome.is_ok() && self.took <= BOUND
    }

    /// What the gateway said that had no room.
    pub(crate) fn refusal(&self) -> Option<&Error> {
        self.outcome.as_ref().err().filter(|error| error.kind == ErrorKind::Exhausted)
    }
}

impl Clients {
    pub(crate) fn new(gateway: &Running, file: &[u8]) -> Self {
        let channels = (0..CHANNELS).map(|_| gateway.channel()).collect();
        Self { channels, tenant: "quiet", file: Bytes::copy_from_slice(file), asked: Arc::default() }
    }

    /// The same of another tenant.
    pub(crate) fn of(&self, tenant: &'static str) -> Self {
        Self { tenant, ..self.clone() }
    }

    /// So many clients, each of which asks again once it was answered, for this time; returns answers a second.
    pub(crate) async fn closed(&self, count: usize, time: Duration) -> f64 {
        let end = Instant::now() + time;
        let client = || async {
            let mut answered = 0;
            while Instant::now() < end {
                answered += usize::from(self.ask(None).await.is_ok());
            }
            answered
        };
        let began = Instant::now();
        let answered: usize = join_all((0..count).map(|_| client())).await.into_iter().sum();
        answered as f64 / began.elapsed().as_secs_f64()
    }

    /// Requests at this rate for this time, whatever becomes of them.
    pub(crate) async fn open(&self, rate: f64, time: Duration, seed: u64) -> Vec<Told> {
        self.come(rate, time, seed, false).await
    }

    /// The same; whoever is refused comes back once.
    pub(crate) async fn rush(&self, rate: f64, time: Duration, seed: u64) -> Vec<Told> {
        self.come(rate, time, seed, true).await
    }

    async fn come(&self, rate: f64, time: Duration, seed: u64, comes_back: bool) -> Vec<Told> {
        let (mut draw, tasks, begin) = (Draw(seed), Tasks::default(), Instant::now());
        let (mut due, mut asked) = (draw.gap(rate), Vec::new());
        while due < time {
            tokio::time::sleep_until(begin + due).await;
            let this = self.clone();
            asked.push(tasks.spawn(async move { this.tell(begin, due, comes_back).await }));
            due += draw.gap(rate);
        }
        join_all(asked).await.into_iter().map(Result::unwrap).collect()
    }

    async fn tell(&self, begin: Instant, due: Duration, comes_back: bool) -> Told {
        let first = self.ask(Some(BOUND)).await;
        let took = (begin + due).elapsed();
        let told = Told { due, outcome: first, took, came_back: None };
        let Some(pause) = told.refusal().and_then(|error| error.retry_after).filter(|_| comes_back) else {
            return told;
        };
        tokio::time::sleep(pause).await;
        let again = Instant::now();
        let outcome = self.ask(Some(BOUND)).await;
        Told { outcome, took: again.elapsed(), came_back: Some(pause), ..told }
    }

    /// Asks a question, every second one about an image that nobody has seen before; reads the whole answer.
    async fn ask(&self, time: Option<Duration>) -> Result<(), Error> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut parts = vec![Part::Text("What is shown here, and what else is there to say?".into())];
        if number.is_multiple_of(2) {
            // What stands behind the end of an image file is part of its key.
            let mut file = BytesMut::from(&self.file[..]);
            file.put_u64(number as u64);
            parts.insert(0, Part::Image(ImageSource::File(file.freeze())));
        }
        let settings = Settings { max_tokens: Some(MAX_TOKENS), temperature: Some(0.0), ..Settings::default() };
        let input = Input::Conversation(vec![Message { role: Role::User, parts }]);
        let request_id = format!("{number:x}");
        let mut request =
            tonic::Request::new(proto::GenerateRequest::from(GenerateRequest { request_id, input, settings }));
        let token = format!("Bearer token-of-{}", self.tenant);
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        time.into_iter().for_each(|time| request.set_timeout(time));
        let mut client = GatewayClient::new(self.channels[number % CHANNELS].clone());
        let mut events = client.generate(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            if matches!(Event::try_from(event)?, Event::Finished(_)) {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Internal, "UNFINISHED", "an answer ended without its end"))
    }
}
