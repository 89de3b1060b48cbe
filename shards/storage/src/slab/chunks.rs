//! Chunks: runs of blocks of the file `slabs`, each owned by one tree, filled from front to back and never written twice.
//!
//! Always: a chunk's blocks are written once between being taken and being freed, so nothing live is overwritten and no
//! image has to be logged first. A chunk whose live bytes reach zero is freed unread; one with few is emptied by moving
//! what lives (see the checkpoint), which frees space for less than rewriting scattered blocks in place would. For the same
//! reason slots of all sizes share a chunk: sizes as classes of chunks only serve reuse in place, and would cost
//! every shard of every small table a chunk per class.
//!
//! Freed chunks keep their number until the checkpoint that no longer names them is durable.

use crate::btree::cell::Location;
use crate::disk::BLOCK_BYTES;
use crate::engine::TreeUsage;
use crate::space::Run;

/// Blocks of a tree's first chunk (64 KiB); each next one is twice as large, up to the last.
pub(crate) const CHUNK_BLOCKS_FIRST: u32 = 16;
/// 1 MiB: one write of the disk at full speed, and little lost in the last chunk of a tree.
pub(crate) const CHUNK_BLOCKS_MAX: u32 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkKind {
    Free,
    Slots,
    /// One large value.
    Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub kind: ChunkKind,
    pub run: Run,
    pub tree: u32,
    /// Bytes of slots that a tree points to.
    pub live_bytes: u32,
    /// Bytes filled from the front, whole blocks.
    pub used_bytes: u32,
    /// The log's end when an extent was added: a checkpoint of an earlier position does not name it.
    pub since: u64,
}

pub(crate) const FREE_CHUNK: Chunk = Chunk {
    kind: ChunkKind::Free,
    run: Run { block: 0, blocks: 0 },
    tree: 0,
    live_bytes: 0,
    used_bytes: 0,
    since: 0,
};

impl Chunk {
    /// Bytes of its blocks, filled or not.
    pub fn bytes(&self) -> u64 {
        u64::from(self.run.blocks) * u64::from(BLOCK_BYTES)
    }
}

#[derive(Default)]
pub(crate) struct Chunks {
    pub list: Vec<Chunk>,
    free_ids: Vec<u32>,
    /// Chunks that hold something that cannot be moved: a damaged slot, or one below a damaged page.
    pub stuck: std::collections::HashSet<u32>,
    /// Chunks whose live bytes reached zero since the last checkpoint began.
    pub emptied: Vec<u32>,
    pub live_bytes: u64,
    /// Bytes of all chunks in which something lives, filled or not. What is dead as a whole costs nothing to free.
    pub taken_bytes: u64,
}

impl Chunks {
    /// Adds what the documents of each tree take.
    pub fn usage(&self, mut add: impl FnMut(u32, TreeUsage)) {
        for chunk in self.list.iter().filter(|chunk| chunk.kind != ChunkKind::Free) {
            let (live, used) = (u64::from(chunk.live_bytes), u64::from(chunk.used_bytes));
            let taken = chunk.bytes();
            let usage = TreeUsage {
                data_bytes: live,
                garbage_bytes: used.saturating_sub(live),
                spare_bytes: taken.saturating_sub(used.max(live)),
                ..TreeUsage::default()
            };
            add(chunk.tree, usage);
        }
    }

    pub fn opened(list: Vec<Chunk>) -> Self {
        let mut chunks = Self { list, ..Self::default() };
        for (id, chunk) in chunks.list.iter().enumerate().rev() {
            if chunk.kind == ChunkKind::Free {
                chunks.free_ids.push(id as u32);
                continue;
            }
            if chunk.live_bytes == 0 {
                chunks.emptied.push(id as u32);
            }
        }
        let lives = |chunk: &&Chunk| chunk.live_bytes > 0;
        chunks.live_bytes = chunks.list.iter().map(|chunk| u64::from(chunk.live_bytes)).sum();
        chunks.taken_bytes = chunks.list.iter().filter(lives).map(Chunk::bytes).sum();
        chunks
    }

    pub fn add(&mut self, chunk: Chunk) -> u32 {
        let live_bytes = chunk.live_bytes;
        let chunk = Chunk { live_bytes: 0, ..chunk };
        let id = match self.free_ids.pop() {
            Some(id) => {
                self.list[id as usize] = chunk;
                id
            }
            None => {
                self.list.push(chunk);
                u32::try_from(self.list.len() - 1).expect("chunk numbers fit 32 bits")
            }
        };
        self.set_live(id, live_bytes);
        id
    }

    /// A tree points to so many bytes more of the chunk.
    pub fn hold(&mut self, id: u32, bytes: u32) {
        self.set_live(id, self.list[id as usize].live_bytes + bytes);
    }

    /// A tree no longer points to these bytes.
    pub fn release(&mut self, location: Location, bytes: u32) {
        let id = location.chunk();
        let Some(chunk) = self.list.get(id as usize) else { return };
        // The chunk of a dropped tree counts as empty already.
        let left = chunk.live_bytes.saturating_sub(bytes);
        if chunk.live_bytes > 0 && left == 0 {
            self.emptied.push(id);
        }
        self.set_live(id, left);
    }

    /// Everything in the chunk is dead at once.
    pub fn empty(&mut self, id: u32) {
        self.set_live(id, 0);
        self.emptied.push(id);
    }

    fn set_live(&mut self, id: u32, bytes: u32) {
        let chunk = &mut self.list[id as usize];
        let before = std::mem::replace(&mut chunk.live_bytes, bytes);
        self.live_bytes = self.live_bytes - u64::from(before) + u64::from(bytes);
        match (before, bytes) {
            (0, 1..) => self.taken_bytes += chunk.bytes(),
            (1.., 0) => self.taken_bytes -= chunk.bytes(),
            _ => {}
        }
    }

    /// Takes a chunk in which nothing lives out of the table and gives its blocks, which may be used again after the next checkpoint.
    pub fn take_out(&mut self, id: u32) -> Run {
        self.stuck.remove(&id);
        std::mem::replace(&mut self.list[id as usize], FREE_CHUNK).run
    }

    /// The checkpoint that would have freed the chunk did not come about.
    pub fn put_back(&mut self, id: u32, run: Run) {
        self.list[id as usize] =
            Chunk { kind: ChunkKind::Slots, run, used_bytes: run.blocks * 4096, ..FREE_CHUNK };
        self.emptied.push(id);
    }

    pub fn reuse_id(&mut self, id: u32) {
        self.free_ids.push(id);
    }
}
