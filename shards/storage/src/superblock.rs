//! The two superblocks: what a checkpoint names, so that it is there whole or not at all.
//!
//! ```text
//!   0  magic            "PHOTONDB"
//!   8  version u32      of the format of all files
//!  12  placement u32    of values: 0 in slots, 1 in leaves
//!  16  checksum u64     XXH3 of the block with this field zero
//!  24  generation u64   the higher of the two holds
//!  32  epoch u64        raised at each opening
//!  40  log: segment u64, offset u64, position u64, previous u64    where redo begins
//!  72  next tree u32
//!  76  pages u32        entries of the page table
//!  80  chunks u32       entries of the chunk table
//!  84  page blocks u32  length of the file `pages`
//!  88  slab blocks u32  length of the file `slabs`
//!  92  directory count u32
//!  96  directory blocks: block u32, checksum u32 each
//! ```
//!
//! They take turns, each in a block of its own: the one that is written is never the one that holds. A store is new
//! until its first superblock is durable.

use crate::bytes::{Reader, checksum};
use crate::disk::BLOCK_BYTES;
use crate::engine::StorageError;
use crate::wal::log::Place;

pub(crate) const SUPERBLOCKS_FILE: &str = "superblocks";
/// The format of all files of a store. Raise it with any change that an older program would misread.
pub(crate) const FORMAT_VERSION: u32 = 6;
/// Files of this version are read too; a superblock that is written says [`FORMAT_VERSION`].
pub(crate) const FORMAT_VERSION_OLDEST: u32 = 3;
const MAGIC: &[u8; 8] = b"PHOTONDB";
const HEAD_BYTES: usize = 96;
/// Directory blocks that a superblock can name; each names 500 table blocks.
pub(crate) const DIRECTORIES_MAX: usize = (BLOCK_BYTES as usize - HEAD_BYTES) / 8;

/// Where a store keeps the values that a leaf could hold. It is chosen when the store is made, and remembered in its superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// In slots, compressed, but for the smallest: leaves stay small, and a change of a document writes no other one.
    #[default]
    Slots,
    /// In the leaf beside the key, as they are: a read of a document is the read of its leaf. Only what is larger than a
    /// quarter of a leaf overflows into slots.
    Leaves,
}

impl Placement {
    /// As settings and errors call the backend that keeps its values so.
    pub fn backend(self) -> &'static str {
        match self {
            Placement::Slots => "slab",
            Placement::Leaves => "btree",
        }
    }
}

/// A block of a table or of a directory: where it is and what it sums to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockAddress {
    pub block: u32,
    pub sum: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub placement: Placement,
    pub generation: u64,
    pub epoch: u64,
    pub redo: Place,
    pub next_tree: u32,
    pub pages: u32,
    pub chunks: u32,
    pub page_blocks: u32,
    pub slab_blocks: u32,
    pub directories: Vec<BlockAddress>,
}

impl Superblock {
    /// Where this generation goes.
    pub fn offset(&self) -> u64 {
        self.generation % 2 * u64::from(BLOCK_BYTES)
    }

    pub fn encode(&self, target: &mut [u8]) {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        let placement: u32 = match self.placement {
            Placement::Slots => 0,
            Placement::Leaves => 1,
        };
        bytes.extend_from_slice(&placement.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        let redo = &self.redo;
        for number in [self.generation, self.epoch, redo.segment, redo.offset, redo.position, redo.previous] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let count = self.directories.len() as u32;
        for number in [self.next_tree, self.pages, self.chunks, self.page_blocks, self.slab_blocks, count] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for directory in &self.directories {
            bytes.extend_from_slice(&directory.block.to_le_bytes());
            bytes.extend_from_slice(&directory.sum.to_le_bytes());
        }
        bytes.resize(BLOCK_BYTES as usize, 0);
        let sum = checksum(&bytes, self.offset());
        bytes[16..24].copy_from_slice(&sum.to_le_bytes());
        target.copy_from_slice(&bytes);
    }

    /// `None` for a block that is not a whole superblock.
    pub fn decode(block: &[u8], offset: u64) -> Result<Option<Self>, StorageError> {
        if block.len() != BLOCK_BYTES as usize || block[..8] != *MAGIC {
            return Ok(None);
        }
        let mut reader = Reader(&block[8..]);
        let version = reader.u32().unwrap_or(0);
        if !(FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&version) {
            return Err(StorageError::Format { found: version, known: FORMAT_VERSION });
        }
        let mut unsummed = block.to_vec();
        unsummed[16..24].fill(0);
        if checksum(&unsummed, offset).to_le_bytes() != block[16..24] {
            return Ok(None);
        }
        let placement = match reader.u32() {
            Some(0) => Placement::Slots,
            Some(1) => Placement::Leaves,
            Some(_) | None => return Ok(None),
        };
        Ok(Self::decode_body(&block[24..], placement))
    }

    fn decode_body(body: &[u8], placement: Placement) -> Option<Self> {
        let mut reader = Reader(body);
        let mut superblock = Superblock {
            placement,
            generation: reader.u64()?,
            epoch: reader.u64()?,
            redo: Place {
                segment: reader.u64()?,
                offset: reader.u64()?,
                position: reader.u64()?,
                previous: reader.u64()?,
            },
            next_tree: reader.u32()?,
            pages: reader.u32()?,
            chunks: reader.u32()?,
            page_blocks: reader.u32()?,
            slab_blocks: reader.u32()?,
            directories: Vec::new(),
        };
        for _ in 0..reader.u32()? {
            superblock.directories.push(BlockAddress { block: reader.u32()?, sum: reader.u32()? });
        }
        Some(superblock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_superblock() {
        let superblock = Superblock {
            placement: Placement::Leaves,
            generation: 2,
            epoch: 3,
            redo: Place { segment: 4, offset: 5, position: 6, previous: 7 },
            next_tree: 8,
            pages: 9,
            chunks: 10,
            page_blocks: 11,
            slab_blocks: 12,
            directories: vec![BlockAddress { block: 13, sum: 14 }],
        };
        let mut block = vec![0; 4096];
        superblock.encode(&mut block);
        assert_eq!(block[..16], *b"PHOTONDB\x06\0\0\0\x01\0\0\0");
        let numbers: Vec<u8> = (2..=7_u64).flat_map(u64::to_le_bytes).collect();
        assert_eq!(block[24..72], numbers);
        let numbers: Vec<u8> =
            [8, 9, 10, 11, 12, 1, 13, 14_u32].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(block[72..104], numbers);
        assert_eq!(Superblock::decode(&block, 0).unwrap(), Some(superblock));
        assert_eq!(Superblock::decode(&block, 4096).unwrap(), None);
        block[8] = 9;
        assert_eq!(
            Superblock::decode(&block, 0),
            Err(StorageError::Format { found: 9, known: FORMAT_VERSION })
        );
    }
}
