//! Domain types of `VisionWorker`.

use std::time::Duration;

use bytes::Bytes;
use tessera_anyres::{ImageSize, Shape};
use tessera_embedding::{EncoderFingerprint, ImageKey, Salt};

use crate::convert;
use crate::error::{Error, Result};
use crate::proto::vision::v1 as proto;

/// A checked request to encode an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeRequest {
    /// The file.
    pub image: Bytes,
    /// The key that the caller computed.
    pub key: ImageKey,
    /// Of the tenant whose image it is.
    pub tenant_salt: Salt,
    /// What is made of it before it is cut: part of the key.
    pub shape: Shape,
}

/// An image whose features are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Size of the image.
    pub image_size: ImageSize,
    /// Prompt positions that it fills.
    pub image_tokens: usize,
    /// True when nothing had to be computed.
    pub stored_before: bool,
    /// True when a restart does not lose it.
    pub durable: bool,
    /// Where the time went.
    pub timings: EncodeTimings,
}

/// Where an encoding spent its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeTimings {
    /// File to tiles.
    pub preprocess: Duration,
    /// Waiting for the device.
    pub queue: Duration,
    /// Tower.
    pub forward: Duration,
}

/// What a vision worker encodes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Equal for two workers exactly when they compute the same features.
    pub fingerprint: EncoderFingerprint,
    /// Version of the worker.
    pub version: String,
    /// What the device has spent in forward passes since the worker started.
    pub busy: Duration,
}

/// How busy a vision worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Tiles of images that wait or are being encoded.
    pub tiles: usize,
    /// How many there may be.
    pub most_tiles: usize,
    /// What the device has spent in forward passes since the worker started.
    pub busy: Duration,
    /// Features that are kept in memory.
    pub memory: Room,
    /// Features that are kept on the disk; no room where there is none.
    pub disk: Room,
}

/// How full a place is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are kept.
    pub bytes: u64,
    /// Bytes that may be kept.
    pub most: u64,
}

impl TryFrom<proto::EncodeRequest> for EncodeRequest {
    type Error = Error;

    fn try_from(request: proto::EncodeRequest) -> Result<Self> {
        if request.image.is_empty() {
            return Err(Error::field("IMAGE_EMPTY", "image", "has no bytes"));
        }
        let shape = match proto::Shape::try_from(request.shape) {
            Ok(proto::Shape::Unspecified) => Shape::Own,
            Ok(proto::Shape::Constant) => Shape::Constant,
            Err(_) => return Err(Error::field("SHAPE_INVALID", "shape", format!("{} is no shape", request.shape))),
        };
        let key = convert::key("key", &request.key)?;
        Ok(Self { image: request.image, key, tenant_salt: request.tenant_salt.into(), shape })
    }
}

impl From<EncodeRequest> for proto::EncodeRequest {
    fn from(request: EncodeRequest) -> Self {
        let shape = match request.shape {
            Shape::Own => proto::Shape::Unspecified,
            Shape::Constant => proto::Shape::Constant,
        };
        let key = request.key.as_bytes().to_vec().into();
        Self { image: request.image, key, tenant_salt: request.tenant_salt.into(), shape: shape.into() }
    }
}

impl From<Encoded> for proto::EncodeResponse {
    fn from(encoded: Encoded) -> Self {
        Self {
            image_size: Some(encoded.image_size.into()),
            image_tokens: u32::try_from(encoded.image_tokens).unwrap_or(u32::MAX),
            stored_before: encoded.stored_before,
            timings: Some(proto::EncodeTimings {
                preprocess_microseconds: convert::micros(encoded.timings.preprocess),
                queue_microseconds: convert::micros(encoded.timings.queue),
                forward_microseconds: convert::micros(encoded.timings.forward),
            }),
            durable: encoded.durable,
        }
    }
}

impl TryFrom<proto::EncodeResponse> for Encoded {
    type Error = Error;

    fn try_from(response: proto::EncodeResponse) -> Result<Self> {
        let timings = response.timings.unwrap_or_default();
        Ok(Self {
            image_size: convert::image_size("image_size", response.image_size)?,
            image_tokens: response.image_tokens as usize,
            stored_before: response.stored_before,
            durable: response.durable,
            timings: EncodeTimings {
                preprocess: Duration::from_micros(timings.preprocess_microseconds),
                queue: Duration::from_micros(timings.queue_microseconds),
                forward: Duration::from_micros(timings.forward_microseconds),
            },
        })
    }
}

impl From<Description> for proto::DescribeResponse {
    fn from(description: Description) -> Self {
        Self {
            encoder_fingerprint: description.fingerprint.as_bytes().to_vec().into(),
            version: description.version,
            busy_microseconds: convert::micros(description.busy),
        }
    }
}

impl TryFrom<proto::DescribeResponse> for Description {
    type Error = Error;

    fn try_from(response: proto::DescribeResponse) -> Result<Self> {
        let fingerprint = EncoderFingerprint::try_from(&response.encoder_fingerprint[..])
            .map_err(|error| Error::field("FINGERPRINT_INVALID", "encoder_fingerprint", error.to_string()))?;
        let busy = Duration::from_micros(response.busy_microseconds);
        Ok(Self { fingerprint, version: response.version, busy })
    }
}

impl From<Load> for proto::LoadResponse {
    fn from(load: Load) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            tiles: count(load.tiles),
            most_tiles: count(load.most_tiles),
            busy_microseconds: convert::micros(load.busy),
            memory_bytes: load.memory.bytes,
            most_memory_bytes: load.memory.most,
            disk_bytes: load.disk.bytes,
            most_disk_bytes: load.disk.most,
        }
    }
}

impl From<proto::LoadResponse> for Load {
    fn from(load: proto::LoadResponse) -> Self {
        Self {
            tiles: load.tiles as usize,
            most_tiles: load.most_tiles as usize,
            busy: Duration::from_micros(load.busy_microseconds),
            memory: Room { bytes: load.memory_bytes, most: load.most_memory_bytes },
            disk: Room { bytes: load.disk_bytes, most: load.most_disk_bytes },
        }
    }
}

#[cfg(test)]
mod tests {
    use tessera_embedding::EncoderFingerprint;

    use super::*;

    #[test]
    fn a_request_survives_the_wire_and_an_unknown_shape_is_refused() {
        for shape in [Shape::Own, Shape::Constant] {
            let key = ImageKey::of_shape(shape, b"salt", &EncoderFingerprint::of(&[]), b"image");
            let (image, tenant_salt) = (Bytes::from_static(b"image"), Bytes::from_static(b"salt"));
            let request = EncodeRequest { image, key, tenant_salt: tenant_salt.into(), shape };
            let wire = proto::EncodeRequest::from(request.clone());
            assert_eq!(EncodeRequest::try_from(wire.clone()).unwrap(), request);
            let unknown = proto::EncodeRequest { shape: 7, ..wire };
            assert_eq!(EncodeRequest::try_from(unknown).unwrap_err().reason, "SHAPE_INVALID");
        }
    }

    #[test]
    fn a_report_survives_the_wire() {
        let (memory, disk) = (Room { bytes: 4, most: 5 }, Room { bytes: 6, most: 7 });
        let load = Load { tiles: 1, most_tiles: 2, busy: Duration::from_micros(3), memory, disk };
        assert_eq!(Load::from(proto::LoadResponse::from(load)), load);
    }
}
