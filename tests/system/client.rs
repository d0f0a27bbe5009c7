//! What a gateway's clients do with images that were encoded before.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tessera_api::Error;
use tessera_api::embedding::{
    DeleteRequest, FetchHeader, FetchRequest, LeaseRequest, Representation, StoredImage, Upload, Uploaded, lease_ends,
};
use tessera_api::gateway::{BatchResponse, EncodeRequest, Encoded, GenerateRequest, ImageSource, Part};
use tessera_api::proto::embedding::v1 as embedding_proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::encode_response::Part as EncodePart;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_client::Retries;
use tessera_embedding::ImageKey;
use tonic::transport::Channel;

use crate::conversation::{Expected, Reply, request};
use crate::running::Running;

/// What a client of a gateway can do with images: by the library, and over the wire where that hides what is tested.
pub(crate) struct Client {
    pub(crate) library: tessera_client::Client,
    channel: Channel,
}

impl Client {
    pub(crate) fn of(gateway: &Running) -> Self {
        let library = tessera_client::Client::builder(gateway.url()).retries(Retries::NONE).build();
        Self { library: library.unwrap(), channel: gateway.channel() }
    }

    pub(crate) fn store(&self) -> EmbeddingStoreClient<Channel> {
        EmbeddingStoreClient::new(self.channel.clone())
    }

    pub(crate) fn gateway(&self) -> GatewayClient<Channel> {
        GatewayClient::new(self.channel.clone())
    }

    /// Encodes an image, and reads its rows if any are asked for.
    pub(crate) async fn encode_with(
        &self,
        request: EncodeRequest,
    ) -> Result<(Encoded, Option<(FetchHeader, Vec<u8>)>), Error> {
        let mut parts = self.gateway().encode(proto::EncodeRequest::from(request)).await?.into_inner();
        let Some(EncodePart::Encoded(encoded)) = parts.message().await?.and_then(|first| first.part) else {
            panic!("an encoding is told first")
        };
        let mut rows: Option<(FetchHeader, Vec<u8>)> = None;
        while let Some(response) = parts.message().await? {
            let Some(EncodePart::Rows(part)) = response.part else { panic!("only rows follow") };
            use embedding_proto::fetch_response::Part;
            match (part.part.unwrap(), &mut rows) {
                (Part::Header(header), None) => rows = Some((header.try_into()?, Vec::new())),
                (Part::Chunk(chunk), Some((_, payload))) => payload.extend_from_slice(&chunk),
                other => panic!("not in this order: {other:?}"),
            }
        }
        Ok((encoded.try_into()?, rows))
    }

    pub(crate) async fn encode(&self, image: impl Into<Bytes>) -> Result<Encoded, Error> {
        self.library.encode(image.into()).await
    }

    pub(crate) async fn batch(&self, requests: Vec<proto::EncodeBatchRequest>) -> Result<Vec<BatchResponse>, Error> {
        let mut answers = self.gateway().encode_batch(futures::stream::iter(requests)).await?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.push(answer.try_into()?);
        }
        Ok(all)
    }

    pub(crate) async fn stat(&self, key: ImageKey) -> Option<StoredImage> {
        self.library.store().stat(&[key]).await.unwrap().remove(0).stored
    }

    /// Deletes an image.
    pub(crate) async fn forget(&self, key: ImageKey) {
        self.library.store().delete(&[key]).await.unwrap();
    }

    pub(crate) async fn lease(&self, keys: Vec<ImageKey>, period: Duration) -> Result<Vec<Option<SystemTime>>, Error> {
        let request = embedding_proto::LeaseRequest::from(LeaseRequest { keys, period });
        Ok(lease_ends(&self.store().lease(request).await?.into_inner()))
    }

    pub(crate) async fn delete(&self, request: DeleteRequest) -> Result<u64, Error> {
        Ok(self.store().delete(embedding_proto::DeleteRequest::from(request)).await?.into_inner().deleted)
    }

    pub(crate) async fn put(&self, upload: Upload) -> Result<Uploaded, Error> {
        self.library.store().put(upload.image_size, upload.features).await
    }

    /// Reads rows from an offset on.
    pub(crate) async fn fetch(&self, key: ImageKey, offset: u64) -> Result<(FetchHeader, Vec<u8>), Error> {
        use embedding_proto::fetch_response::Part;
        let request = FetchRequest { key, representation: Representation::Features, wait: Duration::ZERO, offset };
        let mut parts = self.store().fetch(embedding_proto::FetchRequest::from(request)).await?.into_inner();
        let Some(Part::Header(header)) = parts.message().await?.and_then(|first| first.part) else {
            panic!("a fetch starts with a header")
        };
        let mut payload = Vec::new();
        while let Some(response) = parts.message().await? {
            let Some(Part::Chunk(chunk)) = response.part else { panic!("a header is followed by chunks") };
            payload.extend_from_slice(&chunk);
        }
        Ok((header.try_into()?, payload))
    }
}

/// The conversation of a case, with handles in place of its pictures.
pub(crate) fn by_handles(case: &str, handles: &[ImageKey]) -> GenerateRequest {
    let mut request = request(case, 0);
    let mut handles = handles.iter();
    for part in request.input.parts_mut() {
        if let Part::Image(source) = part {
            *source = ImageSource::Stored(*handles.next().unwrap());
        }
    }
    assert!(handles.next().is_none());
    request
}

/// Asserts that an answer is the reference's.
pub(crate) fn assert_reference(reply: &Reply, family: &str, case: &str) {
    let golden = Expected::of(family, case, 0);
    assert_eq!((&reply.token_ids, &reply.text), (&golden.token_ids, &golden.text), "{family} {case}");
}
