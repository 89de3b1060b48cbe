//! `users` and `permissions`: who may log in, and what they may do then.

use photondb_proto::datum::Datum;

use super::{RowIter, View, name_of};
use crate::catalog::edit::shown_names;
use crate::catalog::permissions;

pub fn users<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    Box::new(view.catalog.users().map(|(name, credential)| {
        Datum::object([("id", Datum::string(name)), ("password", Datum::Bool(!credential.password_is_empty))])
    }))
}

pub fn permissions<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    Box::new(permissions::rows(&view.catalog).map(|row| {
        let (database, table) = shown_names(&view.catalog, view.identifiers, row.scope, name_of);
        row.shown(database, table)
    }))
}
