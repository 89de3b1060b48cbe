//! `server_config`, `cluster_config`, `server_status`, `current_issues`: what is set for this server, and how it is.

use photondb_proto::datum::{Datum, Time};
use photondb_proto::wire::handshake::SERVER_VERSION;

use super::{RowIter, View};
use crate::catalog::row::server;

pub fn server_config<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    let server = &view.catalog.server;
    let row = Datum::object([
        ("cache_size_mb", Datum::string("auto")),
        ("id", Datum::string(&view.catalog.server_id())),
        ("name", Datum::string(&server.name)),
        ("tags", Datum::array(server.tags.iter().map(|tag| Datum::string(tag)).collect())),
    ]);
    Box::new(std::iter::once(row))
}

pub fn cluster_config<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    let seconds = Datum::Number(view.catalog.server.heartbeat_timeout_secs);
    let row = [("heartbeat_timeout_secs", seconds), ("id", Datum::string("heartbeat"))];
    Box::new(std::iter::once(Datum::object(row)))
}

pub fn server_status<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    let facts = &view.facts.server;
    let started = Time { epoch_seconds: facts.started_unix_ms as f64 / 1000.0, zone_minutes: 0 };
    let cluster_port = Datum::Number(f64::from(facts.cluster_port));
    let address = Datum::object([("host", Datum::string(&facts.hostname)), ("port", cluster_port.clone())]);
    let http_port = match facts.http_port {
        Some(port) => Datum::Number(f64::from(port)),
        None => Datum::string("<no http admin>"),
    };
    let network = Datum::object([
        ("canonical_addresses", Datum::array(vec![address])),
        ("cluster_port", cluster_port),
        ("connected_to", Datum::object([])),
        ("hostname", Datum::string(&facts.hostname)),
        ("http_admin_port", http_port),
        ("reql_port", Datum::Number(f64::from(view.facts.driver_port))),
        ("time_connected", Datum::Time(started)),
    ]);
    let process = Datum::object([
        ("argv", Datum::array(facts.argv.iter().map(|word| Datum::string(word)).collect())),
        ("cache_size_mb", Datum::Number(facts.cache_bytes as f64 / f64::from(1 << 20))),
        ("pid", Datum::Number(f64::from(facts.process_id))),
        ("time_started", Datum::Time(started)),
        ("version", Datum::string(&format!("rethinkdb {SERVER_VERSION} (PhotonDB {})", facts.version))),
    ]);
    let row = Datum::object([
        ("id", Datum::string(&view.catalog.server_id())),
        ("name", Datum::string(&view.catalog.server.name)),
        ("network", network),
        ("process", process),
    ]);
    Box::new(std::iter::once(row))
}

/// Stores that take no writes.
pub fn current_issues<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    let issues = view.facts.figures.iter().flat_map(|core| {
        let report = &core.report;
        let number = report.core;
        let broken = report.read_only.as_ref().map(|reason| {
            let text = format!(
                "A store of core {number} takes no writes: {reason}. What it holds can be read; start the server again once the \
                 cause is gone."
            );
            issue(view, "read_only_store", number, reason, &text)
        });
        let full = report.disk_full.as_ref().map(|reason| {
            let text = format!(
                "The disk is full: core {number} refuses writes ({reason}). What it holds can be read, and writes go on as soon \
                 as there is room."
            );
            issue(view, "disk_full", number, reason, &text)
        });
        [broken, full].into_iter().flatten()
    });
    Box::new(issues)
}

fn issue(view: &View, kind: &str, core: u16, reason: &str, text: &str) -> Datum {
    let servers = Datum::array(vec![server(&view.catalog, view.identifiers)]);
    let info = [("message", Datum::string(reason)), ("servers", servers)];
    Datum::object([
        ("critical", Datum::Bool(true)),
        ("description", Datum::string(text)),
        ("id", Datum::string(&format!("{kind}_{core}"))),
        ("info", Datum::object(info)),
        ("type", Datum::string(kind)),
    ])
}
