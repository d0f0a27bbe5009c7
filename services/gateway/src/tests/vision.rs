//! A vision worker without a tower: it keeps to the contract, and remembers which images it encoded.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::Stream;
use tessera_anyres::ImageSize;
use tessera_api::embedding::{KeyStatus, StoredImage, Tiers, keys};
use tessera_api::proto::embedding::v1 as store_proto;
use tessera_api::proto::embedding::v1::embedding_store_server::{EmbeddingStore, EmbeddingStoreServer};
use tessera_api::proto::vision::v1 as proto;
use tessera_api::proto::vision::v1::vision_worker_server::{VisionWorker, VisionWorkerServer};
use tessera_api::vision::{Description, EncodeRequest, EncodeTimings, Encoded};
use tessera_api::{Error, ErrorKind};
use tessera_embedding::{EncoderFingerprint, ImageKey};
use tessera_tensor::DType;
use tonic::{Request, Response, Status, Streaming};

use super::machine::{Life, Machine, broken, full};
use super::world::{Blow, World};

/// All images here are of this size: only their bytes are different.
pub(crate) const SIZE: ImageSize = ImageSize { height: 1, width: 1 };

/// What all vision workers encode with.
pub(crate) fn fingerprint() -> EncoderFingerprint {
    EncoderFingerprint::of(&[b"simulated"])
}

#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) world: Arc<World>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) life: Arc<Life>,
}

impl Worker {
    pub(crate) fn encoder(self) -> VisionWorkerServer<Self> {
        VisionWorkerServer::new(self)
    }

    pub(crate) fn store(self) -> EmbeddingStoreServer<Self> {
        EmbeddingStoreServer::new(self)
    }

    fn has(&self, key: &ImageKey) -> bool {
        self.life.images.borrow().contains(key)
    }

    async fn encoded(&self, request: EncodeRequest) -> Result<Encoded, Error> {
        let (world, machine, key) = (&self.world, &self.machine, request.key);
        let name = key.to_string();
        let _open = world.open(machine, &name);
        if ImageKey::of(&request.tenant_salt, &fingerprint(), &request.image) != key {
            world.wrong(format!("{name} is not the key of its image"));
        }
        if machine.mood().sour {
            return Err(broken());
        }
        if machine.mood().full {
            world.strike(&name, Blow::Refused);
            return Err(full());
        }
        let stored_before = self.has(&key);
        if !stored_before {
            tokio::time::sleep(world.step(machine)).await;
            if machine.mood().sick && world.strike(&name, Blow::Failed) {
                return Err(Error::new(ErrorKind::Internal, "MODEL_FAILED", "the device is gone"));
            }
            machine.keep(&self.life, key);
        }
        let (durable, timings) = (machine.is_durable(), EncodeTimings::default());
        Ok(Encoded { image_size: SIZE, image_tokens: 1, stored_before, durable, timings })
    }

    fn status(&self, key: ImageKey) -> KeyStatus {
        let stored = self.has(&key).then(|| StoredImage {
            image_size: SIZE,
            image_tokens: 1,
            dtype: DType::F16,
            rows: 1,
            columns: 1,
            bytes: 2,
            tiers: Tiers { memory: true, disk: self.machine.is_durable(), shared: false },
            uploaded: false,
            created: SystemTime::UNIX_EPOCH,
            leased_until: None,
            encoder: fingerprint(),
        });
        KeyStatus { key, stored }
    }
}

fn unscripted() -> Status {
    Error::new(ErrorKind::Unsupported, "METHOD_UNKNOWN", "nobody asks this here").into()
}

#[tonic::async_trait]
impl VisionWorker for Worker {
    type LoadStream = Pin<Box<dyn Stream<Item = Result<proto::LoadResponse, Status>> + Send>>;

    async fn encode(&self, request: Request<proto::EncodeRequest>) -> Result<Response<proto::EncodeResponse>, Status> {
        if self.life.draining.is_cancelled() {
            return Err(Error::draining().into());
        }
        let request = EncodeRequest::try_from(request.into_inner()).inspect_err(|error| self.world.wrong(error))?;
        Ok(Response::new(self.encoded(request).await?.into()))
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        let description = Description { fingerprint: fingerprint(), version: "0".into(), busy: Duration::ZERO };
        Ok(Response::new(description.into()))
    }

    async fn load(&self, _: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        Err(unscripted())
    }
}

#[tonic::async_trait]
impl EmbeddingStore for Worker {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<store_proto::FetchResponse, Status>> + Send>>;

    async fn stat(
        &self,
        request: Request<store_proto::StatRequest>,
    ) -> Result<Response<store_proto::StatResponse>, Status> {
        let statuses = keys(&request.into_inner().keys)?.into_iter().map(|key| self.status(key).into());
        Ok(Response::new(store_proto::StatResponse { keys: statuses.collect() }))
    }

    async fn fetch(&self, _: Request<store_proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        Err(unscripted())
    }

    async fn put(
        &self,
        _: Request<Streaming<store_proto::PutRequest>>,
    ) -> Result<Response<store_proto::PutResponse>, Status> {
        Err(unscripted())
    }

    async fn lease(
        &self,
        _: Request<store_proto::LeaseRequest>,
    ) -> Result<Response<store_proto::LeaseResponse>, Status> {
        Err(unscripted())
    }

    async fn release(
        &self,
        _: Request<store_proto::ReleaseRequest>,
    ) -> Result<Response<store_proto::ReleaseResponse>, Status> {
        Err(unscripted())
    }

    async fn delete(
        &self,
        _: Request<store_proto::DeleteRequest>,
    ) -> Result<Response<store_proto::DeleteResponse>, Status> {
        Err(unscripted())
    }
}
