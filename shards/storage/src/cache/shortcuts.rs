//! Shortcuts: where the values of keys are in memory, found without a walk through their trees.
//!
//! Always: a shortcut may be missing, and may lead to what is no more, but never to the value of another key, nor to an old one. That is why it
//! names the one value in memory that it was made for, by a number that is never given out again: nobody has to find the shortcuts of a
//! value that goes. A key is known by the number of its tree and 96 bits of two hashes with this process's own secrets, one of which is SipHash, so
//! that none can be made that looks like another. A key's shortcut is in one of the four places of its bucket; what finds them taken displaces the oldest.
//!
//! A walk waits for memory half a dozen times (pages on the way, heads of keys, the entry, the map of values), this once or twice. Hash
//! indexes above the trees that learn from what is asked are InnoDB's idea (its adaptive hash index); those lead to entries of pages.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cache::prefetch::prefetch;
use crate::cache::values::Standing;

/// Buckets are made so many at a time: 16 KiB.
const RUN_BUCKETS: usize = 128;
const RUN_BYTES: u64 = size_of::<Run>() as u64;
/// The part of the cache that may be shortcuts.
const BUDGET_PART: u64 = 32;

/// What a key is known by.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    bucket: u64,
    tag: Tag,
}

/// No tree has the number 0 but that of trees, whose values are too small for shortcuts.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Tag {
    sip: u64,
    xxh: u32,
    tree: u32,
}

#[derive(Clone, Copy, Default)]
struct Shortcut {
    tag: Tag,
    slot: u32,
    number: u64,
}

/// The newest first. Two lines of the processor's cache, which are fetched as a pair.
#[derive(Clone, Copy, Default)]
#[repr(align(128))]
struct Bucket([Shortcut; 4]);

type Run = [Bucket; RUN_BUCKETS];

const _: () = assert!(size_of::<Bucket>() == 128, "a bucket has no gaps");

pub(crate) struct Shortcuts {
    /// A power of two of them, or none.
    runs: Vec<Option<Box<Run>>>,
    runs_max: usize,
    runs_made: u64,
    secret: RandomState,
    seed: u64,
}

impl Shortcuts {
    /// For a cache of so many bytes.
    pub fn new(budget: u64) -> Self {
        let runs_max = (budget / BUDGET_PART / RUN_BYTES).min(1 << 32) as usize;
        let secret = RandomState::new();
        Self {
            runs: Vec::new(),
            // The power of two at or below it.
            runs_max: runs_max.checked_ilog2().map_or(0, |log| 1 << log),
            runs_made: 0,
            seed: secret.hash_one(()),
            secret,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.runs_made * RUN_BYTES
    }

    /// The bucket does not depend on the secrets, so that a simulation can be repeated.
    pub fn mark(&self, tree: u32, key: &[u8]) -> Mark {
        let mut hasher = self.secret.build_hasher();
        hasher.write(key);
        let xxh = (xxh3_64_with_seed(key, self.seed) >> 32) as u32;
        Mark { bucket: xxh3_64_with_seed(key, u64::from(tree)), tag: Tag { sip: hasher.finish(), xxh, tree } }
    }

    fn place_of(&self, mark: Mark) -> (usize, usize) {
        let bucket = mark.bucket as usize;
        ((bucket / RUN_BUCKETS) & self.runs.len().wrapping_sub(1), bucket % RUN_BUCKETS)
    }

    fn bucket(&self, mark: Mark) -> Option<&Bucket> {
        let (run, bucket) = self.place_of(mark);
        Some(&self.runs.get(run)?.as_ref()?[bucket])
    }

    /// Has the processor fetch the key's bucket.
    pub fn touch(&self, mark: Mark) {
        if let Some(Bucket([first, _, third, _])) = self.bucket(mark) {
            prefetch(first);
            prefetch(third);
        }
    }

    pub fn find(&self, mark: Mark) -> Option<Standing> {
        let found = self.bucket(mark)?.0.iter().find(|shortcut| shortcut.tag == mark.tag)?;
        Some(Standing { slot: found.slot, number: found.number })
    }

    /// Makes the key's shortcut, one of those to so many values. Gives the bytes that this took.
    pub fn set(&mut self, mark: Mark, standing: Standing, values: usize) -> u64 {
        let capacity = 4 * RUN_BUCKETS * self.runs.len();
        if values > capacity / 4 * 3 && self.runs.len() < self.runs_max {
            // Of the shortcuts in a run half belong to its new double from now on, where they are not found: they are made again.
            self.runs.resize_with((2 * self.runs.len()).max(1), || None);
        }
        let (run, bucket) = self.place_of(mark);
        let Some(run) = self.runs.get_mut(run) else { return 0 };
        let made = u64::from(run.is_none());
        let Bucket(shortcuts) =
            &mut run.get_or_insert_with(|| Box::new([Bucket::default(); RUN_BUCKETS]))[bucket];
        let old = shortcuts.iter().position(|shortcut| shortcut.tag == mark.tag).unwrap_or(3);
        shortcuts.copy_within(..old, 1);
        shortcuts[0] = Shortcut { tag: mark.tag, slot: standing.slot, number: standing.number };
        self.runs_made += made;
        made * RUN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Random;
    use std::collections::HashMap;

    /// What is found is what was set last, and most is found where there is room for most.
    #[track_caller]
    fn check(budget: u64, keys: u64, found_min: f64) {
        let mut random = Random::new(keys);
        let (mut shortcuts, mut model) = (Shortcuts::new(budget), HashMap::new());
        let mut taken = 0;
        for number in 0..keys * 16 {
            let (tree, key) = (random.below(3) as u32, random.below(keys).to_le_bytes());
            let entry = Standing { slot: random.below(1 << 32) as u32, number };
            model.insert((tree, key), entry);
            taken += shortcuts.set(shortcuts.mark(tree, &key), entry, model.len());
        }
        let mut found = 0;
        for ((tree, key), entry) in &model {
            let there = shortcuts.find(shortcuts.mark(*tree, key));
            assert!(there.is_none() || there == Some(*entry), "another's, or an old one");
            found += usize::from(there.is_some());
        }
        assert_eq!(taken, shortcuts.bytes());
        assert!(taken <= budget / BUDGET_PART, "{taken} bytes of {budget}");
        let part = found as f64 / model.len() as f64;
        assert!(part >= found_min, "{part} of {} found", model.len());
    }

    #[test]
    fn a_shortcut_is_the_last_that_was_set_or_missing() {
        check(256 << 20, 10_000, 0.9);
        check(256 << 20, 15_000, 0.9);
        check(256 << 20, 20_000, 0.9);
        check(256 << 20, 100, 0.9);
        // Room for 512 of 30,000, and for none.
        check(512 << 10, 10_000, 0.01);
        check(16 << 10, 1_000, 0.0);
    }

    #[test]
    fn keys_that_differ_by_a_bit_in_trees_that_differ_by_one_are_told_apart() {
        for _ in 0..8 {
            let shortcuts = Shortcuts::new(1 << 20);
            for length in 1..48 {
                let key = vec![b'7'; length];
                for (place, bit) in (0..length).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
                    let mut other = key.clone();
                    other[place] ^= 1 << bit;
                    for (tree, beside) in [(2, 3), (2, 2), (4, 5), (8, 12), (3, 7)] {
                        let (one, two) = (shortcuts.mark(tree, &key).tag, shortcuts.mark(beside, &other).tag);
                        assert!(one != two, "byte {place} of {length}, trees {tree} and {beside}");
                        assert!(one.sip != two.sip || one.xxh != two.xxh, "the keys themselves differ");
                    }
                }
            }
        }
    }
}
