//! A map from numbers, of millions of entries, that never grows as a whole.
//!
//! A hash table that is full moves all of its entries into one of twice the size: a fifth of a second for ten million, while nothing else runs
//! on the core. Here are many small tables, each with its share of the numbers; each grows by itself, in a part of a millisecond.

use std::collections::HashMap;
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

pub(crate) struct NumberMap<T> {
    parts: Box<[HashMap<u64, T, NumberHash>]>,
    len: usize,
}

impl<T> Default for NumberMap<T> {
    fn default() -> Self {
        NumberMap { parts: (0..PARTS).map(|_| HashMap::default()).collect(), len: 0 }
    }
}

/// Where a number belongs. By bits of its product that tables neither begin to look by nor compare first.
fn part_of(number: u64) -> usize {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % PARTS
}

impl<T> NumberMap<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, number: u64) -> Option<&T> {
        self.parts[part_of(number)].get(&number)
    }

    pub fn contains(&self, number: u64) -> bool {
        self.get(number).is_some()
    }

    /// Gives what was there.
    pub fn insert(&mut self, number: u64, value: T) -> Option<T> {
        let old = self.parts[part_of(number)].insert(number, value);
        self.len += usize::from(old.is_none());
        old
    }

    pub fn remove(&mut self, number: u64) -> Option<T> {
        let old = self.parts[part_of(number)].remove(&number)?;
        self.len -= 1;
        Some(old)
    }

    /// In no order that means something.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.parts.iter().flatten().map(|(number, value)| (*number, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Random;

    #[test]
    fn it_is_a_map_whose_parts_have_alike_many() {
        let mut random = Random::new(1);
        let (mut map, mut model) = (NumberMap::default(), HashMap::new());
        for _ in 0..200_000 {
            // Places of values: a chunk, and a multiple of eight in it.
            let number = (random.below(64) << 32) | (random.below(2000) * 8);
            match random.below(4) {
                0 => assert_eq!(map.remove(number), model.remove(&number)),
                _ => assert_eq!(map.insert(number, number + 1), model.insert(number, number + 1)),
            }
            assert_eq!((map.len(), map.get(number)), (model.len(), model.get(&number)));
        }
        let mut found: Vec<_> = map.iter().map(|(number, value)| (number, *value)).collect();
        let mut wanted: Vec<_> = model.into_iter().collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
        let largest = map.parts.iter().map(HashMap::len).max().unwrap();
        assert!(largest < 2 * map.len() / PARTS, "{largest} of {} in one of {PARTS} parts", map.len());
    }
}
