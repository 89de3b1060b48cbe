//! Joins: nested loops over two sequences, and lookups of keys in a table.
//!
//! The right side of a nested loop is opened anew for each row of the left: nothing is gathered. EQ_JOIN reads the right
//! rows by key, many at a time, and gives pairs in the order of the left rows.

use std::collections::VecDeque;
use std::rc::Rc;

use photondb_proto::datum::{Datum, document, key};
use photondb_proto::op::{TableRead, TableReply};

use crate::cursor::Cursor;
use crate::failure::{Failure, Outcome};
use crate::function::Function;
use crate::run::{Run, wrong_reply};
use crate::stream::Sequence;
use crate::terms::object;
use crate::value::{TableHandle, wrong_type};

/// Left rows whose partners are read together.
const LOOKED_UP_TOGETHER: usize = 128;

#[derive(Debug)]
pub enum Join {
    Loops { left: Rc<Sequence>, right: Rc<Sequence>, function: Function, outer: bool },
    Lookup { left: Rc<Sequence>, table: TableHandle, function: Function },
}

impl Join {
    pub fn is_infinite(&self) -> bool {
        match self {
            Join::Loops { left, right, .. } => left.is_infinite() || right.is_infinite(),
            Join::Lookup { left, .. } => left.is_infinite(),
        }
    }
}

pub enum JoinCursor {
    Loops {
        left: Cursor,
        right: Rc<Sequence>,
        function: Function,
        outer: bool,
        /// The left row, the cursor over the right ones, and whether any matched.
        current: Option<Box<(Datum, Cursor, bool)>>,
    },
    Lookup {
        left: Cursor,
        table: TableHandle,
        function: Function,
        pairs: VecDeque<Datum>,
        ended: bool,
    },
}

impl JoinCursor {
    pub fn open(run: &Run, join: &Join) -> Outcome<JoinCursor> {
        Ok(match join {
            Join::Loops { left, right, function, outer } => JoinCursor::Loops {
                left: Cursor::open(run, left, None)?,
                right: right.clone(),
                function: function.clone(),
                outer: *outer,
                current: None,
            },
            Join::Lookup { left, table, function } => JoinCursor::Lookup {
                left: Cursor::open(run, left, None)?,
                table: table.clone(),
                function: function.clone(),
                pairs: VecDeque::new(),
                ended: false,
            },
        })
    }

    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        match self {
            JoinCursor::Loops { left, right, function, outer, current } => loop {
                let Some((row, cursor, matched)) = current.as_deref_mut() else {
                    let Some(row) = left.next_boxed(run).await? else { return Ok(None) };
                    *current = Some(Box::new((row, Cursor::open(run, right, None)?, false)));
                    continue;
                };
                let Some(partner) = cursor.next_boxed(run).await? else {
                    let alone = *outer && !*matched;
                    let row = row.clone();
                    *current = None;
                    if alone {
                        return Ok(Some(Datum::object([("left", row)])));
                    }
                    continue;
                };
                if function.datum(run, &[row.clone(), partner.clone()]).await?.is_truthy() {
                    *matched = true;
                    return Ok(Some(pair(row.clone(), partner)));
                }
            },
            JoinCursor::Lookup { left, table, function, pairs, ended } => loop {
                if let Some(pair) = pairs.pop_front() {
                    return Ok(Some(pair));
                }
                if *ended {
                    return Ok(None);
                }
                let (mut rows, mut keys) = (Vec::new(), Vec::new());
                while rows.len() < LOOKED_UP_TOGETHER {
                    let Some(row) = left.next_boxed(run).await? else {
                        *ended = true;
                        break;
                    };
                    if let Some(found) = lookup_key(run, function, &row).await? {
                        keys.push(found);
                        rows.push(row);
                    }
                }
                look_up(run, table, rows, keys, pairs).await?;
            },
        }
    }
}

fn pair(left: Datum, right: Datum) -> Datum {
    Datum::object([("left", left), ("right", right)])
}

/// The key a left row asks for; rows without one have no partners.
async fn lookup_key(run: &Run, function: &Function, row: &Datum) -> Outcome<Option<Vec<u8>>> {
    match function.datum(run, std::slice::from_ref(row)).await {
        Ok(Datum::Null) => Ok(None),
        Ok(datum) => {
            Ok(Some(key::primary(&datum).map_err(|error| Failure::from(error).at(function.body_place()))?))
        }
        Err(failure) if failure.is_missing() => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn look_up(
    run: &Run,
    table: &TableHandle,
    rows: Vec<Datum>,
    keys: Vec<Vec<u8>>,
    pairs: &mut VecDeque<Datum>,
) -> Outcome<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let TableReply::Rows(found) = run.read(table.info.id, TableRead::GetMany { keys }, table.mode).await?
    else {
        return Err(wrong_reply());
    };
    for (row, partner) in rows.into_iter().zip(found) {
        if let Some(bytes) = partner {
            pairs.push_back(pair(row, document::decode(bytes.into())));
        }
    }
    Ok(())
}

/// ZIP: merges the right side of a pair into the left.
pub fn zip(row: &Datum) -> Outcome<Datum> {
    let refused = || Failure::logic("ZIP can only be called on the result of a join.");
    let Datum::Object(object) = row else { return Err(wrong_type("OBJECT", row)) };
    match (object.field("left"), object.field("right")) {
        (Some(left), Some(right)) => object::merge(&left, &right),
        (Some(left), None) => Ok(left),
        (None, _) => Err(refused()),
    }
}
