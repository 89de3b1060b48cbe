//! Construction of secondary indexes: online, in the background, on every core that holds shards of the table.
//!
//! Always: the core that owns the catalog asks each core for its part and marks the index ready when all have flushed
//! theirs, so a ready index is whole on disk. Parts are made in small steps between which others have their turn; while
//! queries run, a core rests as long as it worked, and constructs one index at a time, so that writes keep at least half
//! their speed. Nothing says how far a part was: after a restart it begins anew, over entries that are the same.

use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use photondb_proto::error::QueryError;
use photondb_proto::op::{CatalogOp, IndexId, IndexOp, TableId};
use photondb_storage::engine::{
    Cached, CommitInfo, Direction, Edit, Range, StorageEngine, StorageError, TreeId, Value,
};

use crate::behind::behind;
use crate::catalog::Table;
use crate::core::Core;
use crate::env::Env;
use crate::index::LocalIndex;
use crate::panics::in_turns;
use crate::route;
use crate::table::{LocalTable, Shard, storage_failed};

/// Rows of a step.
const STEP_ROWS: usize = 64;
/// Bytes of rows read for a step.
const STEP_BYTES: usize = 64 << 10;
/// A construction begins so much later than its index is created: a client that creates several, or asks at once how far one is,
/// need not share the cores with it.
const BEGIN_REST: Duration = Duration::from_millis(100);
/// How long a construction that failed (a full disk, say) rests before it is tried again.
const RETRY_REST: Duration = Duration::from_secs(1);

/// Begins the construction of every index that is not ready and not under way. Only the owner of the catalog does.
pub fn begin<E: Env>(core: &Rc<Core<E>>) {
    let tables: Vec<Rc<Table>> = core.catalog().tables().cloned().collect();
    begin_of(core, &tables);
}

/// The same for these tables.
pub fn begin_of<E: Env>(core: &Rc<Core<E>>, tables: &[Rc<Table>]) {
    let Some(owner) = &core.owner else { return };
    for table in tables {
        for index in table.indexes.iter().filter(|index| !index.ready) {
            if owner.constructing.borrow_mut().insert(index.id) {
                let (core, table, index) = (core.clone(), table.id, index.id);
                core.env.clone().spawn(async move { whole(&core, table, index).await });
            }
        }
    }
}

/// Constructs an index on all cores and marks it ready.
async fn whole<E: Env>(core: &Rc<Core<E>>, table: TableId, index: IndexId) {
    core.env.sleep(BEGIN_REST).await;
    while is_wanted(core, table, index) {
        match parts(core, table, index).await {
            Ok(()) => {
                let op = CatalogOp::Index { table, op: IndexOp::Ready { index } };
                match route::change_catalog(core, op).await {
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%table, %index, %error, "an index could not be made ready yet")
                    }
                }
            }
            Err(error) => tracing::warn!(%table, %index, %error, "an index could not be constructed yet"),
        }
        core.env.sleep(RETRY_REST).await;
    }
    if let Some(owner) = &core.owner {
        owner.constructing.borrow_mut().remove(&index);
    }
}

fn is_wanted<E: Env>(core: &Core<E>, table: TableId, index: IndexId) -> bool {
    core.catalog().table(table).is_some_and(|table| table.index(index).is_some()) && !core.draining.get()
}

async fn parts<E: Env>(core: &Rc<Core<E>>, table: TableId, index: IndexId) -> Result<(), QueryError> {
    let Some(table) = core.catalog().table(table).cloned() else { return Ok(()) };
    let homes = core.homes(&table).into_iter();
    let parts = homes.map(|peer| route::construct_at(core, peer, table.id, index));
    join_all(parts).await.into_iter().collect()
}

/// This core's part of an index, durable when it answers.
///
/// # Errors
/// The store's.
pub async fn part<E: Env>(core: &Rc<Core<E>>, table: &Rc<Table>, id: IndexId) -> Result<(), QueryError> {
    let _inside = core.constructing.enter().await;
    let local = core.tables.local(table);
    let Some(index) = local.index(id) else { return Ok(()) };
    let rows = behind(&core.env, &core.figures.classes, rows(core, &local, &index));
    rows.await.map_err(storage_failed)?;
    for store in core.tables.stores.values() {
        core.flush(store, store.engine.applied()).await.map_err(storage_failed)?;
    }
    Ok(())
}

async fn rows<E: Env>(
    core: &Rc<Core<E>>,
    local: &LocalTable<E::Store>,
    index: &Rc<LocalIndex>,
) -> Result<(), StorageError> {
    let all = Range { start: Bound::Unbounded, end: Bound::Unbounded };
    let mut total = 0;
    for shard in local.shards.iter().flatten() {
        if let Some(tree) = shard.tree() {
            total += shard.store.engine.count(tree, &all).await?;
        }
    }
    index.progress.total.set(total);
    index.progress.done.set(0);
    for shard in local.shards.iter().flatten() {
        let Some(tree) = shard.tree() else { continue };
        let mut range = all.clone();
        loop {
            if local.index(index.id).is_none() || core.draining.get() {
                return Ok(());
            }
            let run =
                shard.store.engine.range(tree, &range, Direction::Forward, STEP_ROWS, STEP_BYTES).await?;
            let keys: Vec<Vec<u8>> = run.entries.into_iter().map(|(key, _)| key).collect();
            step(core, shard, tree, index, &keys).await?;
            index.progress.done.set(index.progress.done.get() + keys.len() as u64);
            core.flush_soon();
            core.env.next_turn().await;
            match keys.into_iter().next_back() {
                Some(last) if run.more => range.start = Bound::Excluded(last),
                Some(_) | None => break,
            }
        }
    }
    Ok(())
}

/// Adds the entries of these rows, as they are at the moment of adding.
async fn step<E: Env>(
    core: &Core<E>,
    shard: &Shard<E::Store>,
    tree: TreeId,
    index: &LocalIndex,
    mut keys: &[Vec<u8>],
) -> Result<(), StorageError> {
    let engine = &shard.store.engine;
    index.tree_made(shard).await?;
    while let Some(first) = keys.first() {
        // From here to `apply` nothing waits: no write comes between a row and its entries.
        let mut edits: Vec<Edit> = Vec::new();
        let mut taken = 0;
        let mut is_large = false;
        for key in keys {
            let Cached::Hit(row) = engine.cached(tree, key)? else { break };
            is_large = index.add_edits(shard.place, key, (None, row.as_ref()), &mut edits).is_err();
            if is_large {
                break;
            }
            taken += 1;
        }
        if taken == 0 {
            if is_large {
                large_row(core, shard, tree, index, first).await?;
                keys = &keys[1..];
            } else {
                engine.get(tree, first).await?;
            }
            continue;
        }
        if edits.is_empty() {
            keys = &keys[taken..];
            continue;
        }
        match engine.apply(info(core, shard), &edits)? {
            Cached::Hit(_) => keys = &keys[taken..],
            Cached::Miss => engine.prepare(&edits).await?,
        }
    }
    Ok(())
}

/// Adds the entries of a row that take long to make, if it is still the same then.
async fn large_row<E: Env>(
    core: &Core<E>,
    shard: &Shard<E::Store>,
    tree: TreeId,
    index: &LocalIndex,
    key: &[u8],
) -> Result<(), StorageError> {
    let engine = &shard.store.engine;
    let mut made: Option<(Option<Value>, Vec<Edit>)> = None;
    loop {
        let Cached::Hit(row) = engine.cached(tree, key)? else {
            engine.get(tree, key).await?;
            continue;
        };
        match made.take() {
            Some((seen, edits)) if seen.as_deref() == row.as_deref() => {
                if edits.is_empty() || matches!(engine.apply(info(core, shard), &edits)?, Cached::Hit(_)) {
                    return Ok(());
                }
                engine.prepare(&edits).await?;
                made = Some((seen, edits));
            }
            Some(_) | None => {
                let mut edits = Vec::new();
                let making = index.add_edits_in_turns(shard.place, key, (None, row.as_ref()), &mut edits);
                in_turns(making, async || core.env.next_turn().await).await;
                made = Some((row, edits));
            }
        }
    }
}

fn info<E: Env>(core: &Core<E>, shard: &Shard<E::Store>) -> CommitInfo {
    CommitInfo { shard: shard.number, commit_time_ms: core.env.unix_ms(), ..CommitInfo::default() }
}
