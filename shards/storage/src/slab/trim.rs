//! Giving free space back to the file system, after a checkpoint.
//!
//! Always: a file is cut only behind what the durable superblock says it has, so a crash finds it long enough; a hole is made
//! only of blocks that no durable checkpoint names. What the batches that were accepted may need stays ([`crate::slab::room`]);
//! beyond that some free space is kept, as much as the next checkpoints will write, since filling a hole costs as much as
//! writing it.

use crate::disk::{Directory, Disk, DiskError};
use crate::engine::StorageError;
use crate::slab::room::DataFile;
use crate::slab::{CHECKPOINT_PAGE_BYTES_MAX, Shared};
use crate::space::{HOLE_BLOCKS, Run, Space};

/// Free blocks that a file keeps at least (1 MiB), and the part of what it holds that it keeps beside.
const KEPT_BLOCKS_MIN: u64 = 256;
const KEPT_PART: u64 = 32;
const FILES: [DataFile; 2] = [DataFile::Pages, DataFile::Slabs];

/// What may be free before anything happens: files must not breathe with every checkpoint.
fn with_slack(kept: u32) -> u32 {
    kept.saturating_add(kept / 2).saturating_add(HOLE_BLOCKS)
}

impl<D: Directory> Shared<D> {
    fn kept_blocks(&self, file: &DataFile) -> u32 {
        let (pages, slabs) = self.needed_blocks(0, 0);
        let needed = match file {
            DataFile::Pages => pages,
            DataFile::Slabs => slabs,
        };
        let used = u64::from(self.space_of(file, |space| space.used()));
        // Under load checkpoints have more pages than they begin for, and while one runs as much again becomes dirty, for which room is
        // made as well ([`Shared::needed_blocks`]). The next one is taken to be like the last.
        let dirty = match file {
            DataFile::Pages => self.due_page_bytes().max(2 * self.checkpoint_page_bytes.get()),
            DataFile::Slabs => self.options.checkpoint_dirty_bytes,
        };
        let written = (dirty * 5 / 4 / 4096).min(used);
        let kept = KEPT_BLOCKS_MIN + used / KEPT_PART + written.max(needed);
        u32::try_from(kept).unwrap_or(u32::MAX)
    }

    /// The pages that a checkpoint has when it begins.
    fn due_page_bytes(&self) -> u64 {
        self.options.checkpoint_dirty_bytes.min(CHECKPOINT_PAGE_BYTES_MAX)
    }

    /// Whether the last checkpoint came under load, so that there is more room than a quiet store keeps.
    pub fn keeps_much(&self) -> bool {
        2 * self.checkpoint_page_bytes.get() > self.due_page_bytes()
    }

    fn space_of<T>(&self, file: &DataFile, ask: impl FnOnce(&mut Space) -> T) -> T {
        ask(file.space(&mut self.state.borrow_mut()))
    }

    pub(super) fn disk_of(&self, file: &DataFile) -> &D::File {
        match file {
            DataFile::Pages => &self.pages,
            DataFile::Slabs => &self.slabs,
        }
    }

    /// Takes the free tails out of use. The files are cut when the superblock that says so is durable.
    pub fn cut_tails(&self) {
        if self.growing.get() {
            return;
        }
        for file in &FILES {
            let kept = self.kept_blocks(file);
            self.space_of(file, |space| {
                if space.free() > with_slack(kept) || space.hole_blocks() > 0 {
                    space.cut_tail(kept);
                }
            });
        }
    }

    /// Cuts the files where nothing is used any more, and makes holes of the free space before.
    pub async fn trim(&self) -> Result<(), StorageError> {
        if self.growing.replace(true) {
            return Ok(());
        }
        let mut trimmed = Ok(());
        for file in &FILES {
            trimmed = trimmed.and(self.trim_file(file).await);
        }
        self.growing.set(false);
        self.checkpointed.notify();
        Ok(trimmed?)
    }

    async fn trim_file(&self, file: &DataFile) -> Result<(), DiskError> {
        let disk = self.disk_of(file);
        let blocks = self.space_of(file, |space| space.blocks());
        if disk.length().await? > u64::from(blocks) * 4096 {
            disk.truncate(u64::from(blocks) * 4096).await?;
        }
        if self.space_of(file, |space| space.free()) <= with_slack(self.kept_blocks(file)) {
            return Ok(());
        }
        // Writers may wait for the checkpoint that this belongs to: the next one trims on.
        while !self.is_pressed() {
            let kept = self.kept_blocks(file) + HOLE_BLOCKS;
            let hole =
                self.space_of(file, |space| if space.free() > kept { space.make_hole() } else { None });
            let Some(Run { block, blocks }) = hole else { return Ok(()) };
            // A disk that is told of it takes milliseconds for each.
            self.give_way().await;
            disk.punch(u64::from(block) * 4096, u64::from(blocks) * 4096).await?;
        }
        Ok(())
    }

    /// Fills holes until there are so many free blocks more, or no holes; the blocks still wanted.
    pub async fn fill_holes(&self, file: &DataFile, wanted: u64) -> Result<u64, DiskError> {
        let mut wanted = wanted;
        while wanted > 0 {
            let Some(hole) = self.space_of(file, |space| space.hole()) else { break };
            let disk = self.disk_of(file);
            disk.write(u64::from(hole.block) * 4096, disk.buffer(hole.blocks * 4096)).await?;
            self.space_of(file, |space| space.filled(hole));
            wanted = wanted.saturating_sub(u64::from(hole.blocks));
        }
        Ok(wanted)
    }
}
