//! The shards that live on this core: reading, scanning and changing rows in its stores.
//!
//! Always: between reading a row from memory and applying its change there is no `.await`, so no task of the core can come
//! between and a row needs no lock; what must wait (a page from disk, a flush) waits before or after. Commit numbers
//! count up within a shard, and each opening of a store begins a new epoch of them, so a number lost in a crash never comes back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::poll_once;
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{Document, IndexId, Key, KeyBound, KeyRange, TableId};
use photondb_storage::changelog::Retention;
use photondb_storage::engine::{
    Cached, CommitInfo, Edit, Lsn, Part, Range, StorageEngine, StorageError, TreeId, TreeName, TreeUsage,
    Value,
};

use crate::catalog::{Catalog, KeptChanges, Table};
use crate::index::{self, LocalIndex, LocalIndexes, TakesLong};
use crate::meter::Meter;
use crate::panics::in_turns;

/// Commit numbers of one opening of a store: 2^40 of them for a shard, enough for a million a second for twelve days
/// without a pause, and 2^24 openings.
const COMMITS_BITS: u32 = photondb_proto::resume::COMMIT_COUNT_BITS;

/// An open store of this core.
pub struct OpenStore<S> {
    pub number: u16,
    pub engine: Rc<S>,
    /// Counts the openings of the store.
    pub epoch: u64,
}

/// A shard's place on this core.
pub struct Shard<S> {
    pub store: Rc<OpenStore<S>>,
    /// Its place among the shards of its table.
    pub place: usize,
    /// The shard's number among all shards of the server.
    pub number: u32,
    pub name: TreeName,
    /// None until something is written.
    tree: Cell<Option<TreeId>>,
    next_commit: Cell<u64>,
    /// A change log keeps its changes, if they are to be kept.
    is_kept: Cell<bool>,
}

/// A table as this core sees it: its own shards are there, the others are not.
pub struct LocalTable<S> {
    pub shards: Vec<Option<Shard<S>>>,
    /// Its changes are kept, so much in each store.
    retention: Cell<Option<Retention>>,
    log: [u8; 17],
    /// As the catalog has them now.
    indexes: RefCell<LocalIndexes>,
    /// Documents read and written here.
    pub read: Meter,
    pub written: Meter,
    /// Bytes that the stores read and wrote for it.
    disk_read: Meter,
    disk_written: Meter,
}

/// What this core's shards of a table have done since it started.
#[derive(Clone, Debug)]
pub struct TableFigures {
    pub table: TableId,
    pub read_total: u64,
    pub read_per_second: f64,
    pub written_total: u64,
    pub written_per_second: f64,
    /// Bytes of its documents and indexes.
    pub disk_read_per_second: f64,
    pub disk_written_per_second: f64,
    /// Of its documents and indexes.
    pub usage: TreeUsage,
}

impl TableFigures {
    pub fn none(table: TableId) -> TableFigures {
        TableFigures {
            table,
            read_total: 0,
            read_per_second: 0.0,
            written_total: 0,
            written_per_second: 0.0,
            disk_read_per_second: 0.0,
            disk_written_per_second: 0.0,
            usage: TreeUsage::default(),
        }
    }

    /// Adds another part of the same table.
    pub fn add(&mut self, part: &TableFigures) {
        self.read_total += part.read_total;
        self.read_per_second += part.read_per_second;
        self.written_total += part.written_total;
        self.written_per_second += part.written_per_second;
        self.disk_read_per_second += part.disk_read_per_second;
        self.disk_written_per_second += part.disk_written_per_second;
        self.usage += &part.usage;
    }
}

/// All tables this core has touched.
pub struct Tables<S> {
    pub stores: BTreeMap<u16, Rc<OpenStore<S>>>,
    /// What is kept of the changes of each table.
    retention: Option<Retention>,
    local: RefCell<HashMap<TableId, Rc<LocalTable<S>>>>,
}

const SHARD_PREFIX: u8 = b'T';
/// The tree of the catalog's records, in store 0.
pub const CATALOG_TREE: &[u8] = b"C";
/// What a store says of itself.
pub const STORE_TREE: &[u8] = b"S";

/// What the names of a table's trees begin with; its change logs are named so.
pub fn table_name(table: TableId) -> [u8; 17] {
    let mut name = [SHARD_PREFIX; 17];
    name[1..].copy_from_slice(&table.0);
    name
}

/// The tree of a shard's documents by primary key.
fn shard_tree(table: TableId, shard: u16) -> TreeName {
    let mut name = table_name(table).to_vec();
    name.extend_from_slice(&shard.to_be_bytes());
    TreeName(name.into())
}

/// The tree of a shard's entries in an index.
pub fn index_tree(table: TableId, shard: u16, index: IndexId) -> TreeName {
    let mut name = shard_tree(table, shard).0.to_vec();
    name.extend_from_slice(&index.0);
    TreeName(name.into())
}

/// Whether a shard's tree is that of its documents.
pub(crate) fn is_primary(name: &TreeName) -> bool {
    name.0.len() == 1 + 16 + 2
}

/// What the catalog says of a tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is not a table's.
    Foreign,
    Known,
    /// Its table, shard or index is not there, or not in this store.
    Orphan,
}

fn standing(catalog: &Catalog, name: &TreeName, store: u16) -> Standing {
    let Some((id, shard)) = shard_of_tree(name) else { return Standing::Foreign };
    let Some(table) = catalog.table(id) else { return Standing::Orphan };
    if table.placement.get(usize::from(shard)) != Some(&store) {
        return Standing::Orphan;
    }
    match <[u8; 16]>::try_from(&name.0[19..]) {
        Ok(index) if table.index(IndexId(index)).is_none() => Standing::Orphan,
        Ok(_) | Err(_) => Standing::Known,
    }
}

/// The part of a tree's name that names its table, if the tree holds documents: entries of indexes are too small to compress.
pub fn table_of_tree(name: &TreeName) -> Option<&[u8]> {
    let is_documents = name.0.first() == Some(&SHARD_PREFIX) && name.0.len() == 19;
    is_documents.then(|| &name.0[..17])
}

/// The table and shard of a tree's name, if it is a shard's or an index's of it.
pub(crate) fn shard_of_tree(name: &TreeName) -> Option<(TableId, u16)> {
    let (prefix, rest) = name.0.split_first()?;
    if *prefix != SHARD_PREFIX || rest.len() < 18 {
        return None;
    }
    let id = rest[..16].try_into().expect("sixteen bytes");
    Some((TableId(id), u16::from_be_bytes(rest[16..18].try_into().expect("two bytes"))))
}

impl<S: StorageEngine> OpenStore<S> {
    /// Begins a new epoch of commit numbers, durably.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin(number: u16, engine: Rc<S>) -> Result<OpenStore<S>, StorageError> {
        let tree = engine.create_tree(&TreeName(STORE_TREE.into())).await?;
        let key = b"epoch".to_vec();
        let old = engine.get(tree, &key).await?;
        let old = old.and_then(|value| value.as_ref().try_into().ok()).map_or(0, u64::from_le_bytes);
        let epoch = old + 1;
        let edit = Edit::Put { tree, key, value: epoch.to_le_bytes().to_vec() };
        let lsn = engine.commit(CommitInfo::default(), &[edit]).await?;
        engine.flushed(lsn).await?;
        Ok(OpenStore { number, engine, epoch })
    }

    /// Drops the trees of tables and shards that the catalog does not place here.
    ///
    /// # Errors
    /// The store's.
    pub async fn drop_orphans(&self, catalog: &Catalog) -> Result<(), StorageError> {
        for name in self.engine.tree_names() {
            if standing(catalog, &name, self.number) != Standing::Orphan {
                continue;
            }
            if let Some(tree) = self.engine.tree(&name) {
                tracing::info!(store = self.number, tree = ?name, "dropping what is left of a dropped table or index");
                self.engine.drop_tree(tree).await?;
            }
        }
        Ok(())
    }

    /// Forgets the changes of tables that are gone, and of those whose changes are not to be kept. Gives whose were forgotten.
    ///
    /// # Errors
    /// The store's.
    pub async fn drop_logs(
        &self,
        catalog: &Catalog,
        default: Option<Retention>,
    ) -> Result<Vec<TableId>, StorageError> {
        let mut dropped = Vec::new();
        for log in self.engine.change_logs() {
            let id = log.get(1..).and_then(|id| id.try_into().ok()).map(TableId);
            let table = id.and_then(|id| catalog.table(id));
            if table.and_then(|table| retention(table, default)).is_none() {
                self.engine.remove_change_log(&log).await?;
                dropped.extend(id);
            }
        }
        Ok(dropped)
    }
}

impl<S: StorageEngine> Tables<S> {
    pub fn new(stores: BTreeMap<u16, Rc<OpenStore<S>>>, retention: Option<Retention>) -> Tables<S> {
        Tables { stores, retention, local: RefCell::default() }
    }

    /// What is kept of the changes of tables that say nothing else.
    pub fn retention(&self) -> Option<Retention> {
        self.retention
    }

    /// Whether changes of one of these tables are kept.
    pub fn keep_any(&self, tables: &[Rc<Table>]) -> bool {
        self.retention.is_some() || tables.iter().any(|table| retention(table, None).is_some())
    }

    /// The table's change log was removed: if it is to be there, it is begun anew.
    pub fn unsettle(&self, table: TableId) {
        if let Some(local) = self.local.borrow().get(&table) {
            local.unsettle();
        }
    }

    /// This core's view of a table.
    pub fn local(&self, table: &Rc<Table>) -> Rc<LocalTable<S>> {
        if let Some(local) = self.local.borrow().get(&table.id) {
            return local.clone();
        }
        let shards = table.placement.iter().enumerate().map(|(shard, store)| {
            let store = self.stores.get(store)?;
            let name = shard_tree(table.id, shard as u16);
            Some(Shard {
                store: store.clone(),
                place: shard,
                number: table.first_shard + shard as u32,
                tree: Cell::new(store.engine.tree(&name)),
                name,
                next_commit: Cell::new((store.epoch << COMMITS_BITS) + 1),
                is_kept: Cell::new(false),
            })
        });
        let local = LocalTable {
            shards: shards.collect(),
            retention: Cell::new(share(table, self.retention)),
            log: table_name(table.id),
            indexes: RefCell::new(index::follow(&[].into(), table)),
            read: Meter::default(),
            written: Meter::default(),
            disk_read: Meter::default(),
            disk_written: Meter::default(),
        };
        let local = Rc::new(local);
        self.local.borrow_mut().insert(table.id, local.clone());
        local
    }

    /// Follows a change of these tables, and forgets those that are gone.
    pub fn follow(&self, catalog: &Catalog, changed: &[TableId]) {
        for id in changed {
            let Some(table) = catalog.table(*id) else {
                self.local.borrow_mut().remove(id);
                continue;
            };
            let Some(local) = self.local.borrow().get(id).cloned() else { continue };
            let retention = share(table, self.retention);
            if local.retention.replace(retention) != retention {
                local.unsettle();
            }
            let indexes = index::follow(&local.indexes(), table);
            local.indexes.replace(indexes);
        }
    }

    /// Trees that a table, as it was, has in stores of this core and that have no place in the catalog any more.
    pub fn left_of(&self, table: &Table, catalog: &Catalog) -> Vec<(Rc<OpenStore<S>>, TreeId)> {
        let mut left = Vec::new();
        for (shard, store) in (0..).zip(&table.placement) {
            let Some(store) = self.stores.get(store) else { continue };
            let of_indexes = table.indexes.iter().map(|index| index_tree(table.id, shard, index.id));
            for name in of_indexes.chain([shard_tree(table.id, shard)]) {
                if standing(catalog, &name, store.number) == Standing::Orphan {
                    left.extend(store.engine.tree(&name).map(|tree| (store.clone(), tree)));
                }
            }
        }
        left
    }

    /// What the core has done for each table, and what it holds of it.
    pub fn figures(&self, now: Duration) -> Vec<TableFigures> {
        let mut figures: HashMap<TableId, TableFigures> = HashMap::new();
        for (id, table) in self.local.borrow().iter() {
            let done = TableFigures {
                read_total: table.read.total(),
                read_per_second: table.read.per_second(now),
                written_total: table.written.total(),
                written_per_second: table.written.per_second(now),
                ..TableFigures::none(*id)
            };
            figures.insert(*id, done);
        }
        for store in self.stores.values() {
            for (name, usage) in store.engine.usage() {
                let Some((id, _)) = shard_of_tree(&name) else { continue };
                figures.entry(id).or_insert_with(|| TableFigures::none(id)).usage += &usage;
            }
        }
        for (id, table) in self.local.borrow().iter() {
            let Some(figures) = figures.get_mut(id) else { continue };
            table.disk_read.raise_to(figures.usage.read_bytes);
            table.disk_written.raise_to(figures.usage.written_bytes);
            figures.disk_read_per_second = table.disk_read.per_second(now);
            figures.disk_written_per_second = table.disk_written.per_second(now);
        }
        figures.into_values().collect()
    }

    pub fn shard_count(&self) -> usize {
        self.local.borrow().values().map(|table| table.shards.iter().flatten().count()).sum()
    }
}

impl<S: StorageEngine> LocalTable<S> {
    /// Makes sure that a shard's changes are kept from now on, if the table's are.
    ///
    /// # Errors
    /// The store's.
    pub async fn keep_changes(&self, shard: &Shard<S>, now_ms: u64) -> Result<(), StorageError> {
        while let Some(retention) = self.retention.get()
            && !shard.is_kept.get()
        {
            // Writers of all shards of the store come here first: none is changed before the log has begun.
            let beside =
                || self.shards.iter().flatten().filter(|other| Rc::ptr_eq(&other.store, &shard.store));
            let bases: Vec<(u32, u64)> = beside().map(|shard| (shard.number, shard.last_commit())).collect();
            shard.store.engine.begin_change_log(&self.log, &bases, retention, now_ms).await?;
            // The setting may have changed meanwhile.
            if self.retention.get() == Some(retention) {
                beside().for_each(|shard| shard.is_kept.set(true));
            }
        }
        Ok(())
    }

    /// Rows by key, each shard's in one call, so that what lies on disk is read beside each other.
    ///
    /// # Errors
    /// A key has its home elsewhere, or the store's.
    pub async fn get_many(&self, keys: Vec<Key>) -> Result<Vec<Option<Document>>, QueryError> {
        let mut rows: Vec<Option<Document>> = vec![None; keys.len()];
        let mut groups: BTreeMap<u16, (Vec<usize>, Vec<Key>)> = BTreeMap::new();
        for (place, key) in keys.into_iter().enumerate() {
            let (places, keys) = groups.entry(self.number_of(&key)).or_default();
            places.push(place);
            keys.push(key);
        }
        for (places, keys) in groups.into_values() {
            let not_here =
                || QueryError::new(ErrorKind::Internal, "a row was asked for where it does not live");
            let shard = self.shard_of(&keys[0]).ok_or_else(not_here)?;
            let found = shard.get_many(&keys).await.map_err(storage_failed)?;
            for (place, row) in places.into_iter().zip(found) {
                rows[place] = row.map(|row| row.to_vec());
            }
        }
        Ok(rows)
    }
}

/// What is kept of a table's changes.
fn retention(table: &Table, default: Option<Retention>) -> Option<Retention> {
    let Some(KeptChanges { bytes_max, age_secs }) = table.change_log else { return default };
    (bytes_max > 0).then_some(Retention { bytes_max, age_ms_max: age_secs.saturating_mul(1000) })
}

/// What each store keeps of it.
fn share(table: &Table, default: Option<Retention>) -> Option<Retention> {
    let mut stores = table.placement.clone();
    stores.sort_unstable();
    stores.dedup();
    let whole = retention(table, default)?;
    Some(Retention { bytes_max: whole.bytes_max / stores.len() as u64, ..whole })
}

impl<S> LocalTable<S> {
    /// Whether changes are to be kept.
    pub fn keeps_changes(&self) -> bool {
        self.retention.get().is_some()
    }

    /// Whoever writes next sees to the change log first.
    fn unsettle(&self) {
        self.shards.iter().flatten().for_each(|shard| shard.is_kept.set(false));
    }

    /// The shard that holds `key`, if it lives here.
    pub fn shard_of(&self, key: &[u8]) -> Option<&Shard<S>> {
        self.shards[usize::from(self.number_of(key))].as_ref()
    }

    /// The shard that a key belongs to.
    pub fn number_of(&self, key: &[u8]) -> u16 {
        photondb_proto::datum::key::shard_of(key, self.shards.len() as u16)
    }

    /// The table's indexes, which may be others after any wait.
    pub fn indexes(&self) -> LocalIndexes {
        self.indexes.borrow().clone()
    }

    pub fn index(&self, id: IndexId) -> Option<Rc<LocalIndex>> {
        self.indexes.borrow().iter().find(|index| index.id == id).cloned()
    }
}

/// What to do with a row after looking at it.
pub enum Change<T> {
    Put(Vec<u8>, T),
    Delete(T),
    /// Leaves it as it is.
    Keep(T),
}

impl<S: StorageEngine> Shard<S> {
    /// The document at `key`, if that is known without I/O.
    pub fn cached(&self, key: &[u8]) -> Result<Cached<Option<Value>>, StorageError> {
        match self.tree.get() {
            Some(tree) => self.store.engine.cached(tree, key),
            None => Ok(Cached::Hit(None)),
        }
    }

    pub async fn get(&self, key: &[u8]) -> Result<Option<Value>, StorageError> {
        match self.tree.get() {
            Some(tree) => self.store.engine.get(tree, key).await,
            None => Ok(None),
        }
    }

    /// [`Shard::get`] of several keys, read beside each other.
    ///
    /// # Errors
    /// The store's.
    pub async fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Value>>, StorageError> {
        match self.tree.get() {
            Some(tree) => self.store.engine.get_many(tree, keys).await,
            None => Ok(vec![None; keys.len()]),
        }
    }

    /// The tree of its rows, if it has any.
    pub fn tree(&self) -> Option<TreeId> {
        self.tree.get()
    }

    /// The number of the last change.
    pub fn last_commit(&self) -> u64 {
        self.next_commit.get() - 1
    }

    async fn tree_made(&self) -> Result<TreeId, StorageError> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let tree = self.store.engine.create_tree(&self.name).await?;
        self.tree.set(Some(tree));
        Ok(tree)
    }

    /// Reads a row, lets `decide` say what becomes of it and applies that, with the entries of `local`'s indexes. If `decide`
    /// had to wait, or making the entries did, the row is read again and must be the same, else it is decided again. Gives what was
    /// applied, if anything was. Others have their `turn` while entries are made that take long.
    ///
    /// # Errors
    /// The store's.
    pub async fn change<T>(
        &self,
        local: &LocalTable<S>,
        key: &[u8],
        now_ms: u64,
        decide: impl AsyncFn(Option<Value>) -> Change<T>,
        turn: &impl AsyncFn(),
    ) -> Result<(T, Option<Applied>), StorageError> {
        // What is rare is boxed, so that the future of every write stays small.
        let tree = match self.tree.get() {
            Some(tree) => tree,
            None => Box::pin(self.tree_made()).await?,
        };
        let engine = &self.store.engine;
        let mut decided: Option<Decided<T>> = None;
        loop {
            if !self.is_kept.get() && local.keeps_changes() {
                Box::pin(local.keep_changes(self, now_ms)).await?;
            }
            let indexes = local.indexes();
            if let Some(missing) = indexes.iter().find(|index| index.tree(self.place).is_none()) {
                Box::pin(missing.tree_made(self)).await?;
                continue;
            }
            let Cached::Hit(old) = engine.cached(tree, key)? else {
                Box::pin(engine.get(tree, key)).await?;
                continue;
            };
            let mut decision = match decided.take() {
                Some(decision) if decision.seen.as_deref() == old.as_deref() => decision,
                Some(_) | None => {
                    let mut deciding = std::pin::pin!(decide(old.clone()));
                    let (change, waited) = match poll_once(deciding.as_mut()).await {
                        Some(change) => (change, false),
                        None => (deciding.await, true),
                    };
                    let (new, word) = match change {
                        Change::Keep(word) => return Ok((word, None)),
                        Change::Put(value, word) => (Some(value), word),
                        Change::Delete(word) => (None, word),
                    };
                    let decision = Decided { seen: old, new, word, entries: None };
                    if waited {
                        decided = Some(decision);
                        continue;
                    }
                    decision
                }
            };
            let entries = match decision.entries.take() {
                Some((known, entries)) if Rc::ptr_eq(&known, &indexes) => entries,
                Some(_) | None => match self.entries(&indexes, key, &decision) {
                    Ok(entries) => entries,
                    Err(TakesLong) => {
                        let making = in_turns(self.entries_in_turns(&indexes, key, &decision), turn);
                        let entries = Box::pin(making).await;
                        decided = Some(Decided { entries: Some((indexes, entries)), ..decision });
                        continue;
                    }
                },
            };
            let mut edits = Vec::with_capacity(1 + entries.len());
            // The document goes in and comes back: a large one takes long to copy.
            edits.push(match decision.new.take() {
                Some(value) => Edit::Put { tree, key: key.to_vec(), value },
                None => Edit::Delete { tree, key: key.to_vec() },
            });
            edits.extend(entries);
            let part = self.part(edits.len(), decision.seen.as_ref(), now_ms);
            let commit = part.info.commit_number;
            match engine.apply_parts(&[part], &edits)? {
                Cached::Hit(lsn) => {
                    self.next_commit.set(commit + 1);
                    let Decided { seen: old, word, .. } = decision;
                    let (new, _) = taken_apart(edits);
                    return Ok((word, Some(Applied { lsn, commit, old, new })));
                }
                Cached::Miss => {
                    Box::pin(engine.prepare(&edits)).await?;
                    let (new, entries) = taken_apart(edits);
                    decided = Some(Decided { new, entries: Some((indexes, entries)), ..decision });
                }
            }
        }
    }

    /// What goes with the next change of a row, from `seen` on, by so many edits.
    pub fn part(&self, edits: usize, seen: Option<&Value>, now_ms: u64) -> Part {
        let info = CommitInfo {
            shard: self.number,
            term: 0,
            commit_number: self.next_commit.get(),
            transaction: 0,
            commit_time_ms: now_ms,
        };
        Part { info, edits, kept: self.is_kept.get().then(|| seen.cloned()) }
    }

    /// The number that the next change gets: behind one that was given, or that one again when it was not used.
    pub fn set_next_commit(&self, number: u64) {
        self.next_commit.set(number);
    }

    /// Its tree, if that, those of `indexes` and the change log that the table wants are there.
    pub fn tree_at_hand(&self, local: &LocalTable<S>, indexes: &LocalIndexes) -> Option<TreeId> {
        let is_whole = (!local.keeps_changes() || self.is_kept.get())
            && indexes.iter().all(|index| index.tree(self.place).is_some());
        self.tree.get().filter(|_| is_whole)
    }

    /// Makes what [`Shard::tree_at_hand`] asks for.
    ///
    /// # Errors
    /// The store's.
    pub async fn make(
        &self,
        local: &LocalTable<S>,
        indexes: &LocalIndexes,
        now_ms: u64,
    ) -> Result<(), StorageError> {
        self.tree_made().await?;
        local.keep_changes(self, now_ms).await?;
        for index in indexes.iter() {
            index.tree_made(self).await?;
        }
        Ok(())
    }

    /// What a row's change changes in the indexes.
    ///
    /// # Errors
    /// It takes long to find out.
    fn entries<T>(
        &self,
        indexes: &LocalIndexes,
        key: &[u8],
        decision: &Decided<T>,
    ) -> Result<Vec<Edit>, TakesLong> {
        let mut edits = Vec::new();
        if !indexes.is_empty() {
            let new = decision.new_row();
            for index in indexes.iter() {
                index.add_edits(self.place, key, (decision.seen.as_ref(), new.as_ref()), &mut edits)?;
            }
        }
        Ok(edits)
    }

    /// The same, which pends where it takes long.
    async fn entries_in_turns<T>(
        &self,
        indexes: &LocalIndexes,
        key: &[u8],
        decision: &Decided<T>,
    ) -> Vec<Edit> {
        let mut edits = Vec::new();
        let new = decision.new_row();
        for index in indexes.iter() {
            let rows = (decision.seen.as_ref(), new.as_ref());
            index.add_edits_in_turns(self.place, key, rows, &mut edits).await;
        }
        edits
    }
}

/// The document and the entries of a row's edits.
fn taken_apart(edits: Vec<Edit>) -> (Option<Vec<u8>>, Vec<Edit>) {
    let mut edits = edits.into_iter();
    let document = match edits.next() {
        Some(Edit::Put { value, .. }) => Some(value),
        Some(Edit::Delete { .. }) | None => None,
    };
    (document, edits.collect())
}

/// A change of a row that storage has applied.
pub struct Applied {
    /// The place in the log to wait for.
    pub lsn: Lsn,
    pub commit: u64,
    pub old: Option<Value>,
    pub new: Option<Vec<u8>>,
}

/// What becomes of a row if it is still as it was seen.
struct Decided<T> {
    seen: Option<Value>,
    /// `None`: it is deleted.
    new: Option<Vec<u8>>,
    word: T,
    /// What that changes in the indexes, if it was made for those that there are.
    entries: Option<(LocalIndexes, Vec<Edit>)>,
}

impl<T> Decided<T> {
    fn new_row(&self) -> Option<Value> {
        self.new.as_deref().map(Rc::from)
    }
}

/// A range of keys in the words of storage.
pub fn storage_range(range: &KeyRange) -> Range {
    let bound = |bound: &KeyBound| match bound {
        KeyBound::Unbounded => Bound::Unbounded,
        KeyBound::Included(key) => Bound::Included(key.clone()),
        KeyBound::Excluded(key) => Bound::Excluded(key.clone()),
    };
    Range { start: bound(&range.start), end: bound(&range.end) }
}

/// A store's failure in the words of a client.
pub fn storage_failed(error: StorageError) -> QueryError {
    match &error {
        StorageError::Full { .. } | StorageError::ReadOnly { .. } => {
            QueryError::new(ErrorKind::OpFailed, format!("Cannot perform write: {error}"))
        }
        StorageError::NoTree(_) => {
            QueryError::new(ErrorKind::OpFailed, "The table was dropped while the query ran.")
        }
        StorageError::KeyTooLong { .. } => QueryError::new(ErrorKind::QueryLogic, error.to_string()),
        StorageError::Disk(_)
        | StorageError::Corrupt { .. }
        | StorageError::Format { .. }
        | StorageError::Backend { .. } => {
            tracing::error!(%error, "a store failed");
            QueryError::new(ErrorKind::Internal, error.to_string())
        }
    }
}
