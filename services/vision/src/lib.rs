//! The vision worker: image files in, features out, encoded once and kept under their key.
//!
//! `grpc` speaks the contract, `encoder` leads an image from file to store, `stored` answers for what is there, `device` owns the device and batches tiles.

mod device;
mod encoder;
mod grpc;
mod service;
mod settings;
mod stored;
mod tiers;

pub use service::{BuildError, build};
pub use settings::{BatchSettings, DiskSettings, RowFormat, Settings, SharedSettings, StoreSettings};
