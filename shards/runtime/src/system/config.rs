//! `db_config`, `table_config`, `table_status`: databases and tables as the catalog has them.

use photondb_proto::datum::Datum;
use photondb_proto::op::{DatabaseId, TableId};

use super::{RowIter, View};
use crate::catalog::edit::uuid;
use crate::catalog::{Table, row};

pub fn databases<'a>(view: &'a View, key: Option<&Datum>) -> RowIter<'a> {
    match key {
        Some(key) => {
            let found = uuid(key).and_then(|id| view.catalog.database(DatabaseId(id)));
            Box::new(found.into_iter().map(row::database_config))
        }
        None => Box::new(view.catalog.databases().map(row::database_config)),
    }
}

pub fn tables<'a>(view: &'a View, key: Option<&Datum>) -> RowIter<'a> {
    each(view, key, |view, table| row::table_config(&view.catalog, table, view.identifiers))
}

pub fn statuses<'a>(view: &'a View, key: Option<&Datum>) -> RowIter<'a> {
    each(view, key, |view, table| row::table_status(&view.catalog, table, view.identifiers))
}

fn each<'a>(view: &'a View, key: Option<&Datum>, row: fn(&View, &Table) -> Datum) -> RowIter<'a> {
    match key {
        Some(key) => {
            let found = uuid(key).and_then(|id| view.catalog.table(TableId(id)));
            Box::new(found.into_iter().map(move |table| row(view, table)))
        }
        None => Box::new(view.catalog.tables().map(move |table| row(view, table))),
    }
}
