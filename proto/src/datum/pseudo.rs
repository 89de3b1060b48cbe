//! Pseudotypes: objects with a `$reql_type$` key that stand for times, binary data, geometry and literals.

use super::{Datum, Object};
use crate::error::QueryError;

/// The key that marks a pseudotype.
pub const TYPE_KEY: &str = "$reql_type$";

/// Converts an object that came from a client or from `r.json` and has a `$reql_type$` key into the value it stands
/// for (TIME, BINARY), or checks it (GEOMETRY, LITERAL). Errors as in census §5.
pub fn from_object(object: Object) -> Result<Datum, QueryError> {
    let _ = object;
    todo!()
}
