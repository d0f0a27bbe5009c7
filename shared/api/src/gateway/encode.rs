//! Domain types of `Gateway.Encode` and `EncodeBatch`, from and to the wire.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::ImagePlan;
use crate::convert::{self, micros, missing};
use crate::embedding::{Representation, optional_representation};
use crate::error::{Error, Result};
use crate::proto::embedding::v1 as embedding_proto;
use crate::proto::gateway::v1 as proto;
use crate::status;

/// Longest id of an image in a batch.
pub const MAX_ID_BYTES: usize = 1024;

/// A checked request to encode an image and keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeRequest {
    /// The file.
    pub image: Bytes,
    /// How long it is promised to stay.
    pub lease: Option<Duration>,
    /// Which rows to send, if any.
    pub rows: Option<Representation>,
}

/// An image that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Its key is the handle.
    pub image: ImagePlan,
    /// True when it was stored before this call.
    pub stored_before: bool,
    /// True when a restart does not lose it.
    pub durable: bool,
    /// End of the promise.
    pub leased_until: Option<SystemTime>,
    /// Decoding to encoding; zero for what was stored before.
    pub encode: Duration,
}

/// One image of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRequest {
    /// Comes back with the answer.
    pub id: String,
    /// The image, or what is wrong with its message: the others of the batch do not suffer from it.
    pub image: Result<EncodeRequest>,
    /// Answers come in the order of their requests. Counts in the first message only.
    pub in_order: bool,
}

/// What became of one image of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchResponse {
    /// Whose.
    pub id: String,
    /// The image, or why it failed.
    pub outcome: Result<Encoded>,
}

fn image(image: Bytes) -> Result<Bytes> {
    if image.is_empty() { Err(Error::field("IMAGE_EMPTY", "image", "has no bytes")) } else { Ok(image) }
}

fn lease(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

impl TryFrom<proto::EncodeRequest> for EncodeRequest {
    type Error = Error;

    fn try_from(request: proto::EncodeRequest) -> Result<Self> {
        let rows = optional_representation(request.rows)?;
        Ok(Self { image: image(request.image)?, lease: lease(request.lease_seconds), rows })
    }
}

impl From<EncodeRequest> for proto::EncodeRequest {
    fn from(request: EncodeRequest) -> Self {
        let rows = request.rows.map_or(embedding_proto::Representation::Unspecified, Into::into);
        let lease_seconds = request.lease.map_or(0, |lease| lease.as_secs());
        Self { image: request.image, lease_seconds, rows: rows.into() }
    }
}

impl From<Encoded> for proto::Encoded {
    fn from(encoded: Encoded) -> Self {
        Self {
            image: Some(encoded.image.into()),
            stored_before: encoded.stored_before,
            durable: encoded.durable,
            leased_until_unix_seconds: encoded.leased_until.map_or(0, convert::unix_seconds),
            encode_microseconds: micros(encoded.encode),
        }
    }
}

impl TryFrom<proto::Encoded> for Encoded {
    type Error = Error;

    fn try_from(encoded: proto::Encoded) -> Result<Self> {
        Ok(Self {
            image: encoded.image.ok_or_else(|| missing("encoded.image"))?.try_into()?,
            stored_before: encoded.stored_before,
            durable: encoded.durable,
            leased_until: convert::at_unix_seconds(encoded.leased_until_unix_seconds),
            encode: Duration::from_micros(encoded.encode_microseconds),
        })
    }
}

impl From<proto::EncodeBatchRequest> for BatchRequest {
    fn from(request: proto::EncodeBatchRequest) -> Self {
        let proto::EncodeBatchRequest { mut id, image: file, lease_seconds, in_order } = request;
        let mut checked = image(file).map(|image| EncodeRequest { image, lease: lease(lease_seconds), rows: None });
        if id.len() > MAX_ID_BYTES {
            let description = format!("has {} bytes, the limit is {MAX_ID_BYTES}", id.len());
            checked = Err(Error::field("ID_TOO_LONG", "id", description));
            id.truncate(id.floor_char_boundary(MAX_ID_BYTES));
        }
        Self { id, image: checked, in_order }
    }
}

impl From<BatchResponse> for proto::EncodeBatchResponse {
    fn from(response: BatchResponse) -> Self {
        use proto::encode_batch_response::Outcome;
        let outcome = match response.outcome {
            Ok(encoded) => Outcome::Encoded(encoded.into()),
            Err(error) => Outcome::Failure(proto::Failure {
                code: status::code(error.kind).into(),
                reason: error.reason.into_owned(),
                message: error.message,
            }),
        };
        Self { id: response.id, outcome: Some(outcome) }
    }
}

impl TryFrom<proto::EncodeBatchResponse> for BatchResponse {
    type Error = Error;

    fn try_from(response: proto::EncodeBatchResponse) -> Result<Self> {
        use proto::encode_batch_response::Outcome;
        let outcome = match response.outcome.ok_or_else(|| missing("outcome"))? {
            Outcome::Encoded(encoded) => Ok(encoded.try_into()?),
            Outcome::Failure(failure) => Err(Error {
                reason: failure.reason.into(),
                ..Error::new(status::kind_of(failure.code), "UNSPECIFIED", failure.message)
            }),
        };
        Ok(Self { id: response.id, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_failure_in_a_batch_keeps_kind_reason_and_message() {
        let error = Error::new(ErrorKind::Exhausted, "QUEUE_FULL", "640 tiles wait already");
        let response = BatchResponse { id: "a/b.png".into(), outcome: Err(error) };
        assert_eq!(BatchResponse::try_from(proto::EncodeBatchResponse::from(response.clone())).unwrap(), response);
    }

    #[test]
    fn what_is_wrong_with_one_image_of_a_batch_stays_with_it() {
        let empty = BatchRequest::from(proto::EncodeBatchRequest { id: "x".into(), ..Default::default() });
        assert_eq!((empty.id.as_str(), empty.image.unwrap_err().reason.as_ref()), ("x", "IMAGE_EMPTY"));
        let long =
            proto::EncodeBatchRequest { id: "é".repeat(600), image: Bytes::from_static(b"i"), ..Default::default() };
        let long = BatchRequest::from(long);
        assert_eq!((long.id.len(), long.image.unwrap_err().reason.as_ref()), (1024, "ID_TOO_LONG"));
    }
}
