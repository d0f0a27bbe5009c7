//! What every gRPC server and client here needs: tasks, deadlines, health, reflection, bounds, shutdown.

pub mod client;
mod deadline;
mod server;
mod service;
mod tasks;

pub use deadline::Deadline;
pub use server::{Server, ServerError, ServerSettings};
pub use service::{Service, listen};
pub use tasks::{Tasks, interrupted};
