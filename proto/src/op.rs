//! What a query asks of the rest of the server, and what it gets: plain data, the same local, cross-core and cross-node.
//!
//! The query crate yields [`Op`]s; the runtime answers each with one [`OpReply`] or an [`OpError`]. Documents and keys
//! travel as encoded bytes ([`crate::datum::document`], [`crate::datum::key`]), so everything here is `Send`.

use std::fmt;

use crate::error::QueryError;
use crate::feed::{FeedOp, FeedReply};
use crate::outside::{OutsideOp, OutsideReply};
use crate::rows::{RowBlock, RowForm};

/// Encoded document: [`crate::datum::document`].
pub type Document = Vec<u8>;
/// Encoded key: [`crate::datum::key`].
pub type Key = Vec<u8>;

/// A table's permanent identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub [u8; 16]);

/// A database's permanent identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabaseId(pub [u8; 16]);

/// An index's permanent identity: renaming keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IndexId(pub [u8; 16]);

/// Writes a UUID in its usual form.
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

impl fmt::Display for TableId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&uuid_text(&self.0))
    }
}
impl fmt::Debug for TableId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
impl fmt::Display for DatabaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&uuid_text(&self.0))
    }
}
impl fmt::Debug for DatabaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
impl fmt::Display for IndexId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&uuid_text(&self.0))
    }
}
impl fmt::Debug for IndexId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The database whose tables show the server itself. Nothing is stored under its id.
pub const SYSTEM_DATABASE: &str = "rethinkdb";
pub const SYSTEM_DATABASE_ID: DatabaseId = DatabaseId([0; 16]);

/// What ids of system tables begin with; no UUID does.
const SYSTEM_TABLE_HEAD: [u8; 14] = [0; 14];

impl TableId {
    /// The id of the system table with this number (not 0), whose rows name things in the given way.
    pub const fn of_system_table(number: u8, identifiers: Identifiers) -> TableId {
        TableId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, identifiers as u8, number])
    }

    /// The number of the system table this is the id of, and how its rows name things.
    pub fn as_system_table(self) -> Option<(u8, Identifiers)> {
        let [head @ .., identifiers, number] = self.0;
        let identifiers = match identifiers {
            0 => Identifiers::Names,
            1 => Identifiers::Uuids,
            _ => return None,
        };
        (head == SYSTEM_TABLE_HEAD && number > 0).then_some((number, identifiers))
    }

    /// The id under which permissions are kept: that of a system table does not tell how its rows name things.
    pub fn named(self) -> TableId {
        match self.as_system_table() {
            Some((number, _)) => TableId::of_system_table(number, Identifiers::Names),
            None => self,
        }
    }
}

/// How rows of system tables refer to databases, tables and servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Identifiers {
    #[default]
    Names = 0,
    Uuids = 1,
}

/// One thing a query needs before it can go on.
#[derive(Clone, Debug)]
pub enum Op {
    Catalog(CatalogOp),
    Read {
        table: TableId,
        read: TableRead,
        mode: ReadMode,
    },
    Write {
        table: TableId,
        write: TableWrite,
    },
    /// Random bytes for `uuid`, generated keys, `random`, `sample`: evaluation has no randomness of its own.
    Random {
        bytes: u32,
    },
    /// A script, an HTTP request.
    Outside(OutsideOp),
    Feed(FeedOp),
}

/// The answer to an [`Op`] of the same name.
#[derive(Clone, Debug)]
pub enum OpReply {
    Catalog(CatalogReply),
    Read(TableReply),
    Write(Vec<RowOutcome>),
    Random(Vec<u8>),
    Outside(OutsideReply),
    Feed(FeedReply),
}

/// An op that failed as a whole: the query's error, whose backtrace the query fills in.
pub type OpError = QueryError;

/// Consistency of reads. `Majority` waits for the flush of what it read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    #[default]
    Single,
    Majority,
    Outdated,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    #[default]
    Hard,
    Soft,
}

// ---------------------------------------------------------------- tables: reading

/// What a query asks of a table's documents.
#[derive(Clone, Debug)]
pub enum TableRead {
    /// One document by primary key → [`TableReply::Row`].
    Get { key: Key },
    /// Several documents by primary key, in the order of the keys → [`TableReply::Rows`].
    GetMany { keys: Vec<Key> },
    /// Some of the documents → [`TableReply::Parts`].
    Scan(Scan),
    /// The number of documents in ranges of keys, or of entries of an index, from the trees' counts → [`TableReply::Count`].
    Count { index: Option<IndexId>, ranges: Vec<ScanRange> },
}

/// A step of a scan. The first step has no `resume`: the router asks every part (a core with its shards) and each
/// answers one [`PartBatch`]. Later steps name the parts to go on with and where.
///
/// With an index its entries are walked, and the rows they name are the scan's; `ranges` are ranges of entries
/// ([`crate::datum::key::entry`]) and rows bear the entry's key where they bear one.
#[derive(Clone, Debug)]
pub struct Scan {
    pub index: Option<IndexId>,
    /// Ascending; no two overlap.
    pub ranges: Vec<ScanRange>,
    pub order: ScanOrder,
    /// Parts to go on with: (part, its `next`). `None`: all parts from the start.
    pub resume: Option<Vec<(u16, Vec<u8>)>>,
    /// Work that travels to the rows: [`photondb_query`'s pipeline bytes]; empty means none.
    ///
    /// [`photondb_query`'s pipeline bytes]: Op
    pub pipeline: Vec<u8>,
    /// What is asked of the geometries of a geo index, in bytes that the query crate makes and reads: each that answers gives
    /// a row, however many of its entries lie in the ranges. Empty: every entry gives its row.
    pub question: Vec<u8>,
    /// What the rows that come of it are given as.
    pub form: RowForm,
    /// A part stops after about this many bytes of results.
    pub bytes_max: u32,
    /// A part stops after this many result rows.
    pub rows_max: u32,
}

/// A range of keys to scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRange {
    pub range: KeyRange,
    /// How often each row of it is given: a key that a query names twice gives its rows twice.
    pub copies: u32,
}

/// The order a scan's rows must come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScanOrder {
    /// Any: each part goes through its shards one after another, rows bear no key.
    Any,
    /// Any, and rows bear their keys.
    Keyed,
    /// By key; each part merges its shards and its rows bear their keys, so that the query can merge parts.
    Ascending,
    Descending,
}

/// A range of encoded keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub start: KeyBound,
    pub end: KeyBound,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyBound {
    Unbounded,
    Included(Key),
    Excluded(Key),
}

impl KeyRange {
    /// One key.
    pub fn only(key: &[u8]) -> KeyRange {
        KeyRange { start: KeyBound::Included(key.to_vec()), end: KeyBound::Included(key.to_vec()) }
    }

    pub fn all() -> KeyRange {
        KeyRange { start: KeyBound::Unbounded, end: KeyBound::Unbounded }
    }
}

#[derive(Clone, Debug)]
pub enum TableReply {
    Row(Option<Document>),
    Rows(Vec<Option<Document>>),
    Parts(Vec<PartBatch>),
    Count(u64),
}

/// What one part of a table answered to a step of a scan.
#[derive(Clone, Debug)]
pub struct PartBatch {
    /// Names the part in the next step's `resume`; opaque to the query.
    pub part: u16,
    pub rows: RowBlock,
    /// The terminal's partial result so far in this step, when the pipeline has a terminal.
    pub partial: Option<Vec<u8>>,
    /// Where to go on; `None` when the part is at its end. Opaque.
    pub next: Option<Vec<u8>>,
}

// ---------------------------------------------------------------- tables: writing

/// What a query asks a table to change. Rows are independent: each is changed atomically, never several together.
#[derive(Clone, Debug)]
pub enum TableWrite {
    /// New documents with their keys. Replies in the order of the rows.
    Insert { rows: Vec<InsertRow>, conflict: Conflict, options: WriteOptions },
    /// Each row is rewritten by the function. Replies in the order of the keys.
    Change { keys: Vec<Key>, change: Change, options: WriteOptions },
    /// What is acknowledged soft so far becomes durable. Replies with no rows.
    Sync,
}

#[derive(Clone, Debug)]
pub struct InsertRow {
    pub key: Key,
    pub document: Document,
}

/// What an insert does with a key that is taken.
#[derive(Clone, Debug)]
pub enum Conflict {
    Error,
    Replace,
    Update,
    /// Function bytes of three arguments (id, old, new): made and run by the query crate.
    Function(Vec<u8>),
}

/// How a row changes. Function bytes are made and run by the query crate.
#[derive(Clone, Debug)]
pub enum Change {
    /// Merge the result of a one-argument function into the row.
    Update(Vec<u8>),
    /// Merge a constant object, which is fit to be stored, into the row.
    Merge(Document),
    /// The function's result takes the row's place; null deletes.
    Replace(Vec<u8>),
    Delete,
    /// A non-atomic change, evaluated by the coordinator: put these (or delete on `None`), whatever is there now.
    /// One for each key. The error text of a row that failed in evaluation travels as its `Err`.
    Put(Vec<Result<Option<Document>, String>>),
}

#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// `None`: the table's own.
    pub durability: Option<Durability>,
    pub return_changes: ReturnChanges,
    pub write_hook: WriteHook,
}

/// Whether the table's write hook is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteHook {
    #[default]
    Asked,
    /// `ignore_write_hook`: for those who may configure the table.
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnChanges {
    No,
    Changed,
    Always,
}

/// What became of one row of a write.
#[derive(Clone, Debug)]
pub struct RowOutcome {
    pub kind: RowChange,
    /// The values before and after, when `return_changes` asks for them.
    pub old: Option<Document>,
    pub new: Option<Document>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    Inserted,
    Deleted,
    Replaced,
    Unchanged,
    Skipped,
    Error(String),
}

// ---------------------------------------------------------------- catalog

/// What a query asks of the catalog. Names are checked by the query (`Table name `x` invalid …`).
#[derive(Clone, Debug)]
pub enum CatalogOp {
    /// → [`CatalogReply::Table`]; fails with `Table `d.t` does not exist.` or `Database `d` does not exist.`
    Table {
        database: String,
        table: String,
        /// Of system tables only.
        identifiers: Identifiers,
    },
    /// → [`CatalogReply::Database`]
    Database {
        name: String,
    },
    /// → [`CatalogReply::Names`], sorted
    DatabaseList,
    DatabaseCreate {
        name: String,
    },
    DatabaseDrop {
        name: String,
    },
    TableList {
        database: String,
    },
    TableCreate {
        database: String,
        name: String,
        options: TableOptions,
    },
    TableDrop {
        database: String,
        name: String,
    },
    /// The row of `table_config` → [`CatalogReply::Value`]
    TableConfig {
        table: TableId,
    },
    /// The row of `db_config`
    DatabaseConfig {
        database: DatabaseId,
    },
    TableStatus {
        table: TableId,
    },
    /// A table gets another number of virtual shards → [`CatalogReply::Value`], the new row of `table_config`
    Reconfigure {
        table: TableId,
        shards: u32,
    },
    /// `permissions` is an encoded object. → [`CatalogReply::Value`] `{old_val, new_val}`
    Grant {
        scope: Scope,
        user: String,
        permissions: Document,
    },
    /// The table's write hook → [`CatalogReply::Value`] `{function, query}`, or null when there is none
    WriteHook {
        table: TableId,
    },
    /// Its new write hook, as the query crate stores functions, or none → [`CatalogReply::Value`] `{created: 1}` and the like
    SetWriteHook {
        table: TableId,
        hook: Option<Vec<u8>>,
    },
    /// Tables of a database, or one, are ready → [`CatalogReply::Value`] `{ready: n}`
    Wait {
        database: String,
        table: Option<String>,
    },
    /// What is done with an index of a table.
    Index {
        table: TableId,
        op: IndexOp,
    },
}

/// What a query asks of a table's indexes.
#[derive(Clone, Debug)]
pub enum IndexOp {
    /// → [`CatalogReply::Value`] `{created: 1}`; the index is not ready yet.
    Create(IndexDefinition),
    Drop {
        name: String,
    },
    Rename {
        from: String,
        to: String,
        overwrite: bool,
    },
    /// States of the named indexes, of all when none is named → [`CatalogReply::Indexes`], by name.
    Status {
        names: Vec<String>,
    },
    /// [`IndexOp::Status`] once all of them are ready.
    Wait {
        names: Vec<String>,
    },
    /// The index covers all rows from now on. Only the catalog's owner asks it.
    Ready {
        index: IndexId,
    },
}

/// What makes an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDefinition {
    pub name: String,
    /// The function as `index_status` shows it, made and read by the query crate; it knows `multi` and `geo` too.
    pub function: Vec<u8>,
    pub multi: bool,
    pub geo: bool,
}

/// An index and how far it is.
#[derive(Clone, Debug)]
pub struct IndexState {
    pub definition: IndexDefinition,
    pub ready: bool,
    /// From 0 to 1.
    pub progress: f64,
}

/// What permissions are about. What is set for a table counts before what is set for its database, and that before what
/// is set for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Global,
    Database(DatabaseId),
    Table(DatabaseId, TableId),
}

#[derive(Clone, Debug, Default)]
pub struct TableOptions {
    /// `id` unless named.
    pub primary_key: Option<String>,
    pub durability: Option<Durability>,
    /// ReQL's virtual shards, 1 to 64.
    pub shards: Option<u32>,
}

#[derive(Clone, Debug)]
pub enum CatalogReply {
    Table(TableInfo),
    Database(DatabaseInfo),
    Names(Vec<String>),
    Indexes(Vec<IndexState>),
    /// An encoded datum: the whole answer of an administration term.
    Value(Document),
}

/// What a query must know of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    pub id: TableId,
    pub database_id: DatabaseId,
    pub database: String,
    pub name: String,
    pub primary_key: String,
    pub durability: Durability,
    /// By name.
    pub indexes: Vec<IndexInfo>,
}

/// What a query must know of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexInfo {
    pub id: IndexId,
    pub name: String,
    pub multi: bool,
    pub geo: bool,
    pub ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseInfo {
    pub id: DatabaseId,
    pub name: String,
}
