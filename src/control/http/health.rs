//! `/health` and the probes below it: 200 when they pass, 503 with the reason when they do not.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Resource, Shared};
use crate::control::board::Snapshot;
use crate::control::health::{Verdict, live, overview, ready, startup};

pub static RESOURCES: &[Resource] = &[
    Resource { path: "/health", summary: "everything about its health, for people", methods: || get(all) },
    Resource {
        path: "/health/live",
        summary: "fails when a core is stuck, and names it",
        methods: || get(|shared: State<Shared>| probe(shared, live)),
    },
    Resource {
        path: "/health/ready",
        summary: "passes while the server takes queries",
        methods: || get(|shared: State<Shared>| probe(shared, ready)),
    },
    Resource {
        path: "/health/startup",
        summary: "passes once the stores are open",
        methods: || get(|shared: State<Shared>| probe(shared, startup)),
    },
];

/// When the whole process was held (a suspended machine, a debugger), the first look finds answers missing that are
/// only waiting to be read. So a core counts as silent only if a second look agrees.
const SECOND_LOOK: Duration = Duration::from_millis(30);

async fn looked_at(shared: &Shared) -> Snapshot {
    let snapshot = shared.board.snapshot();
    if live(&snapshot).passes {
        return snapshot;
    }
    tokio::time::sleep(SECOND_LOOK).await;
    shared.board.snapshot()
}

fn status(passes: bool) -> StatusCode {
    if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn probe(State(shared): State<Shared>, judge: fn(&Snapshot) -> Verdict) -> Response {
    let verdict = judge(&looked_at(&shared).await);
    (status(verdict.passes), Json(verdict)).into_response()
}

async fn all(State(shared): State<Shared>) -> Response {
    let server = &shared.board.server;
    let overview = overview(&looked_at(&shared).await, server.version, server.started.elapsed().as_secs());
    (status(overview.verdict.passes), Json(overview)).into_response()
}
