//! Writes to the shards of this core.
//!
//! Always: what becomes of a row is the query crate's to say ([`RowWriter`]); it is applied to the row it was said of, by `table.rs` where it
//! is one row, by `together.rs` where there are several. Rows are independent: one that breaks a rule has its outcome, the
//! others go on.

use std::rc::Rc;
use std::time::Duration;

use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{Durability, RowChange, RowOutcome, TableWrite, WriteHook, WriteOptions};
use photondb_query::write::{RowDecision, RowEffect, RowWriter};
use photondb_storage::engine::{Lsn, Value};

use crate::catalog::Table;
use crate::core::Core;
use crate::env::Env;
use crate::feed::Committed;
use crate::panics::caught_in_turns;
use crate::route::Written;
use crate::table::{self, LocalTable, OpenStore, storage_failed};

/// How long the rows of one write may hold the core.
const HELD_MAX: Duration = Duration::from_micros(500);

/// Applies the rows of a write. Gives their outcomes and how far each store's log must be flushed for them to be durable.
///
/// # Errors
/// The store's, or a function that is none.
pub async fn rows<E: Env>(
    core: &Rc<Core<E>>,
    table: &Table,
    local: &LocalTable<E::Store>,
    write: TableWrite,
) -> Result<(Vec<RowOutcome>, Written<E::Store>), QueryError> {
    let now_ms = core.env.unix_ms();
    let durability = match &write {
        TableWrite::Insert { options, .. } | TableWrite::Change { options, .. } => options.durability,
        TableWrite::Sync => None,
    };
    let mut batch: Batch<'_, E> = Batch {
        core,
        table,
        local,
        durability: durability.unwrap_or(table.durability),
        now_ms,
        since: core.env.elapsed(),
        outcomes: Vec::new(),
        written: Vec::new(),
    };
    let turn = &async || core.env.next_turn().await;
    batch.outcomes.resize_with(row_count(&write), || None);
    match write {
        TableWrite::Sync => {}
        TableWrite::Insert { rows, conflict, options } => {
            let writer = RowWriter::for_insert(&table.primary_key, &conflict, options)?;
            let writer = hooked(writer, table, options, now_ms)?;
            let decide = async |place: usize, old| {
                caught_in_turns(writer.insert(old, &rows[place].document), turn).await
            };
            match &rows[..] {
                [row] => batch.row(0, &row.key, &decide).await?,
                rows => {
                    let keys: Vec<&[u8]> = rows.iter().map(|row| row.key.as_slice()).collect();
                    Box::pin(batch.together(&keys, &decide)).await?;
                }
            }
        }
        TableWrite::Change { keys, change, options } => {
            let writer = RowWriter::for_change(&table.primary_key, change, options)?;
            let writer = hooked(writer, table, options, now_ms)?;
            let decide = async |place: usize, old| {
                caught_in_turns(writer.change(place, &keys[place], old), turn).await
            };
            match &keys[..] {
                [key] => batch.row(0, key, &decide).await?,
                keys => {
                    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                    Box::pin(batch.together(&keys, &decide)).await?;
                }
            }
        }
    }
    let outcomes = batch.outcomes.into_iter().map(|outcome| outcome.expect("every row has its turn"));
    Ok((outcomes.collect(), batch.written))
}

fn row_count(write: &TableWrite) -> usize {
    match write {
        TableWrite::Sync => 0,
        TableWrite::Insert { rows, .. } => rows.len(),
        TableWrite::Change { keys, .. } => keys.len(),
    }
}

/// The writer, with the table's write hook if there is one.
fn hooked(
    writer: RowWriter,
    table: &Table,
    options: WriteOptions,
    now_ms: u64,
) -> Result<RowWriter, QueryError> {
    match (&table.write_hook, options.write_hook) {
        (Some(hook), WriteHook::Asked) => writer.with_hook(hook, now_ms),
        (Some(_), WriteHook::Ignored) | (None, _) => Ok(writer),
    }
}

pub fn homeless() -> QueryError {
    QueryError::new(ErrorKind::Internal, "a row was sent to a core that does not hold it")
}

/// A write to rows of this core that is under way.
pub struct Batch<'a, E: Env> {
    pub core: &'a Rc<Core<E>>,
    table: &'a Table,
    durability: Durability,
    pub local: &'a LocalTable<E::Store>,
    pub now_ms: u64,
    /// When the batch began to hold the core.
    since: Duration,
    /// Of each row that had its turn.
    outcomes: Vec<Option<RowOutcome>>,
    written: Written<E::Store>,
}

/// What is to become of a row, by its place in the write.
pub trait Decide: AsyncFn(usize, Option<Value>) -> Result<RowDecision, QueryError> {}
impl<F: AsyncFn(usize, Option<Value>) -> Result<RowDecision, QueryError>> Decide for F {}

impl<E: Env> Batch<'_, E> {
    /// Lets the core's other tasks run where a long batch has held it for [`HELD_MAX`].
    pub async fn pace(&mut self) {
        let held = self.core.env.elapsed() - self.since;
        if held > HELD_MAX {
            self.core.rest(held).await;
            self.since = self.core.env.elapsed();
        }
    }

    pub fn is_watched(&self) -> bool {
        self.core.publishing.watches(self.table.id)
    }

    /// Tells feeds of a change, which is theirs once it is as durable as the write asked for.
    pub fn publish(&self, shard: &table::Shard<E::Store>, key: &[u8], applied: table::Applied) {
        let change = Committed {
            table: self.table.id,
            shard: shard.number,
            commit: applied.commit,
            key: key.to_vec(),
            old: applied.old,
            new: applied.new.map(Into::into),
        };
        self.core.publishing.committed(shard.store.number, applied.lsn, self.durability, change);
    }

    pub fn ended(&mut self, place: usize, outcome: RowOutcome) {
        self.outcomes[place] = Some(outcome);
    }

    /// Something of a store was written, up to there in its log.
    pub fn wrote(&mut self, store: &Rc<OpenStore<E::Store>>, lsn: Lsn) {
        match self.written.iter_mut().find(|(other, _)| Rc::ptr_eq(other, store)) {
            Some((_, last)) => *last = lsn.max(*last),
            None => self.written.push((store.clone(), lsn)),
        }
    }

    /// Changes one row.
    ///
    /// # Errors
    /// The store's, if no other row has been written; or what broke in deciding.
    pub async fn row(&mut self, place: usize, key: &[u8], decide: &impl Decide) -> Result<(), QueryError> {
        let local = self.local;
        let shard = local.shard_of(key).ok_or_else(homeless)?;
        let decide = async |old: Option<Value>| match decide(place, old).await {
            Ok(RowDecision { effect: RowEffect::Keep, outcome }) => table::Change::Keep(Ok(outcome)),
            Ok(RowDecision { effect: RowEffect::Put(document), outcome }) => {
                table::Change::Put(document, Ok(outcome))
            }
            Ok(RowDecision { effect: RowEffect::Delete, outcome }) => table::Change::Delete(Ok(outcome)),
            Err(error) => table::Change::Keep(Err(error)),
        };
        let turn = &async || self.core.env.next_turn().await;
        match shard.change(local, key, self.now_ms, decide, turn).await {
            Ok((outcome, applied)) => {
                if let Some(applied) = applied {
                    self.wrote(&shard.store, applied.lsn);
                    if self.is_watched() {
                        self.publish(shard, key, applied);
                    }
                }
                self.ended(place, outcome?);
            }
            Err(error) if self.outcomes.iter().all(Option::is_none) => return Err(storage_failed(error)),
            // Rows before it are written: the client must hear of them, and of this one's failure.
            Err(error) => {
                let kind = RowChange::Error(storage_failed(error).message);
                self.ended(place, RowOutcome { kind, old: None, new: None });
            }
        }
        Ok(())
    }
}
