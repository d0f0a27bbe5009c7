//! The whole system: gateway, vision and language worker in this process, spoken to over gRPC.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "system/answers.rs"]
mod answers;
#[path = "system/client.rs"]
mod client;
#[path = "system/cluster.rs"]
mod cluster;
#[path = "system/constant_shape.rs"]
mod constant_shape;
#[path = "system/continuation.rs"]
mod continuation;
#[path = "system/conversation.rs"]
mod conversation;
#[path = "system/cuda_build.rs"]
mod cuda_build;
#[path = "system/demo.rs"]
mod demo;
#[path = "system/deploy.rs"]
mod deploy;
#[path = "system/durable.rs"]
mod durable;
#[path = "system/elastic.rs"]
mod elastic;
#[path = "system/faults.rs"]
mod faults;
#[path = "system/handles.rs"]
mod handles;
#[path = "system/health.rs"]
mod health;
#[path = "system/language_faults.rs"]
mod language_faults;
#[path = "system/lifecycle.rs"]
mod lifecycle;
#[cfg(target_os = "linux")]
#[path = "system/memory.rs"]
mod memory;
#[path = "system/parity.rs"]
mod parity;
#[path = "system/pool.rs"]
mod pool;
#[path = "system/pools.rs"]
mod pools;
#[path = "system/processes.rs"]
mod processes;
#[path = "system/reference.rs"]
mod reference;
#[path = "system/requests.rs"]
mod requests;
#[path = "system/running.rs"]
mod running;
#[path = "system/secrets.rs"]
mod secrets;
#[path = "system/secure.rs"]
mod secure;
#[path = "system/settings.rs"]
mod settings;
#[path = "system/store.rs"]
mod store;
#[path = "system/streams.rs"]
mod streams;
#[path = "system/urls.rs"]
mod urls;
