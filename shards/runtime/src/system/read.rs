//! Reading system tables: rows are made, sorted by key, and go through the code that scans stored rows.
//!
//! Always: a step holds nothing when it has answered, like a step over stored rows: the next one makes the rows anew and
//! goes on behind the last key. Making many rows lets other tasks have their turn.

use std::rc::Rc;

use photondb_proto::datum::{Datum, Object, document, key};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{
    Document, Identifiers, Key, KeyBound, KeyRange, PartBatch, Scan, ScanOrder, ScanRange, TableId,
    TableRead, TableReply,
};

use super::{Facts, SystemTable, View};
use crate::catalog::failed;
use crate::core::Core;
use crate::env::Env;
use crate::rows::{Rows, Taken, turns};
use crate::scan::Pace;

/// Answers a read of a system table.
///
/// # Errors
/// The query's, from work that travels to the rows; or that there is no such table.
pub async fn read<E: Env>(
    core: &Rc<Core<E>>,
    user: &str,
    id: TableId,
    read: TableRead,
) -> Result<TableReply, QueryError> {
    let (table, identifiers) = named(id)?;
    let view = view(core, table, identifiers, user).await;
    Ok(match read {
        TableRead::Get { key } => TableReply::Row(row(table, &view, &key)),
        TableRead::GetMany { keys } => {
            TableReply::Rows(keys.iter().map(|key| row(table, &view, key)).collect())
        }
        TableRead::Count { ranges, .. } => {
            let rows = rows(core, table, &view, &ranges).await?;
            TableReply::Count(rows.iter().map(|(.., copies)| u64::from(*copies)).sum())
        }
        TableRead::Scan(scan) => TableReply::Parts(vec![part(core, table, &view, scan).await?]),
    })
}

/// The rows of a system table within ranges, by key.
///
/// # Errors
/// There is no such table.
pub async fn rows_in<E: Env>(
    core: &Rc<Core<E>>,
    user: &str,
    id: TableId,
    ranges: &[ScanRange],
) -> Result<Vec<(Key, Document)>, QueryError> {
    let (table, identifiers) = named(id)?;
    let view = view(core, table, identifiers, user).await;
    let rows = rows(core, table, &view, ranges).await?;
    Ok(rows.into_iter().map(|(key, row, _)| (key, row)).collect())
}

fn named(id: TableId) -> Result<(&'static SystemTable, Identifiers), QueryError> {
    SystemTable::of(id).ok_or_else(|| failed(format!("Table `{id}` does not exist.")))
}

/// What the rows are made of now.
pub async fn view<E: Env>(
    core: &Rc<Core<E>>,
    table: &SystemTable,
    identifiers: Identifiers,
    user: &str,
) -> View {
    let facts = Facts::gather(core, table.needs).await;
    View { catalog: core.catalog(), identifiers, user: user.to_owned(), facts }
}

/// The row under a key.
pub fn row(table: &SystemTable, view: &View, key: &[u8]) -> Option<Document> {
    let wanted = key::decode(key)?;
    let row = (table.rows)(view, Some(&wanted)).find(|row| key_of(row).is_ok_and(|own| own == key))?;
    Some(document::to_bytes(&row))
}

fn key_of(row: &Datum) -> Result<Key, QueryError> {
    let id = match row {
        Datum::Object(row) => Object::field(row, "id"),
        _ => None,
    };
    key::primary(&id.ok_or_else(|| QueryError::new(ErrorKind::Internal, "a system row lacks its key"))?)
}

/// The rows within ranges, sorted by key, and how often each is given.
async fn rows<E: Env>(
    core: &Rc<Core<E>>,
    table: &SystemTable,
    view: &View,
    ranges: &[ScanRange],
) -> Result<Vec<(Key, Document, u32)>, QueryError> {
    let mut pace = Pace::new(core);
    let mut rows = Vec::new();
    for row in (table.rows)(view, None) {
        let key = key_of(&row)?;
        let around = ranges.iter().filter(|range| is_within(&range.range, &key));
        let copies = around.map(|range| range.copies).sum();
        if copies > 0 {
            rows.push((key, document::to_bytes(&row), copies));
        }
        pace.keep().await;
    }
    rows.sort();
    Ok(rows)
}

fn is_within(range: &KeyRange, key: &Key) -> bool {
    let after_start = match &range.start {
        KeyBound::Unbounded => true,
        KeyBound::Included(start) => key >= start,
        KeyBound::Excluded(start) => key > start,
    };
    after_start
        && match &range.end {
            KeyBound::Unbounded => true,
            KeyBound::Included(end) => key <= end,
            KeyBound::Excluded(end) => key < end,
        }
}

/// One step of a scan.
async fn part<E: Env>(
    core: &Rc<Core<E>>,
    table: &SystemTable,
    view: &View,
    mut scan: Scan,
) -> Result<PartBatch, QueryError> {
    let descending = scan.order == ScanOrder::Descending;
    let mut found = rows(core, table, view, &scan.ranges).await?;
    if let Some([(_, last)]) = scan.resume.take().as_deref() {
        found.retain(|(key, ..)| if descending { key < last } else { key > last });
    }
    if descending {
        found.reverse();
    }
    let (mut taken, mut pace) = (Rows::new(&scan, turns(&core.env))?, Pace::new(core));
    let (mut next, mut left) = (None, found.len());
    for (key, row, copies) in found {
        left -= 1;
        match taken.take_copies(&key, row.into(), copies).await? {
            Taken::GoOn => {}
            Taken::Full => {
                next = Some(key).filter(|_| left > 0);
                break;
            }
            Taken::End => break,
        }
        pace.keep().await;
    }
    let (rows, partial) = taken.end();
    Ok(PartBatch { part: core.number, rows, partial, next })
}
