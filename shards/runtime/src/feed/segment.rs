//! Rows as they are now, with the commit number of each shard that they reflect exactly.
//!
//! Always: reading may wait for the disk, and rows change meanwhile. What changes is recorded, and put into what was read before
//! the segment is given away; between that and taking the stamps nothing else of the core runs.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use photondb_proto::error::QueryError;
use photondb_proto::feed::FeedRows;
use photondb_proto::op::{Document, Key, KeyRange, ScanOrder};
use photondb_query::push::Pipeline;
use photondb_storage::engine::{Direction, StorageEngine, Value};

use super::publish::{self, passed};
use super::{Plan, Segment, aborted};
use crate::core::Core;
use crate::env::Env;
use crate::table::{LocalTable, storage_failed, storage_range};

/// Rows read from each shard at a time.
const RUN_ROWS: usize = 64;
const RUN_BYTES: usize = 64 << 10;
/// A segment ends after so many runs even if its plan accepts none of the rows.
const RUNS_MAX: usize = 64;

/// Reads about `rows_max` rows behind `after`.
///
/// # Errors
/// The table is gone; the store's.
pub async fn read<E: Env>(
    core: &Rc<Core<E>>,
    plan: &Plan,
    after: Option<Key>,
    rows_max: u32,
) -> Result<Segment, QueryError> {
    let table = core.catalog().table(plan.table).cloned().ok_or_else(aborted)?;
    let local = core.tables.local(&table);
    let recorder = core.publishing.record(plan.table);
    let pipeline = match plan.pipeline.is_empty() {
        true => None,
        false => Some(Pipeline::decode(&plan.pipeline)?),
    };
    let (keys, range, order) = match &plan.rows {
        FeedRows::Keys { keys, .. } => (Some(keys), KeyRange::all(), ScanOrder::Ascending),
        FeedRows::Range(range) => (None, range.clone(), ScanOrder::Ascending),
        FeedRows::Limit { range, order, .. } => (None, range.clone(), *order),
    };
    let is_limit = matches!(plan.rows, FeedRows::Limit { .. });
    let mut reader = Reader { plan, pipeline, order, rows: BTreeMap::new(), upto: after, is_ended: false };
    if let Some(keys) = keys {
        reader.keys(&local, keys).await?;
    }
    let mut runs = 0;
    loop {
        let is_full = reader.rows.len() >= rows_max as usize || (!is_limit && runs >= RUNS_MAX);
        if !reader.is_ended && !is_full {
            reader.run(&local, &range).await?;
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
            if reader.has_read(&change.key) {
                reader.set(change.key, change.new).await;
            }
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

struct Reader<'a> {
    plan: &'a Plan,
    pipeline: Option<Pipeline>,
    order: ScanOrder,
    rows: BTreeMap<Key, Document>,
    /// All keys up to this one, in the order of reading, have been read.
    upto: Option<Key>,
    is_ended: bool,
}

impl Reader<'_> {
    fn has_read(&self, key: &[u8]) -> bool {
        let reached = match (&self.upto, self.order) {
            (None, _) => false,
            (Some(upto), ScanOrder::Descending) => key >= upto.as_slice(),
            (Some(upto), ScanOrder::Any | ScanOrder::Keyed | ScanOrder::Ascending) => key <= upto.as_slice(),
        };
        (self.is_ended || reached) && self.plan.covers(key)
    }

    async fn set(&mut self, key: Key, value: Option<Value>) {
        let value = match (value, &mut self.pipeline) {
            (None, _) => None,
            (Some(value), None) => Some(value.to_vec()),
            (Some(value), Some(pipeline)) => passed(pipeline, value).await,
        };
        match value {
            Some(value) => self.rows.insert(key, value),
            None => self.rows.remove(&key),
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
            let value = shard.get(key).await.map_err(storage_failed)?;
            self.set(key.clone(), value).await;
        }
        Ok(())
    }

    /// Reads the next run of every shard; what lies behind the first shard to end its run is left for the next time.
    async fn run<S: StorageEngine>(
        &mut self,
        local: &LocalTable<S>,
        range: &KeyRange,
    ) -> Result<(), QueryError> {
        let mut range = storage_range(range);
        let direction = match self.order {
            ScanOrder::Descending => Direction::Backward,
            ScanOrder::Any | ScanOrder::Keyed | ScanOrder::Ascending => Direction::Forward,
        };
        if let Some(upto) = &self.upto {
            match direction {
                Direction::Forward => range.start = Bound::Excluded(upto.clone()),
                Direction::Backward => range.end = Bound::Excluded(upto.clone()),
            }
        }
        let mut found: Vec<(Key, Value)> = Vec::new();
        let mut reached: Option<Key> = None;
        for shard in local.shards.iter().flatten() {
            let Some(tree) = shard.tree() else { continue };
            let run = shard.store.engine.range(tree, &range, direction, RUN_ROWS, RUN_BYTES).await;
            let run = run.map_err(storage_failed)?;
            if let Some((last, _)) = run.entries.last().filter(|_| run.more) {
                let is_nearer = reached.as_ref().is_none_or(|reached| match direction {
                    Direction::Forward => last < reached,
                    Direction::Backward => last > reached,
                });
                if is_nearer {
                    reached = Some(last.clone());
                }
            }
            found.extend(run.entries);
        }
        let before = self.upto.take();
        match reached {
            None => self.is_ended = true,
            Some(reached) => {
                found.retain(|(key, _)| match direction {
                    Direction::Forward => *key <= reached,
                    Direction::Backward => *key >= reached,
                });
                self.upto = Some(reached);
            }
        }
        if self.is_ended {
            self.upto = before;
        }
        for (key, value) in found {
            self.set(key, Some(value)).await;
        }
        Ok(())
    }
}
