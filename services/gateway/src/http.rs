//! HTTP at the gateway's address: what other programs know (`openai`) and what people look at (`page`).
//!
//! Both go through one door: whoever asks is known before a body is read, and what goes wrong is said in one form.

mod failure;
mod openai;
mod page;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;

use crate::front::Front;
pub(crate) use failure::Failure;

/// What is served over HTTP, at the same address as gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// What clients of OpenAI's API speak, under `/v1`.
    pub api: bool,
    /// A page for people, at `/`, and what it needs. Whoever may ask may see how all pools are.
    pub page: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { api: true, page: false }
    }
}

/// Everything that is served over HTTP.
pub(crate) fn routes(front: &Arc<Front>, settings: &HttpSettings) -> Router {
    let mut guarded = Router::new();
    if settings.api {
        guarded = guarded.merge(openai::routes());
    }
    if settings.page {
        guarded = guarded.merge(page::guarded(front));
    }
    // A picture inside JSON takes four bytes for three.
    let bytes = front.limits.request.as_usize().saturating_mul(4) / 3;
    let guarded = guarded
        .layer(DefaultBodyLimit::max(bytes))
        .layer(middleware::from_fn_with_state(Arc::clone(front), let_in))
        .with_state(Arc::clone(front));
    let mut all = guarded;
    if settings.api {
        all = all.merge(openai::open());
    }
    if settings.page {
        all = all.merge(page::open());
    }
    all
}

/// Finds out who asks, before anything else of the request is read.
async fn let_in(State(front): State<Arc<Front>>, mut request: Request, next: Next) -> Response {
    let metadata = MetadataMap::from_headers(request.headers().clone());
    match front.tenants.find(&metadata) {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        Err(error) => Failure(error).into_response(),
    }
}
