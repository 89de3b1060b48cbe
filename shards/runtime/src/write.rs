//! Writes to the shards of this core, row by row.
//!
//! Always: what becomes of a row is the query crate's to say ([`RowWriter`]); `table.rs` applies it to the row it was said
//! of. Rows are independent: one that breaks a rule has its outcome, the others go on.

use std::rc::Rc;
use std::time::Duration;

use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{Durability, RowChange, RowOutcome, TableWrite, WriteHook, WriteOptions};
use photondb_query::write::{RowDecision, RowEffect, RowWriter};
use photondb_storage::engine::Value;

use crate::catalog::Table;
use crate::core::Core;
use crate::env::Env;
use crate::feed::Committed;
use crate::panics::caught_in_turns;
use crate::route::Written;
use crate::table::{self, LocalTable, storage_failed};

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
    match write {
        TableWrite::Sync => {}
        TableWrite::Insert { rows, conflict, options } => {
            let writer = RowWriter::for_insert(&table.primary_key, &conflict, options)?;
            let writer = hooked(writer, table, options, now_ms)?;
            for row in rows {
                batch.pace().await;
                let decide = async |old| caught_in_turns(writer.insert(old, &row.document), turn).await;
                batch.row(&row.key, decide).await?;
            }
        }
        TableWrite::Change { keys, change, options } => {
            let writer = RowWriter::for_change(&table.primary_key, change, options)?;
            let writer = hooked(writer, table, options, now_ms)?;
            for (place, key) in keys.iter().enumerate() {
                batch.pace().await;
                let decide = async |old| caught_in_turns(writer.change(place, key, old), turn).await;
                batch.row(key, decide).await?;
            }
        }
    }
    Ok((batch.outcomes, batch.written))
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

struct Batch<'a, E: Env> {
    core: &'a Rc<Core<E>>,
    table: &'a Table,
    durability: Durability,
    local: &'a LocalTable<E::Store>,
    now_ms: u64,
    /// When the batch began to hold the core.
    since: Duration,
    outcomes: Vec<RowOutcome>,
    written: Written<E::Store>,
}

impl<E: Env> Batch<'_, E> {
    /// Lets the core's other tasks run where a long batch has held it for [`HELD_MAX`].
    async fn pace(&mut self) {
        let held = self.core.env.elapsed() - self.since;
        if held > HELD_MAX {
            self.core.rest(held).await;
            self.since = self.core.env.elapsed();
        }
    }

    /// Tells feeds of a change, which is theirs once it is as durable as the write asked for.
    fn publish(&self, shard: &table::Shard<E::Store>, key: &[u8], applied: table::Applied) {
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

    async fn row(
        &mut self,
        key: &[u8],
        decide: impl AsyncFn(Option<Value>) -> Result<RowDecision, QueryError>,
    ) -> Result<(), QueryError> {
        let homeless =
            || QueryError::new(ErrorKind::Internal, "a row was sent to a core that does not hold it");
        let shard = self.local.shard_of(key).ok_or_else(homeless)?;
        let decide = async |old: Option<Value>| match decide(old).await {
            Ok(RowDecision { effect: RowEffect::Keep, outcome }) => table::Change::Keep(Ok(outcome)),
            Ok(RowDecision { effect: RowEffect::Put(document), outcome }) => {
                table::Change::Put(document, Ok(outcome))
            }
            Ok(RowDecision { effect: RowEffect::Delete, outcome }) => table::Change::Delete(Ok(outcome)),
            Err(error) => table::Change::Keep(Err(error)),
        };
        let (outcome, lsn) = match shard.change(self.local, key, self.now_ms, decide).await {
            Ok((outcome, applied)) => {
                let lsn = applied.as_ref().map(|applied| applied.lsn);
                if let Some(applied) = applied
                    && self.core.publishing.watches(self.table.id)
                {
                    self.publish(shard, key, applied);
                }
                (outcome?, lsn)
            }
            Err(error) if self.outcomes.is_empty() => return Err(storage_failed(error)),
            // Rows before it are written: the client must hear of them, and of this one's failure.
            Err(error) => {
                let kind = RowChange::Error(storage_failed(error).message);
                (RowOutcome { kind, old: None, new: None }, None)
            }
        };
        self.outcomes.push(outcome);
        if let Some(lsn) = lsn {
            match self.written.iter_mut().find(|(store, _)| Rc::ptr_eq(store, &shard.store)) {
                Some((_, last)) => *last = lsn.max(*last),
                None => self.written.push((shard.store.clone(), lsn)),
            }
        }
        Ok(())
    }
}
