//! A stream of images to a gateway, and of what became of them.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use tessera_api::gateway::{BatchResponse, Encoded};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::Deadline;

use super::{Access, explained};

/// An image on its way.
#[derive(Debug)]
pub(crate) struct Image {
    /// Comes back with the answer.
    pub(crate) id: u64,
    /// The file.
    pub(crate) bytes: Bytes,
}

/// What became of an image.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whose.
    pub(crate) id: u64,
    /// The image, or why it failed.
    pub(crate) encoded: Result<Encoded>,
}

/// Has the images of a stream encoded and kept by a gateway, each for the time of a lease; answers with what
/// became of each as it is done. The first error of the stream itself is its last item.
///
/// # Errors
/// When its URL is none.
pub(crate) fn encode_batch(
    to: &Access,
    images: impl Stream<Item = Image> + Send + 'static,
    lease: Option<Duration>,
) -> Result<BoxStream<'static, Result<Outcome>>> {
    let lease_seconds = lease.map_or(0, |period| period.as_secs());
    let requests = images.map(move |Image { id, bytes }| proto::EncodeBatchRequest {
        id: id.to_string(),
        image: bytes,
        lease_seconds,
        in_order: false,
    });
    let (mut gateway, url) = (GatewayClient::new(to.open()?), to.url.clone());
    let answers = async move {
        match gateway.encode_batch(Deadline::default().request(requests)).await {
            Ok(response) => Ok(response.into_inner().map_err(Error::from)),
            Err(status) => Err(explained(&url, status)),
        }
    };
    Ok(stream::once(answers).try_flatten().and_then(|answer| async { read(answer) }).boxed())
}

fn read(answer: proto::EncodeBatchResponse) -> Result<Outcome> {
    let BatchResponse { id, outcome } = answer.try_into()?;
    let id = id.parse().map_err(|_| {
        Error::new(
            ErrorKind::Internal,
            "CONTRACT_BROKEN",
            format!("the gateway answers for {id:?}, which was not sent"),
        )
    })?;
    Ok(Outcome { id, encoded: outcome })
}
