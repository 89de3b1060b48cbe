//! Indexes in the catalog, as pure functions: what is asked of them and how a table changes.

use photondb_proto::datum::Datum;
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::limits;
use photondb_proto::op::{CatalogReply, IndexDefinition, IndexId, IndexOp, IndexState};

use super::change::Means;
use super::{Catalog, Index, Table, failed};

pub fn is_change(op: &IndexOp) -> bool {
    match op {
        IndexOp::Create(_) | IndexOp::Drop { .. } | IndexOp::Rename { .. } | IndexOp::Ready { .. } => true,
        IndexOp::Status { .. } | IndexOp::Wait { .. } => false,
    }
}

fn name_of(catalog: &Catalog, table: &Table) -> String {
    let database = catalog.database(table.database).map_or("", |database| &database.name);
    format!("{database}.{}", table.name)
}

fn place_of(table: &Table, name: &str) -> Option<usize> {
    table.indexes.iter().position(|index| index.definition.name == name)
}

/// States of indexes as far as the catalog knows them: one that is not ready has no progress here.
///
/// # Errors
/// There is no index of that name.
pub fn read(catalog: &Catalog, table: &Table, op: &IndexOp) -> Result<CatalogReply, QueryError> {
    let (IndexOp::Status { names } | IndexOp::Wait { names }) = op else {
        return Err(QueryError::new(ErrorKind::Internal, "a change of the catalog was asked of a copy"));
    };
    if let Some(missing) = names.iter().find(|name| place_of(table, name).is_none()) {
        let table = name_of(catalog, table);
        return Err(failed(format!("Index `{missing}` was not found on table `{table}`.")));
    }
    let wanted = |index: &&Index| names.is_empty() || names.contains(&index.definition.name);
    let state = |index: &Index| IndexState {
        definition: index.definition.clone(),
        ready: index.ready,
        progress: if index.ready { 1.0 } else { 0.0 },
    };
    Ok(CatalogReply::Indexes(table.indexes.iter().filter(wanted).map(state).collect()))
}

/// The table as the change leaves it, and the answer.
///
/// # Errors
/// The client's: a name is taken, or there is no such index.
pub fn plan(
    catalog: &Catalog,
    table: &Table,
    op: &IndexOp,
    means: Means,
) -> Result<(Table, Datum), QueryError> {
    let full_name = || name_of(catalog, table);
    let mut changed = table.clone();
    let answer = match op {
        IndexOp::Create(definition) => {
            create(&mut changed, definition, means, full_name)?;
            ("created", 1.0)
        }
        IndexOp::Drop { name } => {
            let place = place_of(table, name).ok_or_else(|| {
                failed(format!("Index `{name}` does not exist on table `{}`.", full_name()))
            })?;
            changed.indexes.remove(place);
            ("dropped", 1.0)
        }
        IndexOp::Rename { from, to, overwrite } => {
            let refused = || {
                let table = full_name();
                failed(format!(
                    "Index `{from}` does not exist or index `{to}` already exists on table `{table}`."
                ))
            };
            let place = place_of(table, from).ok_or_else(refused)?;
            match place_of(table, to) {
                _ if from == to => {}
                Some(_) if !overwrite => return Err(refused()),
                taken => {
                    changed.indexes[place].definition.name.clone_from(to);
                    taken.map(|taken| changed.indexes.remove(taken));
                }
            }
            ("renamed", if from == to { 0.0 } else { 1.0 })
        }
        IndexOp::Ready { index } => {
            let found = changed.indexes.iter_mut().find(|known| known.id == *index);
            let gone = || QueryError::new(ErrorKind::OpFailed, "the index was dropped");
            found.ok_or_else(gone)?.ready = true;
            ("ready", 1.0)
        }
        IndexOp::Status { .. } | IndexOp::Wait { .. } => {
            return Err(QueryError::new(ErrorKind::Internal, "a reading is not a change"));
        }
    };
    changed.indexes.sort_by(|left, right| left.definition.name.cmp(&right.definition.name));
    Ok((changed, Datum::object([(answer.0, Datum::Number(answer.1))])))
}

fn create(
    table: &mut Table,
    definition: &IndexDefinition,
    means: Means,
    full_name: impl Fn() -> String,
) -> Result<(), QueryError> {
    if place_of(table, &definition.name).is_some() {
        let text = format!("Index `{}` already exists on table `{}`.", definition.name, full_name());
        return Err(failed(text));
    }
    if table.indexes.len() >= limits::INDEXES_MAX {
        let text = format!(
            "Table `{}` has {} indexes, which is the most it may have.",
            full_name(),
            limits::INDEXES_MAX
        );
        return Err(failed(text));
    }
    table.indexes.push(Index { id: IndexId(means.fresh_id), definition: definition.clone(), ready: false });
    Ok(())
}
