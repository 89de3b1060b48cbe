//! What a term may evaluate to: data, and the things that are not data.

use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::op::{DatabaseInfo, TableInfo};

use crate::failure::Failure;

/// The value of a term.
///
/// The stream, table, selection, function and grouped variants are defined by the files that own those things; pure
/// terms only ever see [`Value::Datum`].
#[derive(Clone, Debug)]
pub enum Value {
    Datum(Datum),
    Database(Rc<DatabaseInfo>),
    Table(Rc<TableInfo>),
}

impl Value {
    /// The name of the value's kind in type errors: `DATUM`, `TABLE`, `FUNCTION`, …
    pub fn kind_name(&self) -> &'static str {
        match self {
            Value::Datum(_) => "DATUM",
            Value::Database(_) => "DATABASE",
            Value::Table(_) => "TABLE",
        }
    }

    pub fn null() -> Value {
        Value::Datum(Datum::Null)
    }
}

impl From<Datum> for Value {
    fn from(datum: Datum) -> Value {
        Value::Datum(datum)
    }
}

/// `Expected type X but found Y.`, in RethinkDB's words for a datum of the wrong type.
pub fn wrong_type(wanted: &str, found: &Datum) -> Failure {
    let text = format!("Expected type {wanted} but found {}.", found.type_name());
    // A null where data was wanted is most often a missing row: `default` catches it.
    if found.is_null() { Failure::missing(text) } else { Failure::logic(text) }
}
