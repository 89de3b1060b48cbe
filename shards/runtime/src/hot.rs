//! The shortest way: a `get` by primary key whose row is in this core's memory is answered while its frame is read.
//!
//! Always: it answers exactly what the long way would, or nothing at all; whatever is unusual (another core, a page on
//! disk, an error, an option) goes the long way. It spawns no task and builds no tree of values.

use std::rc::Rc;

use photondb_proto::control::QueryKind;
use photondb_proto::datum::{Datum, Text, document, key};
use photondb_proto::term::{Call, Term};
use photondb_proto::wire::response;
use photondb_storage::engine::Cached;

use crate::core::Core;
use crate::env::Env;

/// `r.db(database).table(table).get(key)`, as terms.
struct PointGet<'a> {
    database: &'a str,
    table: &'a str,
    key: &'a Datum,
}

const DB: u32 = 14;
const TABLE: u32 = 15;
const GET: u32 = 16;
const DEFAULT_DATABASE: &str = "test";

/// Answers the query if it is a `get` of a row that is at hand.
pub fn point_get<E: Env>(
    core: &Rc<Core<E>>,
    token: i64,
    term: &Term,
    options: &[(Text, Term)],
    out: &mut Vec<u8>,
) -> bool {
    let Some(get) = shape(term, options) else { return false };
    let began = core.env.elapsed();
    let catalog = core.catalog();
    let Ok(table) = catalog.table_named(get.database, get.table) else { return false };
    let Ok(key) = key::primary(get.key) else { return false };
    let local = core.tables.local(table);
    let Some(shard) = local.shard_of(&key) else { return false };
    let Ok(Cached::Hit(row)) = shard.cached(&key) else { return false };
    match row {
        Some(row) => response::atom(token, |out| document::write_json(&row, out), out),
        None => response::atom(token, |out| out.extend_from_slice(b"null"), out),
    }
    let took = core.env.elapsed() - began;
    core.figures.query_ended(QueryKind::Read, took.as_micros() as u64);
    true
}

fn shape<'a>(term: &'a Term, options: &'a [(Text, Term)]) -> Option<PointGet<'a>> {
    let mut default = DEFAULT_DATABASE;
    for (name, value) in options {
        match name.as_str() {
            "db" => default = database(value)?,
            _ => return None,
        }
    }
    let [table, Term::Datum(key)] = arguments(term, GET)? else { return None };
    let (database, name) = match arguments(table, TABLE)? {
        [Term::Datum(Datum::String(name))] => (default, name),
        [owner, Term::Datum(Datum::String(name))] => (database(owner)?, name),
        _ => return None,
    };
    Some(PointGet { database, table: name.as_str(), key })
}

fn database(term: &Term) -> Option<&str> {
    match arguments(term, DB)? {
        [Term::Datum(Datum::String(name))] => Some(name.as_str()),
        _ => None,
    }
}

/// The arguments of a call of `number` without options.
fn arguments(term: &Term, number: u32) -> Option<&[Term]> {
    match term {
        Term::Call(call) => {
            let Call { number: found, arguments, options } = &**call;
            (*found == number && options.is_empty()).then_some(arguments)
        }
        Term::Datum(_) => None,
    }
}
