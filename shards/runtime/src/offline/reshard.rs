//! Spreads the shards of a data directory over another number of stores.
//!
//! Table by table: copy each shard that must move into its new store, flush, then one batch of the catalog says where the
//! table's shards are. Always: until that batch is durable the old shards are the table, from then on the new ones are; what is on
//! the other side is an orphan that opening drops. So a kill at any time leaves a directory that opens with everything, and
//! running again takes up where it ended. Stores that are not wanted any more get another name before their files go.
//!
//! Commit numbers count within an epoch of their store: every store goes on from the highest epoch, so that a shard's never go back.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Bound;
use std::path::Path;
use std::rc::Rc;

use futures_lite::future::poll_once;
use photondb_storage::blocking::{BlockingDirectory, block_on};
use photondb_storage::engine::{
    CommitInfo, Direction, Edit, Range, StorageEngine, StorageError, TreeId, TreeName,
};
use photondb_storage::slab::{Placement, SlabEngine, SlabOptions};

use super::{hold, store_failed, store_path};
use crate::StartError;
use crate::catalog::{Catalog, Server, Table, server_record, table_record};
use crate::owner::{catalog_edit, read_records};
use crate::table::{CATALOG_TREE, OpenStore, STORE_TREE, shard_of_tree, table_of_tree};

/// Pages and documents in memory for each store.
const CACHE_BYTES: u64 = 16 << 20;
/// Copied at once.
const ROWS_MAX: usize = 500;
const BYTES_MAX: usize = 1 << 20;
/// What a store is called while it is removed.
const REMOVED_PREFIX: &str = "removed-store-";
const EVERYTHING: Range = Range { start: Bound::Unbounded, end: Bound::Unbounded };

type Store = OpenStore<SlabEngine<BlockingDirectory>>;
type Stores = BTreeMap<u16, Store>;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resharded {
    pub shards_moved: u64,
    /// Documents, and entries of indexes.
    pub entries_moved: u64,
    pub stores: u16,
    pub stores_removed: u16,
}

/// Spreads all shards over `stores` stores. `progress` is told entries moved and entries to move.
///
/// # Errors
/// A server holds the directory, something in it is damaged, or the disk is full.
pub fn reshard(
    data_dir: &Path,
    stores: u16,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Resharded, StartError> {
    let held = hold(data_dir)?;
    let failed = |error: std::io::Error| StartError(format!("{}: {error}.", data_dir.display()));
    remove_leftovers(data_dir).map_err(failed)?;
    let wanted: Vec<u16> = (0..stores).collect();
    let mut all = held.stores;
    all.extend(&wanted);
    all.sort_unstable();
    all.dedup();
    let mut done = block_on(spread(data_dir, &all, stores, progress))?;
    done.stores = stores;
    for store in all.into_iter().filter(|store| *store >= stores) {
        let removed = data_dir.join(format!("{REMOVED_PREFIX}{store}"));
        std::fs::rename(store_path(data_dir, store), removed).map_err(failed)?;
        done.stores_removed += 1;
    }
    sync(data_dir).map_err(failed)?;
    remove_leftovers(data_dir).map_err(failed)?;
    Ok(done)
}

fn sync(data_dir: &Path) -> std::io::Result<()> {
    File::open(data_dir)?.sync_all()
}

fn remove_leftovers(data_dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(REMOVED_PREFIX) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// One shard to be moved.
struct Move {
    shard: u16,
    from: u16,
    to: u16,
}

async fn spread(
    data_dir: &Path,
    numbers: &[u16],
    count: u16,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Resharded, StartError> {
    let mut stores = Stores::new();
    for number in numbers {
        // New stores are made as those are that there are.
        let placement = stores.values().next().map(|store: &Store| store.engine.placement());
        let opened =
            open(data_dir, *number, placement).await.map_err(|error| store_failed(*number, &error))?;
        stores.insert(*number, opened);
    }
    sync(data_dir).map_err(|error| StartError(format!("{}: {error}.", data_dir.display())))?;
    let of_catalog = |error: StorageError| store_failed(0, &error);
    let mut catalog = read_catalog(&stores).await?;
    for (number, store) in &stores {
        store.drop_orphans(&catalog).await.map_err(|error| store_failed(*number, &error))?;
    }
    raise_epochs(&stores).await?;

    let tables: Vec<(Rc<Table>, Vec<Move>)> =
        catalog.tables().map(|table| (table.clone(), moves_of(table, count))).collect();
    let mut total = 0;
    for (table, moves) in &tables {
        for Move { shard, from, .. } in moves {
            let store = &stores[from];
            for (_, tree) in trees_of(store, table, *shard) {
                total += store
                    .engine
                    .count(tree, &EVERYTHING)
                    .await
                    .map_err(|error| store_failed(*from, &error))?;
            }
        }
    }
    let mut done = Resharded::default();
    progress(0, total);
    for (table, moves) in tables.into_iter().filter(|(_, moves)| !moves.is_empty()) {
        for Move { shard, from, to } in &moves {
            for (name, tree) in trees_of(&stores[from], &table, *shard) {
                let told: &mut dyn FnMut(u64) = &mut |copied| {
                    done.entries_moved += copied;
                    progress(done.entries_moved, total);
                };
                let copied = copy(&stores[from], tree, &stores[to], &name, told).await;
                copied.map_err(|(store, error)| store_failed(store, &error))?;
            }
            done.shards_moved += 1;
        }
        let placed = Table { placement: placement(&table, count), ..(*table).clone() };
        commit_placement(&stores, &mut catalog, &placed).await.map_err(of_catalog)?;
        for Move { shard, from, .. } in &moves {
            for (_, tree) in trees_of(&stores[from], &table, *shard) {
                stores[from].engine.drop_tree(tree).await.map_err(|error| store_failed(*from, &error))?;
            }
        }
    }
    for (number, store) in &stores {
        store.engine.close().await.map_err(|error| store_failed(*number, &error))?;
    }
    Ok(done)
}

async fn open(data_dir: &Path, number: u16, placement: Option<Placement>) -> Result<Store, StorageError> {
    let directory = BlockingDirectory::new(store_path(data_dir, number))?;
    let options = SlabOptions {
        placement,
        cache_bytes: CACHE_BYTES,
        table_of: table_of_tree,
        ..SlabOptions::default()
    };
    OpenStore::begin(number, Rc::new(SlabEngine::open(directory, options).await?)).await
}

/// The same as for new tables.
fn placement(table: &Table, stores: u16) -> Vec<u16> {
    (0..table.shards()).map(|shard| shard % stores).collect()
}

fn moves_of(table: &Table, stores: u16) -> Vec<Move> {
    let wanted = placement(table, stores);
    let moves = table.placement.iter().zip(wanted).enumerate();
    moves
        .filter(|(_, (from, to))| *from != to)
        .map(|(shard, (from, to))| Move { shard: shard as u16, from: *from, to })
        .collect()
}

/// A shard's trees in a store: its documents and its indexes.
fn trees_of(store: &Store, table: &Table, shard: u16) -> Vec<(TreeName, TreeId)> {
    let of_shard = |name: &TreeName| shard_of_tree(name) == Some((table.id, shard));
    let names = store.engine.tree_names().into_iter().filter(of_shard);
    names.filter_map(|name| store.engine.tree(&name).map(|tree| (name, tree))).collect()
}

async fn read_catalog(stores: &Stores) -> Result<Catalog, StartError> {
    let store =
        stores.get(&0).ok_or_else(|| StartError("Store 0, which holds the catalog, is missing.".into()))?;
    let failed = |error| store_failed(0, &error);
    let unmade =
        || StartError("The directory has no catalog: no server ever finished starting on it.".into());
    let Some(tree) = store.engine.tree(&TreeName(CATALOG_TREE.into())) else { return Err(unmade()) };
    let records = read_records(&*store.engine, tree).await.map_err(failed)?;
    let catalog = Catalog::from_records(&records).map_err(|error| StartError(format!("{error}.")))?;
    catalog.ok_or_else(unmade)
}

async fn raise_epochs(stores: &Stores) -> Result<(), StartError> {
    let highest = stores.values().map(|store| store.epoch).max().unwrap_or(0);
    for (number, store) in stores.iter().filter(|(_, store)| store.epoch < highest) {
        let raised = async {
            let tree = store.engine.create_tree(&TreeName(STORE_TREE.into())).await?;
            let edit = Edit::Put { tree, key: b"epoch".to_vec(), value: highest.to_le_bytes().to_vec() };
            let lsn = store.engine.commit(CommitInfo::default(), &[edit]).await?;
            store.engine.flushed(lsn).await
        };
        raised.await.map_err(|error| store_failed(*number, &error))?;
    }
    Ok(())
}

/// Copies a tree into another store, durably. The error comes with the store that failed.
async fn copy(
    from: &Store,
    tree: TreeId,
    to: &Store,
    name: &TreeName,
    copied: &mut dyn FnMut(u64),
) -> Result<(), (u16, StorageError)> {
    let reading = |error| (from.number, error);
    let writing = |error| (to.number, error);
    let target = to.engine.create_tree(name).await.map_err(writing)?;
    let mut range = EVERYTHING;
    loop {
        let run = from
            .engine
            .range(tree, &range, Direction::Forward, ROWS_MAX, BYTES_MAX)
            .await
            .map_err(reading)?;
        let Some((last, _)) = run.entries.last() else { break };
        range.start = Bound::Excluded(last.clone());
        let count = run.entries.len() as u64;
        let edits: Vec<Edit> = run
            .entries
            .into_iter()
            .map(|(key, value)| Edit::Put { tree: target, key, value: value.to_vec() })
            .collect();
        to.engine.commit(CommitInfo::default(), &edits).await.map_err(writing)?;
        to.engine.flushed(to.engine.applied()).await.map_err(writing)?;
        if let Some(Some(training)) = poll_once(to.engine.training()).await {
            to.engine.set_dictionary(training.train()).await.map_err(writing)?;
        }
        copied(count);
        if !run.more {
            break;
        }
    }
    to.engine.flushed(to.engine.applied()).await.map_err(writing)
}

/// From here on the table's shards are where they were copied to.
async fn commit_placement(stores: &Stores, catalog: &mut Catalog, table: &Table) -> Result<(), StorageError> {
    let server = Server { epoch: catalog.server.epoch + 1, ..catalog.server.clone() };
    let records = [table_record(table), server_record(&server)];
    let engine = &stores[&0].engine;
    let tree = engine.create_tree(&TreeName(CATALOG_TREE.into())).await?;
    let edits: Vec<Edit> =
        records.iter().map(|(key, value)| catalog_edit(tree, key, value.as_deref())).collect();
    let lsn = engine.commit(CommitInfo::default(), &edits).await?;
    engine.flushed(lsn).await?;
    catalog.apply(&records).expect("a record made here is understood here");
    Ok(())
}
