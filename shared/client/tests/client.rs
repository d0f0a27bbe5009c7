//! The client against a gateway without pools, in virtual time.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "client/images.rs"]
mod images;
#[path = "client/questions.rs"]
mod questions;
#[path = "client/reaching.rs"]
mod reaching;
#[path = "client/stand_in.rs"]
mod stand_in;
