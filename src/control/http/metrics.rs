//! `/_metrics`: asks the cores for fresh figures and prints them, with the last known ones of a core that is stuck.

use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::{Resource, Shared};
use crate::control::metrics::{Process, render};
use crate::control::watch::refresh;

pub static RESOURCES: &[Resource] =
    &[Resource { path: "/_metrics", summary: "figures for Prometheus", methods: || get(metrics) }];

/// How long a scrape waits for a core before it takes that core's last figures.
const PATIENCE: Duration = Duration::from_millis(250);

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    refresh(&shared.board, PATIENCE).await;
    let page = render(&shared.board.snapshot(), &process(&shared));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page)
}

fn process(shared: &Shared) -> Process {
    let server = shared.board.server.clone();
    Process {
        uptime: server.started.elapsed(),
        server,
        resident_bytes: resident_bytes().unwrap_or(0),
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        cpu: cpu_time(),
        http_answers: shared.answers.counts(),
    }
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
