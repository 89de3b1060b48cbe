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
    pub fn answers(&self, question: &Question, entry: &[u8], row: &Value) -> Vec<Value> {
        self.writer.answers(question, entry, row)
    }

    /// Whether a row has an answer to a question of a geo index.
    pub fn meets(&self, question: &Question, row: &Value) -> bool {
        self.writer.meets(question, row)
    }

    /// The row's entries, in order.
    pub fn entries(&self, key: &[u8], row: &Value) -> Vec<Key> {
        self.writer.entries(key, row)
    }

    /// Adds what a row's change from `old` to `new` changes in the shard's tree, which has been made.
    pub fn add_edits(
        &self,
        place: usize,
        key: &[u8],
        old: Option<&Value>,
        new: Option<&Value>,
        edits: &mut Vec<Edit>,
    ) {
        let Some(tree) = self.tree(place) else { return };
        let entries = |row: Option<&Value>| row.map_or_else(Vec::new, |row| self.entries(key, row));
        let (old, new) = (entries(old), entries(new));
        let gone = old.iter().filter(|entry| new.binary_search(entry).is_err());
        edits.extend(gone.map(|entry| Edit::Delete { tree, key: key::store_entry(entry).0 }));
        let come = new.into_iter().filter(|entry| old.binary_search(entry).is_err());
        edits.extend(come.map(|entry| {
            let (key, value) = key::store_entry(&entry);
            Edit::Put { tree, key, value }
        }));
    }
}
