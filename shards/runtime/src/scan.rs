//! One step of a scan over the shards of this core.
//!
//! Always: a step holds nothing when it has answered; `next` says where to go on. In any order it is a shard and the last
//! key seen there; in key order it is the last key seen, since the shards are merged: each is read in small runs and the
//! nearest key goes first. Long steps let other tasks of the core have their turn.

use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;

use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{PartBatch, Scan, ScanOrder};
use photondb_storage::engine::{Direction, Range, StorageEngine, Value};

use crate::core::Core;
use crate::env::Env;
use crate::rows::{Rows, Taken};
use crate::table::{LocalTable, Shard, storage_failed, storage_range};

/// Rows read from a shard at a time.
const RUN_ROWS: usize = 512;
/// Bytes read from a shard at a time.
const RUN_BYTES: usize = 128 << 10;
/// Rows first read from each of several shards that are merged.
const MERGE_ROWS_MIN: usize = 16;
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
    let mut rows = Rows::new(&scan)?;
    let mut pace = Pace::new(core);
    let next = match scan.order {
        ScanOrder::Any => any_order(local, &scan, from, &mut rows, &mut pace).await?,
        ScanOrder::Ascending => {
            in_order(local, &scan, Direction::Forward, from, &mut rows, &mut pace).await?
        }
        ScanOrder::Descending => {
            in_order(local, &scan, Direction::Backward, from, &mut rows, &mut pace).await?
        }
    };
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
        if self.core.env.elapsed() - self.began > TURN {
            self.core.env.next_turn().await;
            self.began = self.core.env.elapsed();
        }
    }
}

fn bad_resume() -> QueryError {
    QueryError::new(ErrorKind::Internal, "a scan was resumed at no place")
}

/// Goes through the shards one after another.
async fn any_order<E: Env>(
    local: &LocalTable<E::Store>,
    scan: &Scan,
    from: Option<&[u8]>,
    rows: &mut Rows,
    pace: &mut Pace<'_, E>,
) -> Result<Option<Vec<u8>>, QueryError> {
    let (first, mut after) = match from {
        None => (0, None),
        Some(next) => {
            let (shard, key) = next.split_first_chunk::<2>().ok_or_else(bad_resume)?;
            (u16::from_be_bytes(*shard), Some(key.to_vec()).filter(|key| !key.is_empty()))
        }
    };
    let whole = storage_range(&scan.range);
    for number in usize::from(first)..local.shards.len() {
        let mut range = whole.clone();
        if let Some(after) = after.take() {
            range.start = Bound::Excluded(after);
        }
        let Some(shard) = &local.shards[number] else { continue };
        let Some(tree) = shard.tree() else { continue };
        loop {
            let run = shard.store.engine.range(tree, &range, Direction::Forward, RUN_ROWS, RUN_BYTES).await;
            let run = run.map_err(storage_failed)?;
            let (more, mut last) = (run.more, None);
            for (key, value) in run.entries {
                match rows.take(&[], value).await? {
                    Taken::GoOn => last = Some(key),
                    Taken::Full => return Ok(Some(place(number, &key))),
                    Taken::End => return Ok(None),
                }
            }
            pace.keep().await;
            match last {
                Some(last) if more => range.start = Bound::Excluded(last),
                Some(_) | None => break,
            }
        }
    }
    Ok(None)
}

fn place(shard: usize, key: &[u8]) -> Vec<u8> {
    let mut next = (shard as u16).to_be_bytes().to_vec();
    next.extend_from_slice(key);
    next
}

/// One shard of a merge.
struct Source<'a, S> {
    shard: &'a Shard<S>,
    range: Range,
    run: VecDeque<(Vec<u8>, Value)>,
    more: bool,
}

impl<S: StorageEngine> Source<'_, S> {
    /// Reads the next run unless one is there.
    async fn fill(&mut self, direction: Direction, rows_max: usize) -> Result<(), QueryError> {
        let Some(tree) = self.shard.tree() else {
            self.more = false;
            return Ok(());
        };
        if !self.run.is_empty() || !self.more {
            return Ok(());
        }
        let run = self.shard.store.engine.range(tree, &self.range, direction, rows_max, RUN_BYTES).await;
        let run = run.map_err(storage_failed)?;
        self.more = run.more;
        if let Some((last, _)) = run.entries.last() {
            match direction {
                Direction::Forward => self.range.start = Bound::Excluded(last.clone()),
                Direction::Backward => self.range.end = Bound::Excluded(last.clone()),
            }
        }
        self.run = run.entries.into();
        Ok(())
    }
}

/// Merges the shards by key.
async fn in_order<E: Env>(
    local: &LocalTable<E::Store>,
    scan: &Scan,
    direction: Direction,
    from: Option<&[u8]>,
    rows: &mut Rows,
    pace: &mut Pace<'_, E>,
) -> Result<Option<Vec<u8>>, QueryError> {
    let mut range = storage_range(&scan.range);
    if let Some(after) = from {
        match direction {
            Direction::Forward => range.start = Bound::Excluded(after.to_vec()),
            Direction::Backward => range.end = Bound::Excluded(after.to_vec()),
        }
    }
    let shards = local.shards.iter().flatten();
    let source = |shard| Source { shard, range: range.clone(), run: VecDeque::new(), more: true };
    let mut sources: Vec<Source<'_, E::Store>> = shards.map(source).collect();
    // Hashing spreads neighbouring keys evenly: a little more than an even share of what is wanted is read first.
    let share = scan.rows_max as usize / sources.len().max(1);
    let rows_max = (share + share / 2).clamp(MERGE_ROWS_MIN, RUN_ROWS);
    for source in &mut sources {
        source.fill(direction, rows_max).await?;
    }
    let mut since = 0;
    loop {
        let nearest = nearest(&sources, direction);
        let Some(nearest) = nearest else { return Ok(None) };
        let source = &mut sources[nearest];
        let (key, value) = source.run.pop_front().expect("the nearest has a row");
        match rows.take(&key, value).await? {
            Taken::GoOn => {}
            Taken::Full => return Ok(Some(key)),
            Taken::End => return Ok(None),
        }
        source.fill(direction, rows_max).await?;
        since += 1;
        if since >= RUN_ROWS {
            since = 0;
            pace.keep().await;
        }
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
