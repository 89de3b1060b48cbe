//! The two tables that say where everything lies, cut into blocks that are written anew only when they changed.
//!
//! ```text
//! block:      checksum u64 (XXH3 of bytes 8.., seeded with the index), block u32, kind u8 (4 pages, 5 chunks, 6 directory),
//!             zeros, index u32 at 16, zeros up to 32, entries
//! page:       tree u32, block u32, checksum u32, blocks u8, zeros                            16 bytes
//! chunk:      kind u8 (0 free, 1 slots, 2 extent), zeros, block u32, blocks u32, tree u32, live bytes u32, used bytes u32   24 bytes
//! directory:  block u32, checksum u32 of a block of the page table, then of the chunk table   8 bytes
//! ```
//!
//! A superblock names the directory blocks, they name the blocks of the tables, those name pages and chunks, each with
//! its checksum. They are the allocation maps too: what no entry names is free. A table of pages costs 16 bytes of memory
//! for 8 KiB of tree, and in return a page is written without touching its parent.

use crate::bytes::{Reader, checksum};
use crate::cache::pool::Address;
use crate::disk::BLOCK_BYTES;
use crate::slab::chunks::{Chunk, ChunkKind};
use crate::space::Run;
use crate::superblock::BlockAddress;

const HEADER: usize = 32;
const ROOM: usize = BLOCK_BYTES as usize - HEADER;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableKind {
    Pages,
    Chunks,
    Directory,
}

impl TableKind {
    fn number(self) -> u8 {
        match self {
            TableKind::Pages => 4,
            TableKind::Chunks => 5,
            TableKind::Directory => 6,
        }
    }

    fn entry_bytes(self) -> usize {
        match self {
            TableKind::Pages => 16,
            TableKind::Chunks => 24,
            TableKind::Directory => 8,
        }
    }

    pub fn entries(self) -> usize {
        ROOM / self.entry_bytes()
    }
}

/// Where the blocks of one table are, and which changed since.
pub(crate) struct Table {
    pub kind: TableKind,
    pub addresses: Vec<BlockAddress>,
    dirty: Vec<bool>,
}

impl Table {
    pub fn new(kind: TableKind, addresses: Vec<BlockAddress>) -> Self {
        let dirty = vec![false; addresses.len()];
        Self { kind, addresses, dirty }
    }

    /// The entry's block must be written with the next checkpoint.
    pub fn mark(&mut self, entry: u32) {
        let block = entry as usize / self.kind.entries();
        if block >= self.dirty.len() {
            self.dirty.resize(block + 1, true);
            self.addresses.resize(block + 1, BlockAddress::default());
        }
        self.dirty[block] = true;
    }

    /// The changed blocks; all count as written from now on.
    pub fn take_dirty(&mut self) -> Vec<u32> {
        let dirty = (0..self.dirty.len() as u32).filter(|block| self.dirty[*block as usize]).collect();
        self.dirty.fill(false);
        dirty
    }

    pub fn dirty_blocks(&self) -> usize {
        self.dirty.iter().filter(|dirty| **dirty).count()
    }
}

/// One block of a table before it has a place.
pub(crate) struct TableBlock {
    kind: TableKind,
    pub index: u32,
    bytes: Vec<u8>,
}

impl TableBlock {
    pub fn new(kind: TableKind, index: u32) -> Self {
        Self { kind, index, bytes: Vec::with_capacity(ROOM) }
    }

    pub fn push_page(&mut self, tree: u32, address: Address) {
        let used = address.blocks > 0;
        for number in [if used { tree } else { 0 }, address.block, address.sum, u32::from(address.blocks)] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub fn push_chunk(&mut self, chunk: &Chunk) {
        let kind = match chunk.kind {
            ChunkKind::Free => 0,
            ChunkKind::Slots => 1,
            ChunkKind::Extent => 2_u32,
        };
        let numbers =
            [kind, chunk.run.block, chunk.run.blocks, chunk.tree, chunk.live_bytes, chunk.used_bytes];
        for number in numbers {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub fn push_address(&mut self, address: BlockAddress) {
        self.bytes.extend_from_slice(&address.block.to_le_bytes());
        self.bytes.extend_from_slice(&address.sum.to_le_bytes());
    }

    /// Fills a zeroed block that will lie at `block`.
    pub fn seal(&self, block: u32, target: &mut [u8]) -> BlockAddress {
        target[8..12].copy_from_slice(&block.to_le_bytes());
        target[12] = self.kind.number();
        target[16..20].copy_from_slice(&self.index.to_le_bytes());
        target[HEADER..HEADER + self.bytes.len()].copy_from_slice(&self.bytes);
        let sum = checksum(&target[8..], u64::from(self.index));
        target[..8].copy_from_slice(&sum.to_le_bytes());
        BlockAddress { block, sum: sum as u32 }
    }
}

/// The entries of a block from disk, or what is wrong with it.
pub(crate) fn open(
    bytes: &[u8],
    kind: TableKind,
    index: u32,
    address: BlockAddress,
) -> Result<Reader<'_>, String> {
    let what = || format!("block {index} of the {kind:?} table");
    if bytes.len() != BLOCK_BYTES as usize {
        return Err(format!("{} is cut short", what()));
    }
    let sum = checksum(&bytes[8..], u64::from(index));
    if sum as u32 != address.sum || bytes[..8] != sum.to_le_bytes() {
        return Err(format!("{}: checksum is {:08x}, want {:08x}", what(), sum as u32, address.sum));
    }
    if bytes[8..12] != address.block.to_le_bytes()
        || bytes[12] != kind.number()
        || bytes[16..20] != index.to_le_bytes()
    {
        return Err(format!("{} lies where another block should", what()));
    }
    Ok(Reader(&bytes[HEADER..]))
}

pub(crate) fn read_page(reader: &mut Reader<'_>) -> Option<(u32, Address)> {
    let (tree, block, sum, blocks) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    Some((tree, Address { block, sum, blocks: u8::try_from(blocks).ok()? }))
}

pub(crate) fn read_chunk(reader: &mut Reader<'_>) -> Option<Chunk> {
    let kind = match reader.u32()? {
        0 => ChunkKind::Free,
        1 => ChunkKind::Slots,
        2 => ChunkKind::Extent,
        _ => return None,
    };
    let run = Run { block: reader.u32()?, blocks: reader.u32()? };
    let (tree, live_bytes, used_bytes) = (reader.u32()?, reader.u32()?, reader.u32()?);
    Some(Chunk { kind, run, tree, live_bytes, used_bytes, since: 0 })
}

pub(crate) fn read_address(reader: &mut Reader<'_>) -> Option<BlockAddress> {
    Some(BlockAddress { block: reader.u32()?, sum: reader.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_tables() {
        let mut block = TableBlock::new(TableKind::Chunks, 2);
        let chunk = Chunk {
            kind: ChunkKind::Slots,
            run: Run { block: 3, blocks: 16 },
            tree: 4,
            live_bytes: 5,
            used_bytes: 6,
            since: 0,
        };
        block.push_chunk(&chunk);
        let mut bytes = vec![0; 4096];
        let address = block.seal(9, &mut bytes);
        assert_eq!(bytes[8..20], [9, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0]);
        let numbers: Vec<u8> = [1, 3, 16, 4, 5, 6_u32].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(bytes[32..56], numbers);
        let mut reader = open(&bytes, TableKind::Chunks, 2, address).unwrap();
        assert_eq!(read_chunk(&mut reader), Some(chunk));
        assert!(open(&bytes, TableKind::Pages, 2, address).is_err());
        assert!(open(&bytes, TableKind::Chunks, 1, address).is_err());

        let mut block = TableBlock::new(TableKind::Pages, 0);
        block.push_page(7, Address { block: 8, blocks: 2, sum: 9 });
        assert_eq!(block.bytes, [7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(TableKind::Pages.entries(), 254);
    }
}
