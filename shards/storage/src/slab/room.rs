//! Making sure before a batch is applied that it can be finished: pages in memory, room in the log, room on disk.
//!
//! Always: what was applied can be logged and checkpointed without asking the file system for more space; so a full disk
//! refuses a batch before it changed anything. A part of the free space is kept from puts ([`RESERVE_BLOCKS`]), so that
//! deletes, drops and the checkpoint that follows them work on a full disk.

use crate::btree::page::PAGE_BYTES;
use crate::compress::How;
use crate::disk::{Directory, Disk, DiskError};
use crate::engine::{Edit, StorageError};
use crate::slab::slot;
use crate::slab::state::{SLOT_VALUE_BYTES_MAX, State};
use crate::slab::{CHECKPOINT_PAGE_BYTES_MAX, Shared};
use crate::space::{HOLE_BLOCKS, Run, Space};
use crate::wal::record::{self, Extent};

/// Free blocks of each file that puts leave alone.
const RESERVE_BLOCKS: u64 = 64;
/// Least and most blocks that a file grows by at once.
const GROW_BLOCKS_MIN: u32 = 64;
const GROW_BLOCKS_MAX: u32 = 4 << 10;
/// A file grows by this part of its length, within these bounds.
const GROW_PART: u32 = 32;
/// Larger values are not compressed: they are written in the way of their writer, and this takes some 3 ms.
const COMPRESSED_BYTES_MAX: usize = 1 << 20;
/// Large values that may wait on disk for their batch.
const EXTENTS_WAITING_MAX: usize = 256;

/// What there was no room for: it is full until there is.
#[derive(Clone)]
pub(crate) struct Refused {
    reason: String,
    value_bytes: u64,
    puts: u64,
    log_bytes: u64,
}

pub(crate) enum DataFile {
    Pages,
    Slabs,
}

impl DataFile {
    pub fn space<'s>(&self, state: &'s mut State) -> &'s mut Space {
        match self {
            DataFile::Pages => &mut state.page_space,
            DataFile::Slabs => &mut state.slab_space,
        }
    }
}

/// Tells one large value of a key from all others.
pub(crate) fn digest(edit: &Edit) -> (u128, usize) {
    match edit {
        Edit::Put { tree, key, value } => {
            let seed = xxhash_rust::xxh3::xxh3_64_with_seed(key, u64::from(tree.0));
            (xxhash_rust::xxh3::xxh3_128_with_seed(value, seed), value.len())
        }
        Edit::Delete { .. } => (0, 0),
    }
}

/// Bytes of the values that get extents.
fn large_bytes(edits: &[Edit]) -> u64 {
    let large = |edit: &Edit| match edit {
        Edit::Put { value, .. } if value.len() > SLOT_VALUE_BYTES_MAX => value.len() as u64,
        Edit::Put { .. } | Edit::Delete { .. } => 0,
    };
    edits.iter().map(large).sum()
}

/// What a file of so many blocks grows by.
fn grow_step(blocks: u32) -> u32 {
    (blocks / GROW_PART).clamp(GROW_BLOCKS_MIN, GROW_BLOCKS_MAX)
}

impl<D: Directory> Shared<D> {
    /// From 0 where half of what may be dirty is, to 100 at seven eighths of it.
    pub fn pressure(&self) -> u32 {
        let of = |(dirty, most): (u64, u64)| {
            (dirty.saturating_sub(most / 2) * 100 / (most * 3 / 8).max(1)).min(100) as u32
        };
        let [all, pages] = self.dirt();
        of(all).max(of(pages))
    }

    /// What is dirty and what writers may leave so: all of it, and pages alone. Half of it is for the emptying of chunks while there is
    /// something to empty ([`crate::slab::clean`]); what that made dirty is no reason for writers to wait.
    pub fn dirt(&self) -> [(u64, u64); 2] {
        let (dirty, most, moved) = (self.dirty_bytes(), self.dirty_bytes_max(), self.moved.get());
        std::array::from_fn(|place| {
            let most = moved.map_or(most[place], |moved| most[place] / 2 + moved[place].min(most[place] / 2));
            (dirty[place], most)
        })
    }

    /// What is dirty: all of it, and pages alone.
    pub fn dirty_bytes(&self) -> [u64; 2] {
        let pool = &self.state.borrow().pool;
        [pool.dirty_bytes(), pool.dirty_page_bytes()]
    }

    /// What may be dirty: all of it, and pages alone, since those are frozen at once.
    pub fn dirty_bytes_max(&self) -> [u64; 2] {
        let most = (self.options.checkpoint_dirty_bytes * 4).min(self.options.cache_bytes / 2);
        [most, most.min(4 * CHECKPOINT_PAGE_BYTES_MAX)]
    }

    /// Whether writers have to wait for the checkpoint soon.
    pub fn is_pressed(&self) -> bool {
        self.dirt().into_iter().any(|(dirty, most)| dirty >= most * 3 / 4)
    }

    pub fn is_too_dirty(&self) -> bool {
        self.dirt().into_iter().any(|(dirty, most)| dirty >= most)
    }

    /// Makes segments of the log and lengthens files before writers need them, also while a checkpoint runs. What a full disk refused is
    /// tried again after the next checkpoint.
    pub async fn room_loop(&self) {
        while !self.closing.get() {
            self.room_due.listen().await;
            while !self.closing.get() && !self.room_failed.get() && self.log.failure().is_none() {
                let made = if self.log.wants_spare() {
                    self.log.make_spare(&self.directory).await
                } else if let Some((file, blocks)) = self.short_soon() {
                    self.grow(&file, blocks).await
                } else {
                    break;
                };
                self.room_failed.set(made.is_err());
            }
        }
    }

    /// Blocks of `pages` and `slabs` that the next checkpoint may need for what is dirty and for a batch beside it.
    pub fn needed_blocks(&self, value_bytes: u64, puts: u64) -> (u64, u64) {
        let state = self.state.borrow();
        let pool = &state.pool;
        let tables = state.page_table.addresses.len() + state.chunk_table.addresses.len();
        let page_bytes = pool.dirty_page_bytes() + puts * 2 * PAGE_BYTES as u64;
        // Every table block may be written anew, and so may the directories.
        let pages = page_bytes / 4096 + tables as u64 * 2 + 16;
        let values = pool.unplaced_bytes() + value_bytes;
        (pages, values / 4096 * 5 / 4 + 2 * u64::from(super::chunks::CHUNK_BLOCKS_MAX).min(values / 256) + 16)
    }

    fn demand(edits: &[Edit]) -> (u64, u64) {
        let (mut value_bytes, mut puts) = (0, 0);
        for edit in edits {
            if let Edit::Put { value, .. } = edit {
                puts += 1;
                if value.len() <= SLOT_VALUE_BYTES_MAX {
                    value_bytes += value.len() as u64;
                }
            }
        }
        (value_bytes, puts)
    }

    pub fn has_room(&self, edits: &[Edit]) -> bool {
        let (value_bytes, puts) = Self::demand(edits);
        self.has_room_for(value_bytes, puts, record::batch_bytes(edits))
    }

    pub fn has_room_for(&self, value_bytes: u64, puts: u64, log_bytes: u64) -> bool {
        if !self.log.has_room(log_bytes) {
            return false;
        }
        if puts == 0 {
            return true;
        }
        !self.is_too_dirty() && self.short_of(value_bytes, puts).is_none()
    }

    /// The file that must grow, and by how many blocks.
    fn short_of(&self, value_bytes: u64, puts: u64) -> Option<(DataFile, u64)> {
        let (pages, slabs) = self.needed_blocks(value_bytes, puts);
        let state = self.state.borrow();
        let (free_pages, free_slabs) =
            (u64::from(state.page_space.free()), u64::from(state.slab_space.free()));
        if free_pages < pages + RESERVE_BLOCKS {
            return Some((DataFile::Pages, pages + RESERVE_BLOCKS - free_pages));
        }
        if slabs > 16 && free_slabs < slabs + RESERVE_BLOCKS {
            return Some((DataFile::Slabs, slabs + RESERVE_BLOCKS - free_slabs));
        }
        None
    }

    /// The file that writers will find too short soon, and by how many blocks: it has less than half left of what it would grow by if it
    /// were no longer than what it holds. That is less than is left to it when free space is given back.
    pub fn short_soon(&self) -> Option<(DataFile, u64)> {
        let (pages, slabs) = self.needed_blocks(0, 0);
        let state = self.state.borrow();
        let short = |space: &Space, needed: u64| {
            let wanted = needed + RESERVE_BLOCKS + u64::from(grow_step(space.used()) / 2);
            wanted.checked_sub(u64::from(space.free())).filter(|short| *short > 0)
        };
        if let Some(blocks) = short(&state.page_space, pages) {
            return Some((DataFile::Pages, blocks));
        }
        let blocks = short(&state.slab_space, slabs).filter(|_| slabs > 16)?;
        Some((DataFile::Slabs, blocks))
    }

    /// Loads what [`Shared::has_room`] and the trees want, and waits while too much is dirty.
    pub async fn prepare(&self, edits: &[Edit]) -> Result<(), StorageError> {
        let (value_bytes, puts) = Self::demand(edits);
        loop {
            self.writable()?;
            if !self.has_room(edits) {
                self.make_room_for(value_bytes, puts, record::batch_bytes(edits)).await?;
                continue;
            }
            match self.write_extents(edits).await {
                Ok(false) => {}
                Ok(true) => continue,
                Err(error) => {
                    if let StorageError::Full { reason } = &error {
                        let (value_bytes, log_bytes) = (large_bytes(edits), record::batch_bytes(edits));
                        self.refuse(Refused { reason: reason.clone(), value_bytes, puts, log_bytes });
                    }
                    return Err(error);
                }
            }
            let missing = self.state.borrow_mut().check(edits)?.missing;
            if missing.is_empty() {
                return Ok(());
            }
            self.load_pages(missing).await?;
        }
    }

    /// Makes room for so many bytes of values, puts and log, or says why that is not possible.
    pub async fn make_room_for(
        &self,
        value_bytes: u64,
        puts: u64,
        log_bytes: u64,
    ) -> Result<(), StorageError> {
        let made = self.find_room_for(value_bytes, puts, log_bytes).await;
        if let Err(StorageError::Full { reason }) = &made {
            self.refuse(Refused { reason: reason.clone(), value_bytes, puts, log_bytes });
        }
        made
    }

    fn refuse(&self, refused: Refused) {
        *self.refused.borrow_mut() = Some(refused);
    }

    /// What was refused and would be now. A smaller batch that went through meanwhile says nothing of it. Whether the file system
    /// has more room the background finds out, for the next who asks.
    pub fn full(&self) -> Option<String> {
        let refused = self.refused.borrow().clone()?;
        if self.has_room_for(refused.value_bytes, refused.puts, refused.log_bytes) {
            self.refused.take();
            return None;
        }
        self.room_wanted.set(true);
        self.work.notify();
        Some(refused.reason)
    }

    /// Looks whether the file system has room again for what was refused.
    pub async fn look_for_room(&self) {
        let Some(Refused { value_bytes, puts, log_bytes, .. }) = self.refused.borrow().clone() else {
            return;
        };
        // No room yet is what it says already, and a disk that fails says so to the next who writes.
        if self.log.make_room(&self.directory, log_bytes).await.is_ok()
            && let Some((file, blocks)) = self.short_of(value_bytes, puts).filter(|_| puts > 0)
        {
            let _ = self.grow(&file, blocks).await;
        }
    }

    async fn find_room_for(&self, value_bytes: u64, puts: u64, log_bytes: u64) -> Result<(), StorageError> {
        if !self.log.has_room(log_bytes) {
            return self.make_log_room(log_bytes).await;
        }
        if puts == 0 {
            return Ok(());
        }
        if self.is_too_dirty() {
            return self.wait_for_checkpoint().await;
        }
        let Some((file, blocks)) = self.short_of(value_bytes, puts) else { return Ok(()) };
        match self.grow(&file, blocks).await {
            Err(StorageError::Full { reason }) => {
                // What was deleted since the last checkpoint is free after the next.
                if self.checkpointing.get() {
                    self.wait_for_checkpoint().await?;
                }
                self.wait_for_checkpoint().await?;
                match self.short_of(value_bytes, puts) {
                    Some((file, blocks)) => match self.grow(&file, blocks).await {
                        Err(StorageError::Full { .. }) => Err(StorageError::Full { reason }),
                        grown => grown,
                    },
                    None => Ok(()),
                }
            }
            grown => grown,
        }
    }

    /// Room in the log, by a new segment or, on a full disk, by those that a checkpoint makes needless.
    pub async fn make_log_room(&self, bytes: u64) -> Result<(), StorageError> {
        match self.log.make_room(&self.directory, bytes).await {
            Err(StorageError::Full { reason }) => {
                self.wait_for_checkpoint().await?;
                match self.log.make_room(&self.directory, bytes).await {
                    Err(StorageError::Full { .. }) => Err(StorageError::Full { reason }),
                    made => made,
                }
            }
            made => made,
        }
    }

    /// Waits until a checkpoint ended, one way or the other. The background makes it if it runs, so that a caller who goes
    /// away leaves none half-done.
    pub async fn wait_for_checkpoint(&self) -> Result<(), StorageError> {
        let attempts = self.checkpoint_attempts.get();
        if !self.background.get() && !self.checkpointing.get() {
            return self.checkpoint().await;
        }
        while self.checkpoint_attempts.get() == attempts {
            let checkpointed = self.checkpointed.listen();
            self.checkpoint_wanted.set(true);
            self.work.notify();
            checkpointed.await;
            self.writable()?;
        }
        self.checkpoint_error.borrow().clone().map_or(Ok(()), Err)
    }

    /// Makes at least so many blocks more of a file free: fills holes, then makes it longer.
    pub async fn grow(&self, file: &DataFile, blocks: u64) -> Result<(), StorageError> {
        if self.growing.replace(true) {
            let checkpointed = self.checkpointed.listen();
            checkpointed.await;
            return Ok(());
        }
        let grown = self.fill_and_lengthen(file, blocks).await;
        self.growing.set(false);
        self.checkpointed.notify();
        match grown {
            Err(DiskError::Full { file }) => {
                Err(StorageError::Full { reason: format!("no room for {file} to grow") })
            }
            // Zeros whose write failed may reach the disk later, over what was written there since.
            Err(error) => Err(self.broken(&error)),
            Ok(()) => Ok(()),
        }
    }

    async fn fill_and_lengthen(&self, file: &DataFile, blocks: u64) -> Result<(), DiskError> {
        let blocks = self.fill_holes(file, blocks).await?;
        if blocks == 0 {
            return Ok(());
        }
        let now = file.space(&mut self.state.borrow_mut()).blocks();
        let least = u32::try_from(blocks).unwrap_or(u32::MAX / 2);
        let step = grow_step(now);
        let grown = self.lengthen(file, now, least.max(step)).await;
        if matches!(grown, Err(DiskError::Full { .. })) && step > least {
            return self.lengthen(file, now, least).await;
        }
        grown
    }

    /// What lies in the file behind its blocks already, a tail that was cut and is not truncated yet, may have holes; asking for
    /// room does not fill them. They are filled to the end of their unit, since a unit that something lies in counts as whole.
    async fn lengthen(&self, file: &DataFile, now: u32, blocks: u32) -> Result<(), DiskError> {
        let name = match file {
            DataFile::Pages => "pages",
            DataFile::Slabs => "slabs",
        };
        let Some(end) = now.checked_add(blocks) else { return Err(DiskError::Full { file: name.into() }) };
        let disk = self.disk_of(file);
        let length = u32::try_from(disk.length().await? / 4096).unwrap_or(u32::MAX);
        let behind = end.checked_next_multiple_of(HOLE_BLOCKS).map_or(length, |unit| unit.min(length));
        let mut at = now;
        while at < behind {
            let run = (behind - at).min(HOLE_BLOCKS);
            disk.write(u64::from(at) * 4096, disk.buffer(run * 4096)).await?;
            at += run;
        }
        let end = end.max(at);
        disk.preallocate(u64::from(end) * 4096).await?;
        file.space(&mut self.state.borrow_mut()).grow(end);
        Ok(())
    }

    /// A run of blocks of `slabs`, which grows if it must.
    pub async fn take_slab_blocks(&self, least: u32, most: u32) -> Result<Run, StorageError> {
        loop {
            let taken = {
                let space: &mut Space = &mut self.state.borrow_mut().slab_space;
                space.take(most).or_else(|| space.take(least))
            };
            if let Some(run) = taken {
                return Ok(run);
            }
            self.grow(&DataFile::Slabs, u64::from(most)).await?;
        }
    }

    /// Writes the batch's large values that are not on disk yet. True when it wrote some.
    async fn write_extents(&self, edits: &[Edit]) -> Result<bool, StorageError> {
        let mut written = Vec::new();
        for edit in edits {
            let Edit::Put { tree, key, value } = edit else { continue };
            if value.len() <= SLOT_VALUE_BYTES_MAX || self.state.borrow().extents.contains_key(&digest(edit))
            {
                continue;
            }
            let extent = self.write_extent(tree.0, key, value).await?;
            written.push((digest(edit), extent));
        }
        if written.is_empty() {
            return Ok(false);
        }
        self.slabs.sync().await.map_err(|error| self.broken(&error))?;
        let mut state = self.state.borrow_mut();
        while state.extents.len() > EXTENTS_WAITING_MAX {
            // Its writer gave up, or will write it again.
            let Some((_, extent)) = state.extents.pop_first() else { break };
            state.slab_space.release(extent.run);
        }
        for (digest, extent) in written {
            if let Some(twin) = state.extents.insert(digest, extent) {
                state.slab_space.release(twin.run);
            }
        }
        Ok(true)
    }

    async fn write_extent(&self, tree: u32, key: &[u8], value: &[u8]) -> Result<Extent, StorageError> {
        let mut compressed = Vec::new();
        let how = match value.len() <= COMPRESSED_BYTES_MAX {
            true => self.compress(tree, value, None, &mut compressed),
            false => How::Plain,
        };
        let stored = match how {
            How::Plain => slot::Stored::plain(value),
            How::Alone | How::WithDictionary => {
                slot::Stored { how, plain_bytes: value.len(), bytes: &compressed }
            }
        };
        let slot_bytes = slot::slot_bytes(key.len(), stored.bytes.len());
        let blocks = slot_bytes.div_ceil(4096);
        let run = self.take_slab_blocks(blocks, blocks).await?;
        let mut bytes = Vec::with_capacity(slot_bytes as usize);
        let sum = slot::append(&mut bytes, slot::extent_place(run), tree, key, &stored);
        self.write_slots(u64::from(run.block) * 4096, &bytes).await?;
        self.state.borrow_mut().count_written(tree, u64::from(blocks) * 4096);
        Ok(Extent { run, slot_bytes, sum })
    }

    /// Writes bytes at a block of `slabs`, padded to whole blocks.
    pub async fn write_slots(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        for (index, piece) in bytes.chunks(1 << 20).enumerate() {
            let mut buffer = self.slabs.buffer((piece.len() as u32).next_multiple_of(4096));
            buffer.as_mut()[..piece.len()].copy_from_slice(piece);
            let written = self.slabs.write(offset + ((index as u64) << 20), buffer).await;
            written.map_err(|error| self.broken(&error))?;
        }
        Ok(())
    }

    /// A write or a flush failed: what is on disk is unknown, so nothing more is promised.
    pub fn broken(&self, error: &DiskError) -> StorageError {
        self.log.fail(&error.to_string());
        StorageError::ReadOnly { reason: error.to_string() }
    }
}
