//! The client of `EmbeddingStore`: pulls the features of one image in chunks and verifies it.

use std::time::Duration;

use bytes::BytesMut;
use tessera_anyres::ImageSize;
use tessera_api::embedding::{FetchHeader, FetchRequest, Representation};
use tessera_api::language::ImageReference;
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::ImageFeatures;
use tessera_rpc::Deadline;
use tessera_tensor::HostTensor;
use tonic::Streaming;
use tonic::transport::Channel;

/// Fetches the features of an image, which have this many rows and columns; waits for up to `wait` until they are stored.
///
/// # Errors
/// The store's own; `Corrupt` when the payload is not what its header says; `Precondition` when it has another shape or
/// belongs to another image.
pub(crate) async fn fetch(
    channel: Channel,
    image: &ImageReference,
    shape: (usize, usize),
    wait: Duration,
    deadline: Deadline,
) -> Result<ImageFeatures> {
    let request = FetchRequest { key: image.key, representation: Representation::Features, wait, offset: 0 };
    let response = EmbeddingStoreClient::new(channel).fetch(deadline.request(request.into())).await?;
    let mut parts = response.into_inner();
    let header = read_header(&mut parts).await?;
    check(&header, image, shape)?;
    let corrupt = |why: String| corrupt(&format!("image {}: {why}", image.key));
    let payload = read_payload(&mut parts, &header).await?;
    let features = HostTensor::new(header.dtype, vec![header.rows, header.columns], payload.freeze())
        .map_err(|error| corrupt(error.to_string()))?;
    ImageFeatures::open(header.image_size, features, header.checksum).map_err(|error| corrupt(error.to_string()))
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

fn mismatch(why: String) -> Error {
    Error::new(ErrorKind::Precondition, "FEATURES_MISMATCH", why)
}

/// Checks that features are of an image of the size that the prompt was made for.
///
/// # Errors
/// `Precondition`: the store and whoever made the prompt do not speak of the same image.
pub(crate) fn check_size(image: &ImageReference, found: ImageSize) -> Result<()> {
    if found == image.image_size {
        return Ok(());
    }
    let (key, expected) = (image.key, image.image_size);
    Err(mismatch(format!("image {key} is stored with size {found:?}, expected {expected:?}")))
}

fn check(header: &FetchHeader, image: &ImageReference, shape: (usize, usize)) -> Result<()> {
    check_size(image, header.image_size)?;
    if (header.rows, header.columns) == shape {
        return Ok(());
    }
    let ((rows, columns), key) = (shape, image.key);
    let found = format!("{} rows of {} numbers", header.rows, header.columns);
    Err(mismatch(format!("the features of image {key} are {found}, this model's are {rows} of {columns}")))
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
