//! Host tensors: dtype, shape and bytes.
//!
//! What crosses the borders between crates, processes and files. There is no arithmetic here: whoever computes
//! converts to its own device tensor and back. Bytes are little-endian, rows are contiguous (the last axis varies
//! fastest).

mod dtype;
mod host;

pub use dtype::{DType, UnknownDType};
pub use host::{HostTensor, TensorError};
