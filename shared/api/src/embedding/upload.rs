//! A payload as a stream: its header, then its bytes in chunks.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tessera_tensor::HostTensor;
use tonic::Status;

use super::{PutHeader, Upload};
use crate::convert;
use crate::error::{Error, Result};
use crate::proto::embedding::v1 as proto;
use crate::proto::embedding::v1::put_request::Part;

/// Bytes of a chunk: small enough that the first one is there at once, and well below the limit of 4 MiB that gRPC clients
/// have by default.
const CHUNK_BYTES: usize = 256 << 10;

/// Pieces of a payload, without copying it.
pub fn chunks(mut payload: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || (!payload.is_empty()).then(|| payload.split_to(CHUNK_BYTES.min(payload.len()))))
}

/// The messages of an upload of `[rows, columns]` features.
///
/// # Errors
/// `Invalid` when the features have another number of axes.
pub fn upload_parts(upload: Upload) -> Result<impl Iterator<Item = proto::PutRequest> + Send> {
    let Upload { image_size, features, tenant_salt } = upload;
    let (rows, columns) = features.dims2().map_err(|error| misshapen(&error))?;
    let header = PutHeader { image_size, dtype: features.dtype(), rows, columns, tenant_salt };
    let payload = features.into_data();
    let parts = std::iter::once(Part::Header(header.into())).chain(chunks(payload).map(Part::Chunk));
    Ok(parts.map(|part| proto::PutRequest { part: Some(part) }))
}

/// Reads an upload whose payload has at most `limit` bytes.
///
/// # Errors
/// `Invalid` when it does not begin with a header, is too large, or does not have the bytes that its header announces.
pub async fn read_upload(parts: impl Stream<Item = Result<proto::PutRequest, Status>>, limit: usize) -> Result<Upload> {
    tokio::pin!(parts);
    let first = parts.next().await.transpose()?.and_then(|request| request.part);
    let Some(Part::Header(header)) = first else { return Err(convert::missing("header")) };
    let header = PutHeader::try_from(header)?;
    let expected = header.payload_bytes().filter(|&bytes| bytes <= limit).ok_or_else(|| {
        let description =
            format!("{} rows of {} numbers are over the limit of {limit} bytes", header.rows, header.columns);
        Error::field("UPLOAD_TOO_LARGE", "header.rows", description)
    })?;
    let wrong = |found: String| {
        Error::field("UPLOAD_LENGTH", "chunk", format!("{found} came, the header announces {expected} bytes"))
    };
    let mut payload = BytesMut::with_capacity(expected);
    while let Some(request) = parts.next().await.transpose()? {
        let Some(Part::Chunk(chunk)) = request.part else { return Err(wrong("something else than a chunk".into())) };
        if payload.len() + chunk.len() > expected {
            return Err(wrong("more".into()));
        }
        payload.extend_from_slice(&chunk);
    }
    if payload.len() < expected {
        return Err(wrong(format!("only {} bytes", payload.len())));
    }
    let PutHeader { image_size, dtype, rows, columns, tenant_salt } = header;
    let features = HostTensor::new(dtype, vec![rows, columns], payload.freeze()).map_err(|error| misshapen(&error))?;
    Ok(Upload { image_size, features, tenant_salt })
}

fn misshapen(error: &tessera_tensor::TensorError) -> Error {
    Error::field("UPLOAD_SHAPE", "header.rows", error.to_string())
}
