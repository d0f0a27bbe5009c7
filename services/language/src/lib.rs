//! The language worker: token ids and image features in, token ids out.
//!
//! `grpc` speaks the contract, `features` pulls what images need from an embedding store, `engine` owns the device,
//! `constraint` says which tokens fit the form of an answer.

mod constraint;
pub mod engine;
mod features;
mod grpc;
mod service;
mod settings;

pub use features::{ParseStorePatternError, StorePattern};
pub use service::{BuildError, build};
pub use settings::{DrainSettings, EngineSettings, FeatureSettings, Settings};
