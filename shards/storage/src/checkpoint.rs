//! Writes what is dirty so that the log before it is not needed any more.
//!
//! 1. Dropped trees are swept, sparse chunks emptied ([`crate::slab::clean`]).
//! 2. *Freeze*, in one step without a wait: the dirty pages as they are, and the end of the log. Writers go on; whoever
//!    changes a frozen page copies it first, so the checkpoint is of exactly that position and redo needs no care.
//! 3. Values without a place get slots, leaf by leaf in the order of keys, in chunks that are filled from front to back;
//!    then pages get free blocks. No more than 512 KiB are in flight at a time, flushes of the log go before what is next, and other
//!    tasks run between, so requests hardly notice.
//! 4. `slabs` and `pages` are flushed, and the log up to the position.
//! 5. Changed blocks of the tables and the directories get free blocks; flush.
//! 6. The superblock whose turn it is names them; flush. From here on the new checkpoint holds.
//! 7. What only the old one named is free: blocks, page numbers, log segments.
//!
//! Always: until step 6 nothing that the old checkpoint names is written to, so a crash anywhere falls back to it. A write or
//! flush that fails makes the store read-only; running out of space before step 4 only ends the attempt.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use crate::btree::cell::{Cell, Location, Pointer, Slotted};
use crate::btree::page::{Page, PageKind};
use crate::btree::{PageId, tree};
use crate::cache::pool::{Address, FrameState, Pool};
use crate::cache::shortcuts::Mark;
use crate::compress::How;
use crate::disk::{BLOCK_BYTES, Directory, Disk, DiskError};
use crate::engine::{StorageError, Value};
use crate::event::{all, yield_now};
use crate::slab::Shared;
use crate::slab::chunks::{CHUNK_BLOCKS_FIRST, CHUNK_BLOCKS_MAX, Chunk, ChunkKind};
use crate::slab::room::DataFile;
use crate::slab::slot;
use crate::slab::state::Running;
use crate::space::Run;
use crate::superblock::{BlockAddress, DIRECTORIES_MAX, Superblock};
use crate::tables::{Table, TableBlock, TableKind};

/// Slots are gathered up to this before they are written.
const STAGE_BYTES_MAX: usize = 256 << 10;
/// Flushes of the log that may go before one write of a checkpoint.
const GIVEN_WAY_MAX: usize = 2;
/// Slots and pages are flushed at least this often, so that no flush of the log has to wait for many of them.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;
/// Pages are gathered up to this many blocks before they are written, and no more of them are in flight together.
const GROUP_BLOCKS_MAX: u32 = 128;

/// Blocks of the table of chunks that a checkpoint may add: each names 169 chunks of 64 KiB at least.
const NEW_TABLE_BLOCKS: usize = 24;
/// A checkpoint that gave back less leaves what is sparse to the next that is due.
const CLEANING_BYTES_MIN: u64 = 1 << 20;
/// Values in a row that did not become smaller, after which only one in so many is tried.
const TRIES_MAX: u32 = 16;

/// What the freeze took.
struct Frozen {
    /// Each until it is written: writers that change it meanwhile have a copy, and both are in memory.
    pages: Vec<(PageId, Option<Rc<Page>>)>,
    freed_pages: Vec<PageId>,
    freed_chunks: Vec<u32>,
    /// Blocks of `slabs` that are free once the new checkpoint holds.
    slab_runs: Vec<Run>,
    next_tree: u32,
    position: u64,
}

/// Slots that wait to be written to one chunk.
#[derive(Default)]
struct Stage {
    chunk: u32,
    /// Where in the chunk the first of them goes.
    offset: u32,
    bytes: Vec<u8>,
    leaves: Vec<Leaf>,
    unsynced_bytes: u64,
}

/// A frozen leaf whose values have got places.
struct Leaf {
    id: PageId,
    frozen: Rc<Page>,
    image: Rc<Page>,
    placed: Vec<Placed>,
}

struct Placed {
    index: usize,
    number: u64,
    slotted: Slotted,
}

/// Pages with all places filled in, and where they were written.
#[derive(Default)]
struct Pages {
    waiting: Vec<(PageId, Rc<Page>)>,
    waiting_blocks: u32,
    written: Vec<(PageId, Address)>,
    unsynced_bytes: u64,
}

/// Says that no checkpoint runs any more, also when it was dropped half-way.
struct Guard<'a, D: Directory> {
    shared: &'a Shared<D>,
    ended: bool,
}

impl<D: Directory> Drop for Guard<'_, D> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.log.fail("a checkpoint was abandoned");
        }
        self.shared.checkpointing.set(false);
        self.shared.moved.set(self.shared.moved.get().map(|_| [0; 2]));
        self.shared.checkpoint_attempts.set(self.shared.checkpoint_attempts.get() + 1);
        self.shared.checkpointed.notify();
        self.shared.work.notify();
        self.shared.room_failed.set(false);
        self.shared.room_due.notify();
    }
}

impl<D: Directory> Shared<D> {
    /// Writes a checkpoint, after the one that may be running.
    pub async fn checkpoint(&self) -> Result<(), StorageError> {
        while self.checkpointing.replace(true) {
            let checkpointed = self.checkpointed.listen();
            checkpointed.await;
        }
        self.checkpoint_wanted.set(false);
        let mut guard = Guard { shared: self, ended: false };
        let ended = self.run_checkpoint().await;
        guard.ended = true;
        *self.checkpoint_error.borrow_mut() = ended.as_ref().err().cloned();
        ended
    }

    async fn run_checkpoint(&self) -> Result<(), StorageError> {
        if let Some(failure) = self.log.failure() {
            return Err(failure);
        }
        let mut forgotten = self.state.borrow_mut().sweep_dropped();
        while self.state.borrow_mut().forget(&mut forgotten) {
            yield_now().await;
        }
        let used_before = self.used_slab_bytes();
        self.empty_sparse_chunks().await;
        let mut frozen = self.freeze();
        let mut pages = Pages::default();
        let written = self.write_frozen(&mut frozen, &mut pages).await;
        if let Err(error) = written {
            self.thaw(frozen, pages);
            return Err(error);
        }
        let position = frozen.position;
        match self.make_durable(frozen, pages).await {
            Ok(()) => {
                if let Err(error) = self.trim().await {
                    tracing::warn!(%error, "free space could not be given back");
                }
                // While space is given back and there is more of it, that goes on though nobody writes. Writers bring about the next
                // one themselves.
                let gave_back = self.used_slab_bytes() + CLEANING_BYTES_MIN <= used_before;
                if gave_back && self.is_quiet() && (self.has_emptied_chunks() || self.has_sparse_chunks()) {
                    self.checkpoint_wanted.set(true);
                }
                Ok(())
            }
            Err(StorageError::Disk(error)) => Err(self.broken(&error)),
            Err(error) => {
                self.log.fail(&format!("the checkpoint at {position} failed: {error}"));
                Err(error)
            }
        }
    }

    fn used_slab_bytes(&self) -> u64 {
        u64::from(self.state.borrow().slab_space.used()) * u64::from(BLOCK_BYTES)
    }

    fn has_emptied_chunks(&self) -> bool {
        !self.state.borrow().chunks.emptied.is_empty()
    }

    fn freeze(&self) -> Frozen {
        let position = self.log.cut();
        let state = &mut *self.state.borrow_mut();
        let mut slab_runs = Vec::new();
        let mut freed_chunks = Vec::new();
        for id in std::mem::take(&mut state.chunks.emptied) {
            let chunk = state.chunks.list[id as usize];
            if chunk.kind == ChunkKind::Free || chunk.live_bytes > 0 {
                continue;
            }
            if let Some(tree) = state.trees.get_mut(&chunk.tree)
                && tree.open_chunk == Some(id)
            {
                tree.open_chunk = None;
            }
            slab_runs.push(state.chunks.take_out(id));
            state.chunk_table.mark(id);
            freed_chunks.push(id);
        }
        state.dictionaries.freeze();
        state.running = Some(Running { first_new_value: state.pool.next_value() });
        Frozen {
            pages: state.pool.freeze().into_iter().map(|(id, page)| (id, Some(page))).collect(),
            freed_pages: std::mem::take(&mut state.pool.freed),
            freed_chunks,
            slab_runs,
            next_tree: state.next_tree,
            position,
        }
    }

    /// Undoes the freeze: the attempt ends, all that was dirty is dirty still.
    fn thaw(&self, frozen: Frozen, pages: Pages) {
        let state = &mut *self.state.borrow_mut();
        for (id, _) in &frozen.pages {
            state.pool.thaw(*id);
        }
        state.pool.originals_written();
        for (_, address) in pages.written {
            state.page_space.release(Run { block: address.block, blocks: u32::from(address.blocks) });
        }
        state.pool.freed.extend(frozen.freed_pages);
        // The chunks are out of the table already; their blocks wait for the next attempt in a chunk without live bytes.
        for (id, run) in frozen.freed_chunks.into_iter().zip(frozen.slab_runs) {
            state.chunks.put_back(id, run);
        }
        state.release_deferred();
    }

    async fn write_frozen(&self, frozen: &mut Frozen, pages: &mut Pages) -> Result<(), StorageError> {
        self.reserve_page_blocks(frozen).await?;
        // Many thousand pages would hold the core for milliseconds if they were sorted at once: they come in order as they are taken.
        let mut order = BinaryHeap::with_capacity(frozen.pages.len());
        for (place, (_, page)) in frozen.pages.iter().enumerate() {
            let Some(page) = page else { continue };
            order.push(Reverse((page.tree(), first_key(page), place)));
            if place % 64 == 63 {
                yield_now().await;
            }
        }
        let mut stage = Stage::default();
        while let Some(Reverse((_, _, place))) = order.pop() {
            let (id, Some(page)) = (frozen.pages[place].0, frozen.pages[place].1.take()) else { continue };
            // Where nobody else has it, the page of today is a copy.
            if Rc::strong_count(&page) == 1 {
                self.state.borrow_mut().pool.original_written(&page);
            }
            let mut done = self.place_leaf(&mut stage, id, &page, pages).await;
            drop(page);
            if done.is_ok() && pages.waiting_blocks >= GROUP_BLOCKS_MAX {
                done = self.write_pages(pages).await;
            }
            if let Err(error) = done {
                // What is staged has places already: it must reach them before anyone reads it there.
                self.write_stage(&mut stage, pages).await?;
                return Err(error);
            }
            // Whoever runs this looks at the time then.
            yield_now().await;
        }
        self.write_stage(&mut stage, pages).await?;
        self.write_pages(pages).await
    }

    /// Room for all frozen pages and for the tables, before anything is written: once pages are flushed it is too late to put the
    /// checkpoint off.
    async fn reserve_page_blocks(&self, frozen: &Frozen) -> Result<(), StorageError> {
        let pages: u32 = frozen.pages.iter().flat_map(|(_, page)| page).map(|page| blocks_of(page)).sum();
        let ids = frozen.pages.iter().map(|(id, _)| id).chain(&frozen.freed_pages);
        let mut of_table: Vec<usize> = ids.map(|id| *id as usize / TableKind::Pages.entries()).collect();
        of_table.sort_unstable();
        of_table.dedup();
        loop {
            let short = {
                let state = self.state.borrow();
                // Which chunks get slots is not known yet.
                let chunks = state.chunk_table.addresses.len() + NEW_TABLE_BLOCKS;
                let directories = (state.page_table.addresses.len() + of_table.len() + chunks)
                    .div_ceil(TableKind::Directory.entries());
                let tables = state.page_table.dirty_blocks() + of_table.len() + chunks + directories;
                (u64::from(pages) + tables as u64).saturating_sub(u64::from(state.page_space.free()))
            };
            if short == 0 {
                return Ok(());
            }
            self.grow(&DataFile::Pages, short).await?;
        }
    }

    /// Gives the values of a leaf places; the leaf is written when they are.
    async fn place_leaf(
        &self,
        stage: &mut Stage,
        id: PageId,
        frozen: &Rc<Page>,
        pages: &mut Pages,
    ) -> Result<(), StorageError> {
        let values = self.values_to_place(frozen);
        if values.is_empty() {
            pages.push(id, Rc::clone(frozen));
            return Ok(());
        }
        let tree = frozen.tree();
        let table = self.state.borrow().trees.get(&tree).and_then(|tree| tree.table.clone());
        let dictionary = self.writer_for(table.as_deref()).await;
        let mut image = Page::clone(frozen);
        let mut placed = Vec::with_capacity(values.len());
        let mut compressed = Vec::new();
        let mut done = Ok(());
        for (count, (index, number, value)) in values.into_iter().enumerate() {
            if count % 8 == 7 {
                yield_now().await;
            }
            let key = frozen.key(index);
            let how = self.compress(tree, &value, dictionary, &mut compressed);
            let bytes: &[u8] = if how == How::Plain { &value } else { &compressed };
            let stored = slot::Stored { how, plain_bytes: value.len(), bytes };
            let slot_bytes = slot::slot_bytes(key.len(), bytes.len());
            done = self.make_stage_room(stage, tree, slot_bytes, pages).await;
            if done.is_err() {
                break;
            }
            let location = Location::new(stage.chunk, stage.offset + stage.bytes.len() as u32);
            let sum = slot::append(&mut stage.bytes, location, tree, &key, &stored);
            let slotted = Slotted { location, slot_bytes, sum };
            image.value_mut(index).copy_from_slice(&Pointer::Placed(slotted).encode());
            placed.push(Placed { index, number, slotted });
            let state = &mut *self.state.borrow_mut();
            state.chunks.hold(stage.chunk, slot_bytes);
            state.chunk_table.mark(stage.chunk);
            let unplaced = state.pool.unplaced.get_mut(number);
            let in_vain = unplaced.and_then(|unplaced| unplaced.placed.replace((location, slot_bytes)));
            // The checkpoint before placed it too and did not find its leaf again: what it wrote itself goes with this one.
            if let Some((location, slot_bytes)) = in_vain {
                state.give_back(location, slot_bytes);
            }
        }
        // The places that were given hold, also where there is no room for the rest.
        stage.leaves.push(Leaf { id, frozen: Rc::clone(frozen), image: Rc::new(image), placed });
        done
    }

    /// Puts the value's stored form into `target`, unless it is stored as it is.
    pub fn compress(&self, tree: u32, value: &[u8], dictionary: Option<u32>, target: &mut Vec<u8>) -> How {
        let state = &mut *self.state.borrow_mut();
        let Some(tree) = state.trees.get_mut(&tree) else { return How::Plain };
        let is_hopeless = tree.incompressible >= TRIES_MAX && !tree.incompressible.is_multiple_of(TRIES_MAX);
        let is_small = value.len() < self.options.compression_bytes_min as usize;
        if self.options.compression_level == 0 || is_small || is_hopeless {
            tree.incompressible += u32::from(is_hopeless);
            return How::Plain;
        }
        match state.codec.compress(value, dictionary) {
            Some((how, stored)) => {
                tree.incompressible = 0;
                target.clear();
                target.extend_from_slice(stored);
                how
            }
            None => {
                tree.incompressible = tree.incompressible.wrapping_add(1);
                How::Plain
            }
        }
    }

    fn values_to_place(&self, page: &Page) -> Vec<(usize, u64, Value)> {
        let mut values = Vec::new();
        if page.kind() == PageKind::Inner {
            return values;
        }
        let state = self.state.borrow();
        for index in 0..page.count() {
            if let Some(Cell::Unplaced { number, .. }) = Cell::decode(page.value(index)) {
                values.push((index, number, Rc::clone(state.unplaced(number))));
            }
        }
        values
    }

    /// Makes sure that the stage's chunk belongs to the tree and has room for one more slot.
    async fn make_stage_room(
        &self,
        stage: &mut Stage,
        tree: u32,
        slot_bytes: u32,
        pages: &mut Pages,
    ) -> Result<(), StorageError> {
        let fits = |stage: &Stage, chunk: &Chunk| {
            let end = stage.offset as usize + stage.bytes.len() + slot_bytes as usize;
            chunk.kind == ChunkKind::Slots && chunk.tree == tree && end <= chunk.run.blocks as usize * 4096
        };
        let current = self.state.borrow().chunks.list.get(stage.chunk as usize).copied();
        let is_here = !stage.bytes.is_empty() && current.is_some_and(|chunk| fits(stage, &chunk));
        if is_here && stage.bytes.len() < STAGE_BYTES_MAX {
            return Ok(());
        }
        self.write_stage(stage, pages).await?;
        let open = {
            let state = self.state.borrow();
            let id = state.trees.get(&tree).and_then(|tree| tree.open_chunk);
            id.map(|id| (id, state.chunks.list[id as usize]))
        };
        if let Some((id, chunk)) = open {
            (stage.chunk, stage.offset) = (id, chunk.used_bytes);
            if fits(stage, &chunk) {
                return Ok(());
            }
        }
        let least = slot_bytes.div_ceil(4096).max(CHUNK_BLOCKS_FIRST);
        let most = self.state.borrow().trees.get(&tree).map_or(least, |tree| tree.chunk_blocks).max(least);
        let run = self.take_slab_blocks(least, most).await?;
        let state = &mut *self.state.borrow_mut();
        let chunk = Chunk { kind: ChunkKind::Slots, run, tree, live_bytes: 0, used_bytes: 0, since: 0 };
        let id = state.chunks.add(chunk);
        state.chunk_table.mark(id);
        if let Some(tree) = state.trees.get_mut(&tree) {
            tree.open_chunk = Some(id);
            tree.chunk_blocks = (tree.chunk_blocks * 2).min(CHUNK_BLOCKS_MAX);
        }
        (stage.chunk, stage.offset) = (id, 0);
        Ok(())
    }

    /// Writes the staged slots and lets the trees point to them.
    async fn write_stage(&self, stage: &mut Stage, pages: &mut Pages) -> Result<(), StorageError> {
        if !stage.bytes.is_empty() {
            let run = self.state.borrow().chunks.list[stage.chunk as usize].run;
            let offset = u64::from(run.block) * 4096 + u64::from(stage.offset);
            self.give_way().await;
            self.write_slots(offset, &stage.bytes).await?;
            stage.unsynced_bytes += stage.bytes.len() as u64;
            if stage.unsynced_bytes >= UNSYNCED_BYTES_MAX {
                self.slabs.sync().await.map_err(|error| self.broken(&error))?;
                stage.unsynced_bytes = 0;
            }
            let end = (stage.offset + stage.bytes.len() as u32).next_multiple_of(4096);
            let state = &mut *self.state.borrow_mut();
            let tree = state.chunks.list[stage.chunk as usize].tree;
            state.count_written(tree, u64::from(end - stage.offset));
            state.chunks.list[stage.chunk as usize].used_bytes = end;
            state.chunk_table.mark(stage.chunk);
            (stage.offset, stage.bytes) = (end, std::mem::take(&mut stage.bytes));
            stage.bytes.clear();
        }
        for leaf in std::mem::take(&mut stage.leaves) {
            self.settle(&leaf);
            pages.push(leaf.id, leaf.image);
        }
        Ok(())
    }

    /// Lets flushes of the log that are under way or wanted go first, unless writers wait for the checkpoint itself.
    pub async fn give_way(&self) {
        for _ in 0..GIVEN_WAY_MAX {
            let done = self.log.done.listen();
            if self.is_pressed() || !self.log.is_flushing() || self.log.failure().is_some() {
                return;
            }
            done.await;
            yield_now().await;
        }
    }

    /// The live tree points to the values' places from now on.
    fn settle(&self, leaf: &Leaf) {
        let state = &mut *self.state.borrow_mut();
        if state.pool.is_unchanged(leaf.id, &leaf.frozen) {
            state.pool.settle(leaf.id, Rc::clone(&leaf.image));
            for (placed, mark) in leaf.placed.iter().zip(marks_of(&state.pool, leaf)) {
                state.pool.place_value(placed.number, placed.slotted.location, mark);
            }
            return;
        }
        let Some(root) = state.trees.get(&leaf.frozen.tree()).map(|tree| tree.root) else { return };
        for placed in &leaf.placed {
            let key = leaf.frozen.key(placed.index);
            let Ok(id) = tree::leaf_of(&mut state.pool, root, &key) else { continue };
            let Some(page) = state.pool.peek(id) else { continue };
            let Ok(index) = page.search(&key) else { continue };
            let is_same = matches!(
                Cell::decode(page.value(index)),
                Some(Cell::Unplaced { number, .. }) if number == placed.number
            );
            if is_same {
                let cell = Pointer::Placed(placed.slotted).encode();
                state.pool.page_mut(id).value_mut(index).copy_from_slice(&cell);
                let mark = state.pool.mark(leaf.frozen.tree(), &key);
                state.pool.place_value(placed.number, placed.slotted.location, mark);
            }
        }
    }

    /// Writes the pages that wait.
    async fn write_pages(&self, pages: &mut Pages) -> Result<(), StorageError> {
        let waiting = std::mem::take(&mut pages.waiting);
        pages.waiting_blocks = 0;
        let mut rest = &waiting[..];
        while !rest.is_empty() {
            let mut blocks = 0;
            let fits = |(_, page): &&(PageId, Rc<Page>)| {
                blocks += blocks_of(page);
                blocks <= GROUP_BLOCKS_MAX
            };
            let (group, behind) = rest.split_at(rest.iter().take_while(fits).count());
            self.write_group(group, pages).await?;
            rest = behind;
        }
        Ok(())
    }

    /// Writes pages to as many runs as free space has for them, all of which are in flight together: where it lies in single
    /// blocks, as in a store of many documents that change here and there, one write after the other would wait most of the time.
    async fn write_group(&self, group: &[(PageId, Rc<Page>)], pages: &mut Pages) -> Result<(), StorageError> {
        let mut writes = Vec::new();
        let mut rest = group;
        while let Some((_, first)) = rest.first() {
            let wanted: u32 = rest.iter().map(|(_, page)| blocks_of(page)).sum();
            let taken = self.state.borrow_mut().page_space.take_up_to(blocks_of(first), wanted);
            let Some(run) = taken else {
                self.grow(&DataFile::Pages, u64::from(wanted)).await?;
                continue;
            };
            let (buffer, count) = self.sealed(run, rest, &mut pages.written);
            writes.push(self.pages.write(u64::from(run.block) * 4096, buffer));
            rest = &rest[count..];
        }
        self.give_way().await;
        written(writes).await.map_err(|error| self.broken(&error))?;
        {
            let mut state = self.state.borrow_mut();
            for (_, page) in group {
                state.count_written(page.tree(), page.len() as u64);
                pages.unsynced_bytes += page.len() as u64;
            }
        }
        if pages.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.pages.sync().await.map_err(|error| self.broken(&error))?;
            pages.unsynced_bytes = 0;
        }
        Ok(())
    }

    /// As many pages as a run has blocks for, and how many that is. What is left of the run is free again.
    fn sealed(
        &self,
        run: Run,
        pages: &[(PageId, Rc<Page>)],
        written: &mut Vec<(PageId, Address)>,
    ) -> (<D::File as Disk>::Buffer, usize) {
        let (mut count, mut used) = (0, 0);
        while let Some((_, page)) = pages.get(count)
            && used + blocks_of(page) <= run.blocks
        {
            used += blocks_of(page);
            count += 1;
        }
        if used < run.blocks {
            let unused = Run { block: run.block + used, blocks: run.blocks - used };
            self.state.borrow_mut().page_space.release(unused);
        }
        let mut buffer = self.pages.buffer(used * BLOCK_BYTES);
        let mut block = run.block;
        let mut target = buffer.as_mut();
        for (id, page) in &pages[..count] {
            let (bytes, behind) = target.split_at_mut(page.len());
            let sum = page.seal(block, bytes) as u32;
            let blocks = blocks_of(page);
            written.push((*id, Address { block, blocks: blocks as u8, sum }));
            block += blocks;
            target = behind;
        }
        (buffer, count)
    }

    async fn make_durable(&self, frozen: Frozen, pages: Pages) -> Result<(), StorageError> {
        self.cut_tails();
        // What the file grew by after this flush may not be there after a crash.
        let slab_blocks = self.state.borrow().slab_space.blocks();
        self.slabs.sync().await?;
        self.pages.sync().await?;
        self.flush_to(frozen.position).await?;
        self.changes.sync(&self.directory, self.log.flushed()).await?;
        let Some(redo) = self.log.cut_place() else {
            return Err(StorageError::ReadOnly { reason: "the log did not end where it was cut".into() });
        };
        let mut page_runs = self.install(&frozen, &pages);
        let mut superblock = self.write_tables(&frozen, &mut page_runs).await?;
        self.pages.sync().await?;
        // A failed flush of anybody may have lost what this checkpoint wrote, and flushes after it say nothing of that.
        if let Some(failure) = self.log.failure() {
            return Err(failure);
        }
        superblock.redo = redo;
        superblock.slab_blocks = slab_blocks;
        let mut buffer = self.superblocks.buffer(BLOCK_BYTES);
        superblock.encode(buffer.as_mut());
        self.superblocks.write(superblock.offset(), buffer).await?;
        self.superblocks.sync().await?;
        self.finish(frozen, &pages, page_runs, superblock);
        self.log.retire(&self.directory, redo).await?;
        Ok(())
    }

    /// The page table points to the pages that were written; the blocks that are free once the new checkpoint holds.
    fn install(&self, frozen: &Frozen, pages: &Pages) -> Vec<Run> {
        let state = &mut *self.state.borrow_mut();
        let mut runs = Vec::new();
        let mut set = |id: PageId, address: Address| {
            let frame = &mut state.pool.frames[id as usize];
            let old = std::mem::replace(&mut frame.address, address);
            if old.blocks > 0 {
                runs.push(Run { block: old.block, blocks: u32::from(old.blocks) });
            }
            state.page_table.mark(id);
        };
        for (id, address) in &pages.written {
            set(*id, *address);
        }
        for id in &frozen.freed_pages {
            set(*id, Address::default());
        }
        runs
    }

    async fn write_tables(&self, frozen: &Frozen, runs: &mut Vec<Run>) -> Result<Superblock, StorageError> {
        let mut superblock = self.state.borrow().superblock.clone();
        let old_directories = std::mem::take(&mut superblock.directories);
        {
            let state = &mut *self.state.borrow_mut();
            superblock.pages = state.pool.frames.len() as u32;
            superblock.chunks = state.chunks.list.len() as u32;
            // Tables without entries that were ever marked have no blocks yet.
            for table in
                [(&mut state.page_table, superblock.pages), (&mut state.chunk_table, superblock.chunks)]
            {
                let (table, entries) = table;
                if entries as usize > table.addresses.len() * table.kind.entries() {
                    table.mark(entries - 1);
                }
            }
        }
        for kind in [TableKind::Pages, TableKind::Chunks] {
            let blocks = self.table_blocks(kind, frozen.position);
            let addresses = self.write_table_blocks(&blocks).await?;
            let state = &mut *self.state.borrow_mut();
            let table = match kind {
                TableKind::Pages | TableKind::Directory => &mut state.page_table,
                TableKind::Chunks => &mut state.chunk_table,
            };
            for (block, address) in blocks.iter().zip(addresses) {
                let old = std::mem::replace(&mut table.addresses[block.index as usize], address);
                push_old(runs, old);
            }
        }
        let directories = self.directory_blocks();
        if directories.len() > DIRECTORIES_MAX {
            return Err(StorageError::Full { reason: "the tables of the store are full".into() });
        }
        superblock.directories = self.write_table_blocks(&directories).await?;
        for old in old_directories {
            push_old(runs, old);
        }
        superblock.generation += 1;
        superblock.next_tree = frozen.next_tree;
        superblock.page_blocks = self.state.borrow().page_space.blocks();
        Ok(superblock)
    }

    /// The changed blocks of a table, as of a position of the log.
    fn table_blocks(&self, kind: TableKind, position: u64) -> Vec<TableBlock> {
        let state = &mut *self.state.borrow_mut();
        let table: &mut Table = match kind {
            TableKind::Pages | TableKind::Directory => &mut state.page_table,
            TableKind::Chunks => &mut state.chunk_table,
        };
        let mut blocks = Vec::new();
        let mut too_new = Vec::new();
        for index in table.take_dirty() {
            let mut block = TableBlock::new(kind, index);
            let first = index as usize * kind.entries();
            match kind {
                TableKind::Pages | TableKind::Directory => {
                    for frame in state.pool.frames.iter().skip(first).take(kind.entries()) {
                        block.push_page(frame.tree, frame.address);
                    }
                }
                TableKind::Chunks => {
                    let chunks = state.chunks.list.iter().enumerate().skip(first).take(kind.entries());
                    for (id, chunk) in chunks {
                        if chunk.since > position {
                            too_new.push(id as u32);
                            block.push_chunk(&crate::slab::chunks::FREE_CHUNK);
                        } else {
                            block.push_chunk(chunk);
                        }
                    }
                }
            }
            blocks.push(block);
        }
        for id in too_new {
            state.chunk_table.mark(id);
        }
        blocks
    }

    fn directory_blocks(&self) -> Vec<TableBlock> {
        let state = self.state.borrow();
        let addresses: Vec<BlockAddress> =
            state.page_table.addresses.iter().chain(&state.chunk_table.addresses).copied().collect();
        let runs = addresses.chunks(TableKind::Directory.entries()).enumerate();
        runs.map(|(index, run)| {
            let mut block = TableBlock::new(TableKind::Directory, index as u32);
            for address in run {
                block.push_address(*address);
            }
            block
        })
        .collect()
    }

    async fn write_table_blocks(&self, blocks: &[TableBlock]) -> Result<Vec<BlockAddress>, StorageError> {
        let mut addresses = Vec::with_capacity(blocks.len());
        for group in blocks.chunks(GROUP_BLOCKS_MAX as usize) {
            let mut writes = Vec::new();
            let mut rest = group;
            while !rest.is_empty() {
                let taken = self.state.borrow_mut().page_space.take_up_to(1, rest.len() as u32);
                let Some(run) = taken else {
                    self.grow(&DataFile::Pages, rest.len() as u64).await?;
                    continue;
                };
                let (sealed, behind) = rest.split_at(run.blocks as usize);
                let mut buffer = self.pages.buffer(run.blocks * BLOCK_BYTES);
                let targets = buffer.as_mut().chunks_mut(BLOCK_BYTES as usize);
                for ((number, block), target) in (run.block..).zip(sealed).zip(targets) {
                    addresses.push(block.seal(number, target));
                }
                writes.push(self.pages.write(u64::from(run.block) * 4096, buffer));
                rest = behind;
            }
            self.give_way().await;
            written(writes).await?;
        }
        Ok(addresses)
    }

    /// The new checkpoint holds: what only the old one named is free.
    fn finish(&self, frozen: Frozen, pages: &Pages, page_runs: Vec<Run>, superblock: Superblock) {
        let state = &mut *self.state.borrow_mut();
        let is_quiet = state.superblock.redo.position == superblock.redo.position;
        state.superblock = superblock;
        state.checkpoints += 1;
        for run in page_runs {
            state.page_space.release(run);
        }
        for run in frozen.slab_runs {
            state.slab_space.release(run);
        }
        let mut blocks = 0;
        for (id, address) in &pages.written {
            state.pool.cleaned(*id);
            blocks += u64::from(address.blocks);
        }
        state.pool.originals_written();
        // Where nobody wrote, the pages are those of emptied chunks: the next checkpoint will not be like this one.
        self.checkpoint_page_bytes.set(if is_quiet { 0 } else { blocks * u64::from(BLOCK_BYTES) });
        for id in frozen.freed_pages {
            debug_assert!(state.pool.frames[id as usize].state == FrameState::Freed);
            state.pool.reuse_id(id);
        }
        for id in frozen.freed_chunks {
            state.chunks.reuse_id(id);
        }
        state.release_deferred();
        state.pool.evict();
    }
}

/// Waits until all is written.
async fn written(writes: Vec<impl Future<Output = Result<(), DiskError>>>) -> Result<(), DiskError> {
    all(writes, GROUP_BLOCKS_MAX as usize).await.into_iter().collect()
}

fn blocks_of(page: &Page) -> u32 {
    page.len() as u32 / BLOCK_BYTES
}

fn push_old(runs: &mut Vec<Run>, old: BlockAddress) {
    // A block that was never written has no checksum and no place.
    if old != BlockAddress::default() {
        runs.push(Run { block: old.block, blocks: 1 });
    }
}

/// The marks of the placed values' keys, whose shortcuts are fetched together.
fn marks_of(pool: &Pool, leaf: &Leaf) -> Vec<Mark> {
    let Leaf { frozen, placed, .. } = leaf;
    let mut key = frozen.prefix().to_vec();
    let marks = placed.iter().map(|placed| {
        key.truncate(frozen.prefix().len());
        key.extend_from_slice(frozen.suffix(placed.index));
        pool.mark(frozen.tree(), &key)
    });
    let marks: Vec<Mark> = marks.collect();
    marks.iter().for_each(|mark| pool.touch_shortcut(*mark));
    marks
}

fn first_key(page: &Page) -> Vec<u8> {
    if page.count() == 0 { Vec::new() } else { page.key(0) }
}

impl Pages {
    fn push(&mut self, id: PageId, page: Rc<Page>) {
        self.waiting_blocks += blocks_of(&page);
        self.waiting.push((id, page));
    }
}
