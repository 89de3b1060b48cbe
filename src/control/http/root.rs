//! `/`: who answers here, and what there is.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};

use super::{Resource, Shared};

pub static RESOURCES: &[Resource] =
    &[Resource { path: "/", summary: "name, version and this list", methods: || get(root) }];

async fn root(State(shared): State<Shared>) -> Json<Value> {
    let line = |resource: &Resource| json!({ "path": resource.path, "summary": resource.summary });
    let resources: Vec<Value> = super::RESOURCES.iter().copied().flatten().map(line).collect();
    Json(json!({
        "name": "PhotonDB",
        "version": shared.board.server.version,
        "rethinkdb_version": crate::RETHINKDB_VERSION,
        "resources": resources,
    }))
}
