//! A write to one row of a system table that shows the catalog, and how its fields are read.
//!
//! Always: pure. An edit is planned from the row's key and its new value against the catalog as it is; what it plans is
//! committed before anything else is. Refusals are errors of the row, in RethinkDB's words where it has some.

use photondb_proto::datum::{Datum, Object, json};
use photondb_proto::error::QueryError;
use photondb_proto::op::{DatabaseId, Identifiers, SYSTEM_DATABASE, SYSTEM_DATABASE_ID, Scope, TableId};
use photondb_proto::wire::scram::Credential;

use super::change::{Means, Plan};
use super::{Catalog, Permission, failed};

/// What is written to a row.
pub struct Edit<'a> {
    pub catalog: &'a Catalog,
    /// Who writes.
    pub user: &'a str,
    pub identifiers: Identifiers,
    pub key: &'a Datum,
    /// `None`: the row is deleted.
    pub new: Option<&'a Object>,
    pub means: Means,
    /// What was derived from the row's password, once [`Planned::Derive`] has asked for it.
    pub credential: Option<&'a Credential>,
    /// Names system tables.
    pub system_table_name: fn(TableId) -> Option<&'static str>,
}

/// What comes of an edit.
pub enum Planned {
    Done(Plan),
    /// A credential must be derived first, which is slow on purpose.
    Derive {
        password: Vec<u8>,
        iterations: Option<u32>,
    },
}

impl Edit<'_> {
    /// # Errors
    /// PERMISSION_ERROR, when the writer may not configure that.
    pub fn require_config(&self, scope: Scope) -> Result<(), QueryError> {
        self.catalog.require(self.user, scope, Permission::Config)
    }

    /// The database that a table belongs to, a system table too.
    pub fn database_of(&self, table: TableId) -> Option<DatabaseId> {
        match (self.system_table_name)(table) {
            Some(_) => Some(SYSTEM_DATABASE_ID),
            None => self.catalog.table(table).map(|table| table.database),
        }
    }

    /// The fields `database` and `table` of a row about that scope.
    pub fn shown_names(&self, scope: Scope) -> Vec<(&'static str, Datum)> {
        let (database, table) = shown_names(self.catalog, self.identifiers, scope, self.system_table_name);
        let fields = [("database", database), ("table", table)];
        fields.into_iter().filter_map(|(field, shown)| Some((field, shown?))).collect()
    }
}

/// How rows show the database and the table of a scope.
pub fn shown_names(
    catalog: &Catalog,
    identifiers: Identifiers,
    scope: Scope,
    system_table_name: fn(TableId) -> Option<&'static str>,
) -> (Option<Datum>, Option<Datum>) {
    let (database, table) = match scope {
        Scope::Global => return (None, None),
        Scope::Database(database) => (database, None),
        Scope::Table(database, table) => (database, Some(table)),
    };
    let shown = |name: Option<&str>, id: String| match (name, identifiers) {
        (Some(name), Identifiers::Names) => Datum::string(name),
        (Some(_), Identifiers::Uuids) | (None, _) => Datum::string(&id),
    };
    let database_name = match database {
        SYSTEM_DATABASE_ID => Some(SYSTEM_DATABASE),
        id => catalog.database(id).map(|database| database.name.as_str()),
    };
    let table_name =
        |id| system_table_name(id).or_else(|| catalog.table(id).map(|table| table.name.as_str()));
    (
        Some(shown(database_name, database.to_string())),
        table.map(|table| shown(table_name(table), table.to_string())),
    )
}

pub fn text(datum: &Datum) -> Option<String> {
    match datum {
        Datum::String(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

pub fn uuid(datum: &Datum) -> Option<[u8; 16]> {
    let Datum::String(text) = datum else { return None };
    uuid::Uuid::parse_str(text.as_str()).ok().map(uuid::Uuid::into_bytes)
}

/// # Errors
/// `Unexpected key(s) `x`, `y`.`
pub fn check_keys(object: &Object, is_known: impl Fn(&str) -> bool) -> Result<(), QueryError> {
    let unknown: Vec<String> =
        object.iter().map(|(key, _)| key.as_str().to_owned()).filter(|key| !is_known(key)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(failed(format!("Unexpected key(s) `{}`.", unknown.join("`, `"))))
}

/// The fields of a configuration row. What is wrong with one of them is told behind the table's name.
pub struct Fields<'a> {
    pub table: &'static str,
    pub row: &'a Object,
}

impl Fields<'_> {
    pub fn wrong(&self, why: &str) -> QueryError {
        let table = self.table;
        failed(format!(
            "The change you're trying to make to `{SYSTEM_DATABASE}.{table}` has the wrong format. {why}"
        ))
    }

    pub fn only(&self, fields: &[&str]) -> Result<(), QueryError> {
        check_keys(self.row, |key| fields.contains(&key)).map_err(|error| self.wrong(&error.message))
    }

    pub fn get(&self, field: &str) -> Result<Datum, QueryError> {
        self.row.field(field).ok_or_else(|| self.wrong(&format!("Expected a field named `{field}`.")))
    }

    /// The name of a database, table or server.
    pub fn name(&self, field: &str, what: &str) -> Result<String, QueryError> {
        self.name_in(field, what, &self.get(field)?)
    }

    pub fn name_in(&self, field: &str, what: &str, value: &Datum) -> Result<String, QueryError> {
        let Some(name) = text(value) else {
            let found = json::to_message_string(value);
            return Err(self.wrong(&format!("In `{field}`: Expected a {what}; got {found}")));
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_name) {
            let why = format!("`{name}` is not a valid {what} (Use A-Z, a-z, 0-9, _ and - only).");
            return Err(self.wrong(&format!("In `{field}`: {why}")));
        }
        Ok(name)
    }

    pub fn text(&self, field: &str) -> Result<String, QueryError> {
        let value = self.get(field)?;
        let wrong = || {
            self.wrong(&format!("In `{field}`: Expected a string; got {}", json::to_message_string(&value)))
        };
        text(&value).ok_or_else(wrong)
    }
}
