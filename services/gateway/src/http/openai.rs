//! OpenAI's API: conversations (`chat`) and prompts (`completions`), what is served (`models`), and tokens (`tokens`).
//!
//! A request is read (`body`, `content`, `settings`) into the gateway's own, asked like any other, and answered as a whole
//! (`answer`) or in pieces (`stream`). What cannot be had is refused, never left out: an answer that lacks what was asked
//! for is another answer. Errors name fields as the caller knows them.

mod answer;
mod body;
mod chat;
mod completions;
mod content;
mod models;
mod openapi;
mod place;
mod settings;
mod stream;
mod tokens;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use tessera_api::gateway::{GenerateRequest, Input, Settings};
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::Deadline;

use answer::{Begun, Form};
use chat::{Chat, ChatRequest};
use completions::{CompletionRequest, Text};
use settings::Wants;

use super::Failure;
use crate::front::Front;
use crate::tenant::Tenant;
use crate::words::Words;

/// The name of a request: the caller's, or one that is made.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What only those get who may ask.
pub(super) fn routes() -> Router<Arc<Front>> {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(complete))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::show))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/{*rest}", any(unknown))
}

/// What everybody gets: what all this is, and that it is there.
pub(super) fn open() -> Router {
    let document: Arc<str> = openapi::document().to_string().into();
    let document = move || {
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        std::future::ready((headers, document.to_string()))
    };
    Router::new()
        .route("/health", get(|| std::future::ready(())))
        .route("/version", get(|| std::future::ready(Json(serde_json::json!({"version": env!("CARGO_PKG_VERSION")})))))
        .route("/openapi.json", get(document))
}

async fn chat(
    State(front): State<Arc<Front>>,
    Extension(tenant): Extension<Arc<Tenant>>,
    request: Request,
) -> Result<Response, Failure> {
    let headers = request.headers().clone();
    let asked = read(&front, request, |front, body| {
        let request: ChatRequest = body::parse(body)?;
        front.served.check(&request.model)?;
        Asked::new(|words| request.read(words))
    });
    let asked = asked.await?;
    respond::<Chat>(front, &tenant, &headers, asked).await
}

async fn complete(
    State(front): State<Arc<Front>>,
    Extension(tenant): Extension<Arc<Tenant>>,
    request: Request,
) -> Result<Response, Failure> {
    let headers = request.headers().clone();
    let asked = read(&front, request, |front, body| {
        let request: CompletionRequest = body::parse(body)?;
        front.served.check(&request.model)?;
        Asked::new(|words| request.read(front.preparer.prompter.image_token(), words))
    });
    let asked = asked.await?;
    respond::<Text>(front, &tenant, &headers, asked).await
}

async fn unknown(uri: Uri) -> Failure {
    let message = format!("nothing is served at {}: /openapi.json says what is", uri.path());
    Failure(Error::new(ErrorKind::NotFound, "ENDPOINT_UNKNOWN", message))
}

/// What was asked for, in the gateway's own terms.
struct Asked {
    input: Input,
    settings: Settings,
    wants: Wants,
    words: Words,
}

impl Asked {
    fn new(read: impl FnOnce(&mut Words) -> Result<(Input, Settings, Wants)>) -> Result<Self> {
        let mut words = Words::default();
        words.say("request_id", REQUEST_ID.as_str());
        let (input, settings, wants) = read(&mut words)?;
        Ok(Self { input, settings, wants, words })
    }
}

/// Receives a body and reads it, which is work where there are pictures in it.
async fn read<T: Send + 'static>(
    front: &Arc<Front>,
    request: Request,
    read: impl FnOnce(&Front, &[u8]) -> Result<T> + Send + 'static,
) -> Result<T> {
    let deadline = Deadline::default().within(front.limits.time);
    let body = deadline.bound("the request was being received", body::receive(request)).await?;
    let this = Arc::clone(front);
    front.compute(deadline, move || read(&this, &body)).await
}

async fn respond<F: Form>(
    front: Arc<Front>,
    tenant: &Arc<Tenant>,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<Response, Failure> {
    let Asked { input, settings, wants, words } = asked;
    let request_id = match headers.get(REQUEST_ID) {
        Some(id) => id.to_str().map(str::to_owned).map_err(|_| {
            Error::field("REQUEST_ID_INVALID", REQUEST_ID.as_str(), "must be visible characters of ASCII")
        })?,
        None => String::new(),
    };
    let request = GenerateRequest { request_id, input, settings };
    let begun = Begun::ask(front, tenant, request, wants, words).await?;
    let request_id = HeaderValue::from_str(&begun.started.request_id).ok();
    let mut response = match wants.stream {
        true => stream::respond::<F>(begun),
        false => Json(begun.whole::<F>().await?).into_response(),
    };
    response.headers_mut().extend(request_id.map(|id| (REQUEST_ID, id)));
    Ok(response)
}
