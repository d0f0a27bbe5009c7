//! The images of one request while they are being encoded, beside its sequence.

use std::ops::Range;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tessera_anyres::Plan;
use tessera_api::gateway::Timings;
use tessera_api::language::ImageReference;
use tessera_api::vision::{EncodeRequest, Encoded};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{ImageKey, TenantId};
use tessera_rpc::Deadline;

use crate::admission::Admitted;
use crate::prepare::PreparedImage;
use crate::upstream::Upstream;

/// How long the cause of a failed sequence is waited for: an image that could not be encoded.
const CAUSE: Duration = Duration::from_secs(1);
/// How long a complete answer waits for what the vision pool says of its images.
const SETTLING: Duration = Duration::from_millis(500);

/// Images that are being encoded.
pub(crate) struct Encoding<'a> {
    upstream: &'a Upstream,
    admitted: &'a Admitted,
    deadline: Deadline,
    images: Vec<Image>,
    running: FuturesUnordered<BoxFuture<'a, (usize, Result<Encoded>)>>,
    /// Where the time went so far.
    pub(crate) timings: Timings,
}

/// One of them.
struct Image {
    prepared: PreparedImage,
    /// Where the language worker was told to find its features.
    store: String,
    /// The vision pool said that it has them.
    is_stored: bool,
    /// What encoding it took is counted.
    is_counted: bool,
}

impl<'a> Encoding<'a> {
    /// Has every image encoded.
    pub(crate) fn start(
        upstream: &'a Upstream,
        admitted: &'a Admitted,
        images: Vec<PreparedImage>,
        deadline: Deadline,
    ) -> Self {
        let image = |prepared: PreparedImage| {
            let is_stored = prepared.request.is_none();
            Image { prepared, store: String::new(), is_stored, is_counted: is_stored }
        };
        let images: Vec<Image> = images.into_iter().map(image).collect();
        let images_stored_before = images.iter().filter(|image| image.is_stored).count();
        let timings = Timings { images_stored_before, ..Timings::default() };
        let encoding = Self { upstream, admitted, deadline, images, running: FuturesUnordered::new(), timings };
        (0..encoding.images.len()).filter(|&index| !encoding.images[index].is_stored).for_each(|index| {
            encoding.encode(index);
        });
        encoding
    }

    /// Where the images stand in the prompt, and where their features are or will be.
    pub(crate) fn references(&mut self, positions: &[Range<usize>]) -> Vec<ImageReference> {
        let reference = |(image, positions): (&mut Image, &Range<usize>)| {
            let PreparedImage { key, plan, .. } = &image.prepared;
            let store = self.upstream.store_of(key);
            // While nobody is there it is where it was.
            if !store.is_empty() {
                image.store = store;
            }
            ImageReference {
                key: *key,
                positions: positions.clone(),
                image_size: plan.image,
                store: image.store.clone(),
                is_stored: image.is_stored,
            }
        };
        self.images.iter_mut().zip(positions).map(reference).collect()
    }

    /// Waits for something of the sequence while images are being encoded. An image that fails ends the wait: the
    /// sequence could only fail of it.
    ///
    /// # Errors
    /// Of the image.
    pub(crate) async fn during<T>(&mut self, sequence: impl Future<Output = T>) -> Result<T> {
        tokio::pin!(sequence);
        loop {
            tokio::select! {
                biased;
                Some((index, encoded)) = self.running.next(), if !self.running.is_empty() => self.note(index, &encoded?),
                done = &mut sequence => return Ok(done),
            }
        }
    }

    /// Hears what became of the images of an answer that is complete. One whose prompt is in the cache needs no features, and
    /// may be over before the vision pool has said that it has them; then it is not held up for long.
    pub(crate) async fn settle(&mut self) {
        let all = async {
            while let Some((index, encoded)) = self.running.next().await {
                if let Ok(encoded) = encoded {
                    self.note(index, &encoded);
                }
            }
        };
        let _ = tokio::time::timeout(SETTLING, all).await;
    }

    /// What a sequence failed of: when the features of an image do not come, the reason is what the encoding says.
    pub(crate) async fn cause(&mut self, error: Error) -> Error {
        tokio::time::timeout(CAUSE, self.all()).await.ok().and_then(Result::err).unwrap_or(error)
    }

    /// Makes sure that features are stored of which a language worker said, with this error, that they are not, or that
    /// their store cannot be reached. Their files are encoded again; what a handle of the owner stands for is looked for.
    ///
    /// # Errors
    /// Of an image that cannot be encoded; the same error when an image is nowhere, and `Unavailable` when somebody who cannot
    /// be asked may have it.
    pub(crate) async fn renew(&mut self, error: Error, owner: TenantId) -> Result<()> {
        self.all().await?;
        let mut lacks: Vec<usize> = (0..self.images.len()).collect();
        if self.images.iter().any(|image| image.is_meant(&error)) {
            lacks.retain(|&index| self.images[index].is_meant(&error));
        }
        let mut handles = Vec::new();
        for index in lacks {
            match self.images[index].prepared.request {
                Some(_) => self.encode(index),
                None => handles.push(self.images[index].prepared.key),
            }
        }
        if !handles.is_empty() {
            let found = self.upstream.stat(owner, &handles, self.deadline).await?;
            if let Some(lacking) = found.iter().find(|status| status.stored.is_none()) {
                return Err(if self.upstream.lacks_a_vision_worker() {
                    self.out_of_reach(&lacking.key)
                } else {
                    error
                });
            }
        }
        self.all().await
    }

    /// The error of a handle that stands for nothing where somebody can be asked: whoever is lost may come back with it.
    fn out_of_reach(&self, key: &ImageKey) -> Error {
        let image = self.images.iter().find(|image| image.prepared.key == *key);
        let message = format!("image {key} is nowhere in reach, and a vision worker cannot be asked");
        let error = Error::new(ErrorKind::Unavailable, "EMBEDDING_OUT_OF_REACH", message).with("key", key);
        image.map_or(error.clone(), |image| error.with("store", &image.store))
    }

    /// Waits until no image is being encoded.
    async fn all(&mut self) -> Result<()> {
        while let Some((index, encoded)) = self.running.next().await {
            self.note(index, &encoded?);
        }
        Ok(())
    }

    fn encode(&self, index: usize) {
        let Self { upstream, admitted, deadline, .. } = *self;
        let image = self.images[index].prepared.clone();
        let PreparedImage { field, request: Some(request), plan, .. } = image else { return };
        let encoding = async move {
            let encoded = encode(upstream, &field, request, &plan, deadline);
            (index, admitted.encoding(plan.tile_count(), encoded).await)
        };
        self.running.push(encoding.boxed());
    }

    fn note(&mut self, index: usize, encoded: &Encoded) {
        let image = &mut self.images[index];
        image.is_stored = true;
        if std::mem::replace(&mut image.is_counted, true) {
            return;
        }
        self.timings.images_stored_before += usize::from(encoded.stored_before);
        let spent = encoded.timings;
        self.timings.encode = self.timings.encode.max(spent.preprocess + spent.queue + spent.forward);
    }
}

impl Image {
    /// Whether an error about features is about those of this image: it may name a store or a key.
    fn is_meant(&self, error: &Error) -> bool {
        let key = self.prepared.key.to_string();
        error.metadata.iter().all(|(name, value)| match name.as_ref() {
            "store" => *value == self.store,
            "key" => *value == key,
            _ => true,
        })
    }
}

/// Has the file of one image encoded; an error names its field in the request.
pub(crate) async fn encode(
    upstream: &Upstream,
    field: &str,
    request: EncodeRequest,
    plan: &Plan,
    deadline: Deadline,
) -> Result<Encoded> {
    let encoded = upstream.encode(request, deadline).await.map_err(|mut error| {
        for violation in error.fields.iter_mut().filter(|violation| violation.field == "image") {
            field.clone_into(&mut violation.field);
            error.message = format!("{field}: {}", violation.description);
        }
        error
    })?;
    if encoded.image_size != plan.image {
        let (theirs, ours) = (encoded.image_size, plan.image);
        let message =
            format!("{field}: the vision worker read size {theirs}, the gateway {ours}: their settings differ");
        return Err(Error::new(ErrorKind::Precondition, "SETTINGS_MISMATCH", message));
    }
    Ok(encoded)
}
