//! `users`: who may log in.

use photondb_proto::datum::Datum;

use super::{RowIter, View};

pub fn users<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    Box::new(view.catalog.users().map(|(name, credential)| {
        Datum::object([("id", Datum::string(name)), ("password", Datum::Bool(!credential.password_is_empty))])
    }))
}
