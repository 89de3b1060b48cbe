//! Shapes of queries that the runtime may answer without an evaluation.

use photondb_proto::datum::{Datum, Text};
use photondb_proto::term::{Call, Term, number};

/// `r.db(database).table(table).get(key)` and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct PointGet<'a> {
    /// `None`: the default one.
    pub database: Option<&'a str>,
    pub table: &'a str,
    pub key: &'a Datum,
}

/// The point read a query is, if it is one whose answer no option changes.
pub fn point_get<'a>(term: &'a Term, options: &'a [(Text, Term)]) -> Option<PointGet<'a>> {
    let mut default = None;
    for (key, value) in options {
        match key.as_str() {
            "db" => default = Some(database(value)?),
            "time_format"
            | "binary_format"
            | "group_format"
            | "max_batch_rows"
            | "max_batch_bytes"
            | "min_batch_rows"
            | "first_batch_scaledown_factor" => {}
            _ => return None,
        }
    }
    let get = plain_call(term, number::GET)?;
    let [table, Term::Datum(key)] = get.arguments.as_slice() else { return None };
    let table = plain_call(table, number::TABLE)?;
    let (database, name) = match table.arguments.as_slice() {
        [name] => (default, name),
        [named, name] => (Some(database(named)?), name),
        _ => return None,
    };
    let Term::Datum(Datum::String(name)) = name else { return None };
    Some(PointGet { database, table: name.as_str(), key })
}

fn plain_call(term: &Term, number: u32) -> Option<&Call> {
    match term {
        Term::Call(call) if call.number == number && call.options.is_empty() => Some(call),
        Term::Call(_) | Term::Datum(_) => None,
    }
}

fn database(term: &Term) -> Option<&str> {
    match plain_call(term, number::DB)?.arguments.as_slice() {
        [Term::Datum(Datum::String(name))] => Some(name.as_str()),
        _ => None,
    }
}
