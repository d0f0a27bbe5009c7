//! Store types from and to the wire.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tessera_embedding::{EncoderFingerprint, ImageKey};
use tessera_tensor::DType;

use super::{
    DeleteRequest, FetchHeader, FetchRequest, KeyStatus, LeaseRequest, MAX_KEYS, PutHeader, Representation,
    StoredImage, Tiers, Uploaded,
};
use crate::convert::{self, count};
use crate::error::{Error, Result};
use crate::proto::embedding::v1 as proto;

impl From<Representation> for proto::Representation {
    fn from(representation: Representation) -> Self {
        match representation {
            Representation::Features => Self::Features,
            Representation::Projected => Self::Projected,
        }
    }
}

fn representation(value: i32) -> Result<Representation> {
    match proto::Representation::try_from(value) {
        Ok(proto::Representation::Unspecified | proto::Representation::Features) => Ok(Representation::Features),
        Ok(proto::Representation::Projected) => Ok(Representation::Projected),
        Err(_) => Err(convert::out_of_range("representation", value, "a representation that this version knows")),
    }
}

/// Reads the rows that somebody asked for beside something else; unspecified is none.
pub(crate) fn optional_representation(value: i32) -> Result<Option<Representation>> {
    if value == i32::from(proto::Representation::Unspecified) { Ok(None) } else { representation(value).map(Some) }
}

fn dtype(field: &str, value: proto::DataType) -> Result<DType> {
    match value {
        proto::DataType::F32 => Ok(DType::F32),
        proto::DataType::F16 => Ok(DType::F16),
        proto::DataType::Bf16 => Ok(DType::BF16),
        proto::DataType::Unspecified => Err(convert::missing(field)),
    }
}

fn data_type(dtype: DType) -> proto::DataType {
    match dtype {
        DType::F32 => proto::DataType::F32,
        DType::F16 => proto::DataType::F16,
        DType::BF16 => proto::DataType::Bf16,
    }
}

/// Reads a count that this machine can hold.
fn size(field: &str, value: u64) -> Result<usize> {
    usize::try_from(value).map_err(|_| convert::out_of_range(field, value, "a number of this machine"))
}

/// Reads a list of keys: at least one, at most [`MAX_KEYS`].
pub fn keys(keys: &[Bytes]) -> Result<Vec<ImageKey>> {
    if keys.is_empty() {
        return Err(convert::missing("keys"));
    }
    if keys.len() > MAX_KEYS {
        let description = format!("{} keys, the limit is {MAX_KEYS}: send them in several requests", keys.len());
        return Err(Error::field("TOO_MANY_KEYS", "keys", description));
    }
    keys.iter().enumerate().map(|(index, key)| convert::key(&format!("keys[{index}]"), key)).collect()
}

/// Writes a list of keys.
pub fn key_bytes(keys: &[ImageKey]) -> Vec<Bytes> {
    keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect()
}

impl TryFrom<proto::FetchRequest> for FetchRequest {
    type Error = Error;

    fn try_from(request: proto::FetchRequest) -> Result<Self> {
        Ok(Self {
            key: convert::key("key", &request.key)?,
            representation: representation(request.representation)?,
            wait: Duration::from_millis(request.wait_milliseconds.into()),
            offset: request.offset,
        })
    }
}

impl From<FetchRequest> for proto::FetchRequest {
    fn from(request: FetchRequest) -> Self {
        Self {
            key: request.key.as_bytes().to_vec().into(),
            representation: proto::Representation::from(request.representation).into(),
            wait_milliseconds: u32::try_from(request.wait.as_millis()).unwrap_or(u32::MAX),
            offset: request.offset,
        }
    }
}

impl TryFrom<proto::FetchHeader> for FetchHeader {
    type Error = Error;

    fn try_from(header: proto::FetchHeader) -> Result<Self> {
        Ok(Self {
            image_size: convert::image_size("header.image_size", header.image_size)?,
            dtype: dtype("header.data_type", header.data_type())?,
            representation: representation(header.representation)?,
            rows: size("header.rows", header.rows)?,
            columns: size("header.columns", header.columns)?,
            checksum: *convert::key("header.checksum", &header.checksum)?.as_bytes(),
        })
    }
}

impl From<FetchHeader> for proto::FetchHeader {
    fn from(header: FetchHeader) -> Self {
        Self {
            image_size: Some(header.image_size.into()),
            data_type: data_type(header.dtype).into(),
            representation: proto::Representation::from(header.representation).into(),
            rows: header.rows as u64,
            columns: header.columns as u64,
            checksum: header.checksum.to_vec().into(),
        }
    }
}

impl From<KeyStatus> for proto::KeyStatus {
    fn from(status: KeyStatus) -> Self {
        Self { key: status.key.as_bytes().to_vec().into(), stored: status.stored.map(Into::into) }
    }
}

impl TryFrom<proto::KeyStatus> for KeyStatus {
    type Error = Error;

    fn try_from(status: proto::KeyStatus) -> Result<Self> {
        let stored = status.stored.map(StoredImage::try_from).transpose()?;
        Ok(Self { key: convert::key("keys.key", &status.key)?, stored })
    }
}

impl From<StoredImage> for proto::StoredImage {
    fn from(image: StoredImage) -> Self {
        Self {
            image_size: Some(image.image_size.into()),
            image_tokens: count(image.image_tokens),
            data_type: data_type(image.dtype).into(),
            rows: image.rows as u64,
            columns: image.columns as u64,
            bytes: image.bytes,
            in_memory: image.tiers.memory,
            on_disk: image.tiers.disk,
            in_shared_store: image.tiers.shared,
            uploaded: image.uploaded,
            created_unix_seconds: convert::unix_seconds(image.created),
            leased_until_unix_seconds: image.leased_until.map_or(0, convert::unix_seconds),
            encoder_fingerprint: image.encoder.as_bytes().to_vec().into(),
        }
    }
}

impl TryFrom<proto::StoredImage> for StoredImage {
    type Error = Error;

    fn try_from(image: proto::StoredImage) -> Result<Self> {
        Ok(Self {
            image_size: convert::image_size("stored.image_size", image.image_size)?,
            image_tokens: image.image_tokens as usize,
            dtype: dtype("stored.data_type", image.data_type())?,
            rows: size("stored.rows", image.rows)?,
            columns: size("stored.columns", image.columns)?,
            bytes: image.bytes,
            tiers: Tiers { memory: image.in_memory, disk: image.on_disk, shared: image.in_shared_store },
            uploaded: image.uploaded,
            created: convert::at_unix_seconds(image.created_unix_seconds).unwrap_or(SystemTime::UNIX_EPOCH),
            leased_until: convert::at_unix_seconds(image.leased_until_unix_seconds),
            encoder: EncoderFingerprint::try_from(&image.encoder_fingerprint[..])
                .map_err(|error| Error::field("FINGERPRINT_INVALID", "encoder_fingerprint", error.to_string()))?,
        })
    }
}

impl TryFrom<proto::PutHeader> for PutHeader {
    type Error = Error;

    fn try_from(header: proto::PutHeader) -> Result<Self> {
        if representation(header.representation)? == Representation::Projected {
            let description = "only features can be uploaded: the projector is the language pool's";
            return Err(Error::field("REPRESENTATION_UNSUPPORTED", "header.representation", description));
        }
        Ok(Self {
            image_size: convert::image_size("header.image_size", header.image_size)?,
            dtype: dtype("header.data_type", header.data_type())?,
            rows: size("header.rows", header.rows)?,
            columns: size("header.columns", header.columns)?,
            tenant_salt: header.tenant_salt.into(),
        })
    }
}

impl From<PutHeader> for proto::PutHeader {
    fn from(header: PutHeader) -> Self {
        Self {
            image_size: Some(header.image_size.into()),
            data_type: data_type(header.dtype).into(),
            representation: proto::Representation::Features.into(),
            rows: header.rows as u64,
            columns: header.columns as u64,
            tenant_salt: header.tenant_salt.into(),
        }
    }
}

impl From<Uploaded> for proto::PutResponse {
    fn from(uploaded: Uploaded) -> Self {
        Self {
            key: uploaded.key.as_bytes().to_vec().into(),
            image_tokens: count(uploaded.image_tokens),
            stored_before: uploaded.stored_before,
            durable: uploaded.durable,
        }
    }
}

impl TryFrom<proto::PutResponse> for Uploaded {
    type Error = Error;

    fn try_from(response: proto::PutResponse) -> Result<Self> {
        Ok(Self {
            key: convert::key("key", &response.key)?,
            image_tokens: response.image_tokens as usize,
            stored_before: response.stored_before,
            durable: response.durable,
        })
    }
}

impl TryFrom<proto::LeaseRequest> for LeaseRequest {
    type Error = Error;

    fn try_from(request: proto::LeaseRequest) -> Result<Self> {
        if request.seconds == 0 {
            return Err(convert::out_of_range("seconds", 0, "at least 1"));
        }
        Ok(Self { keys: keys(&request.keys)?, period: Duration::from_secs(request.seconds) })
    }
}

impl From<LeaseRequest> for proto::LeaseRequest {
    fn from(request: LeaseRequest) -> Self {
        Self { keys: key_bytes(&request.keys), seconds: request.period.as_secs() }
    }
}

/// Writes the ends of leases, 0 where there is none.
pub fn lease_response(ends: &[Option<SystemTime>]) -> proto::LeaseResponse {
    proto::LeaseResponse {
        leased_until_unix_seconds: ends.iter().map(|end| end.map_or(0, convert::unix_seconds)).collect(),
    }
}

/// Reads the ends of leases.
pub fn lease_ends(response: &proto::LeaseResponse) -> Vec<Option<SystemTime>> {
    response.leased_until_unix_seconds.iter().map(|&seconds| convert::at_unix_seconds(seconds)).collect()
}

impl TryFrom<proto::DeleteRequest> for DeleteRequest {
    type Error = Error;

    fn try_from(request: proto::DeleteRequest) -> Result<Self> {
        use proto::delete_request::What;
        match request.what.ok_or_else(|| convert::missing("what"))? {
            What::Keys(wire) => Ok(Self::Keys(keys(&wire.keys)?)),
            What::Image(image) if image.is_empty() => Err(Error::field("IMAGE_EMPTY", "image", "has no bytes")),
            What::Image(image) => Ok(Self::Image(image)),
            What::Tenant(tenant) => Ok(Self::Tenant { salt: tenant.salt.into() }),
        }
    }
}

impl From<DeleteRequest> for proto::DeleteRequest {
    fn from(request: DeleteRequest) -> Self {
        use proto::delete_request::What;
        let what = match request {
            DeleteRequest::Keys(keys) => What::Keys(proto::Keys { keys: key_bytes(&keys) }),
            DeleteRequest::Image(image) => What::Image(image),
            DeleteRequest::Tenant { salt } => What::Tenant(proto::Tenant { salt: salt.into() }),
        };
        Self { what: Some(what) }
    }
}
