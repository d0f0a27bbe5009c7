//! The gateway: conversations with images in, streamed text out.
//!
//! `grpc` speaks the contract, `inference` the Open Inference Protocol, `http` what other programs know and people look at; all call `front`. `prepare` turns a conversation into a prompt and image keys with the settings in force
//! (`defaults`), `encode` keeps images for later, `answer` runs both legs: `encoding`, and a sequence, after which
//! `continuations` has another one go on when its worker is lost; `telling` makes the client's events of them (one `sample` or
//! more, whose tokens become text). `tenant` says whose a request is, by what `auth` finds in it, `admission` when it may go
//! on, `upstream` knows the two pools, `urls` fetches images, `words` tells what is wrong as whoever asked would call it.

mod admission;
mod answer;
mod auth;
mod continuations;
mod defaults;
mod encode;
mod encoding;
mod front;
mod grpc;
mod http;
mod inference;
mod prepare;
mod sample;
mod service;
mod settings;
mod telling;
mod tenant;
mod upstream;
mod urls;
mod words;

#[cfg(test)]
mod tests;

pub use auth::{AuthSettings, JwtSettings};
pub use http::HttpSettings;
pub use service::{BuildError, build};
pub use settings::{LimitSettings, Settings};
pub use tenant::{NamedTenants, TenantSettings, Weight, WeightError};
pub use upstream::settings::{
    DiscoverySettings, EncodeSettings, HealthSettings, Hedge, ParseHedgeError, RetrySettings,
};
pub use urls::{ParsePatternError, Pattern, Scheme, UrlRootsError, UrlSettings};
