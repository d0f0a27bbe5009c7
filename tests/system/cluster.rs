//! The three services on loopback ports of this process, and thin clients.

use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tessera_anyres::ImageSize;
use tessera_api::language::{self, ImageReference};
use tessera_api::proto::embedding::v1 as embedding_proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::gateway::v1 as gateway_proto;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::proto::language::v1 as language_proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::proto::vision::v1 as vision_proto;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::{Error, vision};
use tessera_checkpoint::Checkpoint;
use tessera_embedding::{EncoderFingerprint, ImageKey};
use tessera_testkit::family_dir;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{IntoRequest, Streaming};

use crate::conversation::{Expected, Reply, request};
use crate::running::Running;

/// Most tests take no longer; one that hangs fails.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a test to its end, or fails it when it hangs.
pub(crate) fn limited<T>(test: impl Future<Output = T>) -> T {
    limited_to(LIMIT, test)
}

/// The same, for a test that may take longer.
pub(crate) fn limited_to<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    /// What still runs when a test fails is left behind: waiting for it could take for ever.
    struct LeftBehind(Option<Runtime>);
    impl Drop for LeftBehind {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(Runtime::shutdown_background);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let runtime = LeftBehind(Some(runtime));
    let limited = async { tokio::time::timeout(limit, test).await };
    runtime.0.as_ref().unwrap().block_on(limited).expect("the test hangs")
}

/// Settings of all three. Where the gateway names no workers, it gets those of the cluster.
pub(crate) struct ClusterSettings {
    pub(crate) gateway: tessera_gateway::Settings,
    pub(crate) vision: tessera_vision::Settings,
    pub(crate) language: tessera_language::Settings,
}

/// All three services, running.
pub(crate) struct Cluster {
    pub(crate) gateway: Running,
    pub(crate) vision: Running,
    pub(crate) language: Running,
    pub(crate) dir: PathBuf,
}

impl Cluster {
    /// Starts the services on a checkpoint of the test kit.
    pub(crate) async fn of(family: &str) -> Self {
        Self::start(family, |_| {}).await
    }

    /// The same, with settings that `change` may change.
    pub(crate) async fn start(family: &str, change: impl FnOnce(&mut ClusterSettings)) -> Self {
        Self::start_in(family_dir(family), change).await
    }

    /// The same, on the checkpoint in a folder.
    pub(crate) async fn start_in(dir: PathBuf, change: impl FnOnce(&mut ClusterSettings)) -> Self {
        let mut settings = ClusterSettings {
            gateway: tessera_gateway::Settings {
                model: dir.clone(),
                vision: Vec::new(),
                language: Vec::new(),
                ..Default::default()
            },
            vision: tessera_vision::Settings { model: dir.clone(), ..Default::default() },
            language: tessera_language::Settings { model: dir.clone(), ..Default::default() },
        };
        change(&mut settings);
        let vision = tessera_vision::build(settings.vision, |_| {}).await.unwrap();
        let vision = Running::start(|listener, stop| vision.run(listener, stop)).await;
        let language = tessera_language::build(settings.language, |_| {}).await.unwrap();
        let language = Running::start(|listener, stop| language.run(listener, stop)).await;
        let mut settings = settings.gateway;
        for (urls, worker) in [(&mut settings.vision, &vision), (&mut settings.language, &language)] {
            if urls.is_empty() {
                urls.push(worker.url());
            }
        }
        let gateway = tessera_gateway::build(settings).await.unwrap();
        let gateway = Running::start(|listener, stop| gateway.run(listener, stop)).await;
        Self { gateway, vision, language, dir }
    }

    /// Ends the vision worker and starts another one in its place, with settings that `change` may change.
    pub(crate) async fn replace_vision(&mut self, change: impl FnOnce(&mut tessera_vision::Settings)) {
        self.vision.stop.cancel();
        self.vision.ended().await;
        let mut settings = tessera_vision::Settings { model: self.dir.clone(), ..Default::default() };
        change(&mut settings);
        let vision = tessera_vision::build(settings, |_| {}).await.unwrap();
        self.vision = Running::start_at(self.vision.address, |listener, stop| vision.run(listener, stop)).await;
    }

    /// Asks the gateway and reads the whole answer.
    pub(crate) async fn ask(&self, request: impl Into<gateway_proto::GenerateRequest>) -> Result<Reply, Error> {
        Reply::read(self.open(tonic::Request::new(request.into())).await?).await
    }

    /// Asks the gateway.
    pub(crate) async fn open(
        &self,
        request: tonic::Request<gateway_proto::GenerateRequest>,
    ) -> Result<Streaming<gateway_proto::GenerateResponse>, Error> {
        let mut client = GatewayClient::new(self.gateway.channel()).max_encoding_message_size(usize::MAX);
        Ok(client.generate(request).await?.into_inner())
    }

    /// Asks what a case of the test kit asks, which must be answered as the reference does.
    pub(crate) async fn answers_as_the_reference(&self, family: &str, case: &str) -> Reply {
        let reply = self.ask(request(case, 0)).await.unwrap_or_else(|error| panic!("{family} {case}: {error}"));
        let golden = Expected::of(family, case, 0);
        assert_eq!((&reply.token_ids, &reply.text), (&golden.token_ids, &golden.text), "{family} {case}");
        reply
    }

    /// A client of the vision worker.
    pub(crate) fn vision_client(&self) -> VisionWorkerClient<Channel> {
        VisionWorkerClient::new(self.vision.channel())
    }

    /// A client of the vision worker's store.
    pub(crate) fn store_client(&self) -> EmbeddingStoreClient<Channel> {
        EmbeddingStoreClient::new(self.vision.channel())
    }

    /// What the vision worker encodes with.
    pub(crate) async fn fingerprint(&self) -> EncoderFingerprint {
        let description = self.vision_client().describe(vision_proto::DescribeRequest {}).await.unwrap().into_inner();
        vision::Description::try_from(description).unwrap().fingerprint
    }

    /// Has the vision worker encode a file.
    pub(crate) async fn encode(&self, image: Bytes, key: &[u8]) -> Result<vision::Encoded, Error> {
        let key = Bytes::copy_from_slice(key);
        let request = vision_proto::EncodeRequest { image, key, ..vision_proto::EncodeRequest::default() };
        self.vision_client().encode(request).await?.into_inner().try_into()
    }

    /// Reads the rows of an image from the vision worker's store: header and payload.
    pub(crate) async fn fetch(
        &self,
        request: embedding_proto::FetchRequest,
    ) -> Result<(tessera_api::embedding::FetchHeader, Bytes), Error> {
        use embedding_proto::fetch_response::Part;
        let mut parts = self.store_client().fetch(request).await?.into_inner();
        let Some(Part::Header(header)) = parts.message().await?.and_then(|first| first.part) else {
            panic!("a fetch starts with a header")
        };
        let mut payload = Vec::new();
        while let Some(response) = parts.message().await? {
            let Some(Part::Chunk(chunk)) = response.part else { panic!("a header is followed by chunks") };
            payload.extend_from_slice(&chunk);
        }
        Ok((header.try_into()?, payload.into()))
    }

    /// Asks the language worker and reads all its tokens.
    pub(crate) async fn continue_tokens(&self, request: language::GenerateRequest) -> Result<Vec<u32>, Error> {
        read_tokens(self.open_sequence(language_proto::GenerateRequest::from(request)).await?).await
    }

    /// Asks the language worker.
    pub(crate) async fn open_sequence(
        &self,
        request: impl IntoRequest<language_proto::GenerateRequest>,
    ) -> Result<Streaming<language_proto::GenerateResponse>, Error> {
        Ok(LanguageWorkerClient::new(self.language.channel()).generate(request).await?.into_inner())
    }

    /// How many positions an image of this size fills.
    pub(crate) fn image_tokens(&self, size: ImageSize) -> usize {
        Checkpoint::open(&self.dir).unwrap().geometry().plan(size).image_tokens()
    }

    /// What the language worker can hold.
    pub(crate) async fn describe_language(&self) -> language::Description {
        let mut client = LanguageWorkerClient::new(self.language.channel());
        client.describe(language_proto::DescribeRequest {}).await.unwrap().into_inner().try_into().unwrap()
    }

    /// Starts a sequence that holds the language worker's whole KV cache: it waits for an image that nobody encodes.
    /// Dropping the stream lets go of it.
    pub(crate) async fn hold_language(&self) -> Streaming<language_proto::GenerateResponse> {
        let description = self.describe_language().await;
        let image_size = ImageSize { height: 1, width: 1 };
        let tokens = self.image_tokens(image_size);
        let prompt = [vec![1], vec![description.image_token_id; tokens]].concat();
        let mut request = sequence(prompt, description.max_positions - 1 - tokens);
        request.images = vec![ImageReference {
            key: ImageKey::of(b"", &EncoderFingerprint::of(&[b"another"]), b"nobody encodes this"),
            positions: 1..1 + tokens,
            image_size,
            store: self.vision.url(),
            is_stored: false,
        }];
        self.open_sequence(language_proto::GenerateRequest::from(request)).await.unwrap()
    }
}

/// A greedy sequence without images.
pub(crate) fn sequence(token_ids: Vec<u32>, max_new_tokens: usize) -> language::GenerateRequest {
    language::GenerateRequest {
        request_id: "test".into(),
        ..language::GenerateRequest::greedy(token_ids, NonZeroUsize::new(max_new_tokens).unwrap())
    }
}

/// The tokens of a sequence, to its end.
pub(crate) async fn read_tokens(mut events: Streaming<language_proto::GenerateResponse>) -> Result<Vec<u32>, Error> {
    let mut tokens = Vec::new();
    while let Some(response) = events.message().await? {
        match language::Event::try_from(response)? {
            language::Event::Tokens { token_ids, .. } => tokens.extend(token_ids),
            language::Event::PromptLogprobs(_) => {}
            language::Event::Finished(_) => return Ok(tokens),
        }
    }
    panic!("a sequence ends with Finished")
}

/// An address that is taken and where nobody listens.
pub(crate) struct DeadAddress {
    pub(crate) url: String,
    _taken: TcpSocket,
}

impl DeadAddress {
    pub(crate) fn new() -> Self {
        let taken = TcpSocket::new_v4().unwrap();
        taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { url: format!("http://{}", taken.local_addr().unwrap()), _taken: taken }
    }
}
