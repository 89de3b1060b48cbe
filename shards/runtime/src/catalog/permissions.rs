//! What users may do: permissions as they are set, shown, granted and stored.
//!
//! Always: a permission that is not set at a scope is inherited from the wider one, and set nowhere it is refused. Those of
//! `admin` are not stored and cannot be changed. `connect` exists at the global scope alone.
//!
//! The key of a record: the prefix, the user's name behind its length (two bytes, big-endian), then nothing, a database's id,
//! or a database's and a table's.

use photondb_proto::datum::{Datum, Object, ObjectBuilder, document, json};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{DatabaseId, SYSTEM_DATABASE_ID, Scope, TableId};

use super::change::{Plan, planned};
use super::edit::{Edit, Planned, text, uuid};
use super::{ADMIN, Catalog, PERMISSION_PREFIX, Record, failed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Read,
    Write,
    Config,
    Connect,
}

impl Permission {
    const ALL: [Permission; 4] =
        [Permission::Read, Permission::Write, Permission::Config, Permission::Connect];

    pub fn name(self) -> &'static str {
        match self {
            Permission::Read => "read",
            Permission::Write => "write",
            Permission::Config => "config",
            Permission::Connect => "connect",
        }
    }

    /// The error of a user who may not.
    pub fn missing(self, user: &str) -> QueryError {
        let text = format!("User `{user}` does not have the required `{}` permission.", self.name());
        QueryError::new(ErrorKind::Permission, text)
    }
}

/// What is set at one scope; `None` inherits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    read: Option<bool>,
    write: Option<bool>,
    config: Option<bool>,
    connect: Option<bool>,
}

impl Permissions {
    pub fn at(&self, permission: Permission) -> Option<bool> {
        match permission {
            Permission::Read => self.read,
            Permission::Write => self.write,
            Permission::Config => self.config,
            Permission::Connect => self.connect,
        }
    }

    fn set(&mut self, permission: Permission, value: Option<bool>) {
        match permission {
            Permission::Read => self.read = value,
            Permission::Write => self.write = value,
            Permission::Config => self.config = value,
            Permission::Connect => self.connect = value,
        }
    }

    fn is_empty(&self) -> bool {
        *self == Permissions::default()
    }

    /// An object of what is set, or null.
    fn shown(&self) -> Datum {
        let mut shown = ObjectBuilder::default();
        let mut any = false;
        for permission in Permission::ALL {
            if let Some(value) = self.at(permission) {
                shown.set(permission.name(), Datum::Bool(value));
                any = true;
            }
        }
        if any { Datum::Object(shown.build()) } else { Datum::Null }
    }

    /// With what an object sets, or unsets by null.
    fn merged(mut self, wanted: &Datum, scope: Scope) -> Result<Permissions, QueryError> {
        let Datum::Object(wanted) = wanted else {
            return Err(failed(format!("Expected an object, got {}.", json::to_message_string(wanted))));
        };
        for permission in Permission::ALL {
            let name = permission.name();
            let Some(value) = wanted.field(name) else { continue };
            if permission == Permission::Connect && scope != Scope::Global {
                let text = "The `connect` permission is only valid at the global scope.";
                return Err(failed(text.to_owned()));
            }
            match value {
                Datum::Bool(value) => self.set(permission, Some(value)),
                Datum::Null => self.set(permission, None),
                other => {
                    let found = json::to_message_string(&other);
                    return Err(failed(format!("Expected a boolean or null for `{name}`, got {found}.")));
                }
            }
        }
        let known = |key: &str| Permission::ALL.iter().any(|permission| permission.name() == key);
        super::edit::check_keys(wanted, known)?;
        Ok(self)
    }
}

// ---------------------------------------------------------------- records

/// The record of what is set for a user at a scope; `None`, or nothing set, lets it go.
pub fn record(user: &str, scope: Scope, granted: Option<Permissions>) -> Record {
    let mut key = vec![PERMISSION_PREFIX];
    let length = u16::try_from(user.len()).expect("names of users are primary keys, which are short");
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(user.as_bytes());
    match scope {
        Scope::Global => {}
        Scope::Database(database) => key.extend_from_slice(&database.0),
        Scope::Table(database, table) => {
            key.extend_from_slice(&database.0);
            key.extend_from_slice(&table.0);
        }
    }
    let granted = granted.filter(|granted| !granted.is_empty());
    (key, granted.map(|granted| document::to_bytes(&granted.shown())))
}

/// The user and scope of a record's key.
pub fn from_key(key: &[u8]) -> Option<(String, Scope)> {
    let (length, rest) = key.get(1..)?.split_first_chunk::<2>()?;
    let (user, ids) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let user = String::from_utf8(user.to_vec()).ok()?;
    let id = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok();
    let scope = match ids.len() {
        0 => Scope::Global,
        16 => Scope::Database(DatabaseId(id(ids)?)),
        32 => Scope::Table(DatabaseId(id(&ids[..16])?), TableId(id(&ids[16..])?)),
        _ => return None,
    };
    Some((user, scope))
}

pub fn from_record(_: &[u8], object: &Object) -> Option<Permissions> {
    let mut granted = Permissions::default();
    for permission in Permission::ALL {
        match object.field(permission.name()) {
            Some(Datum::Bool(value)) => granted.set(permission, Some(value)),
            Some(_) => return None,
            None => {}
        }
    }
    Some(granted)
}

/// The records that let go of everything set for whom or what `is_gone`.
pub fn records_gone(catalog: &Catalog, is_gone: impl Fn(&str, Scope) -> bool) -> Vec<Record> {
    let gone = catalog.granted().filter(|(user, scope, _)| is_gone(user, *scope));
    gone.map(|(user, scope, _)| record(user, scope, None)).collect()
}

/// The records that take what is set for a table along to another database.
pub fn records_moved(catalog: &Catalog, table: TableId, to: DatabaseId) -> Vec<Record> {
    let mut records = Vec::new();
    for (user, scope, granted) in catalog.granted() {
        if matches!(scope, Scope::Table(_, id) if id == table) {
            records.push(record(user, scope, None));
            records.push(record(user, Scope::Table(to, table), Some(granted)));
        }
    }
    records
}

// ---------------------------------------------------------------- granting

/// The term `grant`.
///
/// # Errors
/// The client's: an unknown user, or what is no permission.
pub fn grant(catalog: &Catalog, scope: Scope, user: &str, wanted: &Datum) -> Result<Plan, QueryError> {
    if user == ADMIN {
        return Err(unchangeable());
    }
    if catalog.credential(user).is_none() {
        return Err(failed(format!("User `{user}` not found.")));
    }
    let old = catalog.granted_at(user, scope);
    let new = old.merged(wanted, scope)?;
    let answer = Datum::object([("new_val", new.shown()), ("old_val", old.shown())]);
    Ok(planned(catalog, vec![record(user, scope, Some(new))], answer))
}

fn unchangeable() -> QueryError {
    failed(format!("The permissions of the user `{ADMIN}` can't be modified."))
}

// ---------------------------------------------------------------- the system table

/// A row of `permissions`.
pub struct PermissionRow<'a> {
    pub user: &'a str,
    pub scope: Scope,
    pub granted: Permissions,
}

/// The rows of `permissions`, those of `admin` first.
pub fn rows(catalog: &Catalog) -> impl Iterator<Item = PermissionRow<'_>> {
    let all = Some(true);
    let everywhere = Permissions { read: all, write: all, config: all, connect: all };
    let system = Permissions { connect: None, ..everywhere };
    let admin = [(Scope::Global, everywhere), (Scope::Database(SYSTEM_DATABASE_ID), system)];
    let admin = admin.into_iter().map(|(scope, granted)| PermissionRow { user: ADMIN, scope, granted });
    admin.chain(catalog.granted().map(|(user, scope, granted)| PermissionRow { user, scope, granted }))
}

impl PermissionRow<'_> {
    /// The row, given the names to show for its database and table.
    pub fn shown(&self, database: Option<Datum>, table: Option<Datum>) -> Datum {
        let mut id = vec![Datum::string(self.user)];
        let mut row = ObjectBuilder::default();
        match self.scope {
            Scope::Global => {}
            Scope::Database(database) => id.push(Datum::string(&database.to_string())),
            Scope::Table(database, table) => {
                id.extend([Datum::string(&database.to_string()), Datum::string(&table.to_string())]);
            }
        }
        row.set("id", Datum::array(id));
        row.set("permissions", self.granted.shown());
        row.set("user", Datum::string(self.user));
        if let Some(database) = database {
            row.set("database", database);
        }
        if let Some(table) = table {
            row.set("table", table);
        }
        Datum::Object(row.build())
    }
}

/// A write to a row of `permissions`: what is given is merged with what was set.
///
/// # Errors
/// The row's.
pub fn edit(edit: &Edit<'_>) -> Result<Planned, QueryError> {
    let (user, scope) = scope_of(edit.key)?;
    check_scope(edit, scope)?;
    if edit.catalog.credential(&user).is_none() {
        return Err(failed(format!("No user named `{user}`.")));
    }
    if user == ADMIN {
        return Err(unchangeable());
    }
    let granted = match edit.new {
        None => None,
        Some(row) => {
            // What only repeats the key must not contradict it.
            for (field, shown) in edit.shown_names(scope) {
                if row.field(field).is_some_and(|given| given != shown) {
                    return Err(failed(format!("The key `{field}` does not match the primary key.")));
                }
            }
            if row.field("user").is_some_and(|given| given != Datum::string(&user)) {
                return Err(failed("The key `user` does not match the primary key.".to_owned()));
            }
            let Some(wanted) = row.field("permissions") else {
                return Err(failed("Expected a field `permissions`.".to_owned()));
            };
            let merged = edit.catalog.granted_at(&user, scope).merged(&wanted, scope)?;
            let depth = match scope {
                Scope::Global => 3,
                Scope::Database(_) => 4,
                Scope::Table(..) => 5,
            };
            let known = ["id", "permissions", "user", "database", "table"];
            super::edit::check_keys(row, |key| known[..depth].contains(&key))?;
            Some(merged)
        }
    };
    let records = vec![record(&user, scope, granted)];
    Ok(Planned::Done(planned(edit.catalog, records, Datum::Null)))
}

/// The user and scope that a primary key names.
fn scope_of(key: &Datum) -> Result<(String, Scope), QueryError> {
    let print = json::to_message_string;
    let wrong = || {
        let found = print(key);
        failed(format!("Expected an array of one to three items in the primary key, got {found}."))
    };
    let Datum::Array(items) = key else { return Err(wrong()) };
    let items: Vec<Datum> = items.iter().collect();
    let id = |what: &str, item: &Datum| {
        let wrong = || failed(format!("Expected a UUID as the {what}, got {}.", print(item)));
        uuid(item).ok_or_else(wrong)
    };
    let user = |item: &Datum| {
        let wrong = || failed(format!("Expected a string as the username, got {}.", print(item)));
        text(item).ok_or_else(wrong)
    };
    match items.as_slice() {
        [name] => Ok((user(name)?, Scope::Global)),
        [name, database] => Ok((user(name)?, Scope::Database(DatabaseId(id("database", database)?)))),
        [name, database, table] => {
            let (database, table) = (DatabaseId(id("database", database)?), TableId(id("table", table)?));
            Ok((user(name)?, Scope::Table(database, table)))
        }
        [] | [_, _, _, _, ..] => Err(wrong()),
    }
}

fn check_scope(edit: &Edit<'_>, scope: Scope) -> Result<(), QueryError> {
    let (database, table) = match scope {
        Scope::Global => return Ok(()),
        Scope::Database(database) => (database, None),
        Scope::Table(database, table) => (database, Some(table)),
    };
    if database != SYSTEM_DATABASE_ID && edit.catalog.database(database).is_none() {
        return Err(failed(format!("No database with UUID `{database}` exists.")));
    }
    match table {
        Some(table) if edit.database_of(table) != Some(database) => {
            Err(failed(format!("No table with UUID `{table}` exists.")))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use photondb_proto::wire::scram::Credential;

    use super::*;
    use crate::catalog::{HEARTBEAT_TIMEOUT_SECS, Server, server_record, user_record};

    const DATABASE: DatabaseId = DatabaseId([1; 16]);
    const TABLE: Scope = Scope::Table(DATABASE, TableId([2; 16]));

    /// A catalog in which the user `u` has these, given as `scope read write`: `+`, `-` or `.` for nothing set.
    fn catalog(granted: &[(Scope, &str)]) -> Catalog {
        let server = Server {
            id: [1; 16],
            name: "here".into(),
            epoch: 1,
            next_shard: 1,
            salt_secret: [2; 16],
            tags: Vec::new(),
            heartbeat_timeout_secs: HEARTBEAT_TIMEOUT_SECS,
        };
        let mut records = vec![
            server_record(&server),
            user_record(ADMIN, &Credential::derive(b"", [0; 16], 1)),
            user_record("u", &Credential::derive(b"", [0; 16], 1)),
        ];
        for (scope, set) in granted {
            let value = |at: usize| match set.as_bytes()[at] {
                b'+' => Some(true),
                b'-' => Some(false),
                _ => None,
            };
            let set = Permissions { read: value(0), write: value(1), ..Permissions::default() };
            records.push(record("u", *scope, Some(set)));
        }
        let catalog = Catalog::from_records(&records).expect("our own records").expect("a server");
        let copy = Catalog::from_records(&catalog.records()).expect("our own records").expect("a server");
        assert_eq!(copy.records(), catalog.records());
        catalog
    }

    #[test]
    fn the_nearest_scope_that_sets_a_permission_counts() {
        let (database, system) = (Scope::Database(DATABASE), Scope::Database(SYSTEM_DATABASE_ID));
        let system_table = Scope::Table(SYSTEM_DATABASE_ID, TableId([0; 16]));
        for (granted, asked, want) in [
            (&[][..], TABLE, (false, false)),
            (&[(Scope::Global, "+.")], TABLE, (true, false)),
            (&[(Scope::Global, "++"), (database, ".-")], TABLE, (true, false)),
            (&[(Scope::Global, "++"), (database, "--"), (TABLE, "+.")], TABLE, (true, false)),
            (&[(TABLE, "++")], database, (false, false)),
            (&[(Scope::Global, "++")], system_table, (false, false)),
            (&[(system, "+.")], system_table, (true, false)),
            (&[(system, "+."), (system_table, "-+")], system_table, (false, true)),
        ] {
            let catalog = catalog(granted);
            let may = |user, permission| catalog.permits(user, asked, permission);
            assert_eq!(
                (may("u", Permission::Read), may("u", Permission::Write)),
                want,
                "{granted:?} at {asked:?}"
            );
            assert!(may(ADMIN, Permission::Config) && !may("nobody", Permission::Read));
        }
    }

    #[test]
    fn keys_of_records_are_told_apart() {
        for scope in [Scope::Global, Scope::Database(DATABASE), TABLE] {
            for user in ["u", "a long name with spaces", "Zoë"] {
                assert_eq!(from_key(&record(user, scope, None).0), Some((user.to_owned(), scope)));
            }
        }
        for broken in [&b"p"[..], b"p\0", b"p\0\x05abc", b"p\0\x01a123"] {
            assert_eq!(from_key(broken), None);
        }
    }
}
