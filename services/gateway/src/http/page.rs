//! The page for people, and what it asks the gateway for.
//!
//! `assets` is the page itself, for everybody: it holds no secret. What it asks for is for those who may ask: how a picture
//! would be cut (`inspect`), how the pools are (`pools`), what requests may be. Answers come from OpenAI's API.

mod assets;
mod inspect;
mod pools;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::front::Front;
pub(super) use assets::open;

/// No answer is to be kept, or taken for something else than it says it is.
const UNKEPT: [(HeaderName, HeaderValue); 2] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

/// What the page asks for: only whoever may ask gets it.
pub(super) fn guarded(front: &Front) -> Router<Arc<Front>> {
    let bytes = DefaultBodyLimit::max(front.limits.request.as_usize());
    Router::new()
        .route("/tessera/about", get(about))
        .route("/tessera/inspect", post(inspect::inspect).layer(bytes))
        .route("/tessera/pools", get(pools::pools))
}

/// What requests may be.
async fn about(State(front): State<Arc<Front>>) -> Response {
    let limits = &front.limits;
    unkept(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "images": limits.images,
        "request_bytes": limits.request.as_u64(),
        "max_tokens": limits.default_max_tokens,
    }))
}

fn unkept(value: Value) -> Response {
    (UNKEPT, Json(value)).into_response()
}

#[cfg(test)]
mod tests;
