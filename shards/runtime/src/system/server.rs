//! `server_config` and `cluster_config`: what is set for this server.

use photondb_proto::datum::Datum;

use super::{RowIter, View};

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
