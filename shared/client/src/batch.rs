//! Many images on one stream.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use tessera_api::gateway::{BatchResponse, EncodeRequest, Encoded};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::Deadline;
use tokio::sync::Semaphore;

use crate::reply::broken;
use crate::{Client, Encode};

/// Images of a batch that are on the way at once: twice what a gateway encodes of one.
pub const MAX_IN_FLIGHT: usize = 64;

/// What becomes of the images of a batch, each as it is done: with the caller's mark, the image, or why it failed. An error of
/// the stream itself is its last item.
pub struct Batch<T> {
    answers: BoxStream<'static, Result<BatchResponse>>,
    sent: Arc<Sent<T>>,
    is_over: bool,
}

/// What was sent and is not answered.
struct Sent<T> {
    /// For as many images.
    room: Semaphore,
    state: Mutex<State<T>>,
}

struct State<T> {
    marks: HashMap<u64, T>,
    /// There are no more images.
    is_all: bool,
}

impl Client {
    /// Has images encoded and kept as they come; each has a mark, by which its answer is known. The stream is read no faster
    /// than images are encoded: at most [`MAX_IN_FLIGHT`] are on the way at once. An image that the gateway has no room for
    /// waits there.
    ///
    /// One image that fails does not stop the others, unless its file is larger than the gateway takes at all (128 MiB,
    /// unless it is set up otherwise): then the stream ends. Nothing of a batch is sent again;
    /// [`unanswered`](Batch::unanswered) says what is left of one that broke off.
    pub fn encode_batch<T, I>(&self, images: impl Stream<Item = (T, I)> + Send + 'static) -> Batch<T>
    where
        T: Send + 'static,
        I: Into<Encode> + 'static,
    {
        let state = Mutex::new(State { marks: HashMap::new(), is_all: false });
        let sent = Arc::new(Sent { room: Semaphore::new(MAX_IN_FLIGHT), state });
        let requests = requests(images, Arc::clone(&sent));
        let client = self.clone();
        let answers = async move {
            let request = client.request(Deadline::default(), requests);
            let response = client.gateway().encode_batch(request).await.map_err(|status| client.explained(status))?;
            let answers = response.into_inner().map_err(move |status| client.explained(status));
            Ok::<_, Error>(answers.and_then(|answer| async { answer.try_into() }))
        };
        Batch { answers: stream::once(answers).try_flatten().boxed(), sent, is_over: false }
    }
}

/// The messages of a batch. Each takes room, which comes back with its answer.
fn requests<T, I>(
    images: impl Stream<Item = (T, I)> + Send + 'static,
    sent: Arc<Sent<T>>,
) -> impl Stream<Item = proto::EncodeBatchRequest> + Send + 'static
where
    T: Send + 'static,
    I: Into<Encode> + 'static,
{
    let images = images.map(|(mark, image)| (mark, image.into())).boxed();
    stream::unfold((images, sent, 0_u64), |(mut images, sent, id)| async move {
        sent.room.acquire().await.ok()?.forget();
        let Some((mark, Encode { image, lease })) = images.next().await else {
            sent.change(|state| state.is_all = true);
            return None;
        };
        sent.change(|state| state.marks.insert(id, mark));
        let proto::EncodeRequest { image, lease_seconds, .. } = EncodeRequest { image, lease, rows: None }.into();
        let request = proto::EncodeBatchRequest { id: id.to_string(), image, lease_seconds, in_order: false };
        Some((request, (images, sent, id + 1)))
    })
}

impl<T> Sent<T> {
    fn change<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whose answer it is.
    fn take(&self, answer: BatchResponse) -> Result<(T, Result<Encoded>)> {
        let BatchResponse { id, outcome } = answer;
        let mark = id.parse().ok().and_then(|id| self.change(|state| state.marks.remove(&id)));
        let mark = mark.ok_or_else(|| broken(format!("the gateway answers for {id:?}, which nobody waits for")))?;
        self.room.add_permits(1);
        Ok((mark, outcome))
    }

    /// The error of a stream that ends while somebody waits for an answer.
    fn end(&self) -> Option<Error> {
        let missing = self.change(|state| (!state.is_all || !state.marks.is_empty()).then_some(state.marks.len()))?;
        let message = format!("the gateway ended the batch too early, {missing} images on the way were not answered");
        Some(Error::new(ErrorKind::Unavailable, "STREAM_BROKEN", message).with("unanswered", missing))
    }
}

impl<T> Batch<T> {
    /// Ends the batch, and gives the marks of images that were sent and not answered: they may have been encoded. Those
    /// that were not sent are still in the caller's hands.
    pub fn unanswered(self) -> Vec<T> {
        let Self { answers, sent, .. } = self;
        drop(answers);
        sent.change(|state| state.marks.drain().map(|(_, mark)| mark).collect())
    }
}

impl<T> Stream for Batch<T> {
    type Item = Result<(T, Result<Encoded>)>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let next = match ready!(this.answers.poll_next_unpin(context)) {
            Some(answer) => Some(answer.and_then(|answer| this.sent.take(answer))),
            None => this.sent.end().map(Err),
        };
        this.is_over = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

impl<T> std::fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on_the_way = self.sent.change(|state| state.marks.len());
        f.debug_struct("Batch").field("on_the_way", &on_the_way).finish_non_exhaustive()
    }
}
