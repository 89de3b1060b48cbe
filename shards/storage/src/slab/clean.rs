//! Emptying chunks of which little is live, so that deleted and replaced documents give their space back.
//!
//! A chunk is read whole; what the trees still point to in it becomes a value without a place, and the next checkpoint writes
//! it into a fresh chunk. Nothing is logged: the old chunk stays as it is until that checkpoint is durable. The emptiest
//! chunks come first, because they cost least for what they free.
//!
//! What is moved is dirty, as what is written is, and writers that never rest leave as much dirty as they may: nothing would be moved
//! beside them, and the store would grow. So while there is something to empty they may have half of it, and emptying the other half.
//! Each value that is moved costs what a value written costs, its leaf included. So beside writers only chunks are emptied that give back
//! twice what is moved; the rest waits until they rest.

use std::rc::Rc;

use crate::btree::cell::{Cell, Location, Pointer};
use crate::btree::{Missing, PageId, tree};
use crate::disk::{BLOCK_BYTES, Directory, Disk};
use crate::engine::{StorageError, Value};
use crate::event::yield_now;
use crate::slab::Shared;
use crate::slab::chunks::{CHUNK_BLOCKS_FIRST, ChunkKind};
use crate::slab::room::DataFile;
use crate::slab::slot;

/// Chunks are emptied while the bytes taken are more than the live ones times this over 100, plus [`SLACK_BYTES`].
const TAKEN_PER_CENT_MAX: u64 = 118;
const SLACK_BYTES: u64 = 1 << 20;
/// Live bytes moved before one checkpoint.
const MOVED_BYTES_MAX: u64 = 32 << 20;
/// A chunk with more live bytes per cent than this is left alone: moving them would free too little. Where writers are busy, and where
/// they rest.
const LIVE_PER_CENT_MAX_BUSY: u64 = 33;
const LIVE_PER_CENT_MAX_QUIET: u64 = 85;
/// Writers rest when they have logged less since the last checkpoint than this part of what begins one.
const QUIET_PART: u64 = 16;

impl<D: Directory> Shared<D> {
    /// Moves live values out of chunks with few of them. Called where no checkpoint runs and none can begin.
    pub async fn empty_sparse_chunks(&self) {
        let sparse = self.sparse_chunks();
        let wanted: u64 = sparse.iter().map(|(_, live)| live).sum();
        let mut movable = if wanted > 0 { self.make_room_to_move(wanted).await } else { 0 };
        self.moved.set((movable > 0).then_some([0; 2]));
        for (id, live) in sparse {
            if live > movable || !self.may_move() {
                return;
            }
            movable -= live;
            if let Err(error) = self.empty_chunk(id).await {
                tracing::warn!(chunk = id, %error, "a chunk cannot be emptied");
            }
            // What is left in it cannot be read: trying again with every checkpoint would move nothing.
            self.state.borrow_mut().chunks.stuck.insert(id);
            yield_now().await;
        }
    }

    /// Live bytes, no more than `wanted`, that surely find new places: half of what lies free in runs that chunks can have and nothing
    /// waits for. A value that was moved and finds none would keep every later checkpoint from coming about.
    async fn make_room_to_move(&self, wanted: u64) -> u64 {
        let movable = || {
            let state = self.state.borrow();
            let free = u64::from(state.slab_space.free_in_runs(CHUNK_BLOCKS_FIRST)) * u64::from(BLOCK_BYTES);
            free.saturating_sub(state.pool.unplaced_bytes() * 5 / 4) / 2
        };
        let short = wanted.saturating_sub(movable());
        if short > 0 {
            // A full disk has room for less.
            let _ = self.grow(&DataFile::Slabs, 2 * short.div_ceil(u64::from(BLOCK_BYTES))).await;
        }
        movable().min(wanted)
    }

    fn may_move(&self) -> bool {
        let (dirty, most) = (self.dirty_bytes(), self.dirty_bytes_max());
        let moved = self.moved.get().unwrap_or_default();
        (0..2).all(|place| dirty[place] < most[place] && moved[place] < most[place] / 2)
    }

    /// Whether little was written since the last checkpoint.
    pub fn is_quiet(&self) -> bool {
        let [_, pages] = self.dirty_bytes_max();
        self.log_bytes() < self.options.checkpoint_log_bytes.min(pages) / QUIET_PART
    }

    pub fn has_sparse_chunks(&self) -> bool {
        !self.sparse_chunks().is_empty()
    }

    /// Chunks to empty before the next checkpoint, with their live bytes.
    fn sparse_chunks(&self) -> Vec<(u32, u64)> {
        let state = self.state.borrow();
        let chunks = &state.chunks;
        let allowed = chunks.live_bytes * TAKEN_PER_CENT_MAX / 100 + SLACK_BYTES;
        if chunks.taken_bytes <= allowed {
            return Vec::new();
        }
        let most_live = if self.is_quiet() { LIVE_PER_CENT_MAX_QUIET } else { LIVE_PER_CENT_MAX_BUSY };
        let mut candidates: Vec<(u64, u32)> = Vec::new();
        for (id, chunk) in chunks.list.iter().enumerate() {
            let live_per_cent = u64::from(chunk.live_bytes) * 100 / chunk.bytes().max(1);
            let is_open = state.trees.get(&chunk.tree).is_some_and(|tree| tree.open_chunk == Some(id as u32));
            if chunk.kind == ChunkKind::Slots
                && chunk.live_bytes > 0
                && live_per_cent <= most_live
                && !is_open
                && !chunks.stuck.contains(&(id as u32))
            {
                candidates.push((live_per_cent, id as u32));
            }
        }
        candidates.sort_unstable();
        let (mut excess, mut moved) = (chunks.taken_bytes - allowed, 0);
        let mut chosen = Vec::new();
        for (_, id) in candidates {
            let chunk = &chunks.list[id as usize];
            let live = u64::from(chunk.live_bytes);
            if excess == 0 || moved + live > MOVED_BYTES_MAX {
                break;
            }
            excess = excess.saturating_sub(chunk.bytes().saturating_sub(live));
            moved += live;
            chosen.push((id, live));
        }
        chosen
    }

    async fn empty_chunk(&self, id: u32) -> Result<(), StorageError> {
        let chunk = self.state.borrow().chunks.list[id as usize];
        if chunk.kind != ChunkKind::Slots || chunk.used_bytes == 0 {
            return Ok(());
        }
        let bytes = self.slabs.read(u64::from(chunk.run.block) * 4096, chunk.used_bytes).await?;
        let (mut offset, mut count) = (0, 0);
        while offset < bytes.len() {
            count += 1;
            if count % 64 == 0 {
                yield_now().await;
            }
            let length = slot::length(&bytes[offset..]).map_or(0, |length| length as usize);
            let slot = bytes.get(offset..offset + length).filter(|slot| !slot.is_empty());
            let Some(slot) = slot else {
                // Behind a run of slots the rest of its last block is empty.
                offset = (offset + 1).next_multiple_of(4096);
                continue;
            };
            let location = Location::new(id, offset as u32);
            offset += length;
            // A bad slot stays where it is; whoever asks for it gets the error.
            if let Ok(slot) = slot::decode(slot, location) {
                self.unplace(slot, location).await?;
            }
        }
        Ok(())
    }

    /// Takes a live value back into memory as one without a place.
    async fn unplace(&self, slot: slot::Slot<'_>, location: Location) -> Result<(), StorageError> {
        let mut plain = None;
        loop {
            let before = self.dirty_bytes();
            let unplaced = self.unplace_now(&slot, location, plain.take());
            let (now, moved) = (self.dirty_bytes(), self.moved.get().unwrap_or_default());
            self.moved.set(Some(std::array::from_fn(|place| {
                moved[place] + now[place].saturating_sub(before[place])
            })));
            match unplaced {
                Unplaced::Done => return Ok(()),
                Unplaced::WantsPage(page) => self.load_page(page).await?,
                Unplaced::WantsValue => match self.plain(&slot).await {
                    Ok(value) => plain = Some(value),
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    /// One attempt at it with what is in memory; `plain` is the value where the caller has read it.
    fn unplace_now(&self, slot: &slot::Slot<'_>, location: Location, plain: Option<Value>) -> Unplaced {
        let mut state = self.state.borrow_mut();
        let Some(root) = state.trees.get(&slot.tree).map(|tree| tree.root) else { return Unplaced::Done };
        let leaf = match tree::leaf_of(&mut state.pool, root, slot.key) {
            Err(Missing(page)) => return Unplaced::WantsPage(page),
            Ok(leaf) => leaf,
        };
        let page = state.pool.peek(leaf).map(Rc::clone);
        let Some(page) = page else { return Unplaced::Done };
        let Ok(index) = page.search(slot.key) else { return Unplaced::Done };
        let Some(Cell::Placed(slotted)) = Cell::decode(page.value(index)) else { return Unplaced::Done };
        if (slotted.location, slotted.sum) != (location, slot.sum) {
            return Unplaced::Done;
        }
        drop(page);
        let Some(value) = state.pool.cached_value(location).cloned().or(plain) else {
            return Unplaced::WantsValue;
        };
        let number = state.pool.add_unplaced(slot.tree, value);
        let pointer = Pointer::Unplaced { number, value_bytes: slot.plain_bytes as u32 };
        state.pool.page_mut(leaf).value_mut(index).copy_from_slice(&pointer.encode());
        state.release(Pointer::Placed(slotted));
        state.pool.evict();
        Unplaced::Done
    }
}

/// What one attempt at [`Shared::unplace_now`] came to.
enum Unplaced {
    Done,
    WantsPage(PageId),
    WantsValue,
}
