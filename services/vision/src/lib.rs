//! The vision worker: image files in, features out, encoded once and kept under their key.
//!
//! `grpc` speaks the contract, `encoder` leads an image from file to store, `device` owns the device and batches tiles.

mod device;
mod encoder;
mod grpc;
mod service;
mod settings;

pub use service::{BuildError, build};
pub use settings::{BatchSettings, Settings, StoreSettings};
