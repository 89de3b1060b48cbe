//! Rows as they are now, with the commit number of each shard that they reflect exactly.
//!
//! Always: reading may wait for the disk, and rows change meanwhile. What changes is recorded, and put into what was read before
//! the segment is given away; between that and taking the stamps nothing else of the core runs.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use photondb_proto::datum::key;
use photondb_proto::error::QueryError;
use photondb_proto::feed::FeedRows;
use photondb_proto::op::{Document, Key, KeyRange, ScanOrder, ScanRange};
use photondb_storage::engine::{Direction, Range, StorageEngine, Value};

use super::evaluate::Evaluator;
use super::publish::{self, Committed};
use super::{Plan, Segment, aborted};
use crate::core::Core;
use crate::env::Env;
use crate::scan::{Along, Wanted, ranges_left};
use crate::table::{LocalTable, Shard, storage_failed};

/// Rows read from each shard at a time.
const RUN_ROWS: usize = 64;
const RUN_BYTES: usize = 64 << 10;
/// A segment ends after so many runs even if its plan accepts none of the rows.
const RUNS_MAX: usize = 64;

/// Reads about `rows_max` rows behind `after`.
///
/// # Errors
/// The table is gone or the index; the store's.
pub async fn read<E: Env>(
    core: &Rc<Core<E>>,
    plan: &Plan,
    after: Option<Key>,
    rows_max: u32,
) -> Result<Segment, QueryError> {
    let table = core.catalog().table(plan.table).cloned().ok_or_else(aborted)?;
    let local = core.tables.local(&table);
    let recorder = core.publishing.record(plan.table);
    let mut evaluator = Evaluator::new(plan.clone(), &local)?;
    evaluator.read_question(core).await?;
    let order = plan.rows.first().map_or(ScanOrder::Ascending, |first| first.order);
    let mut reader = Reader { evaluator, order, rows: BTreeMap::new(), upto: after, is_ended: false };
    if let FeedRows::Keys { keys, .. } = &plan.rows {
        reader.keys(&local, keys).await?;
    }
    let is_limit = plan.rows.first().is_some();
    let mut runs = 0;
    loop {
        let is_full = reader.rows.len() >= rows_max as usize || (!is_limit && runs >= RUNS_MAX);
        if !reader.is_ended && !is_full {
            reader.run(&local).await?;
            runs += 1;
            if runs % RUNS_MAX == 0 {
                core.env.next_turn().await;
            }
            continue;
        }
        let changes = recorder.take();
        if changes.is_empty() {
            break;
        }
        for change in changes {
            reader.follow(change).await;
        }
    }
    let stamps = publish::stamps(core, &table);
    let upto = if reader.is_ended { None } else { reader.upto };
    let mut rows: Vec<(Key, Document)> = reader.rows.into_iter().collect();
    if order == ScanOrder::Descending {
        rows.reverse();
    }
    Ok(Segment { rows, upto, stamps })
}

struct Reader {
    evaluator: Evaluator,
    order: ScanOrder,
    rows: BTreeMap<Key, Document>,
    /// All places up to this one, in the order of reading, have been read.
    upto: Option<Key>,
    is_ended: bool,
}

impl Reader {
    fn has_read(&self, place: &[u8]) -> bool {
        let reached = match (&self.upto, self.order) {
            (None, _) => false,
            (Some(upto), ScanOrder::Descending) => place >= upto.as_slice(),
            (Some(upto), ScanOrder::Any | ScanOrder::Keyed | ScanOrder::Ascending) => {
                place <= upto.as_slice()
            }
        };
        self.is_ended || reached
    }

    /// Makes up for a change since the reading began.
    async fn follow(&mut self, change: Committed) {
        if let Some(old) = &change.old {
            for place in self.evaluator.places(&change.key, old).await {
                self.rows.remove(&place);
            }
        }
        let Some(new) = change.new else { return };
        let mut places = self.evaluator.places(&change.key, &new).await;
        places.retain(|place| self.has_read(place));
        if !places.is_empty() {
            let value = self.evaluator.value(new).await;
            for place in places {
                self.set(place, value.clone());
            }
        }
    }

    fn set(&mut self, place: Key, value: Option<Document>) {
        match value {
            Some(value) => self.rows.insert(place, value),
            None => self.rows.remove(&place),
        };
    }

    async fn keys<S: StorageEngine>(
        &mut self,
        local: &LocalTable<S>,
        keys: &[Key],
    ) -> Result<(), QueryError> {
        self.is_ended = true;
        for key in keys {
            let Some(shard) = local.shard_of(key) else { continue };
            if let Some(row) = shard.get(key).await.map_err(storage_failed)? {
                let value = self.evaluator.value(row).await;
                self.set(key.clone(), value);
            }
        }
        Ok(())
    }

    /// Reads the next run of every shard; what lies behind the first shard to end its run is left for the next time.
    async fn run<S: StorageEngine>(&mut self, local: &LocalTable<S>) -> Result<(), QueryError> {
        let direction = match self.order {
            ScanOrder::Descending => Direction::Backward,
            ScanOrder::Any | ScanOrder::Keyed | ScanOrder::Ascending => Direction::Forward,
        };
        let along = Along::new(local, self.evaluator.order())?;
        let ranges: Vec<ScanRange> = match &self.evaluator.plan().rows {
            FeedRows::Ranges(ranges) if ranges.question.is_empty() => {
                let range = |range: &KeyRange| ScanRange { range: range.clone(), copies: 1 };
                ranges.ranges.iter().map(range).collect()
            }
            // Rows of a geo index are looked for in the whole table.
            FeedRows::Ranges(_) | FeedRows::Keys { .. } => {
                vec![ScanRange { range: KeyRange::all(), copies: 1 }]
            }
        };
        let mut found: Vec<Found> = Vec::new();
        let mut reached: Option<Key> = None;
        for shard in local.shards.iter().flatten() {
            let ranges = ranges_left(&along, &ranges, direction, self.upto.as_deref());
            if let Some(last) = run_of(&along, shard, ranges, direction, &mut found).await? {
                let is_nearer = reached.as_ref().is_none_or(|reached| match direction {
                    Direction::Forward => last < *reached,
                    Direction::Backward => last > *reached,
                });
                if is_nearer {
                    reached = Some(last);
                }
            }
        }
        match reached {
            None => self.is_ended = true,
            Some(reached) => {
                found.retain(|found| match direction {
                    Direction::Forward => found.place <= reached,
                    Direction::Backward => found.place >= reached,
                });
                self.upto = Some(reached);
            }
        }
        for Found { place, row } in found {
            let is_there = match self.evaluator.order() {
                Some(_) => true,
                None => !self.evaluator.places(&place, &row).await.is_empty(),
            };
            if is_there {
                let value = self.evaluator.value(row).await;
                self.set(place, value);
            }
        }
        Ok(())
    }
}

struct Found {
    place: Key,
    row: Value,
}

/// Reads up to [`RUN_ROWS`] rows of a shard. Gives the last place that was read if there may be more.
async fn run_of<S: StorageEngine>(
    along: &Along<'_, S>,
    shard: &Shard<S>,
    ranges: VecDeque<(Range, Rc<Wanted>)>,
    direction: Direction,
    found: &mut Vec<Found>,
) -> Result<Option<Key>, QueryError> {
    let Some(tree) = along.tree(shard) else { return Ok(None) };
    let mut rows_left = RUN_ROWS;
    for (range, wanted) in ranges {
        let run = shard.store.engine.range(tree, &range, direction, rows_left, RUN_BYTES).await;
        let run = run.map_err(|error| along.failed(error))?;
        rows_left -= run.entries.len().min(rows_left);
        let last = run.entries.last().map(|(place, _)| place.clone());
        for (place, value) in run.entries {
            if !along.is_indexed() {
                found.push(Found { place, row: value });
                continue;
            }
            let entry = key::stored_entry(&place, &value);
            if !wanted.holds(&entry) {
                continue;
            }
            let Some((_, primary)) = key::split_entry(&entry) else { continue };
            // One that has changed since is made up for by its change.
            if let Some(row) = shard.get(primary).await.map_err(storage_failed)? {
                found.push(Found { place, row });
            }
        }
        if run.more || rows_left == 0 {
            return Ok(last);
        }
    }
    Ok(None)
}
