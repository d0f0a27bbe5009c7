//! The client of `EmbeddingStore`: pulls one artifact in chunks and verifies it.

use std::time::Duration;

use bytes::BytesMut;
use tessera_api::embedding::{FetchHeader, FetchRequest, Representation};
use tessera_api::language::ImageReference;
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::Artifact;
use tessera_rpc::Deadline;
use tessera_tensor::HostTensor;
use tonic::Streaming;
use tonic::transport::Channel;

/// Fetches the features of an image; waits for up to `wait` until they are stored.
///
/// # Errors
/// The store's own; `Corrupt` when the payload is not what its header says; `Precondition` when it is larger than
/// `max_bytes` or belongs to another image.
pub(crate) async fn fetch(
    channel: Channel,
    image: &ImageReference,
    wait: Duration,
    max_bytes: usize,
    deadline: Deadline,
) -> Result<Artifact> {
    let request = FetchRequest { key: image.key, representation: Representation::Features, wait };
    let response = EmbeddingStoreClient::new(channel).fetch(deadline.request(request.into())).await?;
    let mut parts = response.into_inner();
    let header = read_header(&mut parts).await?;
    check(&header, image, max_bytes)?;
    let corrupt = |why: String| corrupt(&format!("image {}: {why}", image.key));
    let payload = read_payload(&mut parts, &header).await?;
    let features = HostTensor::new(header.dtype, vec![header.rows, header.columns], payload.freeze())
        .map_err(|error| corrupt(error.to_string()))?;
    Artifact::open(header.image_size, features, header.checksum).map_err(|error| corrupt(error.to_string()))
}

async fn read_header(parts: &mut Streaming<proto::FetchResponse>) -> Result<FetchHeader> {
    match parts.message().await?.and_then(|response| response.part) {
        Some(Part::Header(header)) => header.try_into(),
        Some(Part::Chunk(_)) | None => Err(corrupt("the store sent no header before the payload")),
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "FEATURES_CORRUPT", why)
}

fn check(header: &FetchHeader, image: &ImageReference, max_bytes: usize) -> Result<()> {
    let mismatch = |why: String| Err(Error::new(ErrorKind::Precondition, "FEATURES_MISMATCH", why));
    if header.image_size != image.image_size {
        let (theirs, ours) = (header.image_size, image.image_size);
        return mismatch(format!("image {} is stored with size {theirs:?}, expected {ours:?}", image.key));
    }
    match header.payload_bytes() {
        Some(bytes) if bytes <= max_bytes => Ok(()),
        bytes => mismatch(format!("image {} has {bytes:?} bytes of features, at most {max_bytes} fit", image.key)),
    }
}

async fn read_payload(parts: &mut Streaming<proto::FetchResponse>, header: &FetchHeader) -> Result<BytesMut> {
    let expected = header.payload_bytes().unwrap_or(usize::MAX);
    let mut payload = BytesMut::with_capacity(expected);
    while let Some(response) = parts.message().await? {
        let Some(Part::Chunk(chunk)) = response.part else {
            return Err(corrupt("the store sent something else within the payload"));
        };
        if payload.len() + chunk.len() > expected {
            return Err(corrupt(&format!("the store sent more than the {expected} bytes that it announced")));
        }
        payload.extend_from_slice(&chunk);
    }
    Ok(payload)
}
