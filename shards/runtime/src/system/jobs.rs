//! `jobs`: the queries that run and the indexes that are constructed, on all cores.
//!
//! A query's id is a UUID made of its core and its number there, so that the row that is deleted says where to go. Who is not
//! `admin` sees his own queries alone.

use photondb_proto::datum::Datum;
use photondb_proto::op::uuid_text;

use super::{RowIter, View};
use crate::catalog::ADMIN;
use crate::catalog::edit::uuid;
use crate::catalog::row::{database, server, table_name};
use crate::jobs::RunningQuery;

/// What ids of jobs begin with; no UUID of another kind does.
const HEAD: [u8; 6] = [0x9e, 0x75, 0xe5, 0x1a, 0x0b, 0x05];

fn id(core: u16, number: u64) -> String {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&HEAD);
    bytes[6..8].copy_from_slice(&core.to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    uuid_text(&bytes)
}

/// The core and number that a key names.
pub fn place(key: &Datum) -> Option<(u16, u64)> {
    let Datum::Array(key) = key else { return None };
    let bytes = uuid(&key.item(1)?)?;
    let (head, rest) = bytes.split_at(6);
    let (core, number) = rest.split_at(2);
    let place = (u16::from_be_bytes(core.try_into().ok()?), u64::from_be_bytes(number.try_into().ok()?));
    (head == HEAD).then_some(place)
}

/// The kind of job that a key names.
pub fn kind(key: &Datum) -> Option<String> {
    let Datum::Array(key) = key else { return None };
    crate::catalog::edit::text(&key.item(0)?)
}

pub fn jobs<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    let seen = |query: &&RunningQuery| view.user == ADMIN || view.user == query.user;
    let queries = view.facts.queries.iter().filter(seen).map(|query| {
        let (address, port) = match query.peer {
            Some(peer) => (Datum::string(&peer.ip().to_string()), Datum::Number(f64::from(peer.port()))),
            None => (Datum::Null, Datum::Null),
        };
        let info = Datum::object([
            ("client_address", address),
            ("client_port", port),
            ("query", Datum::string(&query.text)),
            ("user", Datum::string(&query.user)),
        ]);
        let key = vec![Datum::string("query"), Datum::string(&id(query.core, query.number))];
        Datum::object([
            ("duration_sec", Datum::Number(query.duration.as_secs_f64())),
            ("id", Datum::array(key)),
            ("info", info),
            ("servers", Datum::array(vec![server(&view.catalog, view.identifiers)])),
            ("type", Datum::string("query")),
        ])
    });
    Box::new(queries.chain(constructions(view)))
}

/// Indexes under construction; only `admin` sees them.
fn constructions(view: &View) -> impl Iterator<Item = Datum> {
    let tables = view.catalog.tables().filter(|_| view.user == ADMIN);
    let indexes = tables.flat_map(|table| table.indexes.iter().map(move |index| (table, index)));
    indexes.filter(|(_, index)| !index.ready).map(|(table, index)| {
        let parts = view.facts.constructions.iter().filter(|part| part.index == index.id);
        let (done, total) = parts.fold((0, 0), |(done, total), part| (done + part.done, total + part.total));
        let info = Datum::object([
            ("db", database(&view.catalog, table, view.identifiers)),
            ("index", Datum::string(&index.definition.name)),
            ("progress", Datum::Number(done as f64 / total.max(1) as f64)),
            ("table", table_name(table, view.identifiers)),
        ]);
        let key = vec![Datum::string("index_construction"), Datum::string(&uuid_text(&index.id.0))];
        Datum::object([
            ("duration_sec", Datum::Null),
            ("id", Datum::array(key)),
            ("info", info),
            ("servers", Datum::array(vec![server(&view.catalog, view.identifiers)])),
            ("type", Datum::string("index_construction")),
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_job_says_where_it_runs() {
        let key = |id: &str| Datum::array(vec![Datum::string("query"), Datum::string(id)]);
        assert_eq!(place(&key(&id(3, 1 << 40))), Some((3, 1 << 40)));
        assert_eq!(kind(&key("x")).as_deref(), Some("query"));
        for other in ["x", "25e874ba-ca56-4a23-a1f7-122ed69ba021"] {
            assert_eq!(place(&key(other)), None, "{other}");
        }
    }
}
