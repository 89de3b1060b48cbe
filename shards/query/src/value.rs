//! What a term may evaluate to: data, and the things that are not data.
//!
//! Streams are *recipes* ([`Sequence`]), not cursors: a value may be used twice and gives the same rows twice. Rows are
//! read when a consumer opens a cursor over the recipe. The row of a `get` is read when its value is asked for, so that
//! a write to it does not read it first.

use std::cell::OnceCell;
use std::rc::Rc;

use photondb_proto::datum::{Datum, json};
use photondb_proto::op::{DatabaseInfo, Key, ReadMode, TableInfo};

use crate::failure::{Failure, Outcome, Place};
use crate::function::Function;
use crate::group::Grouped;
use crate::stream::{Sequence, SequenceKind, Source};

/// The value of a term.
#[derive(Clone, Debug)]
pub enum Value {
    Datum(Datum),
    Database(Rc<DatabaseInfo>),
    Table(TableHandle),
    /// A stream, a selection or a slice of a table.
    Sequence(Rc<Sequence>),
    /// The row of a `get`.
    Row(Rc<SelectedRow>),
    Function(Function),
    Grouped(Rc<Grouped>),
    /// What ASC or DESC marked.
    Ordering(Rc<Ordering>),
}

/// A table as a query uses it.
#[derive(Clone, Debug)]
pub struct TableHandle {
    pub info: Rc<TableInfo>,
    pub mode: ReadMode,
}

/// One row of a table by its key.
#[derive(Debug)]
pub struct SelectedRow {
    pub table: TableHandle,
    pub key: Key,
    pub key_datum: Datum,
    /// Null when there is no such row; filled in when it is read.
    pub document: OnceCell<Datum>,
    /// Whose first row it is, if it was found as that: its changes are those of the first row, whichever that is.
    pub first_of: Option<Rc<Sequence>>,
    /// What to say to all who want the row, but for those who follow its changes: there was none to be the first.
    pub missing: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

#[derive(Debug)]
pub struct Ordering {
    pub direction: Direction,
    pub value: Value,
    pub place: Place,
    /// Decides between rows that are equal by this: UNION takes several orderings as an array.
    pub next: Option<Rc<Ordering>>,
}

impl Value {
    /// The name of the value's kind in type errors: `DATUM`, `TABLE`, `FUNCTION`, …
    pub fn kind_name(&self) -> &'static str {
        match self {
            Value::Datum(_) => "DATUM",
            Value::Database(_) => "DATABASE",
            Value::Table(_) => "TABLE",
            Value::Sequence(sequence) => match sequence.kind {
                SequenceKind::Slice => "TABLE_SLICE",
                SequenceKind::Selection => "SELECTION",
                SequenceKind::Stream => "SEQUENCE",
            },
            Value::Row(_) => "SINGLE_SELECTION",
            Value::Function(_) => "FUNCTION",
            Value::Grouped(grouped) => match **grouped {
                Grouped::Stream { .. } => "SEQUENCE",
                Grouped::Data(_) => "GROUPED_DATA",
            },
            Value::Ordering(ordering) => ordering.value.kind_name(),
        }
    }

    /// The name `type_of` gives.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Datum(datum) => datum.type_name(),
            Value::Database(_) => "DB",
            Value::Table(_) => "TABLE",
            Value::Sequence(sequence) => match (sequence.kind, &sequence.source) {
                (SequenceKind::Slice, _) => "TABLE_SLICE",
                (SequenceKind::Selection, Source::Rows(_)) => "SELECTION<ARRAY>",
                (SequenceKind::Selection, _) => "SELECTION<STREAM>",
                (SequenceKind::Stream, _) => "STREAM",
            },
            Value::Row(_) => "SELECTION<OBJECT>",
            Value::Function(_) => "FUNCTION",
            Value::Grouped(grouped) => grouped.type_name(),
            Value::Ordering(ordering) => ordering.value.type_name(),
        }
    }

    /// How messages show the value.
    pub fn print(&self) -> String {
        match self {
            Value::Datum(datum) => json::to_message_string(datum),
            Value::Database(database) => format!("db(\"{}\")", database.name),
            Value::Table(table) => format!("table(\"{}\")", table.info.name),
            Value::Sequence(sequence) => match &sequence.table {
                Some(table) => format!("SELECTION ON table({})", table.info.name),
                None => "VALUE SEQUENCE".into(),
            },
            Value::Row(row) => match row.document.get() {
                Some(document) => json::to_message_string(document),
                None => format!("SELECTION ON table({})", row.table.info.name),
            },
            Value::Function(_) => "VALUE FUNCTION".into(),
            Value::Grouped(_) => format!("VALUE {}", self.kind_name()),
            Value::Ordering(ordering) => ordering.value.print(),
        }
    }

    pub fn null() -> Value {
        Value::Datum(Datum::Null)
    }

    /// The datum this is, if it is one without waiting.
    pub fn as_datum(&self) -> Option<&Datum> {
        match self {
            Value::Datum(datum) => Some(datum),
            Value::Row(row) => row.document.get(),
            Value::Database(_)
            | Value::Table(_)
            | Value::Sequence(_)
            | Value::Function(_)
            | Value::Grouped(_)
            | Value::Ordering(_) => None,
        }
    }

    /// The datum this is; other things are refused.
    pub fn into_datum(self) -> Outcome<Datum> {
        match self {
            Value::Datum(datum) => Ok(datum),
            other => match other.as_datum() {
                Some(datum) => Ok(datum.clone()),
                None => Err(other.wrong_kind("DATUM")),
            },
        }
    }

    /// `Expected type X but found Y:` and the value.
    pub fn wrong_kind(&self, wanted: &str) -> Failure {
        if let Value::Grouped(grouped) = self
            && matches!(**grouped, Grouped::Stream { .. })
            && wanted == "SEQUENCE"
        {
            return Failure::logic(
                "Cannot treat the output of `group` as a stream (did you mean to `ungroup`?).",
            );
        }
        let text = format!("Expected type {wanted} but found {}:\n{}", self.kind_name(), self.print());
        match self.as_datum() {
            Some(Datum::Null) => Failure::missing(text),
            Some(_) | None => Failure::logic(text),
        }
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
