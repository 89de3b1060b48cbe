//! What tables ask of storage: named trees, ranges, counts, atomic batches. Every backend answers it; one suite tests all.
//!
//! Always: a batch is atomic, over any trees of the store, now and after any crash. Effects of a batch are visible to reads
//! as soon as [`StorageEngine::commit`] has *applied* it; they are durable when the [`Commit`] it returned has flushed.
//! Batches become durable in the order they were applied. Storage never evaluates: it is handed effects.
//!
//! `apply` is synchronous on purpose: a core reads a row with [`StorageEngine::cached`], evaluates and applies with no
//! `.await` between, so that no other task of the core can slip in and a row needs no lock. When a page is missing the call
//! says so ([`Cached::Miss`]) and the core loads it with [`StorageEngine::get`] and tries again.

use std::rc::Rc;

use crate::changelog::{ChangeLogError, ChangeLogFigures, LogPlace, LogRun, Position, Retention};
use crate::disk::DiskError;
use crate::event::both;
use crate::train::{Dictionary, Training};

/// Why storage could not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{file}, offset {offset}: {what}")]
    Corrupt { file: String, offset: u64, what: String },
    /// A flush failed earlier: nothing can be promised any more, so nothing is accepted.
    #[error("the store is read-only since a flush failed: {reason}")]
    ReadOnly { reason: String },
    /// No room for the log or the documents; reads go on, and writes too when there is room again.
    #[error("the disk is full: {reason}")]
    Full { reason: String },
    #[error("the data directory has format version {found}, this program knows {known}")]
    Format { found: u32, known: u32 },
    #[error("the data was written with the storage backend {found}, not {wanted}")]
    Backend { found: &'static str, wanted: &'static str },
    #[error("there is no tree {0:?}")]
    NoTree(TreeName),
    #[error("a key of {bytes} bytes is too long, at most {bytes_max} are stored")]
    KeyTooLong { bytes: usize, bytes_max: usize },
}

/// A tree's permanent name in its store; the meaning of the bytes is the caller's (catalog, a table's shard, an index of it).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeName(pub Box<[u8]>);

/// A tree of an open store. Valid until the tree is dropped or the store is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeId(pub u32);

/// Bytes of a value as reads give them: shared with the cache.
pub type Value = Rc<[u8]>;

/// One change of a batch.
#[derive(Clone, Debug)]
pub enum Edit {
    Put { tree: TreeId, key: Vec<u8>, value: Vec<u8> },
    Delete { tree: TreeId, key: Vec<u8> },
}

/// What travels in the log record with a batch, so that feeds, replication and transactions can count by it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitInfo {
    pub shard: u32,
    pub term: u64,
    pub commit_number: u64,
    /// 0 = none.
    pub transaction: u64,
    pub commit_time_ms: u64,
}

impl CommitInfo {
    pub const NONE: CommitInfo =
        CommitInfo { shard: 0, term: 0, commit_number: 0, transaction: 0, commit_time_ms: 0 };
}

/// The edits of one row in a batch.
#[derive(Clone, Debug)]
pub struct Part {
    pub info: CommitInfo,
    /// How many of the batch's edits are its own.
    pub edits: usize,
    /// What the row that its first edit changes was before, if that change is to be kept: the table's change log keeps it when
    /// it has been [begun](StorageEngine::begin_change_log), as durable as the batch.
    pub kept: Option<Option<Value>>,
}

/// How much a batch of several parts may hold. More would hold the core for too long, or could not be in the cache at once; a batch
/// of one part may be larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMax {
    pub edits: usize,
    pub value_bytes: usize,
}

impl BatchMax {
    pub const LARGEST: BatchMax = BatchMax { edits: 2048, value_bytes: 1 << 20 };
}

/// A place in the log; a batch is durable when the log is flushed up to its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

/// An answer from memory alone.
pub enum Cached<T> {
    Hit(T),
    /// Something must be read from disk first: use the async call.
    Miss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// Bounds of a range of keys.
#[derive(Clone, Debug)]
pub struct Range {
    pub start: std::ops::Bound<Vec<u8>>,
    pub end: std::ops::Bound<Vec<u8>>,
}

/// A run of a range's entries.
#[derive(Debug, Default)]
pub struct Entries {
    pub entries: Vec<(Vec<u8>, Value)>,
    /// False when the range has nothing more; else go on behind the last key.
    pub more: bool,
}

/// How far a visit came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visited {
    /// The key of the last value that was taken.
    pub last: Option<Vec<u8>>,
    pub end: VisitEnd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VisitEnd {
    /// The range has nothing more.
    Range,
    /// There may be more.
    More,
    /// What comes next must be read from disk.
    #[default]
    Missing,
}

/// Entries of several trees, in the order of their keys.
#[derive(Debug, Default)]
pub struct Merged {
    /// The entries' keys, and maybe others, one behind the other.
    pub keys: Vec<u8>,
    pub entries: Vec<MergedEntry>,
    pub end: VisitEnd,
}

/// An entry of one of several trees.
#[derive(Debug)]
pub struct MergedEntry {
    /// The tree's place among those that were asked for.
    pub tree: usize,
    /// Where its key is in [`Merged::keys`].
    pub key: std::ops::Range<usize>,
    pub value: Value,
}

impl Merged {
    pub fn key(&self, entry: &MergedEntry) -> &[u8] {
        &self.keys[entry.key.clone()]
    }
}

/// Whether a sweep goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweeping {
    GoOn,
    Stop,
}

/// Figures of a store since it was opened, and sizes now.
#[derive(Clone, Copy, Debug, Default)]
pub struct StorageStats {
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_bytes: u64,
    pub dirty_bytes: u64,
    pub wal_flushes: u64,
    pub wal_bytes: u64,
    pub checkpoints: u64,
    /// One is being written.
    pub is_checkpointing: bool,
    pub disk_bytes: u64,
    pub change_logs: ChangeLogFigures,
    /// Bytes of the slots that documents lie in.
    pub live_bytes: u64,
    pub trees: u64,
}

/// What a tree takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Slots that documents lie in.
    pub data_bytes: u64,
    /// Slots that held older versions of documents and were not filled again.
    pub garbage_bytes: u64,
    /// Pages on disk.
    pub page_bytes: u64,
    /// Taken for documents and not filled yet.
    pub spare_bytes: u64,
    /// In memory, documents that are on disk too by an estimate.
    pub cache_bytes: u64,
    /// Read from the disk and written to it since the store was opened: documents, pages and the log, without what the tables
    /// of the store cost.
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl std::ops::AddAssign<&TreeUsage> for TreeUsage {
    fn add_assign(&mut self, part: &TreeUsage) {
        let TreeUsage {
            data_bytes,
            garbage_bytes,
            page_bytes,
            spare_bytes,
            cache_bytes,
            read_bytes,
            written_bytes,
        } = part;
        self.data_bytes += data_bytes;
        self.garbage_bytes += garbage_bytes;
        self.page_bytes += page_bytes;
        self.spare_bytes += spare_bytes;
        self.cache_bytes += cache_bytes;
        self.read_bytes += read_bytes;
        self.written_bytes += written_bytes;
    }
}

/// A store. One owner, one thread; calls from several tasks of that thread interleave at their awaits.
#[allow(async_fn_in_trait, reason = "a store lives on one thread; its futures need not be Send")]
pub trait StorageEngine {
    /// The tree of that name, if there is one.
    fn tree(&self, name: &TreeName) -> Option<TreeId>;
    fn tree_names(&self) -> Vec<TreeName>;
    /// Creates the tree unless it exists. Durable with the next flush, before any later batch.
    async fn create_tree(&self, name: &TreeName) -> Result<TreeId, StorageError>;
    /// Drops a tree of any size at once; its space comes back in the background.
    async fn drop_tree(&self, tree: TreeId) -> Result<(), StorageError>;

    async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Value>, StorageError>;
    /// [`StorageEngine::get`] without I/O.
    fn cached(&self, tree: TreeId, key: &[u8]) -> Result<Cached<Option<Value>>, StorageError>;
    /// [`StorageEngine::cached`] of several keys.
    fn cached_many(&self, keys: &[(TreeId, &[u8])]) -> Result<Vec<Cached<Option<Value>>>, StorageError> {
        keys.iter().map(|(tree, key)| self.cached(*tree, key)).collect()
    }
    /// Entries of a range in order, at least one if there is any, about `bytes_max` of values and at most `rows_max`.
    async fn range(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Entries, StorageError>;
    /// Entries of a range of several trees, merged in the order of their keys, about `bytes_max` of values and at most `rows_max`, as they
    /// stand in memory at this moment. Everything that it does not reach is left to [`StorageEngine::range`].
    fn merge(
        &self,
        trees: &[TreeId],
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Merged, StorageError> {
        let _ = (trees, range, direction, rows_max, bytes_max);
        Ok(Merged::default())
    }
    /// Shows the values of a range that are in memory, in order and without a share in them, some `rows_max` of them; `see` says how
    /// many of those it was shown it took. Everything that it does not reach is left to [`StorageEngine::range`].
    fn visit(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut dyn FnMut(&[&[u8]]) -> usize,
    ) -> Result<Visited, StorageError> {
        let _ = (tree, range, rows_max, see);
        Ok(Visited { last: None, end: VisitEnd::Missing })
    }
    /// Shows all values of a beginning of a range, in whatever order they are read fastest and each once, as they stood at some moment of
    /// the call; some `rows_max` of them at most. Gives the last key of that beginning, `None` when the range has nothing more. Now and
    /// then `see` is shown nothing, so that it lets others have their turn. What it stopped says nothing of what it saw.
    async fn sweep(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut impl AsyncFnMut(&[&[u8]]) -> Sweeping,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let run = self.range(tree, range, Direction::Forward, rows_max.clamp(1, 512), 128 << 10).await?;
        let values: Vec<&[u8]> = run.entries.iter().map(|(_, value)| &**value).collect();
        see(&values).await;
        Ok(run.entries.last().filter(|_| run.more).map(|(key, _)| key.clone()))
    }
    /// [`StorageEngine::get`] of several keys of a tree.
    async fn get_many(&self, tree: TreeId, keys: &[Vec<u8>]) -> Result<Vec<Option<Value>>, StorageError> {
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.get(tree, key).await?);
        }
        Ok(values)
    }
    /// What is left of a range behind its first entry, or behind the first run of entries where that cannot be read; `None`
    /// when nothing is. A range ends before an entry that cannot be read, and fails when that is its first: so a scan that
    /// wants what is whole notes the error, and goes on here.
    async fn behind_damage(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
    ) -> Result<Option<Range>, StorageError> {
        let first = self.range(tree, range, direction, 1, 0).await?;
        let Some((key, _)) = first.entries.into_iter().next() else { return Ok(None) };
        let mut rest = range.clone();
        match direction {
            Direction::Forward => rest.start = std::ops::Bound::Excluded(key),
            Direction::Backward => rest.end = std::ops::Bound::Excluded(key),
        }
        Ok(Some(rest))
    }
    /// The number of entries in a range, from the nodes' counts.
    async fn count(&self, tree: TreeId, range: &Range) -> Result<u64, StorageError>;
    /// The n-th entry (from 0) of a range.
    async fn nth(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        n: u64,
    ) -> Result<Option<(Vec<u8>, Value)>, StorageError>;
    /// Fills an empty tree from entries sorted by key, durably. It goes past the log, so a crash leaves a part of it: the owner
    /// drops a tree that it does not know to be whole.
    async fn bulk_build(
        &self,
        tree: TreeId,
        entries: &mut dyn Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StorageError>;

    /// Applies a batch to memory and queues its log record. `Miss` when a page it needs is on disk: call
    /// [`StorageEngine::prepare`] and try again; nothing was changed. `edits` are those of the parts, one after the other.
    fn apply_parts(&self, parts: &[Part], edits: &[Edit]) -> Result<Cached<Lsn>, StorageError>;
    /// How much a batch of several parts may hold.
    fn batch_max(&self) -> BatchMax {
        BatchMax::LARGEST
    }
    /// [`StorageEngine::apply_parts`] of a single one.
    fn apply(&self, info: CommitInfo, edits: &[Edit]) -> Result<Cached<Lsn>, StorageError> {
        self.apply_parts(&[Part { info, edits: edits.len(), kept: None }], edits)
    }
    /// Makes sure that the changes of a table are kept: those of each of these shards behind that commit. A log that is there already
    /// stays as it is, unless it lacks a change up to there. The table is named as [its trees](crate::slab::SlabOptions::table_of) name it.
    async fn begin_change_log(
        &self,
        log: &[u8],
        bases: &[(u32, u64)],
        retention: Retention,
        now_ms: u64,
    ) -> Result<(), StorageError> {
        let _ = (log, bases, retention, now_ms);
        Ok(())
    }
    /// Forgets a table's changes, durably.
    async fn remove_change_log(&self, log: &[u8]) -> Result<(), StorageError> {
        let _ = log;
        Ok(())
    }
    /// Tables whose changes are kept.
    fn change_logs(&self) -> Vec<Box<[u8]>> {
        Vec::new()
    }
    /// Drops changes that are too old. To be called now and then.
    async fn tend_change_logs(&self, now_ms: u64) {
        let _ = now_ms;
    }
    /// Where reading a table's changes behind these positions begins.
    async fn change_place(&self, log: &[u8], after: &[Position]) -> Result<LogPlace, ChangeLogError> {
        let _ = (log, after);
        Err(ChangeLogError::Off)
    }
    /// The changes behind these positions from a place on, durable, about `bytes_max` of them: all that were applied when it
    /// was asked for, if it says that there are no more.
    async fn changes_behind(
        &self,
        log: &[u8],
        after: &[Position],
        place: LogPlace,
        bytes_max: usize,
    ) -> Result<LogRun, ChangeLogError> {
        let _ = (log, after, place, bytes_max);
        Err(ChangeLogError::Off)
    }
    /// Loads what [`StorageEngine::apply`] of these edits will touch, and waits while too much is dirty.
    async fn prepare(&self, edits: &[Edit]) -> Result<(), StorageError>;
    /// `prepare` and `apply` until it is applied.
    async fn commit(&self, info: CommitInfo, edits: &[Edit]) -> Result<Lsn, StorageError> {
        loop {
            match self.apply(info, edits)? {
                Cached::Hit(lsn) => return Ok(lsn),
                Cached::Miss => self.prepare(edits).await?,
            }
        }
    }
    /// Waits until the log is durable up to `lsn`. Group commit: one flush serves all who wait.
    async fn flushed(&self, lsn: Lsn) -> Result<(), StorageError>;
    /// The end of the log: what is applied so far.
    fn applied(&self) -> Lsn;

    /// Does the work that calls wait for (flushing the log, reading ahead) until [`StorageEngine::close`]; the owner spawns it once,
    /// and [`StorageEngine::background`] beside it.
    async fn foreground(&self);
    /// Does the work that nobody waits for (checkpoints, giving space back, change logs) until [`StorageEngine::close`].
    async fn background(&self) -> Result<(), StorageError>;
    /// How near writers are to having to wait for that work: from 0, it may take its time, to 100.
    fn pressure(&self) -> u32 {
        0
    }
    /// Has what is in no checkpoint yet written with one, though it may be little, unless one ended since this was called before. Called now and then
    /// it leaves recovery little to do.
    fn settle(&self) {}
    /// Both, for an owner to whom they are one.
    async fn work(&self) -> Result<(), StorageError> {
        both(self.foreground(), self.background()).await.1
    }
    /// Flushes, checkpoints and ends the background work.
    async fn close(&self) -> Result<(), StorageError>;

    /// Waits for documents to make a dictionary of; `None` when the store is closed. The owner makes it
    /// ([`Training::train`]) where nobody waits, and hands it in.
    async fn training(&self) -> Option<Training> {
        std::future::pending().await
    }
    async fn set_dictionary(&self, dictionary: Dictionary) -> Result<(), StorageError> {
        let _ = dictionary;
        Ok(())
    }
    /// Why the store takes no writes any more, if that is so.
    fn failure(&self) -> Option<StorageError> {
        None
    }
    /// Why writes are refused for want of room, if they are.
    fn full(&self) -> Option<String> {
        None
    }
    fn stats(&self) -> StorageStats;
    /// What each tree takes, from one pass over what the store knows in memory.
    fn usage(&self) -> Vec<(TreeName, TreeUsage)> {
        Vec::new()
    }
}
