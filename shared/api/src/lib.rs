//! The wire contract: generated code, the validated domain types that the services work with, and error kinds.
//!
//! A message is checked once, where it arrives: `TryFrom` from the generated type. From then on the domain type proves it.

mod convert;
pub mod embedding;
pub mod error;
pub mod gateway;
pub mod language;
#[expect(missing_docs, clippy::allow_attributes, clippy::too_many_lines, reason = "generated code")]
pub mod proto;
mod status;
pub mod vision;

pub use error::{Error, ErrorKind, FieldViolation, Result};
pub use status::{ERROR_DETAILS, explain, http_status};
