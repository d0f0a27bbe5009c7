//! Host tensors: dtype, shape and bytes. And the names of the devices that compute with them.
//!
//! What crosses the borders between crates, processes and files. There is no arithmetic here: whoever computes
//! converts to its own device tensor and back. Bytes are little-endian, rows are contiguous (the last axis varies
//! fastest).

mod compute;
mod devices;
mod dtype;
mod host;

pub use compute::{Compute, UnknownCompute};
pub use devices::{Devices, UnknownDevices};
pub use dtype::{DType, UnknownDType};
pub use host::{HostTensor, TensorError};
