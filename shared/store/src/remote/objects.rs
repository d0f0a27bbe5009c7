//! Objects: one per artifact, in a bucket of S3 or in a folder that machines share.
//!
//! An artifact is `PREFIX/ab/KEY.safetensors`, `ab` being the first two digits of its key; other objects are neither
//! counted nor touched. Objects do not tell when they were read, so those that were written longest ago go first, but for
//! those that this worker read itself.
//!
//! **The budget.** A worker lists the objects before it writes its first one, again every
//! [`RemoteOptions::sweep_every`] and after a write whose outcome is not known, with one request for a thousand objects;
//! reading needs no count. In between it adds what it writes and takes away what it deletes, and deletes before it writes.
//! So by a worker's own count the budget is never exceeded. It does not see what others write until it lists again: with
//! several writers the objects exceed the budget by no more than what the others wrote since any one writer's last
//! listing began. A count that takes long (a million objects: a thousand requests) goes on with every write, a quarter of
//! the time limit each; until the first one is done nothing can be written ([`RemoteError::Counting`]). An object behind
//! the 65,536 that are next to go, written again, counts twice until the next listing.
//! In a folder, what a process leaves of a file when it is killed while it writes (`KEY.safetensors#1`) is not counted.
//!
//! | fault | what a caller sees | counted by the [`Breaker`](super::Breaker) as |
//! |---|---|---|
//! | server away, or killed during a transfer | [`RemoteError::Away`], after two retries | failure |
//! | server silent or slow | [`RemoteError::Slow`] | failure |
//! | wrong key, no permission, no such bucket | [`RemoteError::Refused`]; reading from no bucket: nothing is found | failure; miss |
//! | quota or disk used up | [`RemoteError::Full`] | refused |
//! | object empty, or larger than an artifact can be | [`RemoteError::Size`], its bytes are not read | refused |
//! | object changed | the changed bytes: the caller checks them | hit |

mod books;
mod ledger;

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientOptions, GetResultPayload, ObjectMeta, ObjectStore};
use object_store::{ObjectStoreExt, RetryConfig};
use tessera_embedding::ImageKey;
use tokio::sync::Semaphore;
use url::Url;

use super::{Remote, RemoteError, RemoteOptions, check_size};
use books::{Books, Listed, Listing};
use ledger::{Room, Used};

/// End of an object's name: what is in it.
const SUFFIX: &str = ".safetensors";

/// Objects under a prefix.
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    max_artifact_bytes: u64,
    timeout: Duration,
    books: Books,
    /// Room is made for one artifact after the other.
    room: Semaphore,
}

impl Objects {
    /// A bucket of S3.
    pub(super) fn s3(bucket: &str, prefix: &str, options: &RemoteOptions) -> Result<Self, RemoteError> {
        let prefix = Path::parse(prefix).map_err(wrong)?;
        let plain = options.endpoint.as_deref().map(is_plain).transpose()?.unwrap_or(false);
        let mut client = ClientOptions::new()
            .with_allow_http(plain)
            .with_timeout(options.timeout)
            .with_connect_timeout(options.timeout);
        if let Some(pem) = &options.authorities {
            for certificate in Certificate::from_pem_bundle(pem).map_err(wrong)? {
                client = client.with_root_certificate(certificate);
            }
        }
        // Without TLS a machine needs no certificates; and where others are named, its own do not count.
        client = client.with_no_system_certificates(plain || options.authorities.is_some());
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_client_options(client)
            .with_retry(retries(options.timeout))
            // What is written is checked by whoever reads it, and TLS checks it on the way.
            .with_unsigned_payload(!plain)
            .with_skip_signature(options.credentials.is_none());
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some(credentials) = &options.credentials {
            let secret_key = credentials.secret_key.expose();
            builder = builder.with_access_key_id(&credentials.key_id).with_secret_access_key(secret_key);
            if let Some(token) = &credentials.session_token {
                builder = builder.with_token(token.expose());
            }
        }
        Ok(Self::new(Arc::new(builder.build().map_err(wrong)?), prefix, options))
    }

    /// A folder. It is made when the first artifact is written.
    pub(super) fn folder(folder: &std::path::Path, options: &RemoteOptions) -> Result<Self, RemoteError> {
        let prefix = Path::from_absolute_path(folder).map_err(wrong)?;
        Ok(Self::new(Arc::new(LocalFileSystem::new()), prefix, options))
    }

    fn new(store: Arc<dyn ObjectStore>, prefix: Path, options: &RemoteOptions) -> Self {
        Self {
            store,
            prefix,
            max_artifact_bytes: options.max_artifact_bytes,
            timeout: options.timeout,
            books: Books::new(options.bytes, options.sweep_every),
            room: Semaphore::new(1),
        }
    }

    async fn read(&self, key: &ImageKey) -> Result<Option<Bytes>, RemoteError> {
        let found = match self.store.get(&path(&self.prefix, key)).await {
            Err(object_store::Error::NotFound { .. }) => {
                self.books.remove(key);
                return Ok(None);
            }
            found => found.map_err(|error| self.failed(error))?,
        };
        check_size(found.meta.size, self.max_artifact_bytes)?;
        let artifact = match found.payload {
            GetResultPayload::File(..) => found.bytes().await.map_err(|error| self.failed(error))?,
            GetResultPayload::Stream(mut chunks) => {
                let mut artifact = BytesMut::with_capacity(usize::try_from(found.meta.size).unwrap_or(0));
                while let Some(chunk) = chunks.try_next().await.map_err(|error| self.failed(error))? {
                    // The size that was announced may not be the one that comes.
                    check_size((artifact.len() + chunk.len()) as u64, self.max_artifact_bytes)?;
                    artifact.extend_from_slice(&chunk);
                }
                artifact.freeze()
            }
        };
        self.books.touch(key);
        Ok(Some(artifact))
    }

    async fn write(&self, key: &ImageKey, artifact: Bytes) -> Result<(), RemoteError> {
        let bytes = artifact.len() as u64;
        check_size(bytes, self.max_artifact_bytes)?;
        self.count().await?;
        let doubt = {
            let _turn = self.room.acquire().await;
            self.make_room(key, bytes).await?;
            self.books.write(key, bytes)
        };
        self.store.put(&path(&self.prefix, key), artifact.into()).await.map_err(|error| self.failed(error))?;
        doubt.settle();
        Ok(())
    }

    /// Deletes until an artifact fits into the budget.
    async fn make_room(&self, key: &ImageKey, bytes: u64) -> Result<(), RemoteError> {
        let mut room = self.books.room(key, bytes);
        if room == Some(Room::Unknown) {
            self.books.doubt();
            if !self.count().await? {
                return Err(RemoteError::Counting);
            }
            room = self.books.room(key, bytes);
        }
        match room {
            None => Err(RemoteError::Counting),
            Some(Room::Enough) => Ok(()),
            Some(Room::After(victims)) => self.delete_all(victims).await,
            Some(Room::Unknown) => Err(RemoteError::Full(format!(
                "{} bytes are kept or being written, {bytes} more do not fit",
                self.books.total().unwrap_or(0)
            ))),
        }
    }

    async fn delete_all(&self, keys: Vec<ImageKey>) -> Result<(), RemoteError> {
        let prefix = self.prefix.clone();
        let paths = stream::iter(keys.clone().into_iter().map(move |key| Ok(path(&prefix, &key))));
        let mut deleted = self.store.delete_stream(paths.boxed()).zip(stream::iter(keys));
        while let Some((outcome, key)) = deleted.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => self.books.remove(&key),
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    async fn remove(&self, key: &ImageKey) -> Result<bool, RemoteError> {
        let path = path(&self.prefix, key);
        // Deleting does not tell whether anything was there.
        let was_there = match self.store.head(&path).await {
            Err(object_store::Error::NotFound { .. }) => false,
            found => found.map(|_| true).map_err(|error| self.failed(error))?,
        };
        if was_there {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.books.remove(key);
        Ok(was_there)
    }

    /// Counts the objects if that is due, for a part of the time limit; tells whether the count is of now.
    async fn count(&self) -> Result<bool, RemoteError> {
        self.books.count(|| self.list(), self.timeout / 4).await
    }

    fn list(&self) -> Listing {
        let (prefix, timeout) = (self.prefix.clone(), self.timeout);
        let objects = self.store.list(Some(&self.prefix));
        let ours = objects.map(move |object| object.map(|object| listed(&prefix, &object)));
        ours.filter_map(move |object| async move { object.map_err(|error| failed(error, timeout)).transpose() }).boxed()
    }

    fn failed(&self, error: object_store::Error) -> RemoteError {
        failed(error, self.timeout)
    }
}

/// Whether an endpoint does without TLS.
fn is_plain(endpoint: &str) -> Result<bool, RemoteError> {
    let url = Url::parse(endpoint).ok().filter(|url| url.has_host() && url.username().is_empty());
    match url.as_ref().map(Url::scheme) {
        Some("http") => Ok(true),
        Some("https") => Ok(false),
        _ => {
            Err(RemoteError::Options("endpoint of the shared store: it can be http://HOST[:PORT] or https://…".into()))
        }
    }
}

/// A request that failed is tried again, but not for longer than an operation may last.
fn retries(timeout: Duration) -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: Duration::from_millis(50), max_backoff: timeout / 4, base: 2.0 };
    RetryConfig { backoff, max_retries: 2, retry_timeout: timeout }
}

fn wrong(error: impl std::fmt::Display) -> RemoteError {
    RemoteError::Options(format!("options of the shared store: {error}"))
}

fn path(prefix: &Path, key: &ImageKey) -> Path {
    let name = key.to_string();
    prefix.clone().join(&name[..2]).join(format!("{name}{SUFFIX}"))
}

/// An object of ours, from a listing.
fn listed(prefix: &Path, object: &ObjectMeta) -> Option<Listed> {
    let name = object.location.filename()?.strip_suffix(SUFFIX)?;
    let digits = name.as_bytes().chunks_exact(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    let key = ImageKey::try_from(&digits.collect::<Option<Vec<u8>>>()?[..]).ok()?;
    let written = Used(object.last_modified.timestamp_micros());
    (path(prefix, &key) == object.location).then_some(Listed { key, bytes: object.size, written })
}

/// Tells a server that cannot be reached from one that is slow, one that is full, and one that answered with an error.
fn failed(error: object_store::Error, timeout: Duration) -> RemoteError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        if let Some(http) = this.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Timeout => RemoteError::Slow(timeout),
                _ => RemoteError::Away(Box::new(error)),
            };
        }
        if let Some(io) = this.downcast_ref::<io::Error>()
            && matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        {
            return RemoteError::Full(error.to_string());
        }
        cause = this.source();
    }
    let message = error.to_string();
    if ["QuotaExceeded", "StorageFull", "507 Insufficient Storage"].iter().any(|full| message.contains(full)) {
        return RemoteError::Full(message);
    }
    RemoteError::Refused(Box::new(error))
}

impl Remote for Objects {
    fn get<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<Option<Bytes>, RemoteError>> {
        self.read(key).boxed()
    }

    fn put<'a>(&'a self, key: &'a ImageKey, artifact: Bytes) -> BoxFuture<'a, Result<(), RemoteError>> {
        self.write(key, artifact).boxed()
    }

    fn delete<'a>(&'a self, key: &'a ImageKey) -> BoxFuture<'a, Result<bool, RemoteError>> {
        self.remove(key).boxed()
    }
}
