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

/// `_debug_table_status`: one server has nothing to agree on.
pub fn debug_statuses<'a>(view: &'a View, key: Option<&Datum>) -> RowIter<'a> {
    each(view, key, |view, table| {
        let config = row::table_config(&view.catalog, table, view.identifiers);
        Datum::object([
            ("config", config),
            ("db", row::database(&view.catalog, table, view.identifiers)),
            ("id", Datum::string(&table.id.to_string())),
            ("name", Datum::string(&table.name)),
            ("shard_scheme", Datum::object([("split_points", Datum::array(Vec::new()))])),
            ("table_server_status", Datum::array(Vec::new())),
        ])
    })
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
