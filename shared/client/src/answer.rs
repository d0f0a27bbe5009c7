//! An answer as it is made.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use tessera_api::gateway::{Event, Started};
use tessera_api::{Error, ErrorKind, Result};

use crate::reply::{Heard, Reply, broken};

/// An answer as it is made: a stream of events, which begins with [`Event::Started`]. Whoever drops it cancels the request.
///
/// What goes by is kept, so that [`finish`](Self::finish) has all of it, whatever was read as a stream.
#[must_use = "an answer that nobody reads is cancelled"]
pub struct Answer {
    started: Started,
    /// Is the stream's first item.
    is_told: bool,
    events: BoxStream<'static, Result<Event>>,
    heard: Heard,
    /// It ended, and that was told.
    is_over: bool,
}

impl Answer {
    /// Waits for the beginning of an answer.
    ///
    /// # Errors
    /// The stream's first one, or that of a gateway that begins otherwise.
    pub(crate) async fn begin(mut events: BoxStream<'static, Result<Event>>) -> Result<Self> {
        match events.try_next().await? {
            Some(Event::Started(started)) => {
                Ok(Self { started, is_told: false, events, heard: Heard::default(), is_over: false })
            }
            Some(_) => Err(broken("an answer does not begin with what was understood")),
            None => Err(cut_off()),
        }
    }

    /// How the request was understood: the seed, the prompt's length, the images with their handles.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Waits for more of the first sample's text; nothing at the end of the answer. Events of other samples go by.
    ///
    /// # Errors
    /// What ended the answer.
    pub async fn next_text(&mut self) -> Result<Option<String>> {
        while let Some(event) = self.try_next().await? {
            if let Event::Delta { sample: 0, text, .. } = event
                && !text.is_empty()
            {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Waits for the end, and gives the text of the first sample: all of it, whatever was read before.
    ///
    /// # Errors
    /// What ended the answer.
    pub async fn text(self) -> Result<String> {
        let reply = self.finish().await?;
        Ok(reply.samples.into_iter().next().map(|sample| sample.text).unwrap_or_default())
    }

    /// Waits for the end, and gives all that was told of the answer, whatever was read before.
    ///
    /// # Errors
    /// What ended the answer.
    pub async fn finish(mut self) -> Result<Reply> {
        while self.try_next().await?.is_some() {}
        self.heard.into_reply(self.started).ok_or_else(cut_off)
    }
}

impl Stream for Answer {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        let this = self.get_mut();
        if !this.is_told {
            this.is_told = true;
            return Poll::Ready(Some(Ok(Event::Started(this.started.clone()))));
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        let next = match ready!(this.events.poll_next_unpin(context)) {
            Some(Ok(event)) => Some(this.heard.take(&event).map(|()| event)),
            None if !this.heard.is_whole() => Some(Err(cut_off())),
            end => end,
        };
        if !matches!(next, Some(Ok(_))) {
            this.is_over = true;
            // Whoever still holds it wants nothing more of the gateway.
            this.events = stream::empty().boxed();
        }
        Poll::Ready(next)
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("started", &self.started).field("heard", &self.heard).finish_non_exhaustive()
    }
}

fn cut_off() -> Error {
    Error::new(ErrorKind::Unavailable, "STREAM_BROKEN", "the gateway ended the answer too early; ask again")
}
