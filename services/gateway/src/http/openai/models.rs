//! `/v1/models`: the one model that is served.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::Serialize;

use crate::front::{Front, Served};
use crate::http::Failure;

/// The models that are served: one.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Models {
    object: &'static str,
    data: Vec<Model>,
}

/// A model that is served.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Model {
    /// Its name.
    id: String,
    object: &'static str,
    /// When this gateway began, in seconds since 1970.
    created: u64,
    owned_by: &'static str,
}

impl From<&Served> for Model {
    fn from(served: &Served) -> Self {
        let since = served.since.duration_since(SystemTime::UNIX_EPOCH);
        let created = since.map_or(0, |since| since.as_secs());
        Self { id: served.name.clone(), object: "model", created, owned_by: "tessera" }
    }
}

/// Lists it.
pub(super) async fn list(State(front): State<Arc<Front>>) -> Json<Models> {
    Json(Models { object: "list", data: vec![Model::from(&front.served)] })
}

/// Shows it, if it has this name.
pub(super) async fn show(State(front): State<Arc<Front>>, Path(name): Path<String>) -> Result<Json<Model>, Failure> {
    front.served.check(&name)?;
    Ok(Json(Model::from(&front.served)))
}
