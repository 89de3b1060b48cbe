//! The default engine: documents in slots of chunks, found through B-trees, made durable by a log and checkpoints.
//!
//! ```text
//! put ──> log record queued ──> flush (group commit) ──> acknowledged
//!   └──> B-tree page and value in the cache, dirty ──> checkpoint ──> slot in a chunk, page, tables, superblock
//! ```
//!
//! Always: the disk holds a whole checkpoint and the log behind it; opening loads the one and applies the other through the
//! same code that applied it first. Everything a call does between two awaits it does to [`state::State`] alone, so no
//! borrow of it crosses an await. Files: `superblocks`, `pages` (trees and tables), `slabs` (chunks), `wal-NNNNNNNNNN`.
//!
//! [`state`] is the store in memory, [`read`] loads what is missing, [`slot`] and [`chunks`] are the layout of documents;
//! `checkpoint.rs` and `recovery.rs` stand beside.

pub(crate) mod ahead;
pub(crate) mod chunks;
pub(crate) mod clean;
#[cfg(test)]
mod compression_tests;
#[cfg(test)]
mod cost_tests;
#[cfg(test)]
mod damage_tests;
pub(crate) mod dictionaries;
pub(crate) mod merge;
pub(crate) mod read;
pub(crate) mod room;
pub(crate) mod slot;
pub(crate) mod state;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;
pub(crate) mod trim;
pub(crate) mod visit;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::btree::Missing;
use crate::btree::cell::Location;
use crate::btree::page::PAGE_BYTES;
use crate::changelog::{self, ChangeLogError, ChangeLogs, LogPlace, LogRun, Position, Retention};
use crate::disk::Directory;
use crate::engine::{
    BatchMax, Cached, CommitInfo, Direction, Edit, Entries, Lsn, Merged, Part, Range, StorageEngine,
    StorageError, StorageStats, Sweeping, TreeId, TreeName, TreeUsage, Value, Visited,
};
use crate::event::{Event, both, yield_now};
use crate::slab::dictionaries::DICTIONARIES;
use crate::slab::state::{SLOT_VALUE_BYTES_MAX, State, Traffic};
pub use crate::superblock::Placement;
use crate::train::{Dictionary, Training};
use crate::wal::log::Log;
use crate::wal::record::{self, Change, Extent};

/// Queued records that start a flush though nobody waits for one (soft durability).
pub(crate) const QUEUED_BYTES_MAX: u64 = 1 << 20;
/// Edits of one batch of a bulk build.
const BULK_EDITS_MAX: usize = 256;
const BULK_BYTES_MAX: usize = 1 << 20;
/// The leaves that a batch of several parts changes take this part of the cache at most.
const BATCH_CACHE_PART: u64 = 4;
/// A batch without edits.
const NOTHING: Part = Part { info: CommitInfo::NONE, edits: 0, kept: None };

/// What the owner of a store chooses.
#[derive(Clone, Copy, Debug)]
pub struct SlabOptions {
    /// Opening a store that keeps its values otherwise is an error; `None` takes it as it is, and makes a new one of slots.
    pub placement: Option<Placement>,
    /// Pages and values in memory, dirty ones included. At least 1 MiB is used.
    pub cache_bytes: u64,
    /// Values in memory beside those that wait for their place on disk.
    pub cache_entries: u64,
    /// Length of a segment of the log.
    pub wal_segment_bytes: u64,
    /// A checkpoint begins when recovery would have to read this much log. At least as much as may be dirty, if that is a part of the cache.
    pub checkpoint_log_bytes: u64,
    /// A checkpoint begins when this much is dirty; writers wait when it is four times as much. 0 is a part of the cache.
    pub checkpoint_dirty_bytes: u64,
    /// How hard zstd tries to make documents smaller, from 1 to 19. 0 stores them as they are.
    pub compression_level: i32,
    /// Smaller documents are not compressed.
    pub compression_bytes_min: u32,
    /// The part of a tree's name that says which table it belongs to: the trees of a table share their dictionaries. Trees
    /// without a table have none.
    pub table_of: fn(&TreeName) -> Option<&[u8]>,
}

impl Default for SlabOptions {
    fn default() -> Self {
        Self {
            placement: None,
            cache_bytes: 64 << 20,
            cache_entries: u64::MAX,
            wal_segment_bytes: 16 << 20,
            checkpoint_log_bytes: 64 << 20,
            checkpoint_dirty_bytes: 0,
            compression_level: 1,
            compression_bytes_min: 129,
            table_of: |name| Some(&name.0),
        }
    }
}

/// Smallest cache that the engine works with: a batch's pages must stay while it is applied.
const CACHE_BYTES_MIN: u64 = 1 << 20;

/// A checkpoint begins at the latest when this much is dirty, or in the log: recovery reads that much in some seconds.
const CHECKPOINT_DIRTY_BYTES_MAX: u64 = 256 << 20;
/// A checkpoint begins at the latest when so much of that is pages: freezing them takes a few milliseconds without a wait.
pub(crate) const CHECKPOINT_PAGE_BYTES_MAX: u64 = 64 << 20;

pub(crate) struct Shared<D: Directory> {
    pub directory: D,
    pub superblocks: D::File,
    pub pages: D::File,
    pub slabs: D::File,
    pub log: Log<D::File>,
    pub changes: ChangeLogs<D::File>,
    pub state: RefCell<State>,
    pub options: SlabOptions,
    /// A checkpoint runs, or something that must not run beside one.
    pub checkpointing: Cell<bool>,
    pub checkpointed: Event,
    /// Why the last checkpoint did not come about.
    pub checkpoint_error: RefCell<Option<StorageError>>,
    /// Checkpoints that ended, one way or the other.
    pub checkpoint_attempts: Cell<u64>,
    /// What the last one wrote of pages.
    pub checkpoint_page_bytes: Cell<u64>,
    /// What emptying chunks made dirty for the one that runs, all of it and pages alone; none where there was nothing to empty.
    pub moved: Cell<Option<[u64; 2]>>,
    /// How many of them there were when the store was told to settle.
    pub settled: Cell<u64>,
    /// Something for the background to do.
    pub work: Event,
    /// The log wants a segment more, or a file is to be longer.
    pub room_due: Event,
    /// The disk had no room for that.
    pub room_failed: Cell<bool>,
    pub background: Cell<bool>,
    pub closing: Cell<bool>,
    /// Somebody waits for a checkpoint.
    pub checkpoint_wanted: Cell<bool>,
    pub growing: Cell<bool>,
    pub refused: RefCell<Option<room::Refused>>,
    /// Somebody asked whether there is room again.
    pub room_wanted: Cell<bool>,
    pub ahead: ahead::Ahead,
    /// There may be documents to make a dictionary of.
    pub trainable: Event,
}

/// A store of slabs. Clones are handles to the same store.
pub struct SlabEngine<D: Directory> {
    pub(crate) shared: Rc<Shared<D>>,
}

impl<D: Directory> Clone for SlabEngine<D> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<D: Directory> SlabEngine<D> {
    /// Opens the store in a directory, or makes one in an empty directory. The caller keeps others out.
    pub async fn open(directory: D, options: SlabOptions) -> Result<Self, StorageError> {
        let mut options = options;
        options.cache_bytes = options.cache_bytes.max(CACHE_BYTES_MIN);
        if options.checkpoint_dirty_bytes == 0 {
            options.checkpoint_dirty_bytes = (options.cache_bytes / 8).min(CHECKPOINT_DIRTY_BYTES_MAX);
            options.checkpoint_log_bytes = options.checkpoint_log_bytes.max(options.checkpoint_dirty_bytes);
        }
        let shared = Rc::new(crate::recovery::open(directory, options).await?);
        Ok(Self { shared })
    }

    /// Counts the openings of this store. A commit number made of it and a counter is never given twice.
    pub fn epoch(&self) -> u64 {
        self.shared.state.borrow().superblock.epoch
    }

    /// How this store keeps its values.
    pub fn placement(&self) -> Placement {
        self.shared.state.borrow().superblock.placement
    }

    /// Writes a checkpoint now.
    pub async fn checkpoint(&self) -> Result<(), StorageError> {
        self.shared.checkpoint().await
    }
}

impl<D: Directory> SlabEngine<D> {
    async fn make_tree(&self, name: &TreeName) -> Result<TreeId, StorageError> {
        loop {
            if let Some(tree) = self.shared.state.borrow().by_name.get(name) {
                return Ok(TreeId(*tree));
            }
            self.shared.writable()?;
            if name.0.len() > crate::btree::page::KEY_BYTES_MAX {
                return Err(StorageError::KeyTooLong {
                    bytes: name.0.len(),
                    bytes_max: crate::btree::page::KEY_BYTES_MAX,
                });
            }
            if !self.shared.has_room_for(0, 1, name.0.len() as u64 + 64) {
                self.shared.make_room_for(0, 1, name.0.len() as u64 + 64).await?;
                continue;
            }
            let made = {
                let mut state = self.shared.state.borrow_mut();
                let number = state.next_tree;
                state.create(name, number).map(|()| number)
            };
            match made {
                Ok(number) => {
                    self.shared.log.push(|log| record::append_created(log, number, &name.0));
                    self.shared.nudge();
                    return Ok(TreeId(number));
                }
                Err(Missing(page)) => self.shared.load_page(page).await?,
            }
        }
    }
}

impl<D: Directory> Shared<D> {
    /// What was logged since the checkpoint.
    pub fn log_bytes(&self) -> u64 {
        self.log.applied() - self.state.borrow().superblock.redo.position
    }

    pub fn is_checkpoint_due(&self) -> bool {
        let is_much_dirty = || {
            let pool = &self.state.borrow().pool;
            pool.dirty_bytes() >= self.options.checkpoint_dirty_bytes
                || pool.dirty_page_bytes() >= CHECKPOINT_PAGE_BYTES_MAX
        };
        self.checkpoint_wanted.get()
            || is_much_dirty()
            || self.log_bytes() >= self.options.checkpoint_log_bytes
    }

    /// Wakes the background where a limit was passed.
    pub fn nudge(&self) {
        if self.log.is_flush_due(QUEUED_BYTES_MAX) {
            self.log.wanted.notify();
        }
        if !self.checkpointing.get() && self.is_checkpoint_due() {
            self.work.notify();
        }
        if !self.room_failed.get() && (self.log.wants_spare() || self.short_soon().is_some()) {
            self.room_due.notify();
        }
    }

    fn writable(&self) -> Result<(), StorageError> {
        self.log.failure().map_or(Ok(()), Err)
    }

    /// Flushes the log up to a position and, where no background runs that would, writes the checkpoint that is due.
    async fn flush_for_caller(&self, position: u64) -> Result<(), StorageError> {
        if self.background.get() {
            return self.log.wait(position).await;
        }
        // Boxed, so that what every writer waits with stays small.
        Box::pin(async {
            self.flush_to(position).await?;
            if !self.background.get() && !self.checkpointing.get() && self.is_checkpoint_due() {
                self.checkpoint().await?;
            }
            Ok(())
        })
        .await
    }

    /// Flushes the log up to a position, by the background if it runs.
    pub async fn flush_to(&self, position: u64) -> Result<(), StorageError> {
        while self.log.flushed() < position {
            if self.background.get() {
                return self.log.wait(position).await;
            }
            let done = self.log.done.listen();
            if self.log.is_flushing() {
                done.await;
            } else {
                self.log.flush_once().await?;
            }
        }
        Ok(())
    }

    async fn flush_loop(&self) {
        while !self.closing.get() {
            let wanted = self.log.wanted.listen();
            if self.log.is_flush_due(QUEUED_BYTES_MAX) {
                // The failure is told to all who wait, and to every later writer.
                let _ = self.log.flush_once().await;
            } else {
                wanted.await;
            }
        }
    }

    /// Writes changes to their logs when the store's log is flushed behind them and they are many.
    async fn changes_loop(&self) {
        while !self.closing.get() {
            let (due, done) = (self.changes.due.listen(), self.log.done.listen());
            if self.changes.is_empty() {
                due.await;
                continue;
            }
            self.changes.write(&self.directory, self.log.flushed(), changelog::Extent::Much).await;
            done.await;
        }
    }

    /// Writes all changes that are there to their logs.
    async fn write_changes(&self) -> Result<(), StorageError> {
        self.flush_to(self.log.applied()).await?;
        self.changes.write(&self.directory, self.log.flushed(), changelog::Extent::Everything).await;
        Ok(())
    }

    /// Applies a batch, and leaves the changes of its parts that are to be kept for the table's log.
    fn apply_batch(&self, parts: &[Part], edits: &[Edit]) -> Result<Cached<Lsn>, StorageError> {
        self.writable()?;
        // Parts are of one table, as a rule.
        let is_kept = parts.iter().any(|part| part.kept.is_some());
        let log = if is_kept { self.log_of(edits) } else { None };
        if log.is_some() && self.changes.is_full() {
            return Ok(Cached::Miss);
        }
        let checked = self.state.borrow_mut().check(edits)?;
        if !checked.missing.is_empty() || !self.has_room(edits) {
            return Ok(Cached::Miss);
        }
        let Some(extents) = self.take_extents(edits) else { return Ok(Cached::Miss) };
        let before = self.log.applied();
        let position = self.log.push(|pending| match &log {
            None if is_kept => record::append_parts(pending, &forgotten(parts), edits, &extents),
            Some(_) | None => record::append_parts(pending, parts, edits, &extents),
        });
        if let Some(log) = log {
            self.keep_changes(&log, position, parts, edits);
        }
        {
            let mut state = self.state.borrow_mut();
            state.apply(&Self::changes(edits, &extents), &checked, position);
            if let Some(Edit::Put { tree, .. } | Edit::Delete { tree, .. }) = edits.first() {
                state.count_written(tree.0, position - before);
            }
        }
        self.sample(edits);
        self.nudge();
        Ok(Cached::Hit(Lsn(position)))
    }

    /// Lets those look at what was put who make dictionaries.
    fn sample(&self, edits: &[Edit]) {
        if self.state.borrow_mut().sample(edits) {
            self.trainable.notify();
        }
    }

    fn keep_changes(&self, log: &[u8], position: u64, parts: &[Part], mut edits: &[Edit]) {
        for part in parts {
            let (own, rest) = edits.split_at(part.edits);
            edits = rest;
            let (Some(old), Some(first)) = (&part.kept, own.first()) else { continue };
            let CommitInfo { shard, commit_number, commit_time_ms, .. } = part.info;
            let (key, new) = match first {
                Edit::Put { key, value, .. } => (key, Some(value.as_slice())),
                Edit::Delete { key, .. } => (key, None),
            };
            self.changes.add(log, position, (shard, commit_number, commit_time_ms), key, old.as_deref(), new);
        }
    }

    /// The name of the change log that a batch's first edit belongs to, if there is one.
    fn log_of(&self, edits: &[Edit]) -> Option<Rc<[u8]>> {
        let (Edit::Put { tree, .. } | Edit::Delete { tree, .. }) = edits.first()?;
        let table = self.state.borrow().trees.get(&tree.0)?.table.clone()?;
        self.changes.keeps(&table).then_some(table)
    }

    async fn work_loop(&self) {
        while !self.closing.get() {
            let work = self.work.listen();
            if self.room_wanted.take() {
                self.look_for_room().await;
            } else if self.log.failure().is_none() && self.is_checkpoint_due() && !self.checkpointing.get() {
                if let Err(error) = self.checkpoint().await {
                    tracing::warn!(%error, "a checkpoint did not come about");
                    // The attempt itself notified; only what happens from now on is a reason to try again.
                    self.work.listen().await;
                }
            } else {
                if self.log.failure().is_some() {
                    // There will be no checkpoint any more for those who wait for one.
                    self.checkpointed.notify();
                }
                work.await;
            }
        }
    }

    /// Applies puts without a record in the log: they are durable with the next checkpoint that begins.
    async fn apply_unlogged(&self, edits: &[Edit]) -> Result<(), StorageError> {
        while !edits.is_empty() {
            self.prepare(edits).await?;
            let checked = self.state.borrow_mut().check(edits)?;
            if !checked.missing.is_empty() {
                continue;
            }
            let Some(extents) = self.take_extents(edits) else { continue };
            // An empty record, so that a checkpoint can tell from its position whether it has the extents of this.
            let position = self.log.push(|log| record::append_parts(log, &[NOTHING], &[], &[]));
            self.state.borrow_mut().apply(&Self::changes(edits, &extents), &checked, position);
            self.sample(edits);
            self.nudge();
            return Ok(());
        }
        Ok(())
    }

    /// Waits for a checkpoint of all that is applied now.
    async fn next_checkpoint(&self) -> Result<(), StorageError> {
        if self.checkpointing.get() {
            // It may have failed for what is none of ours.
            let _ = self.wait_for_checkpoint().await;
        }
        self.wait_for_checkpoint().await
    }

    fn changes<'a>(edits: &'a [Edit], extents: &[Option<Extent>]) -> Vec<Change<'a>> {
        let change = |(place, edit): (usize, &'a Edit)| match (edit, extents.get(place).copied().flatten()) {
            (Edit::Put { tree, key, .. }, Some(extent)) => Change::Extent { tree: tree.0, key, extent },
            (Edit::Put { tree, key, value }, None) => Change::Put { tree: tree.0, key, value },
            (Edit::Delete { tree, key }, _) => Change::Delete { tree: tree.0, key },
        };
        edits.iter().enumerate().map(change).collect()
    }

    /// Where the batch's large values lie; `None` when one is not on disk yet.
    fn take_extents(&self, edits: &[Edit]) -> Option<Vec<Option<Extent>>> {
        let is_large = |edit: &Edit| match edit {
            Edit::Put { value, .. } => value.len() > SLOT_VALUE_BYTES_MAX,
            Edit::Delete { .. } => false,
        };
        if !edits.iter().any(is_large) {
            return Some(Vec::new());
        }
        let mut state = self.state.borrow_mut();
        let digests: Vec<_> = edits.iter().map(|edit| is_large(edit).then(|| room::digest(edit))).collect();
        if !digests.iter().flatten().all(|digest| state.extents.contains_key(digest)) {
            return None;
        }
        // One value twice in a batch has one extent; the later edit then waits for its own.
        let mut distinct: Vec<_> = digests.iter().flatten().collect();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() != digests.iter().flatten().count() {
            return None;
        }
        Some(digests.iter().map(|digest| digest.and_then(|digest| state.extents.remove(&digest))).collect())
    }
}

/// The parts, as those whose changes are not kept.
fn forgotten(parts: &[Part]) -> Vec<Part> {
    parts.iter().map(|part| Part { kept: None, ..part.clone() }).collect()
}

impl<D: Directory> StorageEngine for SlabEngine<D> {
    fn tree(&self, name: &TreeName) -> Option<TreeId> {
        if &*name.0 == DICTIONARIES {
            return None;
        }
        self.shared.state.borrow().by_name.get(name).copied().map(TreeId)
    }

    fn tree_names(&self) -> Vec<TreeName> {
        let mut names: Vec<_> = self.shared.state.borrow().by_name.keys().cloned().collect();
        names.retain(|name| &*name.0 != DICTIONARIES);
        names.sort();
        names
    }

    async fn create_tree(&self, name: &TreeName) -> Result<TreeId, StorageError> {
        if &*name.0 == DICTIONARIES {
            return Err(StorageError::NoTree(name.clone()));
        }
        self.make_tree(name).await
    }

    async fn drop_tree(&self, tree: TreeId) -> Result<(), StorageError> {
        loop {
            self.shared.writable()?;
            self.shared.state.borrow().root(tree)?;
            if !self.shared.log.has_room(64) {
                self.shared.make_log_room(64).await?;
                continue;
            }
            let (dropped, table) = {
                let state = &mut *self.shared.state.borrow_mut();
                let table = state.trees.get(&tree.0).and_then(|tree| tree.table.clone());
                (state.drop_tree(tree.0), table)
            };
            match dropped {
                Ok(()) => {
                    self.shared.log.push(|log| record::append_dropped(log, tree.0));
                    // What it took comes back with a checkpoint.
                    if !self.shared.checkpoint_wanted.get()
                        && self.shared.state.borrow().chunks.list.iter().any(|chunk| chunk.tree == tree.0)
                    {
                        self.shared.checkpoint_wanted.set(true);
                    }
                    self.shared.nudge();
                    return self.forget_dictionaries(table).await;
                }
                Err(Missing(page)) => self.shared.load_page(page).await?,
            }
        }
    }

    async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Value>, StorageError> {
        self.shared.get(tree, key).await
    }

    fn cached(&self, tree: TreeId, key: &[u8]) -> Result<Cached<Option<Value>>, StorageError> {
        let mut state = self.shared.state.borrow_mut();
        let found = state.lookup(tree, key)?;
        Ok(state.cached(found))
    }

    fn cached_many(&self, keys: &[(TreeId, &[u8])]) -> Result<Vec<Cached<Option<Value>>>, StorageError> {
        let mut state = self.shared.state.borrow_mut();
        let found = state.lookup_many(keys)?;
        Ok(found.into_iter().map(|found| state.cached(found)).collect())
    }

    async fn range(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Entries, StorageError> {
        self.shared.range(tree, range, direction, rows_max, bytes_max).await
    }

    fn merge(
        &self,
        trees: &[TreeId],
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Merged, StorageError> {
        self.shared.merge(trees, range, direction, rows_max, bytes_max)
    }

    fn visit(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut dyn FnMut(&[&[u8]]) -> usize,
    ) -> Result<Visited, StorageError> {
        self.shared.visit(tree, range, rows_max, see)
    }

    async fn sweep(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut impl AsyncFnMut(&[&[u8]]) -> Sweeping,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        self.shared.sweep(tree, range, rows_max, see).await
    }

    async fn get_many(&self, tree: TreeId, keys: &[Vec<u8>]) -> Result<Vec<Option<Value>>, StorageError> {
        self.shared.get_many(tree, keys).await
    }

    async fn behind_damage(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
    ) -> Result<Option<Range>, StorageError> {
        self.shared.behind_damage(tree, range, direction).await
    }

    async fn count(&self, tree: TreeId, range: &Range) -> Result<u64, StorageError> {
        let (start, end) = self.shared.ranks(tree, range).await?;
        Ok(end - start)
    }

    async fn nth(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        n: u64,
    ) -> Result<Option<(Vec<u8>, Value)>, StorageError> {
        self.shared.nth(tree, range, direction, n).await
    }

    async fn bulk_build(
        &self,
        tree: TreeId,
        entries: &mut dyn Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StorageError> {
        let mut edits = Vec::new();
        let mut bytes = 0;
        for (key, value) in entries {
            bytes += key.len() + value.len();
            edits.push(Edit::Put { tree, key, value });
            if edits.len() >= BULK_EDITS_MAX || bytes >= BULK_BYTES_MAX {
                self.shared.apply_unlogged(&edits).await?;
                edits.clear();
                bytes = 0;
                yield_now().await;
            }
        }
        self.shared.apply_unlogged(&edits).await?;
        // Nothing is in the log: a checkpoint that began before the end may lack the last of it.
        self.shared.next_checkpoint().await
    }

    fn apply_parts(&self, parts: &[Part], edits: &[Edit]) -> Result<Cached<Lsn>, StorageError> {
        self.shared.apply_batch(parts, edits)
    }

    fn batch_max(&self) -> BatchMax {
        let leaves = self.shared.options.cache_bytes / BATCH_CACHE_PART / PAGE_BYTES as u64;
        let BatchMax { edits, value_bytes } = BatchMax::LARGEST;
        BatchMax { edits: edits.min(leaves as usize), value_bytes }
    }

    async fn begin_change_log(
        &self,
        log: &[u8],
        bases: &[(u32, u64)],
        retention: Retention,
        now_ms: u64,
    ) -> Result<(), StorageError> {
        let shared = &self.shared;
        Ok(shared.changes.begin(&shared.directory, log, bases, retention, now_ms).await?)
    }

    async fn remove_change_log(&self, log: &[u8]) -> Result<(), StorageError> {
        Ok(self.shared.changes.remove(&self.shared.directory, log).await?)
    }

    fn change_logs(&self) -> Vec<Box<[u8]>> {
        self.shared.changes.names()
    }

    async fn tend_change_logs(&self, now_ms: u64) {
        self.shared.changes.tend(&self.shared.directory, now_ms).await;
    }

    async fn change_place(&self, log: &[u8], after: &[Position]) -> Result<LogPlace, ChangeLogError> {
        self.shared.write_changes().await?;
        self.shared.changes.place(&self.shared.directory, log, after).await
    }

    async fn changes_behind(
        &self,
        log: &[u8],
        after: &[Position],
        place: LogPlace,
        bytes_max: usize,
    ) -> Result<LogRun, ChangeLogError> {
        let Shared { directory, changes, .. } = &*self.shared;
        let mut run = changes.read(directory, log, after, place, bytes_max).await?;
        if !run.more {
            self.shared.write_changes().await?;
            let rest = changes.read(directory, log, after, run.next, bytes_max).await?;
            run.changes.extend(rest.changes);
            (run.next, run.more) = (rest.next, rest.more);
        }
        Ok(run)
    }

    async fn prepare(&self, edits: &[Edit]) -> Result<(), StorageError> {
        if self.shared.changes.is_full() {
            self.shared.write_changes().await?;
        }
        self.shared.prepare(edits).await
    }

    async fn flushed(&self, lsn: Lsn) -> Result<(), StorageError> {
        self.shared.flush_for_caller(lsn.0).await
    }

    fn applied(&self) -> Lsn {
        Lsn(self.shared.log.applied())
    }

    async fn foreground(&self) {
        self.shared.background.set(true);
        both(both(self.shared.flush_loop(), self.shared.ahead_loop()), self.shared.room_loop()).await;
        self.shared.background.set(false);
    }

    async fn background(&self) -> Result<(), StorageError> {
        both(self.shared.work_loop(), self.shared.changes_loop()).await;
        Ok(())
    }

    fn pressure(&self) -> u32 {
        self.shared.pressure()
    }

    fn settle(&self) {
        let shared = &self.shared;
        let attempts = shared.checkpoint_attempts.get();
        if shared.settled.replace(attempts) == attempts
            && (shared.log_bytes() > 0 || shared.keeps_much())
            && !shared.checkpointing.get()
        {
            shared.checkpoint_wanted.set(true);
            shared.work.notify();
        }
    }

    async fn close(&self) -> Result<(), StorageError> {
        let shared = &self.shared;
        let ended = match shared.flush_to(shared.log.applied()).await {
            Ok(()) => shared.checkpoint().await,
            Err(error) => Err(error),
        };
        shared.closing.set(true);
        if ended.is_ok()
            && let Err(error) = shared.log.give_back(&shared.directory).await
        {
            tracing::warn!(%error, "spare segments of the log could not be given back");
        }
        shared.trainable.notify();
        shared.ahead.close();
        shared.log.wanted.notify();
        shared.log.done.notify();
        shared.changes.due.notify();
        shared.work.notify();
        shared.room_due.notify();
        ended
    }

    async fn training(&self) -> Option<Training> {
        self.wait_for_training().await
    }

    async fn set_dictionary(&self, dictionary: Dictionary) -> Result<(), StorageError> {
        self.add_dictionary(dictionary).await
    }

    fn failure(&self) -> Option<StorageError> {
        self.shared.log.failure()
    }

    fn full(&self) -> Option<String> {
        self.shared.full()
    }

    fn usage(&self) -> Vec<(TreeName, TreeUsage)> {
        let state = self.shared.state.borrow();
        let mut usages: BTreeMap<u32, TreeUsage> = BTreeMap::new();
        state.chunks.usage(|tree, part| {
            let usage = usages.entry(tree).or_default();
            usage.data_bytes += part.data_bytes;
            usage.garbage_bytes += part.garbage_bytes;
            usage.spare_bytes += part.spare_bytes;
        });
        let tree_of = |location: Location| Some(state.chunks.list.get(location.chunk() as usize)?.tree);
        state.pool.usage(tree_of, |tree, part| {
            let usage = usages.entry(tree).or_default();
            usage.page_bytes += part.page_bytes;
            usage.cache_bytes += part.cache_bytes;
        });
        for (tree, known) in state.trees.iter().filter(|(_, tree)| tree.traffic != Traffic::default()) {
            let usage = usages.entry(*tree).or_default();
            usage.read_bytes = known.traffic.read_bytes;
            usage.written_bytes = known.traffic.written_bytes;
        }
        usages
            .into_iter()
            .filter_map(|(tree, usage)| Some((state.trees.get(&tree)?.name.clone(), usage)))
            .collect()
    }

    fn stats(&self) -> StorageStats {
        let state = self.shared.state.borrow();
        let on_disk = |space: &crate::space::Space| u64::from(space.blocks() - space.hole_blocks());
        let blocks = on_disk(&state.page_space) + on_disk(&state.slab_space);
        let change_logs = self.shared.changes.figures();
        StorageStats {
            cache_hits: state.pool.hits,
            cache_misses: state.pool.misses,
            cache_bytes: state.pool.bytes(),
            dirty_bytes: state.pool.dirty_bytes(),
            wal_flushes: self.shared.log.flushes(),
            wal_bytes: self.shared.log.written(),
            checkpoints: state.checkpoints,
            is_checkpointing: self.shared.checkpointing.get(),
            live_bytes: state.chunks.live_bytes,
            change_logs,
            disk_bytes: blocks * 4096 + self.shared.log.disk_bytes() + change_logs.bytes + 8192,
            trees: (state.trees.len()
                - usize::from(state.by_name.contains_key(&TreeName(DICTIONARIES.into()))))
                as u64,
        }
    }
}
