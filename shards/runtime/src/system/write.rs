//! Writing to system tables: each row is decided like a stored row, and what it wants becomes a change of the catalog.
//!
//! Always: this runs on the catalog's owner, behind its turnstile, so nothing changes between a row's old value and its new
//! one. Rows are independent: one that is refused has its error and the others go on. What was written is shown as it reads
//! now, so that no password comes back.

use std::rc::Rc;

use photondb_proto::datum::{Datum, document, key};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{
    Document, Identifiers, ReturnChanges, RowChange, RowOutcome, SYSTEM_DATABASE, TableId, TableWrite,
};
use photondb_proto::wire::scram::{Credential, ITERATIONS_EMPTY, SALT_BYTES};
use photondb_query::write::{RowDecision, RowEffect, RowWriter};

use super::facts::tell;
use super::{SystemTable, Write, jobs, name_of, read};
use crate::catalog::edit::{Edit, Planned};
use crate::catalog::failed;
use crate::core::{Core, Question};
use crate::env::Env;
use crate::owner;
use crate::panics::caught;

/// Carries out a write to a system table on a user's behalf.
///
/// # Errors
/// The write's as a whole: no such table, or a function that is none.
pub async fn write<E: Env>(
    core: &Rc<Core<E>>,
    id: TableId,
    write: TableWrite,
    user: &str,
) -> Result<Vec<RowOutcome>, QueryError> {
    let Some((table, identifiers)) = SystemTable::of(id) else {
        return Err(failed(format!("Table `{id}` does not exist.")));
    };
    let homeless = || QueryError::new(ErrorKind::Internal, "this core does not own the catalog");
    let _inside = core.owner.as_ref().ok_or_else(homeless)?.turnstile.enter().await;
    let mut outcomes = Vec::new();
    match write {
        TableWrite::Sync => return Err(failed("Artificial tables don't support `sync()`.".to_owned())),
        TableWrite::Insert { rows, conflict, options } => {
            let writer = RowWriter::for_insert("id", &conflict, options)?;
            let batch = Batch { core, table, identifiers, user, shows: options.return_changes };
            for row in rows {
                let old = batch.row(&row.key).await;
                let decision = caught(writer.insert(old.clone().map(Rc::from), &row.document)).await?;
                outcomes.push(batch.apply(&row.key, old, decision).await);
            }
        }
        TableWrite::Change { keys, change, options } => {
            let writer = RowWriter::for_change("id", change, options)?;
            let batch = Batch { core, table, identifiers, user, shows: options.return_changes };
            for (place, key) in keys.iter().enumerate() {
                let old = batch.row(key).await;
                let decision = caught(writer.change(place, key, old.clone().map(Rc::from))).await?;
                outcomes.push(batch.apply(key, old, decision).await);
            }
        }
    }
    Ok(outcomes)
}

/// The rows of one write.
struct Batch<'a, E: Env> {
    core: &'a Rc<Core<E>>,
    table: &'static SystemTable,
    identifiers: Identifiers,
    user: &'a str,
    shows: ReturnChanges,
}

impl<E: Env> Batch<'_, E> {
    /// The row under a key as it is now.
    async fn row(&self, key: &[u8]) -> Option<Document> {
        if let (Write::Scratch, Some(owner)) = (&self.table.write, &self.core.owner) {
            return owner.scratch.row(key);
        }
        let view = read::view(self.core, self.table, self.identifiers, self.user).await;
        read::row(self.table, &view, key)
    }

    async fn apply(&self, key: &[u8], old: Option<Document>, decision: RowDecision) -> RowOutcome {
        let new = match decision.effect {
            RowEffect::Keep => return decision.outcome,
            RowEffect::Put(document) => Some(document),
            RowEffect::Delete => None,
        };
        let mut outcome = decision.outcome;
        match self.carry_out(key, new).await {
            Err(refusal) => {
                let old = old.unwrap_or_else(|| document::to_bytes(&Datum::Null));
                let shown = (self.shows == ReturnChanges::Always).then_some(old);
                RowOutcome { kind: RowChange::Error(refusal.message), old: shown.clone(), new: shown }
            }
            Ok(()) => {
                let now = self.row(key).await;
                match (&outcome.kind, &old, &now) {
                    // To set nothing is to delete.
                    (RowChange::Replaced, Some(_), None) => outcome.kind = RowChange::Deleted,
                    (RowChange::Inserted, None, None) => outcome.kind = RowChange::Skipped,
                    _ => {}
                }
                if outcome.new.is_some() {
                    outcome.new = Some(now.unwrap_or_else(|| document::to_bytes(&Datum::Null)));
                }
                outcome
            }
        }
    }

    async fn carry_out(&self, key: &[u8], new: Option<Document>) -> Result<(), QueryError> {
        let name = self.table.name;
        let plan = match &self.table.write {
            Write::Illegal => {
                return Err(failed(format!(
                    "It's illegal to write to the `{SYSTEM_DATABASE}.{name}` table."
                )));
            }
            Write::Jobs => return self.interrupt(key, new).await,
            Write::Scratch => {
                return self.core.owner.as_ref().map_or(Ok(()), |owner| owner.scratch.set(key, new));
            }
            Write::Catalog(plan) => plan,
        };
        let key = named(key)?;
        let new = match new.as_deref().map(document::from_bytes) {
            Some(Datum::Object(row)) => Some(row),
            Some(_) | None => None,
        };
        let catalog = self.core.catalog();
        let mut edit = Edit {
            catalog: &catalog,
            user: self.user,
            identifiers: self.identifiers,
            key: &key,
            new: new.as_ref(),
            means: owner::means(self.core),
            credential: None,
            system_table_name: name_of,
        };
        let credential;
        let planned = match plan(&edit)? {
            Planned::Derive { password, iterations } => {
                credential = self.derive(password, iterations).await?;
                edit.credential = Some(&credential);
                plan(&edit)?
            }
            done @ Planned::Done(_) => done,
        };
        match planned {
            Planned::Done(plan) => owner::commit(self.core, plan.records).await,
            Planned::Derive { .. } => {
                Err(QueryError::new(ErrorKind::Internal, "a credential was derived in vain"))
            }
        }
    }

    /// Ends a query by its row.
    async fn interrupt(&self, key: &[u8], new: Option<Document>) -> Result<(), QueryError> {
        if new.is_some() {
            let text = "The `rethinkdb.jobs` system table only allows deletions, not inserts or updates.";
            return Err(failed(text.to_owned()));
        }
        let key = named(key)?;
        match (jobs::kind(&key), jobs::place(&key)) {
            (Some(kind), _) if kind != "query" => {
                Err(failed(format!("Jobs of type `{kind}` cannot be interrupted.")))
            }
            (_, Some((core, number))) if core < self.core.mesh.cores() => {
                // If it has ended by itself meanwhile, it is gone as it was to be.
                tell(self.core, core, Question::Interrupt(number)).await;
                Ok(())
            }
            (_, _) => Ok(()),
        }
    }

    /// Derives a credential, off this core.
    async fn derive(&self, password: Vec<u8>, iterations: Option<u32>) -> Result<Credential, QueryError> {
        let mut salt = [0; SALT_BYTES];
        self.core.env.random(&mut salt);
        let otherwise = if password.is_empty() { ITERATIONS_EMPTY } else { self.core.password_iterations };
        let iterations = iterations.unwrap_or(otherwise);
        let derived = self.core.slowly(move || Credential::derive(&password, salt, iterations)).await;
        derived.ok_or_else(|| QueryError::new(ErrorKind::Internal, "the server is stopping"))
    }
}

/// The primary key that these bytes are.
fn named(key: &[u8]) -> Result<Datum, QueryError> {
    key::decode(key).ok_or_else(|| failed("The primary key cannot be told.".to_owned()))
}
