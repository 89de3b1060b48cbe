//! The shortest ways: a `get` by primary key whose row is in this core's memory is answered while its frame is read, one whose row
//! is another core's when that core's reply is taken, and the write of one row becomes its operation without an evaluation.
//!
//! Always: they answer exactly what the long way would, or nothing at all; whatever is unusual (for a `get` a page on disk; an error, an
//! option) goes the long way. A `get` spawns no task, and no tree of values is built.

use std::rc::Rc;

use photondb_proto::control::QueryKind;
use photondb_proto::datum::{Text, document, key};
use photondb_proto::op::{Key, Op, TableId};
use photondb_proto::term::Term;
use photondb_proto::wire::response;
use photondb_query::shape::{self, Named};
use photondb_storage::engine::Cached;
use photondb_storage::touch_value;

use crate::access::Access;
use crate::catalog::{Catalog, Table};
use crate::core::Core;
use crate::env::Env;

/// A larger row takes the long way, where it is printed in steps.
const ROW_BYTES_MAX: usize = 64 << 10;
/// What becomes of a query on this way.
pub enum Hot {
    Answered,
    /// Another core is to be asked.
    Elsewhere(PointRead),
    /// It is to go the long way.
    No,
}

/// The read of a row of another core.
pub struct PointRead {
    pub peer: u16,
    pub table: TableId,
    pub key: Key,
}

const DEFAULT_DATABASE: &str = "test";

/// Answers the query if it is a `get` of a row that is at hand.
pub fn point_get<E: Env>(
    core: &Rc<Core<E>>,
    access: &Access,
    token: i64,
    term: &Term,
    options: &[(Text, Term)],
    out: &mut Vec<u8>,
) -> Hot {
    let Some(get) = shape::point_get(term, options) else { return Hot::No };
    let began = core.env.elapsed();
    let catalog = core.catalog();
    let Some(table) = named(&catalog, get.table) else { return Hot::No };
    if !access.may_read(&catalog, table.id) {
        return Hot::No;
    }
    let Ok(key) = key::primary(get.key) else { return Hot::No };
    let peer = core.home(table, &key);
    if peer != core.number {
        let read = PointRead { peer, table: table.id, key };
        return if core.mesh.may_ask(peer) { Hot::Elsewhere(read) } else { Hot::No };
    }
    let local = core.tables.local(table);
    let Some(shard) = local.shard_of(&key) else { return Hot::No };
    let Ok(Cached::Hit(row)) = shard.cached(&key) else { return Hot::No };
    if !is_short(row.as_deref()) {
        return Hot::No;
    }
    local.read.add(u64::from(row.is_some()));
    row.as_deref().inspect(|row| touch_value(row));
    write_row(token, row.as_deref(), out);
    let took = core.env.elapsed() - began;
    core.figures.query_ended(QueryKind::Read, took.as_micros() as u64);
    Hot::Answered
}

/// Whether a row is printed at once.
pub fn is_short(row: Option<&[u8]>) -> bool {
    row.is_none_or(|row| row.len() <= ROW_BYTES_MAX)
}

/// Replies with a row.
pub fn write_row(token: i64, row: Option<&[u8]>, out: &mut Vec<u8>) {
    match row {
        Some(row) => response::atom(token, |out| document::write_json(row, out), out),
        None => response::atom(token, |out| out.extend_from_slice(b"null"), out),
    }
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
