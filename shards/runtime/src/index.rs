//! The secondary indexes of a table on this core: a tree of entries beside each shard's tree of rows.
//!
//! Always: a row and its entries change in one batch of the store, so no reader and no crash sees one without the other. An
//! index is kept up by writes from the moment this core's catalog has it, ready or not; `construct.rs` adds the
//! entries of the rows that were there before. Both give the same entries for the same row, so it does not matter who
//! comes first.

use std::cell::Cell;
use std::rc::Rc;

use photondb_proto::datum::key;
use photondb_proto::op::{IndexId, Key};
use photondb_query::geo::question::Question;
use photondb_query::index::IndexWriter;
use photondb_storage::engine::{Edit, StorageEngine, StorageError, TreeId, TreeName, Value};

use crate::catalog::Table;
use crate::table::{Shard, index_tree};

/// A table's indexes.
pub type LocalIndexes = Rc<[Rc<LocalIndex>]>;

/// An index on this core.
pub struct LocalIndex {
    pub id: IndexId,
    writer: IndexWriter,
    /// Of each shard of the table; none until it is needed.
    trees: Vec<Cell<Option<TreeId>>>,
    names: Vec<TreeName>,
    pub progress: Progress,
}

/// How far the construction is on this core, in rows.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: Cell<u64>,
    pub total: Cell<u64>,
}

/// The indexes of a table as the catalog has them, those that were known before as they are.
pub fn follow(known: &LocalIndexes, table: &Table) -> LocalIndexes {
    let indexes = table.indexes.iter().filter_map(|index| {
        if let Some(known) = known.iter().find(|known| known.id == index.id) {
            return Some(known.clone());
        }
        let writer = match IndexWriter::new(&index.definition.function) {
            Ok(writer) => writer,
            Err(error) => {
                let name = &index.definition.name;
                tracing::error!(table = %table.id, name, %error, "an index's function is not understood");
                return None;
            }
        };
        let names: Vec<TreeName> =
            (0..table.shards()).map(|shard| index_tree(table.id, shard, index.id)).collect();
        let trees = names.iter().map(|_| Cell::new(None)).collect();
        Some(Rc::new(LocalIndex { id: index.id, writer, trees, names, progress: Progress::default() }))
    });
    indexes.collect()
}

impl LocalIndex {
    /// The tree of the shard at `place`, if this core has used it.
    pub fn tree(&self, place: usize) -> Option<TreeId> {
        self.trees[place].get()
    }

    /// The tree of a shard, if there is one.
    pub fn tree_of<S: StorageEngine>(&self, shard: &Shard<S>) -> Option<TreeId> {
        let cell = &self.trees[shard.place];
        if cell.get().is_none() {
            cell.set(shard.store.engine.tree(&self.names[shard.place]));
        }
        cell.get()
    }

    /// # Errors
    /// The store's.
    pub async fn tree_made<S: StorageEngine>(&self, shard: &Shard<S>) -> Result<TreeId, StorageError> {
        if let Some(tree) = self.tree_of(shard) {
            return Ok(tree);
        }
        let tree = shard.store.engine.create_tree(&self.names[shard.place]).await?;
        self.trees[shard.place].set(Some(tree));
        Ok(tree)
    }

    /// What a row gives to a scan's question at one of its entries.
    pub async fn answers(&self, question: &Question, entry: &[u8], row: &Value) -> Vec<Value> {
        self.writer.answers(question, entry, row).await
    }

    /// Whether a row has an answer to a question of a geo index.
    pub async fn meets(&self, question: &Question, row: &Value) -> bool {
        self.writer.meets(question, row).await
    }

    /// The row's entries, in order. It pends where they take long to make.
    pub async fn entries(&self, key: &[u8], row: &Value) -> Vec<Key> {
        self.writer.entries(key, row).await
    }

    /// Adds what a row's change from `old` to `new` changes in the shard's tree, which has been made.
    ///
    /// # Errors
    /// It takes long to find out: nothing was added.
    pub fn add_edits(
        &self,
        place: usize,
        key: &[u8],
        (old, new): (Option<&Value>, Option<&Value>),
        edits: &mut Vec<Edit>,
    ) -> Result<(), TakesLong> {
        let Some(tree) = self.tree(place) else { return Ok(()) };
        let entries = |row: Option<&Value>| match row {
            Some(row) => self.writer.entries_at_once(key, row).ok_or(TakesLong),
            None => Ok(Vec::new()),
        };
        add_moves(tree, &entries(old)?, entries(new)?, edits);
        Ok(())
    }

    /// The same, which pends where it takes long.
    pub async fn add_edits_in_turns(
        &self,
        place: usize,
        key: &[u8],
        (old, new): (Option<&Value>, Option<&Value>),
        edits: &mut Vec<Edit>,
    ) {
        let Some(tree) = self.tree(place) else { return };
        let entries = async |row: Option<&Value>| match row {
            Some(row) => self.entries(key, row).await,
            None => Vec::new(),
        };
        let old = entries(old).await;
        add_moves(tree, &old, entries(new).await, edits);
    }
}

/// The entries of a row, with large geometries, take longer than a core may be held up.
#[derive(Clone, Copy, Debug)]
pub struct TakesLong;

/// Adds what changes when a row's entries were `old` and become `new`.
fn add_moves(tree: TreeId, old: &[Key], new: Vec<Key>, edits: &mut Vec<Edit>) {
    let gone = old.iter().filter(|entry| new.binary_search(entry).is_err());
    edits.extend(gone.map(|entry| Edit::Delete { tree, key: key::store_entry(entry).0 }));
    let come = new.into_iter().filter(|entry| old.binary_search(entry).is_err());
    edits.extend(come.map(|entry| {
        let (key, value) = key::store_entry(&entry);
        Edit::Put { tree, key, value }
    }));
}
