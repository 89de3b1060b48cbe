//! Shapes of queries that the runtime may answer without an evaluation.

use photondb_proto::datum::{Datum, Text, key};
use photondb_proto::op::{
    Change, Conflict, Document, Durability, InsertRow, ReturnChanges, TableWrite, WriteHook, WriteOptions,
};
use photondb_proto::term::{Call, Term, number};

use crate::row::storable;

/// A larger value takes the long way, where it is gone through in steps.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// `r.db(database).table(name)`.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// `None`: the default one.
    pub database: Option<&'a str>,
    pub name: &'a str,
}

/// `table.get(key)` and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct PointGet<'a> {
    pub table: Named<'a>,
    pub key: &'a Datum,
}

/// `table.insert(document)`, or `table.get(key).update(object)`, with constants.
#[derive(Clone, Copy, Debug)]
pub struct PointWrite<'a> {
    pub table: Named<'a>,
    /// `None`: the table's own.
    durability: Option<Durability>,
    row: RowWrite<'a>,
}

#[derive(Clone, Copy, Debug)]
enum RowWrite<'a> {
    Insert(&'a Datum),
    Update { key: &'a Datum, object: &'a Datum },
}

/// The point read a query is, if it is one whose answer no option changes.
pub fn point_get<'a>(term: &'a Term, options: &'a [(Text, Term)]) -> Option<PointGet<'a>> {
    row(plain_call(term, number::GET)?, default_database(options)?)
}

/// The write of one row a query is, if it is one whose answer no option changes.
pub fn point_write<'a>(term: &'a Term, options: &'a [(Text, Term)]) -> Option<PointWrite<'a>> {
    let Term::Call(write) = term else { return None };
    let [target, Term::Datum(value)] = write.arguments.as_slice() else { return None };
    let durability = match write.options.as_slice() {
        [] => None,
        [(name, Term::Datum(Datum::String(word)))] if name.as_str() == "durability" => match word.as_str() {
            "hard" => Some(Durability::Hard),
            "soft" => Some(Durability::Soft),
            _ => return None,
        },
        _ => return None,
    };
    let default = default_database(options)?;
    let (table, row) = match write.number {
        number::INSERT => (table(target, default)?, RowWrite::Insert(value)),
        number::UPDATE => {
            let PointGet { table, key } = row(plain_call(target, number::GET)?, default)?;
            (table, RowWrite::Update { key, object: value })
        }
        _ => return None,
    };
    Some(PointWrite { table, durability, row })
}

impl PointWrite<'_> {
    /// What it asks of a table; `None` where the answer takes more than that: a key is to be made, something is wrong, or large.
    pub fn table_write(&self, primary_key: &str) -> Option<TableWrite> {
        let PointWrite { durability, row, .. } = *self;
        let options =
            WriteOptions { durability, return_changes: ReturnChanges::No, write_hook: WriteHook::Asked };
        Some(match row {
            RowWrite::Insert(value) => {
                let document = plain_object(value)?;
                let Datum::Object(object) = value else { return None };
                let key = key::primary(&object.field(primary_key)?).ok()?;
                TableWrite::Insert {
                    rows: vec![InsertRow { key, document }],
                    conflict: Conflict::Error,
                    options,
                }
            }
            RowWrite::Update { key, object } => {
                let (keys, change) = (vec![key::primary(key).ok()?], Change::Merge(plain_object(object)?));
                TableWrite::Change { keys, change, options }
            }
        })
    }
}

/// An object that stands for nothing else, as it may be stored. One that is large is not looked at.
pub fn plain_object(datum: &Datum) -> Option<Document> {
    match datum {
        Datum::Object(_) if datum.pseudotype().is_none() && datum.approximate_bytes() <= VALUE_BYTES_MAX => {
            storable(datum).ok()
        }
        _ => None,
    }
}

/// The database that a query's options name; `None` when one of them changes answers.
fn default_database(options: &[(Text, Term)]) -> Option<Option<&str>> {
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
    Some(default)
}

fn row<'a>(get: &'a Call, default: Option<&'a str>) -> Option<PointGet<'a>> {
    let [target, Term::Datum(key)] = get.arguments.as_slice() else { return None };
    Some(PointGet { table: table(target, default)?, key })
}

fn table<'a>(term: &'a Term, default: Option<&'a str>) -> Option<Named<'a>> {
    let (database, name) = match plain_call(term, number::TABLE)?.arguments.as_slice() {
        [name] => (default, name),
        [named, name] => (Some(database(named)?), name),
        _ => return None,
    };
    let Term::Datum(Datum::String(name)) = name else { return None };
    Some(Named { database, name: name.as_str() })
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
