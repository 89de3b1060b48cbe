//! The backends that a server can be told to keep its data in, behind one [`StorageEngine`].
//!
//! `slab` and `btree` are the same engine with another [`Placement`] of values: log, pages, cache, checkpoints and recovery
//! do not care where a value lies, so a second engine would be a second place for every mistake. `memory` keeps nothing.

use crate::changelog::{ChangeLogError, LogPlace, LogRun, Position, Retention};
use crate::disk::Directory;
use crate::engine::{
    BatchMax, Cached, CommitInfo, Direction, Edit, Entries, Lsn, Merged, Part, Range, StorageEngine,
    StorageError, StorageStats, Sweeping, TreeId, TreeName, TreeUsage, Value, Visited,
};
use crate::memory::MemoryEngine;
use crate::slab::{Placement, SlabEngine};
use crate::train::{Dictionary, Training};

/// What a store is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Documents in slots, compressed.
    #[default]
    Slab,
    /// Documents in the leaves of their B-tree.
    Btree,
    /// Nothing is kept: for tests.
    Memory,
}

impl Backend {
    pub const NAMES: [&'static str; 3] = ["slab", "btree", "memory"];

    pub fn named(name: &str) -> Option<Self> {
        [Backend::Slab, Backend::Btree, Backend::Memory].into_iter().find(|backend| backend.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self.placement() {
            Some(placement) => placement.backend(),
            None => "memory",
        }
    }

    /// Where its values lie on disk, if it has one.
    pub fn placement(self) -> Option<Placement> {
        match self {
            Backend::Slab => Some(Placement::Slots),
            Backend::Btree => Some(Placement::Leaves),
            Backend::Memory => None,
        }
    }
}

/// A store of any backend.
pub enum Store<D: Directory> {
    Disk(SlabEngine<D>),
    Memory(MemoryEngine),
}

/// Asks whichever engine it is.
macro_rules! ask {
    ($store:expr, $engine:ident => $answer:expr) => {
        match $store {
            Store::Disk($engine) => $answer,
            Store::Memory($engine) => $answer,
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "a default would answer for the engine that has its own")]
impl<D: Directory> StorageEngine for Store<D> {
    fn tree(&self, name: &TreeName) -> Option<TreeId> {
        ask!(self, engine => engine.tree(name))
    }

    fn tree_names(&self) -> Vec<TreeName> {
        ask!(self, engine => engine.tree_names())
    }

    async fn create_tree(&self, name: &TreeName) -> Result<TreeId, StorageError> {
        ask!(self, engine => engine.create_tree(name).await)
    }

    async fn drop_tree(&self, tree: TreeId) -> Result<(), StorageError> {
        ask!(self, engine => engine.drop_tree(tree).await)
    }

    async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Value>, StorageError> {
        ask!(self, engine => engine.get(tree, key).await)
    }

    fn cached(&self, tree: TreeId, key: &[u8]) -> Result<Cached<Option<Value>>, StorageError> {
        ask!(self, engine => engine.cached(tree, key))
    }

    fn cached_many(&self, keys: &[(TreeId, &[u8])]) -> Result<Vec<Cached<Option<Value>>>, StorageError> {
        ask!(self, engine => engine.cached_many(keys))
    }

    async fn range(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Entries, StorageError> {
        ask!(self, engine => engine.range(tree, range, direction, rows_max, bytes_max).await)
    }

    fn merge(
        &self,
        trees: &[TreeId],
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Merged, StorageError> {
        ask!(self, engine => engine.merge(trees, range, direction, rows_max, bytes_max))
    }

    fn visit(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut dyn FnMut(&[&[u8]]) -> usize,
    ) -> Result<Visited, StorageError> {
        ask!(self, engine => engine.visit(tree, range, rows_max, see))
    }

    async fn sweep(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut impl AsyncFnMut(&[&[u8]]) -> Sweeping,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        ask!(self, engine => engine.sweep(tree, range, rows_max, see).await)
    }

    async fn get_many(&self, tree: TreeId, keys: &[Vec<u8>]) -> Result<Vec<Option<Value>>, StorageError> {
        ask!(self, engine => engine.get_many(tree, keys).await)
    }

    async fn behind_damage(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
    ) -> Result<Option<Range>, StorageError> {
        ask!(self, engine => engine.behind_damage(tree, range, direction).await)
    }

    async fn count(&self, tree: TreeId, range: &Range) -> Result<u64, StorageError> {
        ask!(self, engine => engine.count(tree, range).await)
    }

    async fn nth(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        n: u64,
    ) -> Result<Option<(Vec<u8>, Value)>, StorageError> {
        ask!(self, engine => engine.nth(tree, range, direction, n).await)
    }

    async fn bulk_build(
        &self,
        tree: TreeId,
        entries: &mut dyn Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StorageError> {
        ask!(self, engine => engine.bulk_build(tree, entries).await)
    }

    fn apply_parts(&self, parts: &[Part], edits: &[Edit]) -> Result<Cached<Lsn>, StorageError> {
        ask!(self, engine => engine.apply_parts(parts, edits))
    }

    fn batch_max(&self) -> BatchMax {
        ask!(self, engine => engine.batch_max())
    }

    fn apply(&self, info: CommitInfo, edits: &[Edit]) -> Result<Cached<Lsn>, StorageError> {
        ask!(self, engine => engine.apply(info, edits))
    }

    async fn begin_change_log(
        &self,
        log: &[u8],
        bases: &[(u32, u64)],
        retention: Retention,
        now_ms: u64,
    ) -> Result<(), StorageError> {
        ask!(self, engine => engine.begin_change_log(log, bases, retention, now_ms).await)
    }

    async fn remove_change_log(&self, log: &[u8]) -> Result<(), StorageError> {
        ask!(self, engine => engine.remove_change_log(log).await)
    }

    fn change_logs(&self) -> Vec<Box<[u8]>> {
        ask!(self, engine => engine.change_logs())
    }

    async fn tend_change_logs(&self, now_ms: u64) {
        ask!(self, engine => engine.tend_change_logs(now_ms).await)
    }

    async fn change_place(&self, log: &[u8], after: &[Position]) -> Result<LogPlace, ChangeLogError> {
        ask!(self, engine => engine.change_place(log, after).await)
    }

    async fn changes_behind(
        &self,
        log: &[u8],
        after: &[Position],
        place: LogPlace,
        bytes_max: usize,
    ) -> Result<LogRun, ChangeLogError> {
        ask!(self, engine => engine.changes_behind(log, after, place, bytes_max).await)
    }

    async fn commit(&self, info: CommitInfo, edits: &[Edit]) -> Result<Lsn, StorageError> {
        ask!(self, engine => engine.commit(info, edits).await)
    }

    async fn prepare(&self, edits: &[Edit]) -> Result<(), StorageError> {
        ask!(self, engine => engine.prepare(edits).await)
    }

    async fn flushed(&self, lsn: Lsn) -> Result<(), StorageError> {
        ask!(self, engine => engine.flushed(lsn).await)
    }

    fn applied(&self) -> Lsn {
        ask!(self, engine => engine.applied())
    }

    async fn foreground(&self) {
        ask!(self, engine => engine.foreground().await);
    }

    async fn work(&self) -> Result<(), StorageError> {
        ask!(self, engine => engine.work().await)
    }

    async fn background(&self) -> Result<(), StorageError> {
        ask!(self, engine => engine.background().await)
    }

    async fn close(&self) -> Result<(), StorageError> {
        ask!(self, engine => engine.close().await)
    }

    async fn training(&self) -> Option<Training> {
        ask!(self, engine => engine.training().await)
    }

    async fn set_dictionary(&self, dictionary: Dictionary) -> Result<(), StorageError> {
        ask!(self, engine => engine.set_dictionary(dictionary).await)
    }

    fn pressure(&self) -> u32 {
        ask!(self, engine => engine.pressure())
    }

    fn settle(&self) {
        ask!(self, engine => engine.settle());
    }

    fn failure(&self) -> Option<StorageError> {
        ask!(self, engine => engine.failure())
    }

    fn stats(&self) -> StorageStats {
        ask!(self, engine => engine.stats())
    }

    fn full(&self) -> Option<String> {
        ask!(self, engine => engine.full())
    }

    fn usage(&self) -> Vec<(TreeName, TreeUsage)> {
        ask!(self, engine => engine.usage())
    }
}
