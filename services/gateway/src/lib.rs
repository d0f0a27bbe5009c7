//! The gateway: conversations with images in, streamed text out.
//!
//! `grpc` speaks the contract, `prepare` turns a conversation into a prompt and image keys with the settings in force
//! (`defaults`), `encode` keeps images for later, `answer` runs both legs (`encoding`, and one `sample` or more of which tokens become text), `upstream`
//! knows the two pools.

mod answer;
mod defaults;
mod encode;
mod encoding;
mod grpc;
mod prepare;
mod sample;
mod service;
mod settings;
mod upstream;

pub use service::{BuildError, build};
pub use settings::{LimitSettings, Settings};
