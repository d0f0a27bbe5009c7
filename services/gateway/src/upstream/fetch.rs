//! The rows of a stored image: read from the worker that has it, and on from another one when that one is lost.

use std::sync::Arc;
use std::time::Duration;
use std::vec;

use futures::{Stream, StreamExt, stream};
use tessera_api::embedding::FetchRequest;
use tessera_api::proto::embedding::v1 as proto;
use tessera_api::proto::embedding::v1::embedding_store_client::EmbeddingStoreClient;
use tessera_api::proto::embedding::v1::fetch_response::Part;
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::TenantId;
use tessera_rpc::Deadline;
use tonic::{Status, Streaming};

use super::Upstream;
use super::member::{Member, Silence};
use super::retry::is_worth_a_retry;
use super::store::owned;
use super::vision::{Vision, VisionPool};

/// Rows that are being read.
struct Reading {
    vision: Arc<VisionPool>,
    owner: TenantId,
    /// Where the next bytes begin.
    request: FetchRequest,
    deadline: Deadline,
    /// Who else may have them.
    others: vec::IntoIter<Arc<Member<Vision>>>,
    /// What was said of them first.
    header: Option<proto::FetchHeader>,
    current: Option<Current>,
}

/// The worker that sends them now.
struct Current {
    worker: Arc<Member<Vision>>,
    silence: Silence,
    parts: Streaming<proto::FetchResponse>,
}

impl Upstream {
    /// Streams a stored image from a worker that has it: a header, then its payload.
    ///
    /// # Errors
    /// The last worker's, when nobody has it.
    pub(crate) async fn fetch(
        &self,
        owner: TenantId,
        request: FetchRequest,
        deadline: Deadline,
    ) -> Result<impl Stream<Item = Result<proto::FetchResponse, Status>> + Send + use<>> {
        if self.vision.places.fresh(&request.key).is_none() {
            // Notes where it is.
            self.stat(owner, &[request.key], deadline).await?;
        }
        let members = self.vision.pool.members(deadline).await?;
        let others = self.vision.candidates(&members, &request.key).into_iter();
        let vision = Arc::clone(&self.vision);
        let mut reading = Reading { vision, owner, request, deadline, others, header: None, current: None };
        let header = reading.open().await?;
        let first = proto::FetchResponse { part: Some(Part::Header(header)) };
        let rest = stream::try_unfold(reading, |mut reading| async move {
            let next = reading.next().await.map_err(Status::from)?;
            Ok(next.map(|part| (part, reading)))
        });
        Ok(stream::iter([Ok(first)]).chain(rest))
    }
}

impl Reading {
    /// Has the next worker send what is left; returns what it says of the rows.
    ///
    /// # Errors
    /// The last worker's, when nobody is left who may have them.
    async fn open(&mut self) -> Result<proto::FetchHeader> {
        let nobody = || Error::new(ErrorKind::Unavailable, "POOL_EMPTY", "there is no vision worker");
        let mut failed = None;
        while let Some(worker) = self.others.next() {
            match self.open_at(worker).await {
                Ok(header) => return Ok(header),
                Err(error) if is_worth_a_retry(&error) || error.kind == ErrorKind::NotFound => failed = Some(error),
                Err(error) => return Err(error),
            }
            // The first one was waited for.
            self.request.wait = Duration::ZERO;
        }
        Err(failed.unwrap_or_else(nobody))
    }

    async fn open_at(&mut self, worker: Arc<Member<Vision>>) -> Result<proto::FetchHeader> {
        let mut client = EmbeddingStoreClient::new(worker.channel.clone());
        let mut silence = worker.silence();
        let opened = silence.unless(client.fetch(owned(self.owner, self.deadline.request(self.request.into())))).await;
        let mut parts = self.vision.pool.hear(&worker, opened)?.into_inner();
        let first = self.vision.pool.hear(&worker, silence.unless(parts.message()).await)?;
        let Some(Part::Header(header)) = first.and_then(|first| first.part) else {
            let message = format!("vision worker {} sent no header before the payload", worker.url);
            return Err(Error::new(ErrorKind::Internal, "CONTRACT_BROKEN", message));
        };
        if self.header.as_ref().is_some_and(|known| *known != header) {
            let message = format!("vision worker {} has other rows than the one before it", worker.url);
            return Err(Error::new(ErrorKind::Corrupt, "FEATURES_CORRUPT", message));
        }
        self.header = Some(header.clone());
        self.current = Some(Current { worker, silence, parts });
        Ok(header)
    }

    /// The next bytes; nothing behind the last ones.
    ///
    /// # Errors
    /// When they broke off and nobody goes on.
    async fn next(&mut self) -> Result<Option<proto::FetchResponse>> {
        while let Some(Current { worker, silence, parts }) = &mut self.current {
            match self.vision.pool.hear(worker, silence.unless(parts.message()).await) {
                Ok(part) => {
                    if let Some(proto::FetchResponse { part: Some(Part::Chunk(chunk)) }) = &part {
                        self.request.offset += chunk.len() as u64;
                    }
                    return Ok(part);
                }
                Err(error) if is_worth_a_retry(&error) => {
                    let _ = self.open().await.map_err(|_| error)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
