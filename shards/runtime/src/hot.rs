//! The shortest ways: a `get` by primary key whose row is in this core's memory is answered while its frame is read, and the write of
//! one row becomes its operation without an evaluation.
//!
//! Always: they answer exactly what the long way would, or nothing at all; whatever is unusual (for a `get` another core, or a page on
//! disk; an error, an option) goes the long way. A `get` spawns no task, and no tree of values is built.

use std::rc::Rc;

use photondb_proto::control::QueryKind;
use photondb_proto::datum::{Text, document, key};
use photondb_proto::op::Op;
use photondb_proto::term::Term;
use photondb_proto::wire::response;
use photondb_query::shape::{self, Named};
use photondb_storage::engine::Cached;

use crate::access::Access;
use crate::catalog::{Catalog, Table};
use crate::core::Core;
use crate::env::Env;

/// A larger row takes the long way, where it is printed in steps.
const ROW_BYTES_MAX: usize = 64 << 10;
const DEFAULT_DATABASE: &str = "test";

/// Answers the query if it is a `get` of a row that is at hand.
pub fn point_get<E: Env>(
    core: &Rc<Core<E>>,
    access: &Access,
    token: i64,
    term: &Term,
    options: &[(Text, Term)],
    out: &mut Vec<u8>,
) -> bool {
    let Some(get) = shape::point_get(term, options) else { return false };
    let began = core.env.elapsed();
    let catalog = core.catalog();
    let Some(table) = named(&catalog, get.table) else { return false };
    if !access.may_read(&catalog, table.id) {
        return false;
    }
    let Ok(key) = key::primary(get.key) else { return false };
    let local = core.tables.local(table);
    let Some(shard) = local.shard_of(&key) else { return false };
    let Ok(Cached::Hit(row)) = shard.cached(&key) else { return false };
    if row.as_ref().is_some_and(|row| row.len() > ROW_BYTES_MAX) {
        return false;
    }
    local.read.add(u64::from(row.is_some()));
    match row {
        Some(row) => response::atom(token, |out| document::write_json(&row, out), out),
        None => response::atom(token, |out| out.extend_from_slice(b"null"), out),
    }
    let took = core.env.elapsed() - began;
    core.figures.query_ended(QueryKind::Read, took.as_micros() as u64);
    true
}

/// The operation that the query is, if it is the write of one row.
pub fn point_write<E: Env>(core: &Rc<Core<E>>, term: &Term, options: &[(Text, Term)]) -> Option<Op> {
    let write = shape::point_write(term, options)?;
    let catalog = core.catalog();
    let table = named(&catalog, write.table)?;
    Some(Op::Write { table: table.id, write: write.table_write(&table.primary_key)? })
}

fn named<'a>(catalog: &'a Catalog, table: Named<'_>) -> Option<&'a Rc<Table>> {
    catalog.table_named(table.database.unwrap_or(DEFAULT_DATABASE), table.name).ok()
}
