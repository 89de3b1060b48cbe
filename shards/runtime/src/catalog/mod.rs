//! The catalog: databases, tables with their placement, users and what they may do, the server's own identity.
//!
//! Always: it is a set of records, key to encoded object, kept in a tree of store 0; one batch of that store commits a
//! change of it. Every core holds a copy, made from the same records, and its epoch counts the changes: copies with equal
//! epochs are equal. Changes are planned by pure functions ([`change`]); only the owner of store 0 carries them out.

pub mod change;
pub mod configure;
pub mod edit;
pub mod index;
pub mod permissions;
pub mod row;
pub mod users;

use std::collections::BTreeMap;
use std::rc::Rc;

use photondb_proto::datum::{Datum, Object, document};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{
    DatabaseId, DatabaseInfo, Durability, IndexDefinition, IndexId, IndexInfo, SYSTEM_DATABASE_ID, Scope,
    TableId, TableInfo, uuid_text,
};
use photondb_proto::wire::scram::{Credential, SALT_BYTES};

pub use permissions::{Permission, Permissions};

/// A changed record: its key and its new value, or `None` when it goes.
pub type Record = (Vec<u8>, Option<Vec<u8>>);

const SERVER_KEY: &[u8] = b"s";
const DATABASE_PREFIX: u8 = b'd';
const TABLE_PREFIX: u8 = b't';
const USER_PREFIX: u8 = b'u';
const PERMISSION_PREFIX: u8 = b'p';

/// The user who may do everything, always.
pub const ADMIN: &str = "admin";

/// The server's own record, rewritten with every change.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub id: [u8; 16],
    pub name: String,
    /// Counts the changes of the catalog.
    pub epoch: u64,
    /// Number of the next shard made: shards are numbered through all tables, never twice.
    pub next_shard: u32,
    /// Unknown users are shown a salt made of it.
    pub salt_secret: [u8; 16],
    /// By which tables are placed.
    pub tags: Vec<String>,
    /// Kept and shown; one server has no peers that could be late.
    pub heartbeat_timeout_secs: f64,
}

/// The tag of a new server.
pub const DEFAULT_TAG: &str = "default";
pub const HEARTBEAT_TIMEOUT_SECS: f64 = 10.0;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub id: DatabaseId,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub id: TableId,
    pub database: DatabaseId,
    pub name: String,
    pub primary_key: String,
    pub durability: Durability,
    /// `single` or `majority`, as the user set it; one node answers both the same way.
    pub write_acks: String,
    /// What users see as the number of shards.
    pub virtual_shards: u32,
    /// The number of the table's first shard; the others follow.
    pub first_shard: u32,
    /// The store of each shard.
    pub placement: Vec<u16>,
    /// As the query crate stores functions.
    pub write_hook: Option<Vec<u8>>,
    /// What is kept of its changes, if that was set for this table.
    pub change_log: Option<KeptChanges>,
    /// By name.
    pub indexes: Vec<Index>,
}

/// What is kept of a table's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptChanges {
    /// 0: nothing is kept.
    pub bytes_max: u64,
    pub age_secs: u64,
}

impl KeptChanges {
    /// Where a row names no age.
    pub const AGE_SECS_DEFAULT: u64 = 86_400;

    pub fn datum(self) -> Datum {
        let number = |number: u64| Datum::Number(number as f64);
        Datum::object([("age", number(self.age_secs)), ("bytes", number(self.bytes_max))])
    }
}

/// A secondary index of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub id: IndexId,
    pub definition: IndexDefinition,
    /// It covers all rows. Writes keep it up from the start; until then it is being constructed.
    pub ready: bool,
}

impl Table {
    /// Shards: a power of two.
    pub fn shards(&self) -> u16 {
        self.placement.len() as u16
    }

    pub fn index(&self, id: IndexId) -> Option<&Index> {
        self.indexes.iter().find(|index| index.id == id)
    }
}

/// A copy of the catalog.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub server: Server,
    databases: BTreeMap<DatabaseId, Database>,
    database_names: BTreeMap<String, DatabaseId>,
    tables: BTreeMap<TableId, Rc<Table>>,
    /// Tables of each database by name.
    table_names: BTreeMap<DatabaseId, BTreeMap<String, TableId>>,
    users: BTreeMap<String, Credential>,
    /// What each user may do, where something is set.
    permissions: BTreeMap<String, BTreeMap<Scope, Permissions>>,
}

/// A record that this program cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the catalog record {key} is not understood")]
pub struct BadRecord {
    pub key: String,
}

impl Catalog {
    /// A copy from all records; `None` when there are none, as in a new data directory.
    ///
    /// # Errors
    /// The first record that is not understood.
    pub fn from_records(records: &[Record]) -> Result<Option<Catalog>, BadRecord> {
        let Some((_, Some(server))) = records.iter().find(|(key, _)| key == SERVER_KEY) else {
            return Ok(None);
        };
        let server = decode(SERVER_KEY, server, server_from)?;
        let mut catalog = Catalog {
            server,
            databases: BTreeMap::new(),
            database_names: BTreeMap::new(),
            tables: BTreeMap::new(),
            table_names: BTreeMap::new(),
            users: BTreeMap::new(),
            permissions: BTreeMap::new(),
        };
        catalog.apply(records)?;
        Ok(Some(catalog))
    }

    /// Takes over changed records.
    ///
    /// # Errors
    /// The first record that is not understood; the copy is of no use then.
    pub fn apply(&mut self, records: &[Record]) -> Result<(), BadRecord> {
        for (key, value) in records {
            let bad = || BadRecord { key: String::from_utf8_lossy(key).into_owned() };
            match (key.first().copied(), value) {
                (Some(b's'), Some(value)) => self.server = decode(key, value, server_from)?,
                (Some(DATABASE_PREFIX), value) => {
                    let id = DatabaseId(id_of(key).ok_or_else(bad)?);
                    if let Some(old) = self.databases.remove(&id) {
                        self.database_names.remove(&old.name);
                    }
                    if let Some(value) = value {
                        let database = decode(key, value, database_from)?;
                        self.database_names.insert(database.name.clone(), id);
                        self.databases.insert(id, database);
                    }
                }
                (Some(TABLE_PREFIX), value) => {
                    let id = TableId(id_of(key).ok_or_else(bad)?);
                    if let Some(old) = self.tables.remove(&id) {
                        self.table_names.entry(old.database).or_default().remove(&old.name);
                    }
                    if let Some(value) = value {
                        let table = decode(key, value, table_from)?;
                        self.table_names.entry(table.database).or_default().insert(table.name.clone(), id);
                        self.tables.insert(id, Rc::new(table));
                    }
                }
                (Some(USER_PREFIX), value) => {
                    let name = String::from_utf8(key[1..].to_vec()).map_err(|_| bad())?;
                    match value {
                        Some(value) => {
                            let credential = decode(key, value, user_from)?;
                            self.users.insert(name, credential);
                        }
                        None => {
                            self.users.remove(&name);
                        }
                    }
                }
                (Some(PERMISSION_PREFIX), value) => {
                    let (user, scope) = permissions::from_key(key).ok_or_else(bad)?;
                    let granted = self.permissions.entry(user.clone()).or_default();
                    match value {
                        Some(value) => {
                            granted.insert(scope, decode(key, value, permissions::from_record)?);
                        }
                        None => {
                            granted.remove(&scope);
                        }
                    }
                    if granted.is_empty() {
                        self.permissions.remove(&user);
                    }
                }
                (_, _) => return Err(bad()),
            }
        }
        Ok(())
    }

    pub fn epoch(&self) -> u64 {
        self.server.epoch
    }

    pub fn server_id(&self) -> String {
        uuid_text(&self.server.id)
    }

    pub fn credential(&self, user: &str) -> Option<&Credential> {
        self.users.get(user)
    }

    /// By name.
    pub fn users(&self) -> impl Iterator<Item = (&str, &Credential)> {
        self.users.iter().map(|(name, credential)| (name.as_str(), credential))
    }

    /// What is set, by user and scope.
    pub fn granted(&self) -> impl Iterator<Item = (&str, Scope, Permissions)> {
        let users = self.permissions.iter();
        users.flat_map(|(user, granted)| granted.iter().map(|(scope, set)| (user.as_str(), *scope, *set)))
    }

    /// What is set for a user at one scope.
    pub fn granted_at(&self, user: &str, scope: Scope) -> Permissions {
        let granted = self.permissions.get(user).and_then(|granted| granted.get(&scope));
        granted.copied().unwrap_or_default()
    }

    /// Whether a user may do this at that scope: the nearest that is set counts. Nothing is inherited from the global
    /// scope by the system database.
    pub fn permits(&self, user: &str, scope: Scope, permission: Permission) -> bool {
        if user == ADMIN {
            return true;
        }
        let Some(granted) = self.permissions.get(user).filter(|_| self.users.contains_key(user)) else {
            return false;
        };
        let set = |scope: Scope| granted.get(&scope).and_then(|granted| granted.at(permission));
        let of_database = |database: DatabaseId| {
            let inherited = || set(Scope::Global).filter(|_| database != SYSTEM_DATABASE_ID);
            set(Scope::Database(database)).or_else(inherited)
        };
        let nearest = match scope {
            Scope::Global => set(Scope::Global),
            Scope::Database(database) => of_database(database),
            Scope::Table(database, _) => set(scope).or_else(|| of_database(database)),
        };
        nearest.unwrap_or(false)
    }

    /// # Errors
    /// PERMISSION_ERROR, when the user may not.
    pub fn require(&self, user: &str, scope: Scope, permission: Permission) -> Result<(), QueryError> {
        if self.permits(user, scope, permission) {
            return Ok(());
        }
        Err(permission.missing(user))
    }

    pub fn table(&self, id: TableId) -> Option<&Rc<Table>> {
        self.tables.get(&id)
    }

    /// The tables of these that there are.
    pub fn tables_among(&self, ids: &[TableId]) -> Vec<Rc<Table>> {
        ids.iter().filter_map(|id| self.tables.get(id).cloned()).collect()
    }

    pub fn tables(&self) -> impl Iterator<Item = &Rc<Table>> {
        self.tables.values()
    }

    pub fn databases(&self) -> impl Iterator<Item = &Database> {
        self.databases.values()
    }

    pub fn database(&self, id: DatabaseId) -> Option<&Database> {
        self.databases.get(&id)
    }

    /// # Errors
    /// `Database `x` does not exist.`
    pub fn database_named(&self, name: &str) -> Result<&Database, QueryError> {
        let found = self.database_names.get(name).and_then(|id| self.databases.get(id));
        found.ok_or_else(|| failed(format!("Database `{name}` does not exist.")))
    }

    /// # Errors
    /// `Table `d.t` does not exist.`, or that the database does not.
    pub fn table_named(&self, database: &str, name: &str) -> Result<&Rc<Table>, QueryError> {
        let id = self.database_named(database)?.id;
        let found =
            self.table_names.get(&id).and_then(|names| names.get(name)).and_then(|id| self.tables.get(id));
        found.ok_or_else(|| failed(format!("Table `{database}.{name}` does not exist.")))
    }

    /// Tables of a database, by name.
    pub fn tables_of(&self, database: DatabaseId) -> impl Iterator<Item = &Rc<Table>> {
        self.table_names
            .get(&database)
            .into_iter()
            .flat_map(|names| names.values())
            .map(|id| &self.tables[id])
    }

    /// What a query must know of a table.
    pub fn table_info(&self, table: &Table) -> TableInfo {
        TableInfo {
            id: table.id,
            database_id: table.database,
            database: self
                .databases
                .get(&table.database)
                .map_or_else(String::new, |database| database.name.clone()),
            name: table.name.clone(),
            primary_key: table.primary_key.clone(),
            durability: table.durability,
            indexes: table.indexes.iter().map(index_info).collect(),
        }
    }

    pub fn database_info(&self, database: &Database) -> DatabaseInfo {
        DatabaseInfo { id: database.id, name: database.name.clone() }
    }

    /// Every record, for a core that starts with nothing.
    pub fn records(&self) -> Vec<Record> {
        let mut records = vec![server_record(&self.server)];
        records.extend(self.databases.values().map(database_record));
        records.extend(self.tables.values().map(|table| table_record(table)));
        records.extend(self.users.iter().map(|(name, credential)| user_record(name, credential)));
        let granted =
            self.granted().map(|(user, scope, granted)| permissions::record(user, scope, Some(granted)));
        records.extend(granted);
        records
    }
}

fn index_info(index: &Index) -> IndexInfo {
    let IndexDefinition { name, multi, geo, .. } = &index.definition;
    IndexInfo { id: index.id, name: name.clone(), multi: *multi, geo: *geo, ready: index.ready }
}

/// An administration that failed: OP_FAILED.
pub fn failed(message: String) -> QueryError {
    QueryError::new(ErrorKind::OpFailed, message)
}

// ---------------------------------------------------------------- records

fn decode<T>(key: &[u8], value: &[u8], from: fn(&[u8], &Object) -> Option<T>) -> Result<T, BadRecord> {
    let bad = || BadRecord { key: String::from_utf8_lossy(key).into_owned() };
    document::check(value).map_err(|_| bad())?;
    match document::from_bytes(value) {
        Datum::Object(object) => from(key, &object).ok_or_else(bad),
        _ => Err(bad()),
    }
}

/// The tables that records are of.
pub fn tables_of(records: &[Record]) -> Vec<TableId> {
    let of_tables = records.iter().filter(|(key, _)| key.first() == Some(&TABLE_PREFIX));
    of_tables.filter_map(|(key, _)| id_of(key).map(TableId)).collect()
}

fn id_of(key: &[u8]) -> Option<[u8; 16]> {
    key.get(1..)?.try_into().ok()
}

fn id_key(prefix: u8, id: &[u8; 16]) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(id);
    key
}

fn number(object: &Object, field: &str) -> Option<f64> {
    match object.field(field)? {
        Datum::Number(number) => Some(number),
        _ => None,
    }
}

fn text(object: &Object, field: &str) -> Option<String> {
    edit::text(&object.field(field)?)
}

fn bytes<const N: usize>(object: &Object, field: &str) -> Option<[u8; N]> {
    match object.field(field)? {
        Datum::Binary(bytes) => (*bytes).try_into().ok(),
        _ => None,
    }
}

fn binary(bytes: &[u8]) -> Datum {
    Datum::Binary(photondb_proto::datum::Slice::new(Rc::from(bytes)))
}

pub fn server_record(server: &Server) -> Record {
    let value = Datum::object([
        ("epoch", Datum::Number(server.epoch as f64)),
        ("heartbeat_timeout_secs", Datum::Number(server.heartbeat_timeout_secs)),
        ("id", binary(&server.id)),
        ("name", Datum::string(&server.name)),
        ("next_shard", Datum::Number(f64::from(server.next_shard))),
        ("salt_secret", binary(&server.salt_secret)),
        ("tags", Datum::array(server.tags.iter().map(|tag| Datum::string(tag)).collect())),
    ]);
    (SERVER_KEY.to_vec(), Some(document::to_bytes(&value)))
}

fn server_from(_: &[u8], object: &Object) -> Option<Server> {
    Some(Server {
        id: bytes(object, "id")?,
        name: text(object, "name")?,
        epoch: number(object, "epoch")? as u64,
        next_shard: number(object, "next_shard")? as u32,
        salt_secret: bytes(object, "salt_secret")?,
        tags: match object.field("tags") {
            Some(Datum::Array(tags)) => tags.iter().map(|tag| edit::text(&tag)).collect::<Option<_>>()?,
            Some(_) | None => vec![DEFAULT_TAG.to_owned()],
        },
        heartbeat_timeout_secs: number(object, "heartbeat_timeout_secs").unwrap_or(HEARTBEAT_TIMEOUT_SECS),
    })
}

pub fn database_record(database: &Database) -> Record {
    let value = Datum::object([("name", Datum::string(&database.name))]);
    (id_key(DATABASE_PREFIX, &database.id.0), Some(document::to_bytes(&value)))
}

fn database_from(key: &[u8], object: &Object) -> Option<Database> {
    Some(Database { id: DatabaseId(id_of(key)?), name: text(object, "name")? })
}

pub fn table_record(table: &Table) -> Record {
    let durability = match table.durability {
        Durability::Hard => "hard",
        Durability::Soft => "soft",
    };
    let placement = table.placement.iter().map(|store| Datum::Number(f64::from(*store))).collect();
    let value = Datum::object([
        ("change_log", table.change_log.map_or(Datum::Null, KeptChanges::datum)),
        ("database", binary(&table.database.0)),
        ("durability", Datum::string(durability)),
        ("first_shard", Datum::Number(f64::from(table.first_shard))),
        ("indexes", Datum::array(table.indexes.iter().map(index_datum).collect())),
        ("name", Datum::string(&table.name)),
        ("placement", Datum::array(placement)),
        ("primary_key", Datum::string(&table.primary_key)),
        ("virtual_shards", Datum::Number(f64::from(table.virtual_shards))),
        ("write_acks", Datum::string(&table.write_acks)),
        ("write_hook", table.write_hook.as_deref().map_or(Datum::Null, binary)),
    ]);
    (id_key(TABLE_PREFIX, &table.id.0), Some(document::to_bytes(&value)))
}

fn index_datum(index: &Index) -> Datum {
    let IndexDefinition { name, function, multi, geo } = &index.definition;
    Datum::object([
        ("function", binary(function)),
        ("geo", Datum::Bool(*geo)),
        ("id", binary(&index.id.0)),
        ("multi", Datum::Bool(*multi)),
        ("name", Datum::string(name)),
        ("ready", Datum::Bool(index.ready)),
    ])
}

fn index_from(datum: &Datum) -> Option<Index> {
    let Datum::Object(object) = datum else { return None };
    let Datum::Binary(function) = object.field("function")? else { return None };
    let definition = IndexDefinition {
        name: text(object, "name")?,
        function: function.to_vec(),
        multi: object.field("multi")?.is_truthy(),
        geo: object.field("geo")?.is_truthy(),
    };
    let ready = object.field("ready")?.is_truthy();
    Some(Index { id: IndexId(bytes(object, "id")?), definition, ready })
}

fn table_from(key: &[u8], object: &Object) -> Option<Table> {
    let Datum::Array(stores) = object.field("placement")? else { return None };
    let store = |store| match store {
        Datum::Number(store) => Some(store as u16),
        _ => None,
    };
    let placement = stores.iter().map(store).collect::<Option<Vec<u16>>>()?;
    if !placement.len().is_power_of_two() || placement.len() > usize::from(photondb_proto::limits::SHARDS_MAX)
    {
        return None;
    }
    // Tables made before there were indexes have no such field.
    let indexes = match object.field("indexes") {
        Some(Datum::Array(indexes)) => {
            indexes.iter().map(|index| index_from(&index)).collect::<Option<_>>()?
        }
        Some(_) => return None,
        None => Vec::new(),
    };
    Some(Table {
        id: TableId(id_of(key)?),
        database: DatabaseId(bytes(object, "database")?),
        name: text(object, "name")?,
        primary_key: text(object, "primary_key")?,
        durability: if text(object, "durability")? == "soft" { Durability::Soft } else { Durability::Hard },
        write_acks: text(object, "write_acks")?,
        virtual_shards: number(object, "virtual_shards")? as u32,
        first_shard: number(object, "first_shard")? as u32,
        placement,
        write_hook: match object.field("write_hook") {
            Some(Datum::Binary(blob)) => Some(blob.to_vec()),
            Some(_) | None => None,
        },
        // Tables made before there was such a setting have no such field.
        change_log: match object.field("change_log") {
            Some(Datum::Object(kept)) => Some(KeptChanges {
                bytes_max: number(&kept, "bytes")? as u64,
                age_secs: number(&kept, "age")? as u64,
            }),
            Some(_) | None => None,
        },
        indexes,
    })
}

pub fn user_record(name: &str, credential: &Credential) -> Record {
    let value = Datum::object([
        ("iterations", Datum::Number(f64::from(credential.iterations))),
        ("password_is_empty", Datum::Bool(credential.password_is_empty)),
        ("salt", binary(&credential.salt)),
        ("server_key", binary(&credential.server_key)),
        ("stored_key", binary(&credential.stored_key)),
    ]);
    let mut key = vec![USER_PREFIX];
    key.extend_from_slice(name.as_bytes());
    (key, Some(document::to_bytes(&value)))
}

fn user_from(_: &[u8], object: &Object) -> Option<Credential> {
    Some(Credential {
        iterations: number(object, "iterations")? as u32,
        salt: bytes::<SALT_BYTES>(object, "salt")?,
        stored_key: bytes(object, "stored_key")?,
        server_key: bytes(object, "server_key")?,
        password_is_empty: object.field("password_is_empty")?.is_truthy(),
    })
}

/// A record that goes.
pub fn database_gone(id: DatabaseId) -> Record {
    (id_key(DATABASE_PREFIX, &id.0), None)
}

pub fn user_gone(name: &str) -> Record {
    let mut key = vec![USER_PREFIX];
    key.extend_from_slice(name.as_bytes());
    (key, None)
}

pub fn table_gone(id: TableId) -> Record {
    (id_key(TABLE_PREFIX, &id.0), None)
}
