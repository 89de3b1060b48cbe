//! What only the core that owns the catalog does: it commits changes, one at a time.
//!
//! Always: a change is one batch of store 0, durable, then every core follows before whoever asked hears of it. Who commits holds
//! the owner's turnstile from the plan to the end.

use std::ops::Bound;
use std::rc::Rc;

use futures_util::future::join_all;
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_storage::engine::{CommitInfo, Direction, Edit, Range, StorageEngine, StorageError, TreeId};

use crate::catalog::Record;
use crate::catalog::change::Means;
use crate::core::{Core, Request};
use crate::env::Env;
use crate::table::storage_failed;

/// What a plan of this moment needs.
pub fn means<E: Env>(core: &Core<E>) -> Means {
    let mut fresh_id = [0; 16];
    core.env.random(&mut fresh_id);
    Means { fresh_id: *as_uuid(fresh_id).as_bytes(), stores: core.stores, cores: core.mesh.cores() }
}

/// Commits the records of a change.
///
/// # Errors
/// The store's; nothing has changed then.
pub async fn commit<E: Env>(core: &Rc<Core<E>>, records: Vec<Record>) -> Result<(), QueryError> {
    let homeless = || QueryError::new(ErrorKind::Internal, "this core does not own the catalog");
    let owner = core.owner.as_ref().ok_or_else(homeless)?;
    let store = core.tables.stores.get(&0).ok_or_else(homeless)?;
    let edits: Vec<Edit> =
        records.iter().map(|(key, value)| catalog_edit(owner.tree, key, value.as_deref())).collect();
    let info = CommitInfo { commit_time_ms: core.env.unix_ms(), ..CommitInfo::default() };
    let lsn = store.engine.commit(info, &edits).await.map_err(storage_failed)?;
    core.flush(store, lsn).await.map_err(storage_failed)?;
    core.follow(&records);
    let peers = (0..core.mesh.cores()).filter(|peer| *peer != core.number);
    join_all(peers.map(|peer| core.mesh.request(peer, Request::Follow(records.clone())))).await;
    Ok(())
}

/// All records of the catalog, from its tree in store 0.
///
/// # Errors
/// The store's.
pub async fn read_records<S: StorageEngine>(engine: &S, tree: TreeId) -> Result<Vec<Record>, StorageError> {
    let mut range = Range { start: Bound::Unbounded, end: Bound::Unbounded };
    let mut records: Vec<Record> = Vec::new();
    loop {
        let run = engine.range(tree, &range, Direction::Forward, 1024, 1 << 20).await?;
        records.extend(run.entries.into_iter().map(|(key, value)| (key, Some(value.to_vec()))));
        match records.last() {
            Some((key, _)) if run.more => range.start = Bound::Excluded(key.clone()),
            Some(_) | None => return Ok(records),
        }
    }
}

/// A version 4 UUID of random bytes.
pub fn as_uuid(random: [u8; 16]) -> uuid::Uuid {
    uuid::Builder::from_random_bytes(random).into_uuid()
}

/// The edit that stores a record of the catalog.
pub fn catalog_edit(tree: TreeId, key: &[u8], value: Option<&[u8]>) -> Edit {
    let key = key.to_vec();
    match value {
        Some(value) => Edit::Put { tree, key, value: value.to_vec() },
        None => Edit::Delete { tree, key },
    }
}
