//! An asynchronous client of a Tessera gateway: questions about pictures in, streamed answers out.
//!
//! ```no_run
//! use tessera_client::{Ask, Client, Image, Result};
//!
//! # async fn example(chart: Vec<u8>) -> Result<()> {
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//!
//! // The text as it is made.
//! let mut answer = client.generate(Ask::new("Which bar is the tallest?").image(chart.clone())).await?;
//! while let Some(text) = answer.next_text().await? {
//!     print!("{text}");
//! }
//! // And all that was told of it.
//! let reply = answer.finish().await?;
//! println!("\n{} tokens in {:?}", reply.samples[0].finished.usage.completion_tokens, reply.samples[0].finished.timings.total);
//!
//! // An image that is asked about often is encoded once: its handle stands for it, and its file for a handle that is gone.
//! let handle = client.encode(chart.clone()).await?.image.key;
//! let ask = Ask::new("How many bars are there?").image(Image::stored_or(handle, chart)).max_tokens(16);
//! println!("{}", client.generate(ask).await?.text().await?);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/ask.rs` is a whole program.
//!
//! * **One [`Client`] for everything.** Clones share a connection and cost nothing; it connects when it is needed and again
//!   when it is lost. [`Client::builder`] says what there is to set: certificates, tokens, deadlines, retries.
//! * **Deadlines travel.** The time that a request is given goes to the gateway as `grpc-timeout`, and through it to the
//!   workers; [`FinishReason::Deadline`] ends an answer that was not over by then.
//! * **Retries are safe.** A call is made again only before the first event of its answer, only where the error says that it
//!   passes ([`Retries`]), and only while its deadline leaves time for that.
//! * **Whoever drops an [`Answer`] cancels it**, and frees what it held in the pools. So does whoever drops the future of any
//!   other call.
//! * **Errors are [`Error`]**: a kind to decide by, a stable reason for programs, a message for people, the fields at fault.
//!
//! Everything runs within a Tokio runtime.

mod answer;
mod ask;
mod batch;
mod bearer;
mod builder;
mod client;
mod image;
mod reply;
mod retry;
mod store;

pub use answer::Answer;
pub use ask::Ask;
pub use batch::{Batch, MAX_IN_FLIGHT};
pub use builder::Builder;
pub use client::{Client, Encode, Health};
pub use image::Image;
pub use reply::{Reply, Sample};
pub use retry::Retries;
pub use store::Store;

pub use bytes::Bytes;
pub use futures::{Stream, StreamExt};
pub use tessera_anyres::ImageSize;
pub use tessera_api::embedding::{KeyStatus, Representation, StoredImage, Tiers, Uploaded};
pub use tessera_api::gateway::{
    BeamSettings, Encoded, Event, FinishReason, Finished, GenerateRequest, ImagePlan, ImageSource, ImageUrl,
    ImageUrlError, Input, Logprobs, Message, Part, Role, Settings, Started, Timings, TokenLogprob, Usage,
};
pub use tessera_api::language::{Constraint, EarlyStopping, Generator};
pub use tessera_api::{Error, ErrorKind, FieldViolation, Result};
pub use tessera_embedding::{EncoderFingerprint, ImageFeatures, ImageKey};
pub use tessera_tensor::{DType, HostTensor};
