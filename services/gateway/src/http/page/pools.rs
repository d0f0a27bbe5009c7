//! How the pools are, as JSON.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use tessera_api::{language, vision};

use super::unkept;
use crate::front::Front;
use crate::upstream::snapshot::{PoolSnapshot, Standing};

/// Says how everybody is at this moment.
pub(super) async fn pools(State(front): State<Arc<Front>>) -> Response {
    let snapshot = front.upstream.snapshot();
    unkept(json!({
        "vision": pool(&snapshot.vision, vision_load),
        "language": pool(&snapshot.language, language_load),
    }))
}

fn pool<L>(pool: &PoolSnapshot<L>, load: impl Fn(&L) -> Value) -> Value {
    let workers = pool.workers.iter().map(|worker| {
        json!({
            "url": *worker.url,
            "state": standing(worker.standing),
            "why": worker.why,
            "version": worker.version,
            "in_flight": worker.in_flight,
            "load": worker.load.as_ref().map(&load),
        })
    });
    json!({
        "model": pool.model,
        "ejections": pool.ejections,
        "retries": pool.retries,
        "hedges": pool.hedges,
        "workers": workers.collect::<Vec<_>>(),
    })
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Ready => "ready",
        Standing::New => "new",
        Standing::KeptOut => "kept_out",
        Standing::Refusing => "refusing",
        Standing::Lost => "lost",
        Standing::Ejected => "ejected",
    }
}

pub(super) fn vision_load(load: &vision::Load) -> Value {
    let room = |room: vision::Room| json!({ "bytes": room.bytes, "most": room.most });
    json!({
        "tiles": load.tiles,
        "most_tiles": load.most_tiles,
        "busy_ms": load.busy.as_secs_f64() * 1e3,
        "memory": room(load.memory),
        "disk": room(load.disk),
    })
}

pub(super) fn language_load(load: &language::Load) -> Value {
    json!({
        "running": load.running,
        "waiting": load.waiting,
        "total_blocks": load.total_blocks,
        "free_blocks": load.free_blocks,
        "new_tokens": load.new_tokens,
        "prefix_hit_rate": load.prefix_hit_rate,
    })
}
