//! Opens a store: the newest whole checkpoint, then the log behind it, applied by the code that applied it first.
//!
//! Always: what opening finds is verified, and a store that is not whole is an error, never a guess. Opening writes nothing
//! but the next superblock, with a raised epoch, so it can be stopped anywhere and tried again. The log is read twice: first
//! to find its end and the blocks of large values in it, which must not be given out before their records are applied.

use std::cell::{Cell, RefCell};
use std::ops::Bound;
use std::rc::Rc;

use crate::btree::page::{PAGE_BYTES, Page, PageKind, SMALL_PAGE_BYTES};
use crate::btree::{Missing, tree};
use crate::cache::pool::{Frame, FrameState};
use crate::changelog::{ChangeLogs, Extent as Written};
use crate::disk::{BLOCK_BYTES, Directory, Disk, OpenMode};
use crate::engine::{CommitInfo, Direction, StorageError, TreeId, TreeName, Value};
use crate::event::Event;
use crate::slab::chunks::{Chunk, ChunkKind, Chunks};
use crate::slab::state::{CATALOG, CATALOG_ROOT, Checked, State};
use crate::slab::{Shared, SlabOptions};
use crate::space::Run;
use crate::superblock::{BlockAddress, SUPERBLOCKS_FILE, Superblock};
use crate::tables::{self, Table, TableKind};
use crate::wal::log::{
    Found, Log, Place, SHORT_SEGMENT_BYTES, Segment, make_segment, segment_name, segment_number,
};
use crate::wal::record::{Batch, Change, Record};
use crate::wal::replay::LogReader;

/// Records that are read before they are applied, and bytes of log in which they begin.
const STEPS_MAX: usize = 512;
const STEPS_BYTES_MAX: u64 = 4 << 20;
/// Levels of a tree that are read ahead; what lies deeper is read when it is needed.
const LEVELS_MAX: usize = 6;

/// A record of the log or a part of it, owned.
enum Step {
    Batch { info: CommitInfo, changes: Vec<OwnedChange>, is_kept: bool },
    Created { tree: u32, name: TreeName },
    Dropped { tree: u32 },
}

struct OwnedChange {
    tree: u32,
    key: Vec<u8>,
    effect: Effect,
}

enum Effect {
    Put(Vec<u8>),
    Delete,
    Extent(crate::wal::record::Extent),
}

pub(crate) async fn open<D: Directory>(
    directory: D,
    options: SlabOptions,
) -> Result<Shared<D>, StorageError> {
    let superblocks = directory.open(SUPERBLOCKS_FILE, OpenMode::Create).await?;
    let pages = directory.open("pages", OpenMode::Create).await?;
    let slabs = directory.open("slabs", OpenMode::Create).await?;
    let (newest, spoiled) = read_superblocks(&superblocks).await?;
    let superblock = match newest {
        Some(superblock) => superblock,
        None => create(&directory, &superblocks, &pages, &options).await?,
    };
    let opened = open_with(directory, superblocks, pages, slabs, superblock, options).await;
    opened.map_err(|error| blamed(error, spoiled))
}

/// What the store cannot be opened for: where one superblock is not whole, the checkpoint of the other may be too old, and what it
/// names is not there any more.
fn blamed(error: StorageError, spoiled: Option<u64>) -> StorageError {
    match (error, spoiled) {
        (StorageError::Corrupt { file, offset: at, what }, Some(offset)) => {
            let what = format!(
                "this superblock is not whole, and the other cannot take its place ({file} at offset {at}: {what})"
            );
            StorageError::Corrupt { file: SUPERBLOCKS_FILE.into(), offset, what }
        }
        (error, _) => error,
    }
}

async fn open_with<D: Directory>(
    directory: D,
    superblocks: D::File,
    pages: D::File,
    slabs: D::File,
    superblock: Superblock,
    options: SlabOptions,
) -> Result<Shared<D>, StorageError> {
    let (found, wanted) = (superblock.placement, options.placement.unwrap_or(superblock.placement));
    if found != wanted {
        return Err(StorageError::Backend { found: found.backend(), wanted: wanted.backend() });
    }
    let mut state = load(&pages, &slabs, superblock, &options).await?;
    let redo = state.superblock.redo;

    let slab_blocks = blocks_of(&slabs, 0, "slabs").await?;
    let end = find_end(&directory, redo, &mut state, slab_blocks).await?;
    raise_epoch(&superblocks, &mut state.superblock).await?;
    state.page_space.opened();
    state.slab_space.opened();
    let log = open_log(&directory, redo, end, &options).await?;
    let changes = ChangeLogs::open(&directory).await?;
    let shared = Shared {
        changes,
        directory,
        superblocks,
        pages,
        slabs,
        log,
        state: RefCell::new(state),
        options,
        checkpointing: Cell::new(false),
        checkpointed: Event::default(),
        checkpoint_error: RefCell::new(None),
        checkpoint_attempts: Cell::new(0),
        checkpoint_page_bytes: Cell::new(0),
        moved: Cell::new(None),
        settled: Cell::new(u64::MAX),
        work: Event::default(),
        room_due: Event::default(),
        room_failed: Cell::new(false),
        background: Cell::new(false),
        closing: Cell::new(false),
        checkpoint_wanted: Cell::new(false),
        growing: Cell::new(false),
        refused: RefCell::default(),
        room_wanted: Cell::new(false),
        ahead: crate::slab::ahead::Ahead::default(),
        trainable: Event::default(),
    };
    load_catalog(&shared).await?;
    replay(&shared, redo).await?;
    shared.load_dictionaries().await;
    Ok(shared)
}

/// The newest superblock that is whole, and the offset of one that is not.
async fn read_superblocks<F: Disk>(file: &F) -> Result<(Option<Superblock>, Option<u64>), StorageError> {
    let mut newest: Option<Superblock> = None;
    let (mut unknown, mut spoiled) = (None, None);
    for offset in [0, u64::from(BLOCK_BYTES)] {
        let block = file.read(offset, BLOCK_BYTES).await?;
        match Superblock::decode(&block, offset) {
            Ok(Some(found)) => {
                if newest.as_ref().is_none_or(|newest| newest.generation < found.generation) {
                    newest = Some(found);
                }
            }
            Ok(None) if block.iter().any(|&byte| byte != 0) => spoiled = Some(offset),
            Ok(None) => {}
            Err(error) => (unknown, spoiled) = (Some(error), Some(offset)),
        }
    }
    // A torn version is told from another program's by the other superblock, which is whole.
    match (newest, unknown) {
        (None, Some(error)) => Err(error),
        (newest, _) => Ok((newest, spoiled)),
    }
}

/// Makes a new store: it exists when its superblock is durable, so a crash before leaves nothing that counts.
async fn create<D: Directory>(
    directory: &D,
    superblocks: &D::File,
    pages: &D::File,
    options: &SlabOptions,
) -> Result<Superblock, StorageError> {
    if pages.length().await? > 0 {
        let what = "no superblock is whole, but there are pages".to_owned();
        return Err(StorageError::Corrupt { file: SUPERBLOCKS_FILE.into(), offset: 0, what });
    }
    make_segment(directory, 1, options.wal_segment_bytes).await?;
    superblocks.preallocate(2 * u64::from(BLOCK_BYTES)).await?;
    superblocks.sync().await?;
    directory.sync().await?;
    let redo = Place { segment: 1, ..Place::default() };
    let placement = options.placement.unwrap_or_default();
    let superblock =
        Superblock { placement, generation: 1, epoch: 0, redo, next_tree: 1, ..Superblock::default() };
    write_superblock(superblocks, &superblock).await?;
    Ok(superblock)
}

async fn write_superblock<F: Disk>(file: &F, superblock: &Superblock) -> Result<(), StorageError> {
    let mut buffer = file.buffer(BLOCK_BYTES);
    superblock.encode(buffer.as_mut());
    file.write(superblock.offset(), buffer).await?;
    file.sync().await?;
    Ok(())
}

async fn raise_epoch<F: Disk>(file: &F, superblock: &mut Superblock) -> Result<(), StorageError> {
    superblock.generation += 1;
    superblock.epoch += 1;
    write_superblock(file, superblock).await
}

fn broken_table(what: String) -> StorageError {
    StorageError::Corrupt { file: "pages".into(), offset: 0, what }
}

async fn read_block<F: Disk, T>(
    pages: &F,
    kind: TableKind,
    index: u32,
    address: BlockAddress,
    take: impl FnOnce(&mut crate::bytes::Reader<'_>) -> T,
) -> Result<T, StorageError> {
    let offset = u64::from(address.block) * 4096;
    let bytes = pages.read(offset, BLOCK_BYTES).await?;
    match tables::open(&bytes, kind, index, address) {
        Ok(mut reader) => Ok(take(&mut reader)),
        Err(what) => Err(StorageError::Corrupt { file: "pages".into(), offset, what }),
    }
}

/// The checkpoint that a superblock names.
pub(crate) async fn load<F: Disk>(
    pages: &F,
    slabs: &F,
    superblock: Superblock,
    options: &SlabOptions,
) -> Result<State, StorageError> {
    let mut state = State::new(options);
    state.pool.values_max = options.cache_entries;
    blocks_of(pages, superblock.page_blocks, "pages").await?;
    blocks_of(slabs, superblock.slab_blocks, "slabs").await?;
    // What a file has beyond that may lack blocks on disk: a crash leaves any part of how it grew.
    state.page_space.grow(superblock.page_blocks);
    state.slab_space.grow(superblock.slab_blocks);

    let mut addresses = Vec::new();
    for (index, address) in superblock.directories.iter().enumerate() {
        mark(&mut state, Run { block: address.block, blocks: 1 })?;
        let entries = read_block(pages, TableKind::Directory, index as u32, *address, |reader| {
            std::iter::from_fn(|| tables::read_address(reader)).collect::<Vec<_>>()
        });
        addresses.extend(entries.await?);
    }
    let page_table_blocks = (superblock.pages as usize).div_ceil(TableKind::Pages.entries());
    let chunk_table_blocks = (superblock.chunks as usize).div_ceil(TableKind::Chunks.entries());
    if addresses.len() < page_table_blocks + chunk_table_blocks {
        return Err(broken_table("the directories name too few blocks".into()));
    }
    addresses.truncate(page_table_blocks + chunk_table_blocks);
    let chunk_addresses = addresses.split_off(page_table_blocks);
    load_pages(pages, &mut state, &addresses, superblock.pages as usize).await?;
    load_chunks(pages, &mut state, &chunk_addresses, superblock.chunks as usize).await?;
    state.page_table = Table::new(TableKind::Pages, addresses);
    state.chunk_table = Table::new(TableKind::Chunks, chunk_addresses);
    state.next_tree = superblock.next_tree;
    state.superblock = superblock;
    state.pool.opened();
    if state.pool.frames.is_empty() {
        let make = |id| Page::new(PageKind::Leaf, id, CATALOG, SMALL_PAGE_BYTES);
        let root = state.pool.allocate_page(CATALOG, make);
        assert_eq!(root, CATALOG_ROOT, "the first page of a store is the catalog's root");
    }
    Ok(state)
}

async fn blocks_of<F: Disk>(file: &F, least: u32, name: &str) -> Result<u32, StorageError> {
    let blocks = u32::try_from(file.length().await? / 4096).unwrap_or(u32::MAX);
    if blocks < least {
        let what = format!("the file has {blocks} blocks, its superblock says {least}");
        return Err(StorageError::Corrupt { file: name.into(), offset: u64::from(blocks) * 4096, what });
    }
    Ok(blocks)
}

fn mark(state: &mut State, run: Run) -> Result<(), StorageError> {
    if state.page_space.mark(run) {
        return Ok(());
    }
    Err(broken_table(format!("{run:?} of pages is named twice, or lies outside")))
}

async fn load_pages<F: Disk>(
    pages: &F,
    state: &mut State,
    addresses: &[BlockAddress],
    count: usize,
) -> Result<(), StorageError> {
    for (index, address) in addresses.iter().enumerate() {
        mark(state, Run { block: address.block, blocks: 1 })?;
        let entries = read_block(pages, TableKind::Pages, index as u32, *address, |reader| {
            std::iter::from_fn(|| tables::read_page(reader)).collect::<Vec<_>>()
        });
        for (tree, address) in entries.await? {
            if state.pool.frames.len() == count {
                break;
            }
            let mut frame = Frame::default();
            if address.blocks > 0 {
                (frame.address, frame.tree, frame.state) = (address, tree, FrameState::Clean);
                mark(state, Run { block: address.block, blocks: u32::from(address.blocks) })?;
            }
            state.pool.frames.push(frame);
        }
    }
    Ok(())
}

async fn load_chunks<F: Disk>(
    pages: &F,
    state: &mut State,
    addresses: &[BlockAddress],
    count: usize,
) -> Result<(), StorageError> {
    let mut list: Vec<Chunk> = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        mark(state, Run { block: address.block, blocks: 1 })?;
        let entries = read_block(pages, TableKind::Chunks, index as u32, *address, |reader| {
            std::iter::from_fn(|| tables::read_chunk(reader)).collect::<Vec<_>>()
        });
        list.extend(entries.await?);
    }
    list.truncate(count);
    for chunk in &list {
        if chunk.kind != ChunkKind::Free && !state.slab_space.mark(chunk.run) {
            return Err(broken_table(format!("{:?} of slabs is named twice, or lies outside", chunk.run)));
        }
    }
    state.chunks = Chunks::opened(list);
    Ok(())
}

/// Reads the log to its end, and sets aside the blocks of the large values in it, for which the file may have grown to `slab_blocks`.
async fn find_end<D: Directory>(
    directory: &D,
    redo: Place,
    state: &mut State,
    slab_blocks: u32,
) -> Result<(Place, Segment<D::File>), StorageError> {
    let mut reader = LogReader::new(directory, redo);
    let mut runs = Vec::new();
    while let Some(found) = reader
        .next(|record| match record {
            Record::Batches(batches) => batches
                .iter()
                .flat_map(|batch| &batch.changes)
                .filter_map(|change| match change {
                    Change::Extent { extent, .. } => Some(extent.run),
                    Change::Put { .. } | Change::Delete { .. } => None,
                })
                .collect::<Vec<_>>(),
            Record::Created { .. } | Record::Dropped { .. } => Vec::new(),
        })
        .await?
    {
        runs.extend(found);
    }
    for run in runs {
        state.slab_space.grow(run.block.saturating_add(run.blocks).min(slab_blocks));
        if !state.slab_space.mark(run) {
            let file = segment_name(redo.segment);
            let what = format!("{run:?} of slabs, which the log names, is in use");
            return Err(StorageError::Corrupt { file, offset: redo.offset, what });
        }
    }
    if let Some(error) = reader.damage().await? {
        return Err(error);
    }
    let place = reader.place;
    match reader.into_segment() {
        Some(segment) => Ok((place, segment)),
        None => {
            let what = "the segment where redo begins is empty".to_owned();
            Err(StorageError::Corrupt { file: segment_name(redo.segment), offset: 0, what })
        }
    }
}

async fn open_log<D: Directory>(
    directory: &D,
    redo: Place,
    (place, current): (Place, Segment<D::File>),
    options: &SlabOptions,
) -> Result<Log<D::File>, StorageError> {
    // A process that was killed may have left writes that no flush covered yet.
    current.file.sync().await?;
    let mut numbers: Vec<u64> =
        directory.list().await?.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let mut spares: Vec<Segment<D::File>> = Vec::new();
    let mut retired = Vec::new();
    for number in numbers {
        if number < redo.segment {
            retired.push(number);
        } else if number > current.number {
            let expected = current.number + 1 + spares.len() as u64;
            let file = directory.open(&segment_name(number), OpenMode::Existing).await?;
            let bytes = file.length().await?;
            let least = options.wal_segment_bytes.min(SHORT_SEGMENT_BYTES);
            if number == expected && bytes >= least && bytes.is_multiple_of(4096) {
                spares.push(Segment { number, bytes, file });
            } else {
                drop(file);
                directory.remove(&segment_name(number)).await?;
            }
        }
    }
    directory.sync().await?;
    let found = Found { place, current, spares, retired, oldest: redo.segment };
    Ok(Log::new(found, options.wal_segment_bytes))
}

/// Trees by name, from the tree of trees.
async fn load_catalog<D: Directory>(shared: &Shared<D>) -> Result<(), StorageError> {
    let mut from = Bound::Unbounded;
    loop {
        let stop = {
            let state = &mut *shared.state.borrow_mut();
            tree::seek(&mut state.pool, CATALOG_ROOT, &from, Direction::Forward)
        };
        let stop = match stop {
            Ok(stop) => stop,
            Err(gap) => {
                shared.load_page(gap.page).await?;
                continue;
            }
        };
        let state = &mut *shared.state.borrow_mut();
        let Some(page) = state.pool.peek(stop.leaf).cloned() else { continue };
        for index in 0..page.count() {
            let value = page.value(index);
            let mut reader = crate::bytes::Reader(value.get(1..).unwrap_or(&[]));
            let (Some(number), Some(root)) = (reader.u32(), reader.u32()) else {
                return Err(broken_table("an entry of the tree of trees is broken".into()));
            };
            if root as usize >= state.pool.frames.len() {
                return Err(broken_table(format!("tree {number} has no root")));
            }
            state.add_tree(TreeName(page.key(index).into()), number, root);
        }
        match stop.next {
            Some(next) => from = next,
            None => break,
        }
    }
    let state = &mut *shared.state.borrow_mut();
    for (id, chunk) in state.chunks.list.iter().enumerate() {
        if chunk.kind == ChunkKind::Slots
            && let Some(tree) = state.trees.get_mut(&chunk.tree)
        {
            tree.chunk_blocks = tree.chunk_blocks.max((chunk.run.blocks * 2).min(256));
            if chunk.used_bytes < chunk.run.blocks * 4096 && chunk.live_bytes > 0 {
                tree.open_chunk = Some(id as u32);
            }
        }
    }
    Ok(())
}

async fn replay<D: Directory>(shared: &Shared<D>, redo: Place) -> Result<(), StorageError> {
    let mut reader = LogReader::new(&shared.directory, redo);
    loop {
        let (begin, mut steps) = (reader.place.position, Vec::new());
        while reader.place.position - begin < STEPS_BYTES_MAX
            && steps.len() < STEPS_MAX
            && let Some(made) = reader.next(own).await?
        {
            steps.extend(made);
        }
        if steps.is_empty() {
            return Ok(());
        }
        read_ahead(shared, &steps).await?;
        for step in steps {
            let kept = Kept::before(shared, &step).await?;
            loop {
                let missing = redo_step(&mut shared.state.borrow_mut(), &step);
                match missing {
                    Ok(()) => break,
                    Err(Missing(page)) => shared.load_page(page).await?,
                }
            }
            if let Some(kept) = kept {
                kept.add(shared).await?;
            }
        }
    }
}

/// A change that its table's change log lacks.
struct Kept<'a> {
    log: Rc<[u8]>,
    info: CommitInfo,
    change: &'a OwnedChange,
    old: Option<Value>,
}

impl Kept<'_> {
    /// What the step is about to change, if a log wants to know.
    async fn before<'a, D: Directory>(
        shared: &Shared<D>,
        step: &'a Step,
    ) -> Result<Option<Kept<'a>>, StorageError> {
        let Step::Batch { info, changes, is_kept: true } = step else { return Ok(None) };
        let Some(change) = changes.first() else { return Ok(None) };
        let log = shared.state.borrow().trees.get(&change.tree).and_then(|tree| tree.table.clone());
        let Some(log) = log.filter(|log| !shared.changes.has(log, info.shard, info.commit_number)) else {
            return Ok(None);
        };
        let old = shared.get(TreeId(change.tree), &change.key).await?;
        Ok(Some(Kept { log, info: *info, change, old }))
    }

    async fn add<D: Directory>(self, shared: &Shared<D>) -> Result<(), StorageError> {
        let Kept { log, info, change, old } = self;
        let read;
        let new = match &change.effect {
            Effect::Put(value) => Some(value.as_slice()),
            Effect::Delete => None,
            Effect::Extent(_) => {
                read = shared.get(TreeId(change.tree), &change.key).await?;
                read.as_deref()
            }
        };
        let number = (info.shard, info.commit_number, info.commit_time_ms);
        // Its record is durable: it was read.
        shared.changes.add(&log, 0, number, &change.key, old.as_deref(), new);
        if shared.changes.is_full() {
            shared.changes.write(&shared.directory, 0, Written::Everything).await;
        }
        Ok(())
    }
}

/// Loads the pages that steps will touch beside each other, one level of the trees after another.
async fn read_ahead<D: Directory>(shared: &Shared<D>, steps: &[Step]) -> Result<(), StorageError> {
    let pages_max = (shared.options.cache_bytes / 4 / PAGE_BYTES as u64) as usize;
    for _ in 0..LEVELS_MAX {
        let mut missing = Vec::new();
        {
            let state = &mut *shared.state.borrow_mut();
            for step in steps {
                let Step::Batch { changes, .. } = step else { continue };
                for change in changes {
                    let Some(root) = state.trees.get(&change.tree).map(|tree| tree.root) else { continue };
                    if let Err(Missing(page)) = tree::leaf_of(&mut state.pool, root, &change.key) {
                        missing.push(page);
                    }
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        missing.truncate(pages_max);
        if missing.is_empty() {
            break;
        }
        shared.load_pages(missing).await?;
    }
    Ok(())
}

fn own(record: Record<'_>) -> Vec<Step> {
    let own_change = |change: &Change<'_>| {
        let (tree, key, effect) = match *change {
            Change::Put { tree, key, value } => (tree, key, Effect::Put(value.to_vec())),
            Change::Delete { tree, key } => (tree, key, Effect::Delete),
            Change::Extent { tree, key, extent } => (tree, key, Effect::Extent(extent)),
        };
        OwnedChange { tree, key: key.to_vec(), effect }
    };
    match record {
        Record::Batches(batches) => batches
            .iter()
            .map(|Batch { info, changes, is_kept }| Step::Batch {
                info: *info,
                changes: changes.iter().map(own_change).collect(),
                is_kept: *is_kept,
            })
            .collect(),
        Record::Created { tree, name } => vec![Step::Created { tree, name: TreeName(name.into()) }],
        Record::Dropped { tree } => vec![Step::Dropped { tree }],
    }
}

fn redo_step(state: &mut State, step: &Step) -> Result<(), Missing> {
    match step {
        Step::Created { tree, name } => state.create(name, *tree),
        Step::Dropped { tree } => state.drop_tree(*tree),
        Step::Batch { changes, .. } => {
            for change in changes {
                if let Some(root) = state.trees.get(&change.tree).map(|tree| tree.root) {
                    tree::leaf_of(&mut state.pool, root, &change.key)?;
                }
            }
            let borrowed: Vec<Change<'_>> = changes
                .iter()
                .map(|OwnedChange { tree, key, effect }| match effect {
                    Effect::Put(value) => Change::Put { tree: *tree, key, value },
                    Effect::Delete => Change::Delete { tree: *tree, key },
                    Effect::Extent(extent) => Change::Extent { tree: *tree, key, extent: *extent },
                })
                .collect();
            state.apply(&borrowed, &Checked::default(), 0);
            Ok(())
        }
    }
}
