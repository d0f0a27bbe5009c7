//! What is asked of the store besides encoding: what is there, uploads, leases, ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tessera_anyres::Shape;
use tessera_api::embedding::{
    DeleteRequest, FetchRequest, KeyStatus, LeaseRequest, Representation, StoredImage, Tiers, Upload, Uploaded,
};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{Artifact, ImageFeatures, ImageKey, Origin, Provenance, TenantId, WaitError};
use tessera_rpc::{Deadline, Tasks};
use tessera_store::{Kept, LeaseError, Stat, Store};

use crate::encoder::Encoder;

/// A caller whose leases are too many asks again after this: leases end.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The store as its callers see it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) encoder: Arc<Encoder>,
    /// Numbers in a row of features.
    pub(crate) columns: usize,
    pub(crate) tasks: Tasks,
}

impl Stored {
    fn store(&self) -> &Store<Error> {
        &self.encoder.store
    }

    /// Reads the rows of an image, waiting for it as long as it is asked to.
    ///
    /// # Errors
    /// `NotFound` when it is not stored in time, or belongs to another than the owner.
    pub(crate) async fn read(
        &self,
        request: FetchRequest,
        owner: Option<TenantId>,
        deadline: Deadline,
    ) -> Result<ImageFeatures> {
        let waiting = async { Ok(self.store().wait(&request.key, request.wait).await?) };
        let artifact = deadline.bound("waiting for an image to be stored", waiting).await?;
        if owner.is_some_and(|owner| owner != artifact.provenance.tenant) {
            return Err(WaitError::<Error>::NotFound(request.key).into());
        }
        let image_size = artifact.image_size;
        let sealing = match request.representation {
            Representation::Features => match artifact.plain() {
                Some(features) => return Ok(features),
                None => self.tasks.spawn_blocking(move || ImageFeatures::seal(image_size, artifact.rows.to_tensor())),
            },
            Representation::Projected => {
                let plan = self.encoder.geometry.plan(image_size);
                let rows = self.encoder.device.project(artifact.rows.to_tensor(), plan);
                let rows = deadline.bound("an image was being projected", rows).await?;
                self.tasks.spawn_blocking(move || ImageFeatures::seal(image_size, rows))
            }
        };
        sealing.await.map_err(|_| Error::draining())
    }

    /// Says of each key what is stored.
    pub(crate) async fn stat(&self, keys: Vec<ImageKey>, owner: Option<TenantId>) -> Vec<KeyStatus> {
        let mut statuses = Vec::with_capacity(keys.len());
        for key in keys {
            let stored = self.store().stat(&key).await.filter(|stat| is_owned(stat, owner));
            statuses.push(KeyStatus { key, stored: stored.map(|stat| self.image(&stat)) });
        }
        statuses
    }

    /// Whether a key is the owner's; what is not stored is nobody's.
    async fn belongs(&self, key: &ImageKey, owner: Option<TenantId>) -> bool {
        owner.is_none() || self.store().stat(key).await.is_some_and(|stat| is_owned(&stat, owner))
    }

    fn image(&self, stat: &Stat) -> StoredImage {
        let (rows, columns) = stat.shape;
        StoredImage {
            image_size: stat.image_size,
            image_tokens: self.encoder.geometry.plan(stat.image_size).image_tokens(),
            dtype: stat.dtype,
            rows,
            columns,
            bytes: stat.bytes,
            tiers: Tiers { memory: stat.memory, disk: stat.disk, shared: stat.remote },
            uploaded: stat.provenance.origin == Origin::Uploaded,
            created: stat.provenance.created,
            leased_until: stat.leased_until,
            encoder: stat.provenance.encoder,
        }
    }

    /// Keeps features that a client made.
    ///
    /// # Errors
    /// `Invalid` when they are not what an image of that size has here, or not finite.
    pub(crate) async fn put(&self, upload: Upload) -> Result<Uploaded> {
        let Upload { image_size, features, tenant_salt } = upload;
        let plan = self.encoder.geometry.plan(image_size);
        let expected = (plan.feature_rows(), self.columns);
        if features.dims2().ok() != Some(expected) {
            let (found, (rows, columns)) = (features.shape(), expected);
            let description =
                format!("features of {image_size} are {rows} rows of {columns} numbers for this model, not {found:?}");
            return Err(Error::field("UPLOAD_SHAPE", "header.rows", description));
        }
        let fingerprint = self.encoder.fingerprint;
        let checking = self.tasks.spawn_blocking(move || {
            if let Some(place) = features.to_f32().iter().position(|number| !number.is_finite()) {
                let description = format!("number {place} is not finite");
                return Err(Error::field("UPLOAD_NOT_FINITE", "chunk", description));
            }
            let key = ImageKey::of_upload(&tenant_salt, &fingerprint, image_size, &features);
            let provenance = Provenance::now(fingerprint, TenantId::of(&tenant_salt), Origin::Uploaded, plan.grid);
            Ok((key, Artifact::seal(image_size, features, provenance)))
        });
        let (key, artifact) = checking.await.map_err(|_| Error::draining())??;
        let image_tokens = plan.image_tokens();
        let stored_before = self.store().get(&key).await.is_some();
        let kept = if stored_before { self.store().kept(&key) } else { self.store().put(&key, artifact).await };
        Ok(Uploaded { key, image_tokens, stored_before, durable: kept == Kept::Durably })
    }

    /// Promises to keep keys; tells the end for each, nothing for one that is not stored.
    ///
    /// # Errors
    /// `Exhausted` when more than may be would be promised.
    pub(crate) async fn lease(
        &self,
        request: LeaseRequest,
        owner: Option<TenantId>,
    ) -> Result<Vec<Option<SystemTime>>> {
        let mut ends = Vec::with_capacity(request.keys.len());
        for key in &request.keys {
            if !self.belongs(key, owner).await {
                ends.push(None);
                continue;
            }
            match self.store().lease(key, request.period).await {
                Ok(end) => ends.push(Some(end)),
                Err(LeaseError::NotFound(_)) => ends.push(None),
                Err(error @ LeaseError::Full { .. }) => {
                    return Err(Error::exhausted("LEASES_FULL", error.to_string(), RETRY_AFTER).with("key", key));
                }
                Err(error @ LeaseError::NotKept(_)) => {
                    return Err(Error::new(ErrorKind::Unavailable, "DISK_FAILED", error.to_string()).with("key", key));
                }
            }
        }
        Ok(ends)
    }

    /// Ends leases; tells how many there were.
    pub(crate) async fn release(&self, keys: Vec<ImageKey>, owner: Option<TenantId>) -> u32 {
        let mut released = 0;
        for key in keys {
            released += u32::from(self.belongs(&key, owner).await && self.store().release(&key).await);
        }
        released
    }

    /// Forgets what is named; tells how many artifacts there were.
    pub(crate) async fn delete(&self, request: DeleteRequest, owner: Option<TenantId>) -> u64 {
        let keys = match request {
            DeleteRequest::Keys(keys) => keys,
            // For callers without a gateway in front, who have no salt.
            DeleteRequest::Image(image) => [Shape::Own, Shape::Constant]
                .map(|shape| ImageKey::of_shape(shape, &[], &self.encoder.fingerprint, &image))
                .to_vec(),
            DeleteRequest::Tenant { salt } => return self.store().delete_tenant(&TenantId::of(&salt)).await,
        };
        let mut deleted = 0;
        for key in keys {
            deleted += u64::from(self.belongs(&key, owner).await && self.store().delete(&key).await);
        }
        deleted
    }
}

/// Whether what is stored is the owner's; without one, everything is.
fn is_owned(stat: &Stat, owner: Option<TenantId>) -> bool {
    owner.is_none_or(|owner| owner == stat.provenance.tenant)
}
