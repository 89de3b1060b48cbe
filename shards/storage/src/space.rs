//! Which blocks of a file are in use.
//!
//! Always: a block that the durable checkpoint names, or that was given out since, is marked. So blocks come back
//! ([`Space::release`]) only after the checkpoint that no longer names them is durable. The bitmap is not stored: opening a
//! store rebuilds it from the tables of pages and chunks, which name every block in use, so that it cannot disagree with them.

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
}

impl Space {
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    pub fn free(&self) -> u32 {
        self.blocks - self.used
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
