//! A set of numbers, of millions of them, that never grows as a whole: many small tables, each with its share of the numbers, of which each grows by
//! itself, in a part of a millisecond ([`crate::cache::values`] says why).

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// So few that what they are known by fits into the innermost cache.
const PARTS: usize = 256;

/// A hash for keys that are numbers: one multiplication. Nobody chooses them, so nothing must withstand an attack.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

type NumberHash = BuildHasherDefault<NumberHasher>;

#[derive(Default)]
pub(crate) struct NumberSet(Vec<HashSet<u64, NumberHash>>);

/// Where a number belongs. By bits of its product that tables neither begin to look by nor compare first.
fn part_of(number: u64) -> usize {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % PARTS
}

impl NumberSet {
    /// Whether it was not in the set.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.0.is_empty() {
            self.0.resize_with(PARTS, HashSet::default);
        }
        self.0[part_of(number)].insert(number)
    }

    /// Whether it was in the set.
    pub fn remove(&mut self, number: u64) -> bool {
        self.0.get_mut(part_of(number)).is_some_and(|part| part.remove(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Random;

    #[test]
    fn it_is_a_set_whose_parts_have_alike_many() {
        let mut random = Random::new(1);
        let (mut set, mut model) = (NumberSet::default(), HashSet::new());
        assert!(!set.remove(1));
        for _ in 0..200_000 {
            // Places of values: a chunk, and a multiple of eight in it.
            let number = (random.below(64) << 32) | (random.below(2000) * 8);
            match random.below(4) {
                0 => assert_eq!(set.remove(number), model.remove(&number)),
                _ => assert_eq!(set.insert(number), model.insert(number)),
            }
        }
        let largest = set.0.iter().map(HashSet::len).max().unwrap();
        assert!(largest < 2 * model.len() / PARTS, "{largest} of {} in one of {PARTS} parts", model.len());
        assert!(model.iter().all(|number| set.remove(*number)));
        assert!(set.0.iter().all(HashSet::is_empty));
    }
}
