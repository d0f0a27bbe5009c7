//! What a gateway keeps.

use tessera_api::embedding::{DeleteRequest, KeyStatus, MAX_KEYS, key_bytes};
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::ImageKey;
use tessera_rpc::Deadline;

use super::access::Way;
use super::{Access, explained};

/// The store behind a gateway.
#[derive(Debug)]
pub(crate) struct Store {
    client: EmbeddingStoreClient<Way>,
    url: String,
}

impl Store {
    /// Takes a gateway.
    ///
    /// # Errors
    /// When its URL is none.
    pub(crate) fn new(to: &Access) -> Result<Self> {
        Ok(Self { client: EmbeddingStoreClient::new(to.open()?), url: to.url.clone() })
    }

    /// Says what is stored under keys, in their order.
    ///
    /// # Errors
    /// The gateway's.
    pub(crate) async fn stat(&mut self, keys: &[ImageKey]) -> Result<Vec<KeyStatus>> {
        let mut statuses = Vec::with_capacity(keys.len());
        for keys in keys.chunks(MAX_KEYS) {
            let request = Deadline::default().request(proto::StatRequest { keys: key_bytes(keys) });
            let response = self.client.stat(request).await.map_err(|status| explained(&self.url, status))?;
            let response = response.into_inner().keys;
            if response.len() != keys.len() {
                let message = format!("the gateway answers {} times for {} handles", response.len(), keys.len());
                return Err(Error::new(ErrorKind::Internal, "CONTRACT_BROKEN", message));
            }
            for status in response {
                statuses.push(KeyStatus::try_from(status)?);
            }
        }
        Ok(statuses)
    }

    /// Removes keys; tells how many there were.
    ///
    /// # Errors
    /// The gateway's.
    pub(crate) async fn delete_keys(&mut self, keys: &[ImageKey]) -> Result<u64> {
        let mut deleted = 0;
        for keys in keys.chunks(MAX_KEYS) {
            deleted += self.delete(DeleteRequest::Keys(keys.to_vec())).await?;
        }
        Ok(deleted)
    }

    /// Removes what is named; tells how much that was.
    ///
    /// # Errors
    /// The gateway's.
    pub(crate) async fn delete(&mut self, request: DeleteRequest) -> Result<u64> {
        let request = Deadline::default().request(request.into());
        let response = self.client.delete(request).await.map_err(|status| explained(&self.url, status))?;
        Ok(response.into_inner().deleted)
    }
}
