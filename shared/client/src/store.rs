//! The images that a gateway keeps.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tessera_anyres::ImageSize;
use tessera_api::embedding::{
    DeleteRequest, FetchHeader, FetchRequest, KeyStatus, LeaseRequest, MAX_KEYS, Representation, Upload, Uploaded,
    key_bytes, lease_ends, upload_parts,
};
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{ImageFeatures, ImageKey, Salt};
use tessera_rpc::Deadline;
use tessera_tensor::HostTensor;
use tonic::transport::Channel;

use crate::Client;
use crate::client::patience;
use crate::reply::broken;

/// Rows of one image take no more: the largest models' are a tenth of that.
const MAX_ROWS_BYTES: usize = 1 << 30;

/// The images that a gateway keeps for whoever asks. Lists of handles may be as long as they like; every call may be made
/// again ([`Retries`](crate::Retries)), so that what counts tells of the last of them.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
}

impl Store {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Says what is stored under handles, in their order.
    ///
    /// # Errors
    /// The gateway's.
    pub async fn stat(&self, handles: &[ImageKey]) -> Result<Vec<KeyStatus>> {
        let (deadline, mut statuses) = (self.client.deadline(None), Vec::with_capacity(handles.len()));
        for handles in handles.chunks(MAX_KEYS) {
            let call = || {
                let request = self.client.request(deadline, proto::StatRequest { keys: key_bytes(handles) });
                let mut store = self.wire();
                async move { store.stat(request).await }
            };
            let response = self.client.again(deadline, call).await?.into_inner().keys;
            check_count(response.len(), handles)?;
            for status in response {
                statuses.push(status.try_into()?);
            }
        }
        Ok(statuses)
    }

    /// Reads the rows of a stored image, `[rows, columns]`, and verifies them: the tower's, or those that the language model
    /// sees. Goes on where a stream broke off.
    ///
    /// # Errors
    /// `NotFound` (`EMBEDDING_NOT_FOUND`) when it is not stored, `Corrupt` when the rows are not what the gateway announced.
    pub async fn fetch(&self, handle: ImageKey, rows: Representation) -> Result<ImageFeatures> {
        let deadline = self.client.deadline(None);
        let (mut attempts, mut read) = (self.client.attempts(deadline), Payload::default());
        loop {
            let reading = self.fetch_rest(handle, rows, deadline, &mut read);
            match patience(deadline).bound("rows were read", reading).await {
                Ok(()) => break,
                Err(error) => attempts.wait(error).await?,
            }
        }
        let Some(header) = read.header else { return Err(broken("rows came without a header")) };
        let corrupt =
            |why: String| Error::new(ErrorKind::Corrupt, "FEATURES_CORRUPT", format!("image {handle}: {why}"));
        let rows = HostTensor::new(header.dtype, vec![header.rows, header.columns], read.bytes.freeze())
            .map_err(|error| corrupt(error.to_string()))?;
        ImageFeatures::open(header.image_size, rows, header.checksum).map_err(|error| corrupt(error.to_string()))
    }

    async fn fetch_rest(
        &self,
        key: ImageKey,
        representation: Representation,
        deadline: Deadline,
        read: &mut Payload,
    ) -> Result<()> {
        let request = FetchRequest { key, representation, wait: Duration::ZERO, offset: read.bytes.len() as u64 };
        let request = self.client.request(deadline, request.into());
        let explained = |status| self.client.explained(status);
        let mut parts = self.wire().fetch(request).await.map_err(explained)?.into_inner();
        while let Some(response) = parts.message().await.map_err(explained)? {
            read.take(response.part)?;
        }
        read.check_end()
    }

    /// Keeps features that the caller made, `[rows, columns]` of the tower's output, as those of an image of this size.
    ///
    /// # Errors
    /// The gateway's: `Invalid` when they are not what its model makes of such an image.
    pub async fn put(&self, image_size: ImageSize, features: HostTensor) -> Result<Uploaded> {
        let deadline = self.client.deadline(None);
        let upload = Upload { image_size, features, tenant_salt: Salt::default() };
        let parts: Vec<_> = upload_parts(upload)?.collect();
        let call = || {
            let parts = futures::stream::iter(parts.clone());
            let (mut store, request) = (self.wire(), self.client.request(deadline, parts));
            async move { store.put(request).await }
        };
        self.client.again(deadline, call).await?.into_inner().try_into()
    }

    /// Promises to keep images for a time, in whole seconds, of two promises the longer one; tells when each ends, in their
    /// order, and nothing of one that is not stored.
    ///
    /// # Errors
    /// The gateway's.
    pub async fn lease(&self, handles: &[ImageKey], period: Duration) -> Result<Vec<Option<SystemTime>>> {
        let (deadline, mut ends) = (self.client.deadline(None), Vec::with_capacity(handles.len()));
        for handles in handles.chunks(MAX_KEYS) {
            let call = || {
                let request = LeaseRequest { keys: handles.to_vec(), period };
                let (mut store, request) = (self.wire(), self.client.request(deadline, request.into()));
                async move { store.lease(request).await }
            };
            let response = self.client.again(deadline, call).await?.into_inner();
            check_count(response.leased_until_unix_seconds.len(), handles)?;
            ends.extend(lease_ends(&response));
        }
        Ok(ends)
    }

    /// Ends promises; tells how many there were.
    ///
    /// # Errors
    /// The gateway's.
    pub async fn release(&self, handles: &[ImageKey]) -> Result<u64> {
        let (deadline, mut released) = (self.client.deadline(None), 0);
        for handles in handles.chunks(MAX_KEYS) {
            let call = || {
                let request = self.client.request(deadline, proto::ReleaseRequest { keys: key_bytes(handles) });
                let mut store = self.wire();
                async move { store.release(request).await }
            };
            released += u64::from(self.client.again(deadline, call).await?.into_inner().released);
        }
        Ok(released)
    }

    /// Removes images, leased or not; tells how many there were.
    ///
    /// # Errors
    /// The gateway's.
    pub async fn delete(&self, handles: &[ImageKey]) -> Result<u64> {
        let mut deleted = 0;
        for handles in handles.chunks(MAX_KEYS) {
            deleted += self.delete_what(DeleteRequest::Keys(handles.to_vec())).await?;
        }
        Ok(deleted)
    }

    /// Removes whatever is stored of an image file; tells how much there was.
    ///
    /// # Errors
    /// The gateway's.
    pub async fn delete_image(&self, file: impl Into<Bytes>) -> Result<u64> {
        self.delete_what(DeleteRequest::Image(file.into())).await
    }

    /// Removes everything of whoever asks; tells how much there was.
    ///
    /// # Errors
    /// The gateway's.
    pub async fn delete_everything(&self) -> Result<u64> {
        self.delete_what(DeleteRequest::Tenant { salt: Salt::default() }).await
    }

    async fn delete_what(&self, what: DeleteRequest) -> Result<u64> {
        let deadline = self.client.deadline(None);
        let call = || {
            let (mut store, request) = (self.wire(), self.client.request(deadline, what.clone().into()));
            async move { store.delete(request).await }
        };
        Ok(self.client.again(deadline, call).await?.into_inner().deleted)
    }

    fn wire(&self) -> EmbeddingStoreClient<Channel> {
        EmbeddingStoreClient::new(self.client.channel())
    }
}

fn check_count(answers: usize, handles: &[ImageKey]) -> Result<()> {
    if answers == handles.len() {
        return Ok(());
    }
    Err(broken(format!("the gateway answers {answers} times for {} handles", handles.len())))
}

/// What was read of an image's rows, over one stream or several.
#[derive(Debug, Default)]
struct Payload {
    header: Option<FetchHeader>,
    bytes: BytesMut,
}

impl Payload {
    /// Takes the next message.
    fn take(&mut self, part: Option<Part>) -> Result<()> {
        match (part, self.header) {
            (Some(Part::Header(header)), known) => {
                let header = FetchHeader::try_from(header)?;
                // The same rows come from any worker.
                if known.is_some_and(|known| known != header) {
                    return Err(broken("rows are other ones when they are read again"));
                }
                if header.payload_bytes().is_none_or(|bytes| bytes > MAX_ROWS_BYTES) {
                    return Err(broken(format!("{} rows of {} are no image's", header.rows, header.columns)));
                }
                self.header = Some(header);
            }
            (Some(Part::Chunk(chunk)), Some(header)) => {
                if header.payload_bytes().is_none_or(|expected| self.bytes.len() + chunk.len() > expected) {
                    return Err(broken("more rows came than were announced"));
                }
                self.bytes.extend_from_slice(&chunk);
            }
            (Some(Part::Chunk(_)) | None, _) => return Err(broken("rows do not begin with a header")),
        }
        Ok(())
    }

    /// A stream that ends too early broke off.
    fn check_end(&self) -> Result<()> {
        if self.header.and_then(|header| header.payload_bytes()) == Some(self.bytes.len()) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "STREAM_BROKEN",
            "the gateway ended the rows too early; read them again",
        ))
    }
}
