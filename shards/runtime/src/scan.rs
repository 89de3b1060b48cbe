//! One step of a scan over the shards of this core.
//!
//! Always: a step holds nothing when it has answered; `next` says where to go on. In any order it is a shard, or along an index the
//! first of a group of shards and the one behind it, and the last key seen there; in key order it is the last key seen, since the shards are merged. What is in memory the store merges
//! itself ([`StorageEngine::merge`]), keys first; from where it is not, each shard is read in small runs and the nearest key goes first.
//! Long steps let other tasks of the core have their turn. Along an index the keys are those of
//! entries, and a row is given only while its entry stands. Where rows are on disk and neither their order nor their keys are asked
//! for, they come in the order of the disk ([`sweep`]): a part of the keys as large as can be, wholly within one step, so that
//! a key still says where to go on.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use photondb_proto::datum::key;
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::limits;
use photondb_proto::op::{IndexId, KeyRange, PartBatch, Scan, ScanOrder, ScanRange};
use photondb_query::geo::question::Question;
use photondb_storage::engine::{
    Cached, Direction, Lsn, Range, StorageEngine, StorageError, Sweeping, TreeId, Value, VisitEnd, Visited,
};
use photondb_storage::touch_value;

use crate::core::Core;
use crate::env::Env;
use crate::index::LocalIndex;
use crate::panics::caught_in_turns;
use crate::questions::question;
use crate::rows::{Rows, Swept, Taken, turns};
use crate::table::{LocalTable, Shard, storage_failed, storage_range};

/// Rows read from a shard at a time.
const RUN_ROWS: usize = 512;
/// Rows of a shard that are looked at in the cache at a time.
const VISIT_ROWS: usize = 1024;
/// While a row is given the processor fetches the one so far behind it.
const ROWS_AHEAD: usize = 2;
/// Rows that are looked up together, so that their memory is waited for together.
const ROWS_TOGETHER: usize = 32;
/// Bytes read from a shard at a time.
const RUN_BYTES: usize = 128 << 10;
/// Rows read from each of several shards that are merged, beyond its share and what chance adds to that.
const MERGE_ROWS_MORE: usize = 2;
/// Merged rows that are given together, and that are merged at first where it is not known how many are wanted.
const MERGED_ROWS: usize = 64;
/// Shards of an index that a step goes to first where the order does not matter.
const FIRST_SHARDS: usize = 4;
/// Rows of the first sweep of a step, unless nothing comes out of them.
const SWEEP_ROWS: usize = 512;
/// Rows that are looked at to see whether a range is in memory.
const PEEK_ROWS: usize = 64;
/// A step that has worked this long without waiting lets others have their turn.
const TURN: Duration = Duration::from_micros(500);

/// One step of this core's part.
///
/// # Errors
/// The store's, or the pipeline's.
pub async fn part<E: Env>(
    core: &Rc<Core<E>>,
    local: &LocalTable<E::Store>,
    scan: Scan,
) -> Result<PartBatch, QueryError> {
    let from = match scan.resume.as_deref() {
        Some([(_, next)]) => Some(next.as_slice()),
        Some(_) | None => None,
    };
    let mut rows = Rows::new(&scan, turns(&core.env))?;
    let mut pace = Pace::new(core);
    let mut along = Along::new(local, scan.index)?;
    along.question = question(core, &scan.question).await?;
    let next = match scan.order {
        ScanOrder::Any | ScanOrder::Keyed if along.is_plain() => {
            any_order(&along, &scan, from, &mut rows, &mut pace).await?
        }
        ScanOrder::Any | ScanOrder::Keyed => in_groups(&along, &scan, from, &mut rows, &mut pace).await?,
        ScanOrder::Ascending => {
            in_order(&along, &scan, Direction::Forward, from, &mut rows, &mut pace).await?
        }
        ScanOrder::Descending => {
            in_order(&along, &scan, Direction::Backward, from, &mut rows, &mut pace).await?
        }
    };
    local.read.add(rows.taken());
    let (rows, partial) = rows.end();
    Ok(PartBatch { part: core.number, rows, partial, next })
}

/// Lets other tasks have their turn now and then.
pub struct Pace<'a, E: Env> {
    core: &'a Rc<Core<E>>,
    began: Duration,
}

impl<'a, E: Env> Pace<'a, E> {
    pub fn new(core: &'a Rc<Core<E>>) -> Pace<'a, E> {
        Pace { core, began: core.env.elapsed() }
    }

    pub async fn keep(&mut self) {
        let held = self.core.env.elapsed() - self.began;
        if held > TURN {
            self.core.rest(held).await;
            self.began = self.core.env.elapsed();
        }
    }
}

fn bad_resume() -> QueryError {
    QueryError::new(ErrorKind::Internal, "a scan was resumed at no place")
}

// ---------------------------------------------------------------- what is walked along

/// The trees of a scan: those of the rows, or of an index.
pub struct Along<'a, S> {
    local: &'a LocalTable<S>,
    index: Option<Rc<LocalIndex>>,
    /// What is asked of the geometries of a geo index.
    question: Option<Rc<Question>>,
}

impl<'a, S: StorageEngine> Along<'a, S> {
    /// # Errors
    /// The index has been dropped.
    pub fn new(local: &'a LocalTable<S>, index: Option<IndexId>) -> Result<Along<'a, S>, QueryError> {
        let index = index.map(|id| local.index(id).ok_or_else(index_dropped)).transpose()?;
        Ok(Along { local, index, question: None })
    }

    /// Gives a row as often as it is to be given.
    async fn give(&self, key: &[u8], row: Value, copies: u32, rows: &mut Rows) -> Result<Taken, QueryError> {
        let (Some(question), Some(index)) = (&self.question, &self.index) else {
            return rows.take_copies(key, row, copies).await;
        };
        let mut taken = Taken::GoOn;
        let answers = caught_in_turns(index.answers(question, key, &row), async || rows.turn().await);
        for answer in answers.await? {
            match rows.take(key, answer).await? {
                Taken::GoOn => {}
                Taken::Full => taken = Taken::Full,
                Taken::End => return Ok(Taken::End),
            }
        }
        Ok(taken)
    }

    /// Whether what is walked along are the rows themselves.
    fn is_plain(&self) -> bool {
        self.index.is_none() && self.question.is_none()
    }

    pub fn is_indexed(&self) -> bool {
        self.index.is_some()
    }

    /// None when nothing is there.
    pub fn tree(&self, shard: &Shard<S>) -> Option<TreeId> {
        match &self.index {
            None => shard.tree(),
            Some(index) => index.tree_of(shard),
        }
    }

    /// A range of keys in the tree, and what of it is wanted.
    fn wanted(&self, range: &KeyRange, copies: u32) -> (Range, Rc<Wanted>) {
        let range = storage_range(range);
        let stored = if self.index.is_some() { clamped(&range) } else { range.clone() };
        let is_clamped = stored.start != range.start || stored.end != range.end;
        (stored, Rc::new(Wanted { range, copies, is_clamped }))
    }

    pub fn failed(&self, error: StorageError) -> QueryError {
        match (&self.index, &error) {
            (Some(_), StorageError::NoTree(_)) => index_dropped(),
            (_, _) => storage_failed(error),
        }
    }

    /// The rows of these that are in memory, as they were when their entries were read, looked up together. What is not said is to be
    /// looked up when it is given.
    fn look_up(&self, met: &[Met<'_, S>]) -> Result<Vec<Cached<Option<Value>>>, StorageError> {
        let Some(first) = met.first() else { return Ok(Vec::new()) };
        if self.index.is_none() {
            return Ok(Vec::new());
        }
        let store = &first.shard.store;
        let applied = store.engine.applied();
        let entries: Vec<Cow<'_, [u8]>> = met.iter().map(Met::entry).collect();
        let asked = met.iter().zip(&entries).map(|(met, entry)| {
            let (_, primary) = key::split_entry(entry)?;
            (met.seen == applied && Rc::ptr_eq(&met.shard.store, store))
                .then_some((met.shard.tree()?, primary))
        });
        let asked: Vec<Option<(TreeId, &[u8])>> = asked.collect();
        let keys: Vec<(TreeId, &[u8])> = asked.iter().flatten().copied().collect();
        let mut found = store.engine.cached_many(&keys)?.into_iter();
        let found = asked.iter().map(|asked| asked.and_then(|_| found.next()).unwrap_or(Cached::Miss));
        Ok(found.collect())
    }

    /// The row of what was met, and the key it is known by; `None` when it has gone since, or is not in the range after all.
    async fn row<'m>(
        &self,
        met: &'m Met<'_, S>,
        known: Option<&Cached<Option<Value>>>,
    ) -> Result<Option<(Cow<'m, [u8]>, Value)>, StorageError> {
        if self.index.is_none() {
            return Ok(Some((Cow::Borrowed(&met.key), met.value.clone())));
        }
        let entry = met.entry();
        if met.wanted.is_clamped && !met.wanted.holds(&entry) {
            return Ok(None);
        }
        if let Some(Cached::Hit(row)) = known {
            return Ok(row.clone().map(|row| (entry, row)));
        }
        let (Some((_, primary)), Some(rows)) = (key::split_entry(&entry), met.shard.tree()) else {
            return Ok(None);
        };
        let engine = &met.shard.store.engine;
        loop {
            let Cached::Hit(row) = engine.cached(rows, primary)? else {
                engine.get(rows, primary).await?;
                continue;
            };
            if engine.applied() == met.seen {
                return Ok(row.map(|row| (entry, row)));
            }
            // Something was written since: the row counts only if its entry still stands.
            match engine.cached(met.tree, &met.key)? {
                Cached::Hit(None) => return Ok(None),
                Cached::Hit(Some(rest)) if rest != met.value => return Ok(None),
                Cached::Hit(Some(_)) => return Ok(row.map(|row| (entry, row))),
                Cached::Miss => drop(engine.get(met.tree, &met.key).await?),
            }
        }
    }

    /// Gives what was met, in its order, and says which was the last that was taken if the step ends with it.
    async fn give_all<E: Env>(
        &self,
        met: Vec<Met<'_, S>>,
        rows: &mut Rows,
        pace: &mut Pace<'_, E>,
    ) -> Result<Option<Ended>, QueryError> {
        let known = self.look_up(&met).map_err(|error| self.failed(error))?;
        let bytes = known.iter().map(|row| match row {
            Cached::Hit(Some(row)) => row.len(),
            Cached::Hit(None) | Cached::Miss => 0,
        });
        rows.expect(known.len(), bytes.sum());
        let touch = |at: usize| match (known.get(at), met.get(at)) {
            (Some(Cached::Hit(Some(row))), _) => touch_value(row),
            (Some(Cached::Hit(None) | Cached::Miss), _) | (None, None) => {}
            (None, Some(met)) => touch_value(&met.value),
        };
        (0..ROWS_AHEAD).for_each(touch);
        for (at, met) in met.iter().enumerate() {
            touch(at + ROWS_AHEAD);
            let copies = met.wanted.copies;
            let row = self.row(met, known.get(at)).await;
            let taken = match row.map_err(|error| self.failed(error))? {
                Some((key, row)) => self.give(&key, row, copies, rows).await?,
                None => Taken::GoOn,
            };
            if self.question.is_some() {
                // A geometry is a lot of work.
                pace.keep().await;
            }
            match taken {
                Taken::GoOn => {}
                Taken::Full => return Ok(Some(Ended::Full(met.key.to_vec()))),
                Taken::End => return Ok(Some(Ended::Whole)),
            }
        }
        Ok(None)
    }
}

/// An entry that was read and is to be given.
struct Met<'a, S> {
    shard: &'a Shard<S>,
    tree: TreeId,
    key: Cow<'a, [u8]>,
    value: Value,
    /// What it was read for.
    wanted: Rc<Wanted>,
    /// Where the store stood before it was read.
    seen: Lsn,
}

impl<S> Met<'_, S> {
    /// The entry's whole key, in a scan along an index.
    fn entry(&self) -> Cow<'_, [u8]> {
        match self.value.is_empty() {
            true => Cow::Borrowed(&self.key),
            false => Cow::Owned(key::stored_entry(&self.key, &self.value)),
        }
    }
}

/// How a step ended before its entries did.
enum Ended {
    /// It has enough, with the entry of that key as its last.
    Full(Vec<u8>),
    /// No more rows are needed at all.
    Whole,
}

fn index_dropped() -> QueryError {
    QueryError::new(ErrorKind::OpFailed, "The index was dropped while the query ran.")
}

/// The number of keys in ranges.
///
/// # Errors
/// The store's.
pub async fn count<S: StorageEngine>(along: &Along<'_, S>, ranges: &[ScanRange]) -> Result<u64, QueryError> {
    let mut count = 0;
    for ScanRange { range, copies } in ranges {
        let (range, wanted) = along.wanted(range, *copies);
        for shard in along.local.shards.iter().flatten() {
            if let Some(tree) = along.tree(shard) {
                let found = match wanted.is_clamped {
                    false => shard.store.engine.count(tree, &range).await,
                    true => count_entries(shard, tree, range.clone(), &wanted).await,
                };
                count += found.map_err(|error| along.failed(error))? * u64::from(*copies);
            }
        }
    }
    Ok(count)
}

/// Counts one by one where a bound is longer than the keys that are stored.
async fn count_entries<S: StorageEngine>(
    shard: &Shard<S>,
    tree: TreeId,
    mut range: Range,
    wanted: &Wanted,
) -> Result<u64, StorageError> {
    let mut count = 0;
    loop {
        let run = shard.store.engine.range(tree, &range, Direction::Forward, RUN_ROWS, RUN_BYTES).await?;
        let held = run.entries.iter().filter(|(key, rest)| wanted.holds(&key::stored_entry(key, rest)));
        count += held.count() as u64;
        match run.entries.last() {
            Some((last, _)) if run.more => range.start = Bound::Excluded(last.clone()),
            Some(_) | None => return Ok(count),
        }
    }
}

/// A range as the query wants it.
pub struct Wanted {
    range: Range,
    copies: u32,
    /// Its bounds are longer than keys that are stored: what lies between those must be looked at.
    is_clamped: bool,
}

impl Wanted {
    pub fn holds(&self, entry: &[u8]) -> bool {
        let after_start = match &self.range.start {
            Bound::Unbounded => true,
            Bound::Included(start) => entry >= start.as_slice(),
            Bound::Excluded(start) => entry > start.as_slice(),
        };
        after_start
            && match &self.range.end {
                Bound::Unbounded => true,
                Bound::Included(end) => entry <= end.as_slice(),
                Bound::Excluded(end) => entry < end.as_slice(),
            }
    }
}

/// The range of stored entries that holds all of a range of entries.
fn clamped(range: &Range) -> Range {
    let is_long = |key: &Vec<u8>| key.len() > limits::INDEX_KEY_BYTES_MAX;
    let cut = |key: &Vec<u8>| key[..limits::INDEX_KEY_BYTES_MAX].to_vec();
    let start = match &range.start {
        Bound::Included(key) | Bound::Excluded(key) if is_long(key) => Bound::Included(cut(key)),
        bound => bound.clone(),
    };
    let end = match &range.end {
        Bound::Included(key) | Bound::Excluded(key) if is_long(key) => {
            Bound::Excluded(key::behind_entries(&cut(key)))
        }
        bound => bound.clone(),
    };
    Range { start, end }
}

/// Ranges of a scan that are left behind (or, backward, before) `from`, in the direction's order.
pub fn ranges_left<S: StorageEngine>(
    along: &Along<'_, S>,
    ranges: &[ScanRange],
    direction: Direction,
    from: Option<&[u8]>,
) -> VecDeque<(Range, Rc<Wanted>)> {
    let mut left = VecDeque::with_capacity(ranges.len());
    for ScanRange { range, copies } in ranges {
        let (mut range, wanted) = along.wanted(range, *copies);
        if let Some(from) = from {
            let bound = match direction {
                Direction::Forward => &mut range.start,
                Direction::Backward => &mut range.end,
            };
            let is_within = match (&*bound, direction) {
                (Bound::Unbounded, _) => true,
                (Bound::Included(key) | Bound::Excluded(key), Direction::Forward) => key.as_slice() <= from,
                (Bound::Included(key) | Bound::Excluded(key), Direction::Backward) => key.as_slice() >= from,
            };
            if is_within {
                *bound = Bound::Excluded(from.to_vec());
            }
            if is_crossed(&range) {
                continue;
            }
        }
        match direction {
            Direction::Forward => left.push_back((range, wanted)),
            Direction::Backward => left.push_front((range, wanted)),
        }
    }
    left
}

fn is_crossed(range: &Range) -> bool {
    match (&range.start, &range.end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

// ---------------------------------------------------------------- in any order

/// Goes through the rows of the shards one after another.
async fn any_order<E: Env>(
    along: &Along<'_, E::Store>,
    scan: &Scan,
    from: Option<&[u8]>,
    rows: &mut Rows,
    pace: &mut Pace<'_, E>,
) -> Result<Option<Vec<u8>>, QueryError> {
    let (first, mut after) = match from {
        None => (0, None),
        Some(next) => {
            let (shard, key) = next.split_first_chunk::<2>().ok_or_else(bad_resume)?;
            (u16::from_be_bytes(*shard), Some(key).filter(|key| !key.is_empty()))
        }
    };
    let mut since = 0;
    // With several ranges a place in the midst of them would not be known.
    let mut sweep_rows = if scan.ranges.len() == 1 { SWEEP_ROWS } else { 0 };
    for number in usize::from(first)..along.local.shards.len() {
        let ranges = ranges_left(along, &scan.ranges, Direction::Forward, after.take());
        let Some(shard) = &along.local.shards[number] else { continue };
        let Some(tree) = along.tree(shard) else { continue };
        let engine = &shard.store.engine;
        for (mut range, wanted) in ranges {
            let is_quick = rows.is_quick() && wanted.copies == 1;
            loop {
                if is_quick {
                    let visited = engine.visit(tree, &range, VISIT_ROWS, &mut |values| rows.see(values));
                    let Visited { last, end } = visited.map_err(|error| along.failed(error))?;
                    match (rows.seen().await?, last) {
                        (Taken::End, _) => return Ok(None),
                        (Taken::Full, Some(last)) => return Ok(Some(place(number, &last))),
                        (Taken::GoOn, Some(last)) => range.start = Bound::Excluded(last),
                        (Taken::Full | Taken::GoOn, None) => {}
                    }
                    pace.keep().await;
                    match end {
                        VisitEnd::Range => break,
                        VisitEnd::More => continue,
                        VisitEnd::Missing => {}
                    }
                }
                let most = if sweep_rows > 0 && wanted.copies == 1 { rows.sweep_rows(sweep_rows) } else { 0 };
                if most > 0 && (is_quick || !is_in_memory(&**engine, tree, &range)) {
                    let mark = rows.mark();
                    match sweep(along, (shard, tree), &range, most, rows, pace).await? {
                        (Swept::GoOn, Some(last)) if rows.is_full() => return Ok(Some(place(number, &last))),
                        (Swept::GoOn, None) if rows.is_full() => return Ok(Some(place(number + 1, &[]))),
                        (Swept::GoOn, Some(last)) => range.start = Bound::Excluded(last),
                        (Swept::GoOn, None) => break,
                        (Swept::End, _) => return Ok(None),
                        (Swept::TooMuch, _) => {
                            rows.take_back(&mark);
                            sweep_rows = 0;
                            continue;
                        }
                    }
                    // A sweep should come to its end before a step is full.
                    sweep_rows = match rows.filled(&mark) {
                        0..16 => sweep_rows * 2,
                        16..64 => sweep_rows,
                        64.. => sweep_rows / 2,
                    };
                    continue;
                }
                let seen = engine.applied();
                let rows_max = rows.room().map_or(RUN_ROWS, |room| room.clamp(1, RUN_ROWS));
                let run = engine.range(tree, &range, Direction::Forward, rows_max, RUN_BYTES).await;
                let run = run.map_err(|error| along.failed(error))?;
                let last = run.entries.last().map(|(key, _)| key.clone());
                since += run.entries.len() + 1;
                let mut entries = run.entries.into_iter();
                while !entries.as_slice().is_empty() {
                    let met = entries.by_ref().take(ROWS_TOGETHER).map(|(key, value)| Met {
                        shard,
                        tree,
                        key: Cow::Owned(key),
                        value,
                        wanted: wanted.clone(),
                        seen,
                    });
                    match along.give_all(met.collect(), rows, pace).await? {
                        None => {}
                        Some(Ended::Full(key)) => return Ok(Some(place(number, &key))),
                        Some(Ended::Whole) => return Ok(None),
                    }
                }
                if since >= RUN_ROWS / 8 {
                    since = 0;
                    pace.keep().await;
                }
                match last {
                    Some(last) if run.more => range.start = Bound::Excluded(last),
                    Some(_) | None => break,
                }
            }
        }
    }
    Ok(None)
}

/// Whether the next rows of a range need no disk.
fn is_in_memory<S: StorageEngine>(engine: &S, tree: TreeId, range: &Range) -> bool {
    let mut count = 0;
    let visited = engine.visit(tree, range, PEEK_ROWS, &mut |values| {
        count = values.len();
        0
    });
    count >= PEEK_ROWS || visited.is_ok_and(|visited| visited.end != VisitEnd::Missing && count == 0)
}

/// Takes rows of the beginning of a range in the order of the disk; the key that ends it, unless the range does.
async fn sweep<E: Env>(
    along: &Along<'_, E::Store>,
    (shard, tree): (&Shard<E::Store>, TreeId),
    range: &Range,
    rows_max: usize,
    rows: &mut Rows,
    pace: &mut Pace<'_, E>,
) -> Result<(Swept, Option<Vec<u8>>), QueryError> {
    let mut became = Ok(Swept::GoOn);
    let mut see = async |values: &[&[u8]]| {
        became = rows.swept(values).await;
        pace.keep().await;
        if became == Ok(Swept::GoOn) { Sweeping::GoOn } else { Sweeping::Stop }
    };
    let last = shard.store.engine.sweep(tree, range, rows_max, &mut see).await;
    let last = last.map_err(|error| along.failed(error))?;
    Ok((became?, last))
}

fn place(shard: usize, key: &[u8]) -> Vec<u8> {
    let mut next = (shard as u16).to_be_bytes().to_vec();
    next.extend_from_slice(key);
    next
}

// ---------------------------------------------------------------- in order

/// One shard of a merge.
struct Source<'a, S> {
    shard: &'a Shard<S>,
    tree: TreeId,
    /// Those not read to their end; the first is under way.
    ranges: VecDeque<(Range, Rc<Wanted>)>,
    run: VecDeque<(Vec<u8>, Value)>,
    /// What the run was read for.
    wanted: Option<Rc<Wanted>>,
    /// Where the store stood when the run was read.
    seen: Lsn,
}

impl<S: StorageEngine> Source<'_, S> {
    /// Reads the next run unless one is there.
    async fn fill(&mut self, direction: Direction, rows_max: usize) -> Result<(), StorageError> {
        let engine = &self.shard.store.engine;
        while self.run.is_empty() {
            let Some((range, wanted)) = self.ranges.front_mut() else { return Ok(()) };
            self.seen = engine.applied();
            let run = engine.range(self.tree, range, direction, rows_max, RUN_BYTES).await?;
            self.wanted = Some(wanted.clone());
            match run.entries.last() {
                Some((last, _)) if run.more => go_on_behind(range, direction, last),
                Some(_) | None => drop(self.ranges.pop_front()),
            }
            self.run = run.entries.into();
        }
        Ok(())
    }
}

/// Merges all shards by key.
async fn in_order<E: Env>(
    along: &Along<'_, E::Store>,
    scan: &Scan,
    direction: Direction,
    from: Option<&[u8]>,
    rows: &mut Rows,
    pace: &mut Pace<'_, E>,
) -> Result<Option<Vec<u8>>, QueryError> {
    match merged(along, &along.local.shards, scan, direction, from, rows, pace).await? {
        Some(Ended::Full(key)) => Ok(Some(key)),
        Some(Ended::Whole) | None => Ok(None),
    }
}

/// Goes along an index in any order: one group of shards after another, each merged. As many at a time as the rows that are wanted
/// are likely to lie in, to judge by those before: each shard costs a way down its tree.
async fn in_groups<E: Env>(
    along: &Along<'_, E::Store>,
    scan: &Scan,
    from: Option<&[u8]>,
    rows: &mut Rows,
    pace: &mut Pace<'_, E>,
) -> Result<Option<Vec<u8>>, QueryError> {
    let shards = &along.local.shards;
    let (mut group, mut after) = match from {
        None => (0..FIRST_SHARDS.min(shards.len()), None),
        Some(next) => {
            let (start, next) = next.split_first_chunk().ok_or_else(bad_resume)?;
            let (end, key) = next.split_first_chunk().ok_or_else(bad_resume)?;
            (u16::from_be_bytes(*start).into()..u16::from_be_bytes(*end).into(), Some(key))
        }
    };
    let mut seen = 0;
    while let Some(trees) = shards.get(group.clone()) {
        let ended = merged(along, trees, scan, Direction::Forward, after.take(), rows, pace).await?;
        match ended {
            None if group.end == shards.len() => return Ok(None),
            None => {}
            Some(Ended::Full(key)) => return Ok(Some(place(group.start, &place(group.end, &key)))),
            Some(Ended::Whole) => return Ok(None),
        }
        seen += group.len();
        let wanted = rows.room().unwrap_or(MERGED_ROWS);
        let more = (wanted * seen).checked_div(rows.taken() as usize).map_or(shards.len(), |more| more + 1);
        group = group.end..shards.len().min(group.end.saturating_add(more));
    }
    Err(bad_resume())
}

/// Merges shards by key.
async fn merged<E: Env>(
    along: &Along<'_, E::Store>,
    shards: &[Option<Shard<E::Store>>],
    scan: &Scan,
    direction: Direction,
    from: Option<&[u8]>,
    rows: &mut Rows,
    pace: &mut Pace<'_, E>,
) -> Result<Option<Ended>, QueryError> {
    let mut ranges = ranges_left(along, &scan.ranges, direction, from);
    let shards = shards.iter().flatten();
    let trees: Vec<_> = shards.filter_map(|shard| Some((shard, along.tree(shard)?))).collect();
    match in_memory(along, &trees, &mut ranges, direction, rows, pace).await? {
        None if ranges.is_empty() => return Ok(None),
        None => {}
        ended => return Ok(ended),
    }
    let source = |(shard, tree)| {
        let (run, seen) = (VecDeque::new(), Lsn::default());
        Source { shard, tree, ranges: ranges.clone(), run, wanted: None, seen }
    };
    let mut sources: Vec<Source<'_, E::Store>> = trees.into_iter().map(source).collect();
    // Hashing spreads neighbouring keys evenly: a little more than an even share of what is wanted is read at a time.
    let share = scan.rows_max as usize / sources.len().max(1);
    let rows_max = (share + share.isqrt() + MERGE_ROWS_MORE).min(RUN_ROWS);
    let filled = join_all(sources.iter_mut().map(|source| source.fill(direction, rows_max))).await;
    filled.into_iter().collect::<Result<(), _>>().map_err(|error| along.failed(error))?;
    let mut since = 0;
    loop {
        let together = rows.room().map_or(ROWS_TOGETHER, |room| room.clamp(1, ROWS_TOGETHER));
        let mut met = Vec::with_capacity(together);
        while met.len() < together
            && let Some(nearest) = nearest(&sources, direction)
        {
            let source = &mut sources[nearest];
            let (key, value) = source.run.pop_front().expect("the nearest has a row");
            let key = Cow::Owned(key);
            let wanted = source.wanted.clone().expect("a run was read for a range");
            met.push(Met { shard: source.shard, tree: source.tree, key, value, wanted, seen: source.seen });
            source.fill(direction, rows_max).await.map_err(|error| along.failed(error))?;
        }
        if met.is_empty() {
            return Ok(None);
        }
        since += met.len();
        let ended = along.give_all(met, rows, pace).await?;
        if ended.is_some() {
            return Ok(ended);
        }
        if since >= RUN_ROWS {
            since = 0;
            pace.keep().await;
        }
    }
}

/// Merges as far as all is in memory, if the shards are in one store. What was not come to is left of the ranges.
async fn in_memory<E: Env>(
    along: &Along<'_, E::Store>,
    shards: &[(&Shard<E::Store>, TreeId)],
    ranges: &mut VecDeque<(Range, Rc<Wanted>)>,
    direction: Direction,
    rows: &mut Rows,
    pace: &mut Pace<'_, E>,
) -> Result<Option<Ended>, QueryError> {
    let Some((Shard { store, .. }, _)) = shards.first() else {
        ranges.clear();
        return Ok(None);
    };
    if !shards.iter().all(|(shard, _)| Rc::ptr_eq(&shard.store, store)) {
        return Ok(None);
    }
    let trees: Vec<TreeId> = shards.iter().map(|(_, tree)| *tree).collect();
    let mut rows_max = MERGED_ROWS;
    while let Some((range, wanted)) = ranges.front_mut() {
        let seen = store.engine.applied();
        let most = rows.room().map_or(rows_max, |room| room.clamp(1, RUN_ROWS));
        let merged = store.engine.merge(&trees, range, direction, most, RUN_BYTES);
        let merged = merged.map_err(|error| along.failed(error))?;
        if along.is_plain() {
            rows.expect(merged.entries.len(), merged.entries.iter().map(|entry| entry.value.len()).sum());
        }
        let mut entries = merged.entries.iter();
        while !entries.as_slice().is_empty() {
            let met = entries.by_ref().take(MERGED_ROWS).map(|entry| Met {
                shard: shards[entry.tree].0,
                tree: trees[entry.tree],
                key: Cow::Borrowed(merged.key(entry)),
                value: entry.value.clone(),
                wanted: wanted.clone(),
                seen,
            });
            if let Some(ended) = along.give_all(met.collect(), rows, pace).await? {
                return Ok(Some(ended));
            }
        }
        if let Some(last) = merged.entries.last() {
            go_on_behind(range, direction, merged.key(last));
        }
        match merged.end {
            VisitEnd::Range => drop(ranges.pop_front()),
            VisitEnd::More => {}
            VisitEnd::Missing => break,
        }
        rows_max = (2 * rows_max).min(RUN_ROWS);
        pace.keep().await;
    }
    Ok(None)
}

fn go_on_behind(range: &mut Range, direction: Direction, last: &[u8]) {
    let bound = Bound::Excluded(last.to_vec());
    match direction {
        Direction::Forward => range.start = bound,
        Direction::Backward => range.end = bound,
    }
}

/// The source whose next key comes first.
fn nearest<S>(sources: &[Source<'_, S>], direction: Direction) -> Option<usize> {
    let heads =
        sources.iter().enumerate().filter_map(|(at, source)| source.run.front().map(|(key, _)| (key, at)));
    match direction {
        Direction::Forward => heads.min().map(|(_, at)| at),
        Direction::Backward => heads.max().map(|(_, at)| at),
    }
}
