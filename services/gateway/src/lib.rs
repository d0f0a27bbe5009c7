//! The gateway: conversations with images in, streamed text out.
//!
//! `grpc` speaks the contract, `prepare` turns a conversation into a prompt and image keys, `answer` runs both legs and
//! turns tokens into text, `upstream` knows the two pools.

mod answer;
mod defaults;
mod grpc;
mod prepare;
mod service;
mod settings;
mod upstream;

pub use service::{BuildError, build};
pub use settings::{LimitSettings, Settings};
