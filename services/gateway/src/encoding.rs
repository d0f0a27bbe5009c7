//! The images of one request while they are being encoded, beside its sequence.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tessera_api::gateway::Timings;
use tessera_api::vision::Encoded;
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::Deadline;

use crate::prepare::PreparedImage;
use crate::upstream::Upstream;

/// How long the cause of a failed sequence is waited for: an image that could not be encoded.
const CAUSE: Duration = Duration::from_secs(1);
/// How long a complete answer waits for what the vision pool says of its images.
const SETTLING: Duration = Duration::from_millis(500);

/// Images that are being encoded.
pub(crate) struct Encoding<'a> {
    running: FuturesUnordered<BoxFuture<'a, Result<Encoded>>>,
    /// Where the time went so far.
    pub(crate) timings: Timings,
}

impl<'a> Encoding<'a> {
    /// Has every image encoded; `prepare` is the time that was spent before.
    pub(crate) fn start(
        upstream: &'a Upstream,
        images: Vec<PreparedImage>,
        deadline: Deadline,
        prepare: Duration,
    ) -> Self {
        let stored_before = images.iter().filter(|image| image.file.is_none()).count();
        let files = images.into_iter().filter(|image| image.file.is_some());
        let running = files.map(|image| encode(upstream, image, deadline).boxed()).collect();
        Self { running, timings: Timings { prepare, images_stored_before: stored_before, ..Timings::default() } }
    }

    /// Waits for something of the sequence while images are being encoded. An image that fails ends the wait: the
    /// sequence could only fail of it.
    ///
    /// # Errors
    /// Of the image or of the sequence; where both fail, of the image.
    pub(crate) async fn during<T>(&mut self, sequence: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(sequence);
        loop {
            tokio::select! {
                biased;
                Some(encoded) = self.running.next(), if !self.running.is_empty() => self.count(&encoded?),
                done = &mut sequence => match done {
                    Err(error) => return Err(self.cause(error).await),
                    done => return done,
                },
            }
        }
    }

    /// Hears what became of the images of an answer that is complete. One whose prompt is in the cache needs no features, and
    /// may be over before the vision pool has said that it has them; then it is not held up for long.
    pub(crate) async fn settle(&mut self) {
        let all = async {
            while let Some(encoded) = self.running.next().await {
                if let Ok(encoded) = encoded {
                    self.count(&encoded);
                }
            }
        };
        let _ = tokio::time::timeout(SETTLING, all).await;
    }

    fn count(&mut self, encoded: &Encoded) {
        self.timings.images_stored_before += usize::from(encoded.stored_before);
        let spent = encoded.timings;
        self.timings.encode = self.timings.encode.max(spent.preprocess + spent.queue + spent.forward);
    }

    /// A sequence fails when the features of an image do not come; the reason is what the encoding says.
    async fn cause(&mut self, error: Error) -> Error {
        let first_failure = async {
            while let Some(encoded) = self.running.next().await {
                if let Err(cause) = encoded {
                    return Some(cause);
                }
            }
            None
        };
        tokio::time::timeout(CAUSE, first_failure).await.ok().flatten().unwrap_or(error)
    }
}

/// Has the file of one image encoded; an error names its field in the request.
pub(crate) async fn encode(upstream: &Upstream, image: PreparedImage, deadline: Deadline) -> Result<Encoded> {
    let PreparedImage { field, file, key, plan } = image;
    let encoded = upstream.encode(file.unwrap_or_default(), key, deadline).await.map_err(|mut error| {
        for violation in error.fields.iter_mut().filter(|violation| violation.field == "image") {
            violation.field.clone_from(&field);
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
