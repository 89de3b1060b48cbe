//! Change logs: what the rows of a table were before and after each change, kept for those who come back and ask.
//!
//! A log belongs to a table's shards in one store and has segments of its own beside the store's log, which it never pins.
//!
//! Always:
//! - A batch is marked in the store's log as one whose change is kept. A change goes to a segment only when the store's log is
//!   flushed behind it, so a segment never has what a crash took back; and a checkpoint syncs the segments first, so what it lets
//!   the store's log forget is in them. What is missing between the two after a crash, recovery reads from the store's log. So
//!   nobody waits for a segment, and the log costs no flush of its own.
//! - The segments on disk follow on each other, and each says the last commit of each shard before it: so it is known from
//!   where on all changes are there. A log that cannot be written is removed before the next checkpoint, and begun anew:
//!   it is whole from its beginning on, or not there.

mod reader;
mod segment;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use photondb_proto::resume::COMMIT_COUNT_BITS;

use crate::engine::StorageError;
use crate::event::Event;
use segment::Head;
pub use segment::LoggedChange;
pub(crate) use writer::Extent;

/// How much a log keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Of all its segments; the oldest go first.
    pub bytes_max: u64,
    pub age_ms_max: u64,
}

/// What the logs of a store hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeLogFigures {
    pub bytes: u64,
    pub segments: u64,
    /// When the oldest segment was begun.
    pub since_ms: Option<u64>,
}

/// How far a shard's changes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub shard: u32,
    pub commit: u64,
    /// It is the number of a change, which must be there, and not only a place between changes.
    pub is_change: bool,
}

/// A place in a log, between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    pub segment: u64,
    pub offset: u64,
}

/// A run of changes, in the order of each shard's commits.
#[derive(Debug)]
pub struct LogRun {
    pub changes: Vec<LoggedChange>,
    pub next: LogPlace,
    /// False at the end of the log.
    pub more: bool,
}

/// Why changes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeLogError {
    #[error("no changes are kept")]
    Off,
    /// Changes behind a position are gone.
    #[error("changes are kept since {since_ms} only")]
    TooOld { since_ms: u64 },
    /// A position names a change that is not there though others behind and before it may be: a crash took it back.
    #[error("a change was lost in a crash; others are kept since {since_ms}")]
    Lost { since_ms: u64 },
    /// A position is of a shard that the log does not have.
    #[error("the shard {shard} is not in the log")]
    Unknown { shard: u32 },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Segments are this part of what is kept, within these bounds.
const SEGMENT_PART: u64 = 8;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 16 << 20;
/// Changes in memory that are written when the store's log is flushed behind them.
const WRITE_BYTES: usize = segment::FRAME_BYTES;
/// Changes in memory beyond which writers wait.
const BUFFER_BYTES_MAX: usize = 8 << 20;

type LogsByName<F> = BTreeMap<Box<[u8]>, Rc<ChangeLog<F>>>;

/// The change logs of a store.
pub(crate) struct ChangeLogs<F> {
    logs: RefCell<LogsByName<F>>,
    /// One task at a time makes, writes and removes segments.
    busy: Cell<bool>,
    freed: Event,
    /// The first log has come.
    pub due: Event,
}

impl<F> Default for ChangeLogs<F> {
    fn default() -> Self {
        Self {
            logs: RefCell::default(),
            busy: Cell::new(false),
            freed: Event::default(),
            due: Event::default(),
        }
    }
}

struct ChangeLog<F> {
    name: Box<[u8]>,
    state: RefCell<LogState<F>>,
}

struct LogState<F> {
    retention: Retention,
    /// Oldest first; the last is written to.
    segments: VecDeque<Segment>,
    file: Option<Rc<F>>,
    /// The next frame goes on where this says.
    offset: u64,
    previous: u64,
    /// Bytes of the file that are durable.
    durable: u64,
    next_number: u64,
    /// The last commit of each shard in the segments.
    written: BTreeMap<u32, u64>,
    /// The last commit of each shard.
    last: BTreeMap<u32, u64>,
    buffer: Buffer,
    /// Why it cannot be written: it keeps nothing until it is begun anew.
    failed: bool,
    /// The segments are being removed, or that was broken off: they stay in the list until all of them are gone.
    removing: bool,
}

/// Changes that are not in a segment yet, in chunks of about a frame.
#[derive(Default)]
struct Buffer {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
    changes: VecDeque<Buffered>,
}

struct Buffered {
    /// The end of its record in the store's log.
    position: u64,
    bytes: usize,
    shard: u32,
    commit: u64,
    time_ms: u64,
}

struct Segment {
    head: Head,
    bytes: u64,
}

impl<F> LogState<F> {
    fn since_ms(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.head.begun_ms)
    }

    fn has(&self, segment: u64) -> bool {
        !self.removing && self.segments.iter().any(|known| known.head.number == segment)
    }

    fn segment_bytes(&self) -> u64 {
        (self.retention.bytes_max / SEGMENT_PART).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    /// Whether it has the changes of a shard up to that commit, which may be an opening's number before its first change.
    fn reaches(&self, shard: u32, commit: u64) -> bool {
        let is_change = commit & ((1 << COMMIT_COUNT_BITS) - 1) != 0;
        self.last.get(&shard).is_some_and(|last| *last >= commit || !is_change)
    }

    fn bases(&self) -> Vec<(u32, u64)> {
        self.written.iter().map(|(shard, commit)| (*shard, *commit)).collect()
    }
}

impl<F> ChangeLogs<F> {
    fn log(&self, name: &[u8]) -> Option<Rc<ChangeLog<F>>> {
        self.logs.borrow().get(name).cloned()
    }

    pub fn is_empty(&self) -> bool {
        self.logs.borrow().is_empty()
    }

    pub fn names(&self) -> Vec<Box<[u8]>> {
        self.logs.borrow().keys().cloned().collect()
    }

    pub fn figures(&self) -> ChangeLogFigures {
        let mut figures = ChangeLogFigures::default();
        for log in self.logs.borrow().values() {
            let state = log.state.borrow();
            figures.bytes += state.segments.iter().map(|segment| segment.bytes).sum::<u64>();
            figures.segments += state.segments.len() as u64;
            let since_ms = Some(state.since_ms()).filter(|since_ms| *since_ms > 0);
            figures.since_ms = figures.since_ms.into_iter().chain(since_ms).min();
        }
        figures
    }

    pub fn keeps(&self, name: &[u8]) -> bool {
        !self.is_empty() && self.logs.borrow().contains_key(name)
    }

    /// Whether so much waits to be written that writers must.
    pub fn is_full(&self) -> bool {
        !self.is_empty()
            && self.logs.borrow().values().any(|log| log.state.borrow().buffer.bytes >= BUFFER_BYTES_MAX)
    }

    /// Whether the log has no use for this change: there is no such log, or it has it.
    pub fn has(&self, name: &[u8], shard: u32, commit: u64) -> bool {
        let has =
            |log: Rc<ChangeLog<F>>| log.state.borrow().last.get(&shard).is_some_and(|last| commit <= *last);
        self.log(name).is_none_or(has)
    }

    /// Takes a change whose record in the store's log ends at `position`, unless the log has it already.
    pub fn add(
        &self,
        name: &[u8],
        position: u64,
        (shard, commit, time_ms): (u32, u64, u64),
        key: &[u8],
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) {
        let Some(log) = self.log(name) else { return };
        let state = &mut *log.state.borrow_mut();
        let last = state.last.entry(shard).or_insert(0);
        if commit <= *last {
            return;
        }
        *last = commit;
        if !state.failed {
            let buffer = &mut state.buffer;
            if buffer.chunks.back().is_none_or(|chunk| chunk.len() >= segment::FRAME_BYTES) {
                buffer.chunks.push_back(Vec::new());
            }
            let chunk = buffer.chunks.back_mut().expect("there is one now");
            let bytes = segment::append(chunk, (shard, commit, time_ms), key, old, new);
            buffer.bytes += bytes;
            buffer.changes.push_back(Buffered { position, bytes, shard, commit, time_ms });
        }
    }

    async fn lock(&self) -> Lock<'_, F> {
        while self.busy.get() {
            let freed = self.freed.listen();
            freed.await;
        }
        self.busy.set(true);
        Lock(self)
    }
}

struct Lock<'a, F>(&'a ChangeLogs<F>);

impl<F> Drop for Lock<'_, F> {
    fn drop(&mut self) {
        self.0.busy.set(false);
        self.0.freed.notify();
    }
}
