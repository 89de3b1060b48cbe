//! Writes to the shards of this core, row by row.
//!
//! Always: a row is read, decided and applied with nothing between (`table.rs`); what becomes of it is the query crate's
//! to say. Rows are independent: one that breaks a rule has its outcome, the others go on.

use std::rc::Rc;

use photondb_proto::datum::{Datum, Slice, document, key as keys};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{Change, Conflict, RowChange, RowOutcome, TableWrite};
use photondb_query::row::{RowDecision, RowEffect, RowRules};
use photondb_storage::engine::Value;

use crate::catalog::Table;
use crate::core::Core;
use crate::env::Env;
use crate::route::Written;
use crate::table::{self, LocalTable, storage_failed};

/// Applies the rows of a write. Gives their outcomes and how far each store's log must be flushed for them to be durable.
///
/// # Errors
/// The store's.
pub async fn rows<E: Env>(
    core: &Rc<Core<E>>,
    table: &Table,
    local: &LocalTable<E::Store>,
    write: TableWrite,
) -> Result<(Vec<RowOutcome>, Written<E::Store>), QueryError> {
    let now_ms = core.env.unix_ms();
    let mut batch: Batch<'_, E> = Batch { local, now_ms, outcomes: Vec::new(), written: Vec::new() };
    match write {
        TableWrite::Sync => {}
        TableWrite::Insert { rows, conflict, options } => {
            let rules = RowRules { primary_key: table.primary_key.clone(), return_changes: options.return_changes };
            for row in rows {
                let key = key_datum(&row.key)?;
                let new = document::from_bytes(&row.document);
                batch.row(&row.key, |old| insert(&rules, &key, old, &new, &conflict)).await?;
            }
        }
        TableWrite::Change { keys, change, options } => {
            let rules = RowRules { primary_key: table.primary_key.clone(), return_changes: options.return_changes };
            for (place, key) in keys.iter().enumerate() {
                let datum = key_datum(key)?;
                batch.row(key, |old| changed(&rules, &datum, old, &change, place)).await?;
            }
        }
    }
    Ok((batch.outcomes, batch.written))
}

fn key_datum(key: &[u8]) -> Result<Datum, QueryError> {
    keys::decode(key).ok_or_else(|| QueryError::new(ErrorKind::Internal, "a write has a key that is none"))
}

fn insert(rules: &RowRules, key: &Datum, old: &Datum, new: &Datum, conflict: &Conflict) -> RowDecision {
    match conflict {
        _ if old.is_null() => rules.decide(key, old, Ok(new.clone())),
        Conflict::Error => rules.duplicate(old, new),
        Conflict::Replace => rules.decide(key, old, Ok(new.clone())),
        Conflict::Update => rules.decide(key, old, photondb_query::row::updated(old, new)),
        Conflict::Function(_) => rules.refused(old, "functions are not known yet".into()),
    }
}

fn changed(rules: &RowRules, key: &Datum, old: &Datum, change: &Change, place: usize) -> RowDecision {
    match change {
        Change::Update(_) | Change::Replace(_) => rules.refused(old, "functions are not known yet".into()),
        Change::Delete => rules.decide(key, old, Ok(Datum::Null)),
        Change::Put(values) => match &values[place] {
            Ok(Some(new)) => rules.decide(key, old, Ok(document::from_bytes(new))),
            Ok(None) => rules.decide(key, old, Ok(Datum::Null)),
            Err(message) => rules.refused(old, message.clone()),
        },
    }
}

struct Batch<'a, E: Env> {
    local: &'a LocalTable<E::Store>,
    now_ms: u64,
    outcomes: Vec<RowOutcome>,
    written: Written<E::Store>,
}

impl<E: Env> Batch<'_, E> {
    async fn row(&mut self, key: &[u8], decide: impl Fn(&Datum) -> RowDecision) -> Result<(), QueryError> {
        let homeless = || QueryError::new(ErrorKind::Internal, "a row was sent to a core that does not hold it");
        let shard = self.local.shard_of(key).ok_or_else(homeless)?;
        let decide = async |old: Option<Value>| {
            let old = old.map_or(Datum::Null, |old| document::decode(Slice::new(old)));
            let RowDecision { effect, outcome } = decide(&old);
            match effect {
                RowEffect::Keep => table::Change::Keep(outcome),
                RowEffect::Put(document) => table::Change::Put(document, outcome),
                RowEffect::Delete => table::Change::Delete(outcome),
            }
        };
        let (outcome, lsn) = match shard.change(key, self.now_ms, decide).await {
            Ok(changed) => changed,
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
