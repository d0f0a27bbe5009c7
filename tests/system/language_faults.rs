//! A language worker that is asked for what it cannot do, and whose store fails it.

use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tessera_anyres::ImageSize;
use tessera_api::embedding::{FetchHeader, Representation};
use tessera_api::language::{self, ImageReference};
use tessera_api::proto::embedding::v1 as embedding_proto;
use tessera_api::proto::embedding::v1::embedding_store_server::{EmbeddingStore, EmbeddingStoreServer};
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::proto::language::v1 as proto;
use tessera_api::{Error, ErrorKind};
use tessera_embedding::{EncoderFingerprint, ImageFeatures, ImageKey};
use tessera_rpc::Tasks;
use tessera_tensor::HostTensor;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Cluster, DeadAddress, limited, read_tokens, sequence};
use crate::conversation::request;

/// An image of 56 x 56 pixels: base tile, one grid row of tiles, and their newlines.
const SIZE: ImageSize = ImageSize { height: 56, width: 56 };

/// A prompt of which an image fills all but the first position.
async fn with_image(cluster: &Cluster, store: String) -> language::GenerateRequest {
    let image_token_id = cluster.describe_language().await.image_token_id;
    let tokens = cluster.image_tokens(SIZE);
    let mut request = sequence([vec![1], vec![image_token_id; tokens], vec![5]].concat(), 4);
    let key = ImageKey::of(b"", &EncoderFingerprint::of(&[]), b"of nobody");
    request.images = vec![ImageReference { key, positions: 1..1 + tokens, image_size: SIZE, store, is_stored: false }];
    request
}

async fn assert_serves(cluster: &Cluster) {
    assert_eq!(cluster.continue_tokens(sequence(vec![1, 2, 3], 4)).await.unwrap().len(), 4);
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let context = cluster.describe_language().await.max_positions;
        assert_eq!(context, 4096);
        let error = cluster.continue_tokens(sequence(vec![1; context - 4], 5)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "SEQUENCE_TOO_LONG"));
        assert_eq!(error.fields[0].field, "max_new_tokens");
        let numbers = [("max_new_tokens", "5"), ("positions", "4096"), ("prompt_tokens", "4092")];
        assert_eq!(error.metadata, numbers.map(|(name, value)| (name.into(), value.to_owned())));

        let error = cluster.continue_tokens(sequence(vec![1, 640, 3], 4)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "TOKEN_UNKNOWN"));
        assert_eq!(error.fields[0].field, "token_ids[1]");
        assert_serves(&cluster).await;
    });
}

#[test]
fn what_is_wrong_in_a_message_is_named() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let good = proto::GenerateRequest::from(with_image(&cluster, cluster.vision.url()).await);
        let wrong = |change: &dyn Fn(&mut proto::GenerateRequest)| {
            let mut wrong = good.clone();
            change(&mut wrong);
            wrong
        };
        let twice = |wrong: &mut proto::GenerateRequest| wrong.images.push(wrong.images[0].clone());
        let (missing, range) = ("FIELD_MISSING", "VALUE_OUT_OF_RANGE");
        for (request, reason, field) in [
            (wrong(&|wrong| wrong.token_ids.clear()), missing, "token_ids"),
            (wrong(&|wrong| wrong.sampling = None), missing, "sampling"),
            (wrong(&|wrong| wrong.max_new_tokens = 0), range, "max_new_tokens"),
            (wrong(&|wrong| wrong.images[0].image_tokens = 0), range, "images[0].start"),
            (wrong(&|wrong| wrong.images[0].start = u32::MAX), range, "images[0].start"),
            (wrong(&twice), range, "images[1].start"),
            (wrong(&|wrong| wrong.images[0].image_size = None), missing, "images[0].image_size"),
            (wrong(&|wrong| wrong.images[0].key = Bytes::from_static(b"short")), "KEY_INVALID", "images[0].key"),
            (wrong(&|wrong| wrong.sampling.as_mut().unwrap().temperature = f32::NAN), range, "sampling.temperature"),
        ] {
            let error = cluster.open_sequence(request).await.map(drop).expect_err(field);
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, reason), "{error:?}");
            assert_eq!(error.fields[0].field, field);
        }
        assert_serves(&cluster).await;
    });
}

async fn read_to_error(name: &str, cluster: &Cluster, request: proto::GenerateRequest) -> Error {
    match cluster.open_sequence(request).await {
        Ok(events) => read_tokens(events).await.expect_err(name),
        Err(error) => error,
    }
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| {
            (settings.language.engine.running, settings.language.engine.waiting) = (1, 1);
            settings.gateway.limits.requests = 1;
        })
        .await;
        let held = cluster.hold_language().await;
        // The gateway's only place is taken by a request that waits for the language worker.
        let waiting = cluster.open(Request::new(request("text_only", 0).into())).await.unwrap();
        let full = |error: Error| {
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Exhausted, "QUEUE_FULL"), "{error:?}");
            assert!(error.retry_after.is_some_and(|delay| !delay.is_zero()), "{error:?}");
            assert!(error.metadata.iter().any(|(name, _)| name == "limit"), "{error:?}");
        };
        let began = Instant::now();
        full(cluster.ask(request("text_only", 0)).await.unwrap_err());
        full(cluster.continue_tokens(sequence(vec![1], 1)).await.unwrap_err());
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(held);
        assert!(crate::conversation::Reply::read(waiting).await.is_ok());
        cluster.answers_as_the_reference("mistral", "text_only").await;
    });
}

#[test]
fn features_that_cannot_be_fetched_end_the_sequence_with_the_cause() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| {
            settings.language.features.wait = Duration::from_millis(50);
        })
        .await;
        let dead = DeadAddress::new();
        for (store, kind, reason) in [
            (dead.url.clone(), ErrorKind::Unavailable, "UNREACHABLE"),
            ("nowhere".into(), ErrorKind::Invalid, "URL_INVALID"),
            (cluster.vision.url(), ErrorKind::NotFound, "EMBEDDING_NOT_FOUND"),
            // A server, and no store.
            (cluster.language.url(), ErrorKind::Unsupported, "METHOD_UNKNOWN"),
        ] {
            let request = with_image(&cluster, store.clone()).await;
            let error = read_to_error(&store, &cluster, request.into()).await;
            assert_eq!((error.kind, error.reason.as_ref()), (kind, reason), "{store}: {error:?}");
            if matches!(reason, "UNREACHABLE" | "METHOD_UNKNOWN") {
                assert!(error.message.contains(&store), "{error} must name {store}");
            }
            assert_serves(&cluster).await;
        }
    });
}

/// A store that answers every fetch with these parts.
struct Forger {
    parts: Vec<Part>,
}

#[tonic::async_trait]
impl EmbeddingStore for Forger {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<embedding_proto::FetchResponse, Status>> + Send>>;

    async fn fetch(&self, _: Request<embedding_proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let parts = self.parts.clone().into_iter();
        let parts = parts.map(|part| Ok(embedding_proto::FetchResponse { part: Some(part) }));
        Ok(Response::new(stream::iter(parts).boxed()))
    }

    async fn stat(&self, _: Request<embedding_proto::StatRequest>) -> Unasked<embedding_proto::StatResponse> {
        unasked()
    }

    async fn put(&self, _: Request<Streaming<embedding_proto::PutRequest>>) -> Unasked<embedding_proto::PutResponse> {
        unasked()
    }

    async fn lease(&self, _: Request<embedding_proto::LeaseRequest>) -> Unasked<embedding_proto::LeaseResponse> {
        unasked()
    }

    async fn release(&self, _: Request<embedding_proto::ReleaseRequest>) -> Unasked<embedding_proto::ReleaseResponse> {
        unasked()
    }

    async fn delete(&self, _: Request<embedding_proto::DeleteRequest>) -> Unasked<embedding_proto::DeleteResponse> {
        unasked()
    }
}

type Unasked<T> = Result<Response<T>, Status>;

/// A language worker fetches, and asks for nothing else.
fn unasked<T>() -> Unasked<T> {
    Err(Error::new(ErrorKind::Unsupported, "METHOD_UNKNOWN", "this store is only fetched from").into())
}

/// Serves a forger until the test is over; returns its URL.
async fn forge(tasks: &Tasks, parts: Vec<Part>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(EmbeddingStoreServer::new(Forger { parts }));
    tasks.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    url
}

/// Features of an image that fit the model, sealed.
fn features(cluster: &Cluster) -> ImageFeatures {
    let plan = tessera_checkpoint::Checkpoint::open(&cluster.dir).unwrap().geometry().plan(SIZE);
    let (rows, columns) = (plan.feature_rows(), 64);
    let values = (0..rows * columns).map(|index| (index % 7) as f32).collect();
    ImageFeatures::seal(SIZE, HostTensor::from_f32(vec![rows, columns], values).unwrap())
}

/// How a store announces them.
fn header(features: &ImageFeatures) -> embedding_proto::FetchHeader {
    let (rows, columns) = features.rows.dims2().unwrap();
    let dtype = features.rows.dtype();
    let (representation, checksum) = (Representation::Features, features.checksum);
    FetchHeader { image_size: features.image_size, dtype, representation, rows, columns, checksum }.into()
}

#[test]
fn features_that_are_not_what_they_claim_are_never_used() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let sealed = features(&cluster);
        let (payload, header) = (sealed.rows.data().clone(), header(&sealed));
        let told = |change: &dyn Fn(&mut embedding_proto::FetchHeader)| {
            let mut header = header.clone();
            change(&mut header);
            Part::Header(header)
        };
        let honest = || Part::Header(header.clone());
        let all = || Part::Chunk(payload.clone());
        let mut flipped = payload.to_vec();
        flipped[100] ^= 1;
        let corrupt = (ErrorKind::Corrupt, "FEATURES_CORRUPT");
        let mismatch = (ErrorKind::Precondition, "FEATURES_MISMATCH");
        let larger = embedding_proto::ImageSize { height: 57, width: 56 };
        let narrow = |header: &mut embedding_proto::FetchHeader| {
            (header.rows, header.columns) = (header.rows * 2, header.columns / 2);
        };
        let tasks = Tasks::default();
        for (name, parts, expected) in [
            ("nothing", vec![], corrupt),
            ("no header", vec![all()], corrupt),
            ("no payload", vec![honest()], corrupt),
            ("half a payload", vec![honest(), Part::Chunk(payload.slice(..payload.len() / 2))], corrupt),
            ("a flipped bit", vec![honest(), Part::Chunk(flipped.into())], corrupt),
            ("twice the payload", vec![honest(), all(), all()], corrupt),
            ("two headers", vec![honest(), honest(), all()], corrupt),
            ("another image", vec![told(&|header| header.image_size = Some(larger)), all()], mismatch),
            ("a row too few", vec![told(&|header| header.rows -= 1), all()], mismatch),
            ("rows without end", vec![told(&|header| header.rows = u64::MAX), all()], mismatch),
            ("other columns", vec![told(&narrow), all()], mismatch),
        ] {
            let request = with_image(&cluster, forge(&tasks, parts).await).await;
            let error = read_to_error(name, &cluster, request.into()).await;
            assert_eq!((error.kind, error.reason.as_ref()), expected, "{name}: {error:?}");
            assert_serves(&cluster).await;
        }
        // The same bytes, honestly told, are used.
        let store = forge(&tasks, vec![honest(), all()]).await;
        let tokens = cluster.continue_tokens(with_image(&cluster, store).await).await.unwrap();
        assert_eq!(tokens.len(), 4);
    });
}

#[test]
fn who_leaves_or_is_late_makes_room_for_the_features_of_others() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| settings.language.features.fetches = 1).await;
        // A store that is connected to and never says a word.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = format!("http://{}", listener.local_addr().unwrap());
        let sealed = features(&cluster);
        let parts = vec![Part::Header(header(&sealed)), Part::Chunk(sealed.rows.data().clone())];
        let store = forge(&Tasks::default(), parts).await;
        let held = proto::GenerateRequest::from(with_image(&cluster, silent).await);
        let leaves = cluster.open_sequence(held.clone()).await.unwrap();
        let mut late = Request::new(held);
        late.set_timeout(Duration::from_millis(300));
        let late = async { read_tokens(cluster.open_sequence(late).await?).await };
        let error = late.await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Deadline, "DEADLINE_EXCEEDED"), "{error:?}");
        let waits = with_image(&cluster, store).await;
        let waits = cluster.open_sequence(proto::GenerateRequest::from(waits)).await.unwrap();
        drop(leaves);
        assert_eq!(read_tokens(waits).await.unwrap().len(), 4);
    });
}

#[test]
fn an_image_must_fill_as_many_positions_as_its_size_says() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let sealed = features(&cluster);
        let parts = vec![Part::Header(header(&sealed)), Part::Chunk(sealed.rows.data().clone())];
        let store = forge(&Tasks::default(), parts).await;
        // It shares the engine's steps with the wrong ones, and must not share their fate.
        let neighbour =
            cluster.open_sequence(proto::GenerateRequest::from(sequence(vec![1, 2, 3], 2000))).await.unwrap();
        for more in [-1_i32, 1] {
            let mut request = proto::GenerateRequest::from(with_image(&cluster, store.clone()).await);
            let image = &mut request.images[0];
            image.image_tokens = image.image_tokens.checked_add_signed(more).unwrap();
            let error = read_to_error("positions", &cluster, request).await;
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Precondition, "MODEL_MISMATCH"), "{error:?}");
        }
        for (height, width) in [(1, u32::MAX), (u32::MAX, u32::MAX), (u32::MAX, 1), (1, 1)] {
            let mut request = proto::GenerateRequest::from(with_image(&cluster, store.clone()).await);
            request.images[0].image_size = Some(embedding_proto::ImageSize { height, width });
            request.images[0].image_tokens = 1;
            assert_eq!(read_to_error("size", &cluster, request).await.reason, "MODEL_MISMATCH");
        }
        assert_eq!(read_tokens(neighbour).await.unwrap().len(), 2000);
    });
}
