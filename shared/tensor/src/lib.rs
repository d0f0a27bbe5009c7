//! Host tensors: dtype, shape and bytes.
