//! A worker that is killed while it writes loses nothing that it said it keeps.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tessera_anyres::Shape;
use tessera_api::embedding::{FetchHeader, FetchRequest, Representation};
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::proto::vision::v1 as proto;
use tessera_api::proto::vision::v1::vision_worker_client::VisionWorkerClient;
use tessera_api::vision::{Description, EncodeRequest, Encoded};
use tessera_embedding::{EncoderFingerprint, ImageFeatures, ImageKey, Salt};
use tessera_rpc::client;
use tessera_tensor::HostTensor;
use tessera_testkit::{Program, family_dir, picture};
use tonic::transport::Channel;

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_tessera-vision");
/// Callers that send images at the same time.
const CALLERS: u32 = 4;

/// Starts a worker that keeps features in a folder.
fn start(folder: &Path) -> (Program, Channel) {
    let (model, folder) = (family_dir("mistral"), format!("store.disk.folder={}", folder.display()));
    let arguments = ["--model", model.to_str().unwrap(), "--listen", "127.0.0.1:0", "--set", &folder];
    let (program, line) = Program::start(EXECUTABLE, &arguments, "listening");
    let address = line.split_once(r#""address":""#).unwrap().1.split('"').next().unwrap();
    (program, client::channel(&format!("http://{address}")).unwrap())
}

async fn fingerprint(channel: &Channel) -> EncoderFingerprint {
    let described = VisionWorkerClient::new(channel.clone()).describe(proto::DescribeRequest {}).await.unwrap();
    Description::try_from(described.into_inner()).unwrap().fingerprint
}

/// Sends one image after the other, each another file, and notes the keys of those that are kept.
async fn encode_for_ever(channel: Channel, first: u32, encoder: EncoderFingerprint, kept: Arc<Mutex<Vec<ImageKey>>>) {
    let whole = picture("one_image", 0);
    for number in (first..).step_by(CALLERS as usize) {
        // What follows the end of a PNG file is not read, but it makes another file of it.
        let image = Bytes::from([&whole[..], &number.to_le_bytes()].concat());
        let key = ImageKey::of(&[], &encoder, &image);
        let request = EncodeRequest { image, key, tenant_salt: Salt::default(), shape: Shape::Own };
        let Ok(encoded) = VisionWorkerClient::new(channel.clone()).encode(proto::EncodeRequest::from(request)).await
        else {
            return;
        };
        let encoded = Encoded::try_from(encoded.into_inner()).unwrap();
        assert!(encoded.durable && !encoded.stored_before);
        kept.lock().unwrap().push(key);
    }
}

/// Reads the rows of a key and checks them.
async fn read(channel: &Channel, key: ImageKey) {
    let request = FetchRequest { key, representation: Representation::Features, wait: Duration::ZERO, offset: 0 };
    let parts = EmbeddingStoreClient::new(channel.clone()).fetch(tonic::Request::new(request.into())).await;
    let mut parts = parts.unwrap_or_else(|status| panic!("{key} was kept: {status}")).into_inner();
    let (mut header, mut payload) = (None, Vec::new());
    while let Some(response) = parts.message().await.unwrap() {
        match response.part.unwrap() {
            Part::Header(told) => header = Some(FetchHeader::try_from(told).unwrap()),
            Part::Chunk(chunk) => payload.extend_from_slice(&chunk),
        }
    }
    let header = header.unwrap();
    let rows = HostTensor::new(header.dtype, vec![header.rows, header.columns], payload.into()).unwrap();
    ImageFeatures::open(header.image_size, rows, header.checksum).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    for round in 0..4u32 {
        let (program, channel) = start(folder.path());
        let encoder = fingerprint(&channel).await;
        // All that was ever kept is there and whole.
        let before = kept.lock().unwrap().clone();
        for &key in &before {
            read(&channel, key).await;
        }
        let callers = (0..CALLERS)
            .map(|caller| encode_for_ever(channel.clone(), round * 1_000_000 + caller, encoder, Arc::clone(&kept)));
        // In the middle of whatever it does then, a little later each time.
        let kill = async {
            while kept.lock().unwrap().len() < before.len() + 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(u64::from(round) * 7)).await;
            // Dropped: killed with SIGKILL.
            drop(program);
        };
        tokio::join!(join_all(callers), kill);
        assert!(kept.lock().unwrap().len() >= before.len() + 3);
    }
}
