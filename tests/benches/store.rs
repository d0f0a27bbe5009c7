//! The store of a vision worker over gRPC on loopback: how fast rows travel beside a plain TCP copy of as many bytes, how
//! long a hit takes, and how busy a batch of images keeps the device.
//!
//! `cargo bench -p tessera-tests --bench store` runs it on a tiny model with small rows; `-- --model DIR [--image FILE
//! --images N]` on a checkpoint of real shape, with rows of its largest image, and with N copies of a picture.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends at the first error and prints its figures")]

#[path = "../system/running.rs"]
mod running;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tessera_anyres::{ImageSize, Shape};
use tessera_api::embedding::{FetchRequest, Representation, Upload, Uploaded, upload_parts};
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::proto::vision::v1 as proto;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::vision::{Description, EncodeRequest, Encoded};
use tessera_checkpoint::Checkpoint;
use tessera_embedding::{EncoderFingerprint, ImageKey, Salt};
use tessera_rpc::Tasks;
use tessera_tensor::{DType, HostTensor};
use tessera_testkit::{family_dir, picture};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;

use running::Running;

/// Rounds in which both ways are measured, one after the other.
const ROUNDS: usize = 9;
/// Bytes that a round moves each way.
const ROUND_BYTES: usize = 256 << 20;
/// Requests whose time is measured one by one.
const REQUESTS: usize = 300;
/// Callers of a batch.
const CALLERS: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let model = value("--model").map_or_else(|| family_dir("mistral"), PathBuf::from);
    let image = value("--image").map_or_else(|| picture("portrait", 0), |path| std::fs::read(path).unwrap());
    let images = value("--images").map_or(100, |count| count.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(model, &image, images));
}

async fn measure(model: PathBuf, image: &[u8], images: usize) {
    let checkpoint = Checkpoint::open(&model).unwrap();
    let settings = tessera_vision::Settings { model, ..Default::default() };
    let vision = tessera_vision::build(settings, |_| {}).await.unwrap();
    let mut vision = Running::start(|listener, stop| vision.run(listener, stop)).await;
    let channel = vision.channel();

    let (key, payload) = upload(&channel, &checkpoint).await;
    println!("rows of {:.2} MB", payload.len() as f64 / 1e6);
    rates(&channel, key, &payload).await;
    hits(&channel, key, image).await;
    batch(&channel, image, images).await;

    vision.stop.cancel();
    vision.ended().await;
}

/// Uploads 16-bit rows of an image of 672 x 672, the largest square grid of the usual checkpoints.
async fn upload(channel: &Channel, checkpoint: &Checkpoint) -> (ImageKey, Bytes) {
    let image_size = ImageSize { height: 672, width: 672 };
    let shape = [checkpoint.geometry().plan(image_size).feature_rows(), checkpoint.model.feature_channels()];
    let values = (0..shape[0] * shape[1]).map(|index| (index % 251) as f32).collect();
    let features = HostTensor::from_f32(shape.to_vec(), values).unwrap().to_dtype(DType::F16);
    let payload = features.data().clone();
    let parts: Vec<_> = upload_parts(Upload { image_size, features, tenant_salt: Salt::default() }).unwrap().collect();
    let response = EmbeddingStoreClient::new(channel.clone()).put(futures::stream::iter(parts)).await.unwrap();
    (Uploaded::try_from(response.into_inner()).unwrap().key, payload)
}

/// Fetches as the language worker does: into one buffer. Tells when the first chunk came.
async fn fetch(channel: &Channel, key: ImageKey) -> (BytesMut, Duration) {
    let begun = Instant::now();
    let request = FetchRequest { key, representation: Representation::Features, wait: Duration::ZERO, offset: 0 };
    let request = tessera_api::proto::embedding::v1::FetchRequest::from(request);
    let mut parts = EmbeddingStoreClient::new(channel.clone()).fetch(request).await.unwrap().into_inner();
    let (mut payload, mut first) = (BytesMut::new(), None);
    while let Some(response) = parts.message().await.unwrap() {
        match response.part.unwrap() {
            Part::Header(header) => {
                let header = tessera_api::embedding::FetchHeader::try_from(header).unwrap();
                payload.reserve(header.payload_bytes().unwrap());
            }
            Part::Chunk(chunk) => {
                first.get_or_insert_with(|| begun.elapsed());
                payload.extend_from_slice(&chunk);
            }
        }
    }
    (payload, first.unwrap())
}

/// Copies a payload over a TCP connection, as often as asked for.
async fn copy(payload: &Bytes, times: usize) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = payload.clone();
    let sending = Tasks::default().spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        for _ in 0..times {
            socket.write_all(&sent).await.unwrap();
        }
    });
    let mut socket = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    let mut received = vec![0; payload.len()];
    for _ in 0..times {
        socket.read_exact(&mut received).await.unwrap();
    }
    assert_eq!(&received, payload);
    sending.await.unwrap();
    begun.elapsed()
}

async fn rates(channel: &Channel, key: ImageKey, payload: &Bytes) {
    let times = ROUND_BYTES.div_ceil(payload.len());
    let rate = |took: Duration| (times * payload.len()) as f64 / 1e6 / took.as_secs_f64();
    let (mut grpc, mut tcp, mut share) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..times {
            assert_eq!(&fetch(channel, key).await.0, payload);
        }
        grpc.push(rate(begun.elapsed()));
        tcp.push(rate(copy(payload, times).await));
        share.push(grpc[grpc.len() - 1] / tcp[tcp.len() - 1]);
    }
    show("fetch over gRPC, MB/s", grpc);
    show("plain TCP copy, MB/s", tcp);
    show("share of the copy (at least 0.6)", share);
}

async fn hits(channel: &Channel, key: ImageKey, image: &[u8]) {
    let mut first = Vec::new();
    for _ in 0..REQUESTS {
        first.push(fetch(channel, key).await.1.as_secs_f64() * 1e3);
    }
    show("hit in memory to first chunk, ms (under 1)", first);
    let encoder = describe(channel).await.fingerprint;
    let image = Bytes::copy_from_slice(image);
    encode(channel, encoder, image.clone()).await;
    let mut again = Vec::new();
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        assert!(encode(channel, encoder, image.clone()).await.stored_before);
        again.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    show("encode of what is stored, ms", again);
}

async fn describe(channel: &Channel) -> Description {
    let described = VisionWorkerClient::new(channel.clone()).describe(proto::DescribeRequest {}).await.unwrap();
    described.into_inner().try_into().unwrap()
}

async fn encode(channel: &Channel, encoder: EncoderFingerprint, image: Bytes) -> Encoded {
    let key = ImageKey::of(&[], &encoder, &image);
    let request =
        proto::EncodeRequest::from(EncodeRequest { image, key, tenant_salt: Salt::default(), shape: Shape::Own });
    VisionWorkerClient::new(channel.clone()).encode(request).await.unwrap().into_inner().try_into().unwrap()
}

/// Encodes different images, some at a time.
async fn batch(channel: &Channel, image: &[u8], images: usize) {
    let Description { fingerprint: encoder, busy: before, .. } = describe(channel).await;
    let begun = Instant::now();
    let encoded = futures::stream::iter(0..images as u64).map(|number| {
        // What follows the end of the file is not read, but it makes another image of it.
        let image = Bytes::from([image, &number.to_le_bytes()].concat());
        encode(channel, encoder, image)
    });
    let encoded: Vec<Encoded> = encoded.buffer_unordered(CALLERS).collect().await;
    let wall = begun.elapsed();
    assert!(encoded.iter().all(|encoded| !encoded.stored_before));
    let busy = describe(channel).await.busy - before;
    println!("{images} images in {:.2} s, {:.2} a second", wall.as_secs_f64(), images as f64 / wall.as_secs_f64());
    println!("of that the device was busy for {:.3} (at least 0.9)", busy.as_secs_f64() / wall.as_secs_f64());
}

fn show(what: &str, mut figures: Vec<f64>) {
    figures.sort_by(f64::total_cmp);
    let (least, median, most) = (figures[0], figures[figures.len() / 2], figures[figures.len() - 1]);
    println!("{what}: {least:.3} {median:.3} {most:.3} (least, median, most of {})", figures.len());
}
