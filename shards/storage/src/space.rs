//! Which blocks of a file are in use.
//!
//! Always: a block that the durable checkpoint names, or that was given out since, is marked. So blocks come back
//! ([`Space::release`]) only after the checkpoint that no longer names them is durable. The bitmap is not stored: opening a
//! store rebuilds it from the tables of pages and chunks, which name every block in use, so that it cannot disagree with them.
//!
//! Free space goes back to the file system: the tail of the file is cut off, and whole units of [`HOLE_BLOCKS`] before it become
//! holes. A hole is never given out before it was filled again, so that writing to free blocks cannot find the disk full. Holes are
//! not stored either: at opening every unit that is free is taken for one, which at worst fills it once for nothing. So a unit is a
//! hole as a whole or not at all: where something lies in it, all its blocks are on disk, to the end of the file.

/// A run of blocks of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub block: u32,
    pub blocks: u32,
}

/// The blocks of one file: a bit each, set when in use.
#[derive(Default)]
pub(crate) struct Space {
    words: Vec<u64>,
    blocks: u32,
    used: u32,
    /// Where the last search ended: going round spreads writes and keeps the search short.
    cursor: u32,
    /// Units that may have no blocks on disk. Their bits are set, since they cannot be given out.
    holes: std::collections::BTreeSet<u32>,
}

/// Blocks of a unit that becomes a hole as a whole (1 MiB).
pub(crate) const HOLE_BLOCKS: u32 = 256;

impl Space {
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    pub fn free(&self) -> u32 {
        self.blocks - self.used
    }

    pub fn hole_blocks(&self) -> u32 {
        self.holes.len() as u32 * HOLE_BLOCKS
    }

    /// Blocks that something lies in.
    pub fn used(&self) -> u32 {
        self.used - self.hole_blocks()
    }

    fn unit(unit: u32) -> Run {
        Run { block: unit * HOLE_BLOCKS, blocks: HOLE_BLOCKS }
    }

    fn is_free_unit(&self, unit: u32) -> bool {
        let first = unit as usize * (HOLE_BLOCKS as usize / 64);
        let words = self.words.get(first..first + HOLE_BLOCKS as usize / 64);
        words.is_some_and(|words| words.iter().all(|word| *word == 0))
            && (unit + 1) * HOLE_BLOCKS <= self.blocks
    }

    /// Makes a hole of the last unit that is free, if there is one.
    pub fn make_hole(&mut self) -> Option<Run> {
        let unit = (0..self.blocks / HOLE_BLOCKS).rev().find(|unit| self.is_free_unit(*unit))?;
        self.take_as_hole(unit);
        Some(Self::unit(unit))
    }

    fn take_as_hole(&mut self, unit: u32) {
        self.holes.insert(unit);
        self.set(Self::unit(unit));
    }

    /// Takes every free unit for a hole. What is left of one at the end cannot be one: it does not count as part of the file.
    pub fn opened(&mut self) {
        let whole = self.blocks / HOLE_BLOCKS * HOLE_BLOCKS;
        if (whole..self.blocks).all(|block| !self.is_used(block)) {
            self.shorten(whole);
        }
        for unit in 0..self.blocks / HOLE_BLOCKS {
            if self.is_free_unit(unit) {
                self.take_as_hole(unit);
            }
        }
    }

    /// The first hole. It must be filled before [`Space::filled`].
    pub fn hole(&self) -> Option<Run> {
        self.holes.first().map(|unit| Self::unit(*unit))
    }

    /// The unit has blocks on disk again.
    pub fn filled(&mut self, unit: Run) {
        if self.holes.remove(&(unit.block / HOLE_BLOCKS)) {
            self.release(unit);
        }
    }

    /// Cuts off what is free at the end of the file, but for so many blocks; false when that is nothing worth it.
    pub fn cut_tail(&mut self, kept: u32) -> bool {
        let is_idle = |block: u32| !self.is_used(block) || self.holes.contains(&(block / HOLE_BLOCKS));
        let mut end = self.blocks;
        while end > 0 && is_idle(end - 1) {
            end -= 1;
        }
        let end = (end + kept).next_multiple_of(HOLE_BLOCKS);
        if end >= self.blocks {
            return false;
        }
        for unit in self.holes.split_off(&(end / HOLE_BLOCKS)) {
            self.release(Self::unit(unit));
        }
        self.shorten(end);
        true
    }

    fn shorten(&mut self, blocks: u32) {
        self.blocks = blocks;
        self.words.truncate((blocks as usize).div_ceil(64));
        self.cursor = self.cursor.min(blocks);
    }

    /// The file has become this long.
    pub fn grow(&mut self, blocks: u32) {
        if blocks > self.blocks {
            self.blocks = blocks;
            self.words.resize((blocks as usize).div_ceil(64), 0);
        }
    }

    fn is_used(&self, block: u32) -> bool {
        self.words[block as usize / 64] >> (block % 64) & 1 == 1
    }

    /// Marks a run that a table names; false when it lies outside the file or is in use already, so the tables are wrong.
    pub fn mark(&mut self, run: Run) -> bool {
        let Some(end) = run.block.checked_add(run.blocks) else { return false };
        if end > self.blocks || (run.block..end).any(|block| self.is_used(block)) {
            return false;
        }
        self.set(run);
        true
    }

    fn set(&mut self, run: Run) {
        for block in run.block..run.block + run.blocks {
            self.words[block as usize / 64] |= 1 << (block % 64);
        }
        self.used += run.blocks;
    }

    pub fn release(&mut self, run: Run) {
        for block in run.block..run.block + run.blocks {
            assert!(self.is_used(block), "block {block} is freed twice");
            self.words[block as usize / 64] &= !(1 << (block % 64));
        }
        self.used -= run.blocks;
        // Low blocks first: a store that shrank keeps its tail free for the file system.
        self.cursor = self.cursor.min(run.block);
    }

    /// A free run of exactly `blocks`.
    pub fn take(&mut self, blocks: u32) -> Option<Run> {
        let run = self.search(blocks, blocks)?;
        self.set(run);
        Some(run)
    }

    /// A free run of `least` to `most` blocks.
    pub fn take_up_to(&mut self, least: u32, most: u32) -> Option<Run> {
        let run = self.search(least, most)?;
        self.set(run);
        Some(run)
    }

    fn search(&mut self, least: u32, most: u32) -> Option<Run> {
        if self.free() < least {
            return None;
        }
        let found = match self.first_fit(self.cursor, self.blocks, least, most) {
            Some(found) => Some(found),
            None => self.first_fit(0, self.blocks, least, most),
        };
        if let Some(run) = found {
            self.cursor = run.block + run.blocks;
        }
        found
    }

    /// Free blocks that lie in runs of at least `least`.
    pub fn free_in_runs(&self, least: u32) -> u32 {
        let (mut total, mut run) = (0, 0);
        for block in 0..self.blocks {
            if self.is_used(block) {
                run = 0;
                continue;
            }
            run += 1;
            if run == least {
                total += least;
            } else if run > least {
                total += 1;
            }
        }
        total
    }

    fn first_fit(&self, from: u32, end: u32, least: u32, most: u32) -> Option<Run> {
        let (mut start, mut block) = (from, from);
        while block < end {
            if block.is_multiple_of(64) && self.words[block as usize / 64] == u64::MAX {
                if block - start >= least {
                    return Some(Run { block: start, blocks: block - start });
                }
                block += 64;
                start = block;
                continue;
            }
            if self.is_used(block) {
                if block - start >= least {
                    return Some(Run { block: start, blocks: block - start });
                }
                start = block + 1;
            } else if block - start + 1 == most {
                return Some(Run { block: start, blocks: most });
            }
            block += 1;
        }
        let blocks = end.saturating_sub(start);
        (blocks >= least && blocks > 0).then_some(Run { block: start, blocks: blocks.min(most) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_given_out_never_overlap_and_come_back() {
        let mut space = Space::default();
        space.grow(1000);
        let mut random = crate::suite::Random::new(7);
        let mut held: Vec<Run> = Vec::new();
        let mut owner = vec![false; 1000];
        for _ in 0..20_000 {
            if random.one_in(2) {
                let blocks = random.below(20) as u32 + 1;
                if let Some(run) = space.take(blocks) {
                    assert_eq!(run.blocks, blocks);
                    for block in run.block..run.block + run.blocks {
                        assert!(!std::mem::replace(&mut owner[block as usize], true));
                    }
                    held.push(run);
                }
            } else if !held.is_empty() {
                let run = held.swap_remove(random.below(held.len() as u64) as usize);
                owner[run.block as usize..(run.block + run.blocks) as usize].fill(false);
                space.release(run);
            }
            assert_eq!(space.free() as usize, owner.iter().filter(|used| !**used).count());
        }
    }

    #[test]
    fn holes_are_whole_free_units_and_are_given_out_only_when_filled() {
        let mut space = Space::default();
        space.grow(5 * HOLE_BLOCKS + 10);
        assert!(space.mark(Run { block: 300, blocks: 1 }));
        assert!(space.mark(Run { block: 1000, blocks: 1 }));
        space.opened();
        // Units 1 and 3 hold something, and what is behind the last whole unit is none.
        assert_eq!(space.hole_blocks(), 3 * HOLE_BLOCKS);
        assert_eq!((space.used(), space.free(), space.blocks()), (2, 2 * HOLE_BLOCKS - 2, 5 * HOLE_BLOCKS));
        assert_eq!(space.take(HOLE_BLOCKS), None);
        let hole = space.hole().unwrap();
        assert_eq!(hole, Run { block: 0, blocks: HOLE_BLOCKS });
        space.filled(hole);
        assert_eq!(space.take(HOLE_BLOCKS), Some(hole));
        assert!(space.cut_tail(0));
        assert_eq!((space.blocks(), space.hole_blocks()), (4 * HOLE_BLOCKS, HOLE_BLOCKS));
        assert!(!space.cut_tail(0));
        space.release(hole);
        assert_eq!(space.make_hole(), Some(hole));
        assert_eq!(space.used(), 2);
    }

    #[test]
    fn free_blocks_count_only_in_runs_that_are_long_enough() {
        let mut space = Space::default();
        space.grow(100);
        for block in [3, 10, 90] {
            assert!(space.mark(Run { block, blocks: 1 }));
        }
        // Runs of 3, 6, 79 and 9 blocks.
        for (least, want) in [(1, 97), (4, 94), (7, 88), (10, 79), (80, 0)] {
            assert_eq!(space.free_in_runs(least), want, "{least}");
        }
    }

    #[test]
    fn a_run_that_is_in_use_or_outside_is_refused() {
        let mut space = Space::default();
        space.grow(10);
        assert!(space.mark(Run { block: 2, blocks: 3 }));
        assert!(!space.mark(Run { block: 4, blocks: 1 }));
        assert!(!space.mark(Run { block: 9, blocks: 2 }));
        assert!(!space.mark(Run { block: u32::MAX, blocks: 2 }));
    }
}
