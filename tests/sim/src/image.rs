//! What one simulated file holds: its bytes, its length, the blocks it has been given.
//!
//! Always: bytes behind the length, and blocks never written or punched, read as zeros. Blocks are shared between images
//! and copied when one of them changes, so that the durable image and the visible one cost little more than one.

use std::collections::BTreeMap;
use std::rc::Rc;

use photondb_storage::disk::BLOCK_BYTES;

use crate::Random;

/// What a disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;
const BLOCK: u64 = BLOCK_BYTES as u64;

#[derive(Clone, Default)]
pub(crate) struct Image {
    length: u64,
    blocks: BTreeMap<u64, Rc<[u8]>>,
    /// One bit per block that takes space.
    allocated: Vec<u64>,
}

/// A change of a file on its way to the platter.
#[derive(Clone)]
pub(crate) enum Change {
    Write {
        offset: u64,
        bytes: Rc<[u8]>,
    },
    /// Zeros up to there.
    Extend {
        bytes: u64,
    },
    Punch {
        offset: u64,
        bytes: u64,
    },
    Truncate {
        bytes: u64,
    },
}

impl Image {
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn allocated_bytes(&self) -> u64 {
        self.allocated.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() * BLOCK
    }

    pub fn read(&self, offset: u64, bytes: u64) -> Rc<[u8]> {
        let end = (offset + bytes).min(self.length);
        let mut read = vec![0; end.saturating_sub(offset) as usize];
        for (at, chunk) in (offset..).step_by(BLOCK as usize).zip(read.chunks_mut(BLOCK as usize)) {
            if let Some(block) = self.blocks.get(&(at / BLOCK)) {
                chunk.copy_from_slice(&block[..chunk.len()]);
            }
        }
        read.into()
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => {
                for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    self.write_sector(offset + (index * SECTOR_BYTES) as u64, sector);
                }
            }
            Change::Extend { bytes } => self.extend(*bytes),
            Change::Punch { offset, bytes } => {
                for block in offset / BLOCK..(offset + bytes) / BLOCK {
                    self.free(block);
                }
            }
            Change::Truncate { bytes } => self.truncate(*bytes),
        }
    }

    /// Applies what a power loss lets through of a change: any of its sectors, some of its growth.
    pub fn apply_torn(&mut self, change: &Change, random: &mut Random) {
        match change {
            Change::Write { offset, bytes } => {
                for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if random.one_in(2) {
                        self.write_sector(offset + (index * SECTOR_BYTES) as u64, sector);
                    }
                }
            }
            Change::Extend { bytes } if *bytes > self.length => {
                let grown = random.below(*bytes - self.length + 1);
                self.extend(self.length + grown / BLOCK * BLOCK);
            }
            Change::Extend { .. } | Change::Punch { .. } | Change::Truncate { .. } => {
                if random.one_in(2) {
                    self.apply(change);
                }
            }
        }
    }

    pub fn flip(&mut self, offset: u64, bit: u8) {
        if offset >= self.length {
            return;
        }
        let mut block = self.read(offset / BLOCK * BLOCK, BLOCK).to_vec();
        block.resize(BLOCK as usize, 0);
        block[(offset % BLOCK) as usize] ^= 1 << bit;
        self.blocks.insert(offset / BLOCK, block.into());
    }

    /// Bytes of space that a change would newly take.
    pub fn grows_by(&self, change: &Change) -> u64 {
        let (from, to) = match change {
            Change::Write { offset, bytes } => (*offset, offset + bytes.len() as u64),
            Change::Extend { bytes } => (self.length / BLOCK * BLOCK, *bytes),
            Change::Punch { .. } | Change::Truncate { .. } => return 0,
        };
        (from / BLOCK..to.div_ceil(BLOCK)).filter(|block| !self.is_allocated(*block)).count() as u64 * BLOCK
    }

    fn write_sector(&mut self, offset: u64, sector: &[u8]) {
        let number = offset / BLOCK;
        let within = (offset % BLOCK) as usize;
        let block = self.blocks.entry(number).or_insert_with(|| vec![0; BLOCK as usize].into());
        if Rc::get_mut(block).is_none() {
            *block = block.to_vec().into();
        }
        let own = Rc::get_mut(block).expect("it was just copied");
        own[within..within + sector.len()].copy_from_slice(sector);
        self.allocate(number);
        self.length = self.length.max(offset + sector.len() as u64);
    }

    fn extend(&mut self, bytes: u64) {
        for block in self.length / BLOCK..bytes.div_ceil(BLOCK) {
            self.allocate(block);
        }
        self.length = self.length.max(bytes);
    }

    fn truncate(&mut self, bytes: u64) {
        let first_gone = bytes.div_ceil(BLOCK);
        for block in first_gone..self.length.div_ceil(BLOCK) {
            self.free(block);
        }
        if !bytes.is_multiple_of(BLOCK)
            && let Some(block) = self.blocks.get_mut(&(bytes / BLOCK))
        {
            let mut cut = block.to_vec();
            cut[(bytes % BLOCK) as usize..].fill(0);
            *block = cut.into();
        }
        self.length = bytes;
    }

    fn allocate(&mut self, block: u64) {
        let word = (block / 64) as usize;
        if self.allocated.len() <= word {
            self.allocated.resize(word + 1, 0);
        }
        self.allocated[word] |= 1 << (block % 64);
    }

    fn free(&mut self, block: u64) {
        self.blocks.remove(&block);
        if let Some(word) = self.allocated.get_mut((block / 64) as usize) {
            *word &= !(1 << (block % 64));
        }
    }

    fn is_allocated(&self, block: u64) -> bool {
        self.allocated.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }
}
