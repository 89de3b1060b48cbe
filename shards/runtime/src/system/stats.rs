//! `stats`: what the server does now and has done since it started, in all, and by table.
//!
//! Figures are the cores' own counters, added up; rates are over the last second or so.

use photondb_proto::datum::{Datum, ObjectBuilder};

use super::{RowIter, View};
use crate::catalog::Table;
use crate::catalog::row::{database, server, table_name};
use crate::core::CoreFigures;
use crate::table::TableFigures;

pub fn stats<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    let server_id = view.catalog.server_id();
    let engine = query_engine(view);
    let cluster = Datum::object([
        ("id", Datum::array(vec![Datum::string("cluster")])),
        ("query_engine", Datum::Object(engine.build())),
    ]);
    let id = vec![Datum::string("server"), Datum::string(&server_id)];
    let mut totals = query_engine(view);
    totals.set("queries_total", number(view, |core| core.report.queries.iter().sum::<u64>() as f64));
    totals.set("read_docs_total", tables(view, |table| table.read_total as f64));
    totals.set("written_docs_total", tables(view, |table| table.written_total as f64));
    let this = Datum::object([
        ("id", Datum::array(id)),
        ("query_engine", Datum::Object(totals.build())),
        ("server", server(&view.catalog, view.identifiers)),
    ]);
    let tables = view.catalog.tables();
    let of_tables = tables.flat_map(move |table| [of_table(view, table), on_server(view, table, &server_id)]);
    Box::new([cluster, this].into_iter().chain(of_tables))
}

fn number(view: &View, of: impl Fn(&CoreFigures) -> f64) -> Datum {
    Datum::Number(view.facts.sum(of))
}

/// A figure of all tables.
fn tables(view: &View, of: impl Fn(&TableFigures) -> f64) -> Datum {
    Datum::Number(view.facts.tables.values().map(of).sum::<f64>() + 0.0)
}

fn query_engine(view: &View) -> ObjectBuilder {
    let mut engine = ObjectBuilder::default();
    engine.set("client_connections", number(view, |core| core.report.connections_open as f64));
    engine.set("clients_active", number(view, |core| core.clients_active as f64));
    engine.set("queries_per_sec", number(view, |core| core.queries_per_second));
    engine.set("read_docs_per_sec", tables(view, |table| table.read_per_second));
    engine.set("written_docs_per_sec", tables(view, |table| table.written_per_second));
    engine
}

/// What the cores have done for one table.
fn figures_of(view: &View, table: &Table) -> TableFigures {
    view.facts.tables.get(&table.id).cloned().unwrap_or_else(|| TableFigures::none(table.id))
}

fn of_table(view: &View, table: &Table) -> Datum {
    let figures = figures_of(view, table);
    let engine = Datum::object([
        ("read_docs_per_sec", Datum::Number(figures.read_per_second)),
        ("written_docs_per_sec", Datum::Number(figures.written_per_second)),
    ]);
    let id = vec![Datum::string("table"), Datum::string(&table.id.to_string())];
    Datum::object([
        ("db", database(&view.catalog, table, view.identifiers)),
        ("id", Datum::array(id)),
        ("query_engine", engine),
        ("table", table_name(table, view.identifiers)),
    ])
}

fn on_server(view: &View, table: &Table, server_id: &str) -> Datum {
    let figures = figures_of(view, table);
    let engine = Datum::object([
        ("read_docs_per_sec", Datum::Number(figures.read_per_second)),
        ("read_docs_total", Datum::Number(figures.read_total as f64)),
        ("written_docs_per_sec", Datum::Number(figures.written_per_second)),
        ("written_docs_total", Datum::Number(figures.written_total as f64)),
    ]);
    let id =
        vec![Datum::string("table_server"), Datum::string(&table.id.to_string()), Datum::string(server_id)];
    Datum::object([
        ("db", database(&view.catalog, table, view.identifiers)),
        ("id", Datum::array(id)),
        ("query_engine", engine),
        ("server", server(&view.catalog, view.identifiers)),
        ("storage_engine", storage_engine(&figures)),
        ("table", table_name(table, view.identifiers)),
    ])
}

/// What the table takes, and what the disk does for it.
fn storage_engine(figures: &TableFigures) -> Datum {
    let bytes = |bytes: u64| Datum::Number(bytes as f64);
    let usage = &figures.usage;
    let space = Datum::object([
        ("data_bytes", bytes(usage.data_bytes)),
        ("garbage_bytes", bytes(usage.garbage_bytes)),
        ("metadata_bytes", bytes(usage.page_bytes)),
        ("preallocated_bytes", bytes(usage.spare_bytes)),
    ]);
    let disk = Datum::object([
        ("read_bytes_per_sec", Datum::Number(figures.disk_read_per_second)),
        ("read_bytes_total", bytes(usage.read_bytes)),
        ("space_usage", space),
        ("written_bytes_per_sec", Datum::Number(figures.disk_written_per_second)),
        ("written_bytes_total", bytes(usage.written_bytes)),
    ]);
    Datum::object([("cache", Datum::object([("in_use_bytes", bytes(usage.cache_bytes))])), ("disk", disk)])
}

/// `_debug_stats`: the counters of each core.
pub fn debug<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    let cores = view.facts.figures.iter().map(|core| {
        let report = &core.report;
        let figures = [
            ("cache_bytes", report.cache_bytes),
            ("cache_hits", report.cache_hits),
            ("cache_misses", report.cache_misses),
            ("checkpoints", report.checkpoints),
            ("connections_total", report.connections_total),
            ("core", u64::from(report.core)),
            ("cursors_open", report.cursors_open),
            ("dirty_bytes", report.dirty_bytes),
            ("disk_bytes", report.disk_bytes),
            ("query_errors", report.query_errors),
            ("shards", report.shards),
            ("wal_bytes", report.wal_bytes),
            ("wal_flushes", report.wal_flushes),
        ];
        Datum::object(figures.map(|(name, figure)| (name, Datum::Number(figure as f64))))
    });
    let row = Datum::object([
        ("id", Datum::string(&view.catalog.server_id())),
        ("name", Datum::string(&view.catalog.server.name)),
        ("stats", Datum::object([("cores", Datum::array(cores.collect()))])),
    ]);
    Box::new(std::iter::once(row))
}
