//! How a picture would be cut. Its header is read; nothing is encoded, and nothing is kept.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use tessera_api::{Error, ErrorKind, Result};
use tokio_util::task::AbortOnDropHandle;

use super::unkept;
use crate::front::Front;
use crate::http::Failure;
use crate::prepare::Inspected;
use crate::tenant::Tenant;

/// What errors call the picture.
const FIELD: &str = "image";

/// Takes the file of a picture as the body, whatever type the request says it has.
pub(super) async fn inspect(
    State(front): State<Arc<Front>>,
    Extension(tenant): Extension<Arc<Tenant>>,
    file: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let file = file.map_err(|rejection| unread(&rejection, front.limits.request.as_u64()))?;
    let preparer = Arc::clone(&front.preparer);
    let inspecting = front.tasks.spawn_blocking(move || preparer.inspect(&tenant, FIELD, &file));
    let inspected = AbortOnDropHandle::new(inspecting).await.map_err(|_| crashed())??;
    Ok(unkept(describe(&inspected)))
}

/// The names are those of `tessera inspect --json`; the rest is what a drawing needs besides.
fn describe(inspected: &Inspected) -> Value {
    let Inspected { format, size, is_upright, tile, plan, resized, padding } = inspected;
    json!({
        "format": format.to_string(),
        "height": size.height,
        "width": size.width,
        "is_upright": is_upright,
        "grid": { "height": plan.grid.height, "width": plan.grid.width },
        "resized": { "height": resized.height, "width": resized.width },
        "padding": {
            "top": padding.top,
            "left": padding.left,
            "bottom": padding.bottom,
            "right": padding.right,
        },
        "tile": tile,
        "tiles_down": plan.tiles.down,
        "tiles_across": plan.tiles.across,
        "tiles": plan.tile_count(),
        "patches_per_side": plan.patches_per_side,
        "first_row": plan.first_row,
        "first_column": plan.first_column,
        "rows": plan.rows,
        "columns": plan.columns,
        "feature_rows": plan.feature_rows(),
        "image_tokens": plan.image_tokens(),
    })
}

/// The error of a body that was not read to its end.
fn unread(rejection: &BytesRejection, limit: u64) -> Error {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("{FIELD}: the file is longer than {limit} bytes: make it smaller");
        return Error::new(ErrorKind::Invalid, "MESSAGE_TOO_LARGE", message).with("limit", limit);
    }
    Error::new(ErrorKind::Invalid, "REQUEST_MALFORMED", format!("{FIELD}: the file did not come: {rejection}"))
}

fn crashed() -> Error {
    Error::new(ErrorKind::Internal, "INSPECT_FAILED", "reading the header of the image failed")
}
