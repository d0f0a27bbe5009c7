//! What every gRPC server and client here needs: tasks, deadlines, TLS, health, reflection, bounds, shutdown.

pub mod client;
mod deadline;
mod files;
mod reports;
mod server;
mod service;
mod tasks;
mod tls;

pub use deadline::Deadline;
pub use files::{FileError, Files, Watched};
pub use reports::report_interval;
pub use server::{Server, ServerError, ServerSettings};
pub use service::{Service, listen};
pub use tasks::{Tasks, interrupted};
pub use tls::{ClientTls, ServerTls, TlsSettings, UpstreamTlsSettings};
