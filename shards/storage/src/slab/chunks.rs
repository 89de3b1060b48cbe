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

#[derive(Default)]
pub(crate) struct Chunks {
    pub list: Vec<Chunk>,
    free_ids: Vec<u32>,
    /// Chunks that hold something that cannot be moved: a damaged slot, or one below a damaged page.
    pub stuck: std::collections::HashSet<u32>,
    /// Chunks whose live bytes reached zero since the last checkpoint began.
    pub emptied: Vec<u32>,
    pub live_bytes: u64,
    /// Bytes of all chunks in use, filled or not.
    pub taken_bytes: u64,
}

impl Chunks {
    /// Adds what the documents of each tree take.
    pub fn usage(&self, mut add: impl FnMut(u32, TreeUsage)) {
        for chunk in self.list.iter().filter(|chunk| chunk.kind != ChunkKind::Free) {
            let (live, used) = (u64::from(chunk.live_bytes), u64::from(chunk.used_bytes));
            let taken = u64::from(chunk.run.blocks) * u64::from(crate::disk::BLOCK_BYTES);
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
            chunks.live_bytes += u64::from(chunk.live_bytes);
            chunks.taken_bytes += u64::from(chunk.run.blocks) * 4096;
            if chunk.live_bytes == 0 {
                chunks.emptied.push(id as u32);
            }
        }
        chunks
    }

    pub fn add(&mut self, chunk: Chunk) -> u32 {
        self.live_bytes += u64::from(chunk.live_bytes);
        self.taken_bytes += u64::from(chunk.run.blocks) * 4096;
        match self.free_ids.pop() {
            Some(id) => {
                self.list[id as usize] = chunk;
                id
            }
            None => {
                self.list.push(chunk);
                u32::try_from(self.list.len() - 1).expect("chunk numbers fit 32 bits")
            }
        }
    }

    /// A tree points to so many bytes more of the chunk.
    pub fn hold(&mut self, id: u32, bytes: u32) {
        self.list[id as usize].live_bytes += bytes;
        self.live_bytes += u64::from(bytes);
    }

    /// A tree no longer points to these bytes.
    pub fn release(&mut self, location: Location, bytes: u32) {
        let id = location.chunk();
        let Some(chunk) = self.list.get_mut(id as usize) else { return };
        // The chunk of a dropped tree counts as empty already.
        let bytes = bytes.min(chunk.live_bytes);
        if bytes == 0 {
            return;
        }
        chunk.live_bytes -= bytes;
        self.live_bytes -= u64::from(bytes);
        if chunk.live_bytes == 0 {
            self.emptied.push(id);
        }
    }

    /// Everything in the chunk is dead at once.
    pub fn empty(&mut self, id: u32) {
        let chunk = &mut self.list[id as usize];
        self.live_bytes -= u64::from(chunk.live_bytes);
        chunk.live_bytes = 0;
        self.emptied.push(id);
    }

    /// Takes the chunk out of the table and gives its blocks, which may be used again after the next checkpoint.
    pub fn take_out(&mut self, id: u32) -> Run {
        self.stuck.remove(&id);
        let chunk = std::mem::replace(&mut self.list[id as usize], FREE_CHUNK);
        self.taken_bytes -= u64::from(chunk.run.blocks) * 4096;
        chunk.run
    }

    /// The checkpoint that would have freed the chunk did not come about.
    pub fn put_back(&mut self, id: u32, run: Run) {
        self.taken_bytes += u64::from(run.blocks) * 4096;
        self.list[id as usize] =
            Chunk { kind: ChunkKind::Slots, run, used_bytes: run.blocks * 4096, ..FREE_CHUNK };
        self.emptied.push(id);
    }

    pub fn reuse_id(&mut self, id: u32) {
        self.free_ids.push(id);
    }
}
