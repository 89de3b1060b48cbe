//! Values that are on disk and in memory too, found by their place on disk, or by where they stand here.
//!
//! Always: a value keeps its slot for as long as it is in memory, and a slot that is used again gets a number that no value ever had. Neither the slots
//! nor the index over them ever grow as a whole: a table that is full and moves all of its entries into one of twice the size takes a fifth of a second
//! for ten million of them, while nothing else runs on the core.
//!
//! The index is open addressing with linear probing and removal by shifting back (Knuth, The Art of Computer Programming 3, 6.4, algorithm R), in many small tables. Eight bytes lead to
//! a slot, so that a search touches one line of the index, which the processor's cache may well have, and one of the slots.

use std::cell::Cell;

use crate::engine::Value;

/// So few that what they are known by fits into the innermost cache.
const PARTS: usize = 256;
/// Slots are made so many at a time: 16 KiB.
const RUN_SLOTS: usize = 512;
const FREQUENCY_BITS: u32 = 2;
const FREQUENCY_MAX: u64 = (1 << FREQUENCY_BITS) - 1;
const NO_SLOT: u32 = u32::MAX;

/// Half a line of the processor's cache.
#[repr(align(32))]
pub(crate) struct Slot {
    /// `None` while nothing stands here.
    bytes: Option<Value>,
    /// Where the value lies on disk; of a free slot the next free one.
    place: u64,
    /// The value's number, and in the lowest bits how often it was asked for of late.
    stamp: Cell<u64>,
}

const _: () = assert!(size_of::<Slot>() == 32, "two slots fill a line");

/// Where a value stands, and which one it is of those that ever stood anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub slot: u32,
    pub number: u64,
}

/// Where a place's value may stand. It may be wrong at any time, which costs a search.
#[derive(Debug)]
pub(crate) struct Guess(Cell<u32>);

impl Default for Guess {
    fn default() -> Self {
        Guess(Cell::new(NO_SLOT))
    }
}

pub(crate) struct Values {
    runs: Vec<Box<[Slot; RUN_SLOTS]>>,
    first_free: u32,
    index: Box<[Table]>,
    len: usize,
    /// The number of the last that was added.
    last: u64,
}

impl Slot {
    fn free(next: u32) -> Self {
        Slot { bytes: None, place: u64::from(next), stamp: Cell::new(0) }
    }

    /// Notes that somebody asked. Written only when it changes: a hot value's slot then stays clean in the processor's cache.
    pub fn count_use(&self) {
        let stamp = self.stamp.get();
        if stamp & FREQUENCY_MAX < FREQUENCY_MAX {
            self.stamp.set(stamp + 1);
        }
    }

    /// Takes one note off. Whether there was one.
    pub fn take_note(&self) -> bool {
        let stamp = self.stamp.get();
        let is_noted = stamp & FREQUENCY_MAX > 0;
        self.stamp.set(stamp - u64::from(is_noted));
        is_noted
    }

    pub fn bytes(&self) -> &Value {
        self.bytes.as_ref().expect("a slot that was found has a value")
    }

    fn is_at(&self, place: u64) -> bool {
        self.place == place && self.bytes.is_some()
    }
}

impl Default for Values {
    fn default() -> Self {
        let index = (0..PARTS).map(|_| Table::default()).collect();
        Values { runs: Vec::new(), first_free: NO_SLOT, index, len: 0, last: 0 }
    }
}

impl Values {
    pub fn len(&self) -> usize {
        self.len
    }

    fn slot(&self, slot: u32) -> Option<&Slot> {
        Some(&self.runs.get(slot as usize / RUN_SLOTS)?[slot as usize % RUN_SLOTS])
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.runs[slot as usize / RUN_SLOTS][slot as usize % RUN_SLOTS]
    }

    fn find(&self, place: u64) -> Option<(u32, &Slot)> {
        let hash = Hash::of(place);
        let slots = self.index[hash.part()].slots(hash.tag());
        slots.filter_map(|slot| Some((slot, self.slot(slot)?))).find(|(_, slot)| slot.is_at(place))
    }

    /// The value at a place on disk.
    pub fn get(&self, place: u64) -> Option<&Slot> {
        self.find(place).map(|(_, slot)| slot)
    }

    /// Makes a guess, if none was made, by looking into the index alone; false when the value is certainly not there. Several guesses are made before
    /// the first of them is used with [`Values::guessed`]: then the memory answers for all of their slots at once.
    pub fn guess(&self, place: u64, guess: &Guess) -> bool {
        if guess.0.get() == NO_SLOT {
            let hash = Hash::of(place);
            guess.0.set(self.index[hash.part()].slots(hash.tag()).next().unwrap_or(NO_SLOT));
        }
        guess.0.get() != NO_SLOT
    }

    /// What [`Values::get`] would find. A wrong guess is mended.
    pub fn guessed(&self, place: u64, guess: &Guess) -> Option<&Slot> {
        if let Some(slot) = self.slot(guess.0.get())
            && slot.is_at(place)
        {
            return Some(slot);
        }
        let (slot, found) = self.find(place)?;
        guess.0.set(slot);
        Some(found)
    }

    /// Where the value at a place stands.
    pub fn standing(&self, place: u64) -> Option<Standing> {
        let (slot, found) = self.find(place)?;
        Some(Standing { slot, number: found.stamp.get() >> FREQUENCY_BITS })
    }

    /// The value that stood there, if it still does.
    pub fn at(&self, standing: Standing) -> Option<&Slot> {
        let slot = self.slot(standing.slot)?;
        (slot.stamp.get() >> FREQUENCY_BITS == standing.number).then_some(slot)
    }

    /// Gives where it stands, and the value that was at that place before.
    pub fn insert(&mut self, place: u64, bytes: Value) -> (Standing, Option<Value>) {
        self.last += 1;
        let (number, stamp) = (self.last, Cell::new(self.last << FREQUENCY_BITS));
        let found = self.find(place).map(|(slot, _)| slot);
        let slot = found.unwrap_or_else(|| self.free_slot());
        let old = std::mem::replace(self.slot_mut(slot), Slot { bytes: Some(bytes), place, stamp }).bytes;
        if found.is_none() {
            let hash = Hash::of(place);
            self.index[hash.part()].insert(hash.tag(), slot);
            self.len += 1;
        }
        (Standing { slot, number }, old)
    }

    /// Takes one off the list of free slots.
    fn free_slot(&mut self) -> u32 {
        if self.first_free == NO_SLOT {
            let first = (self.runs.len() * RUN_SLOTS) as u32;
            let next = |slot| if slot + 1 == RUN_SLOTS { NO_SLOT } else { first + slot as u32 + 1 };
            self.runs.push(Box::new(std::array::from_fn(|slot| Slot::free(next(slot)))));
            self.first_free = first;
        }
        let slot = self.first_free;
        self.first_free = self.slot_mut(slot).place as u32;
        slot
    }

    pub fn remove(&mut self, place: u64) -> Option<Value> {
        let (slot, _) = self.find(place)?;
        let hash = Hash::of(place);
        self.index[hash.part()].remove(hash.tag(), slot);
        let free = Slot::free(std::mem::replace(&mut self.first_free, slot));
        self.len -= 1;
        std::mem::replace(self.slot_mut(slot), free).bytes
    }

    /// All of them with their places, in no order that means something.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Value)> {
        self.every(1)
    }

    /// Those in about so many slots, from everywhere.
    pub fn sample(&self, slots: usize) -> impl Iterator<Item = (u64, &Value)> {
        self.every((self.runs.len() * RUN_SLOTS / slots).max(1))
    }

    fn every(&self, step: usize) -> impl Iterator<Item = (u64, &Value)> {
        let slots = (0..self.runs.len() * RUN_SLOTS).step_by(step);
        slots.filter_map(|slot| {
            let slot = self.slot(slot as u32)?;
            Some((slot.place, slot.bytes.as_ref()?))
        })
    }
}

/// One multiplication. Nobody chooses places, so nothing must withstand an attack.
struct Hash(u64);

impl Hash {
    fn of(place: u64) -> Self {
        Hash(place.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn part(&self) -> usize {
        (self.0 >> 56) as usize % PARTS
    }

    /// By its highest bits an entry's home in its table is chosen.
    fn tag(&self) -> u32 {
        (self.0 >> 24) as u32
    }
}

/// Slots by the tags of their places; several may have the same one.
#[derive(Default)]
struct Table {
    /// A power of two of them, or none. The tag in the upper half, the slot and one in the lower; 0 where there is none.
    entries: Box<[u64]>,
    len: usize,
}

fn tag_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

impl Table {
    const ENTRIES_MIN: usize = 16;

    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.entries.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }

    fn slots(&self, tag: u32) -> impl Iterator<Item = u32> {
        let mut at = self.home(tag);
        std::iter::from_fn(move || {
            loop {
                let entry = *self.entries.get(at)?;
                if entry == 0 {
                    return None;
                }
                at = self.after(at);
                if tag_of(entry) == tag {
                    return Some(entry as u32 - 1);
                }
            }
        })
    }

    fn insert(&mut self, tag: u32, slot: u32) {
        if self.len * 4 >= self.entries.len() * 3 {
            let larger = vec![0; (self.entries.len() * 2).max(Self::ENTRIES_MIN)].into_boxed_slice();
            for entry in std::mem::replace(&mut self.entries, larger) {
                if entry != 0 {
                    self.put(entry);
                }
            }
        }
        self.put(u64::from(tag) << 32 | (u64::from(slot) + 1));
        self.len += 1;
    }

    fn put(&mut self, entry: u64) {
        let mut at = self.home(tag_of(entry));
        while self.entries[at] != 0 {
            at = self.after(at);
        }
        self.entries[at] = entry;
    }

    fn remove(&mut self, tag: u32, slot: u32) {
        let entry = u64::from(tag) << 32 | (u64::from(slot) + 1);
        let mut gap = self.home(tag);
        while self.entries[gap] != entry {
            if self.entries[gap] == 0 {
                return;
            }
            gap = self.after(gap);
        }
        self.len -= 1;
        // What follows moves into the gap unless its home lies behind it.
        let mask = self.entries.len() - 1;
        let mut at = self.after(gap);
        while self.entries[at] != 0 {
            let home = self.home(tag_of(self.entries[at]));
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.entries[gap] = self.entries[at];
                gap = at;
            }
            at = self.after(at);
        }
        self.entries[gap] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Random;
    use std::collections::{HashMap, HashSet};
    use std::rc::Rc;

    /// Places whose values are put, looked up and removed at random agree with a model.
    #[track_caller]
    fn check(place_of: impl Fn(u64) -> u64, places: u64, rounds: u64) -> Values {
        let mut random = Random::new(places);
        let (mut values, mut model) = (Values::default(), HashMap::new());
        let (mut standings, mut numbers) = (HashMap::new(), HashSet::new());
        let old = Guess::default();
        for round in 0..rounds {
            let place = place_of(random.below(places));
            let bytes: Value = Rc::from(round.to_le_bytes().as_slice());
            match random.below(3) {
                0 => {
                    assert_eq!(values.remove(place), model.remove(&place));
                    if let Some(gone) = standings.remove(&place) {
                        assert!(values.at(gone).is_none(), "a value that went stands nowhere");
                    }
                }
                _ => {
                    let (standing, old) = values.insert(place, Rc::clone(&bytes));
                    assert_eq!(old, model.insert(place, bytes));
                    assert!(numbers.insert(standing.number), "a number is never given twice");
                    if let Some(before) = standings.insert(place, standing) {
                        assert!(values.at(before).is_none(), "nor does one that was replaced");
                    }
                }
            }
            let asked = place_of(random.below(places));
            let bytes = |slot: Option<&Slot>| slot.map(|slot| Rc::clone(slot.bytes()));
            let want = model.get(&asked).cloned();
            assert_eq!(bytes(values.get(asked)), want);
            let new = Guess::default();
            assert!(values.guess(asked, &new) || want.is_none());
            for guess in [&new, &old] {
                assert_eq!(bytes(values.guessed(asked, guess)), want);
                assert!(want.is_none() || guess.0.get() == standings[&asked].slot, "a wrong guess is mended");
            }
            assert_eq!(values.standing(asked), standings.get(&asked).copied());
            assert_eq!(bytes(standings.get(&asked).and_then(|standing| values.at(*standing))), want);
            assert_eq!(values.len(), model.len());
        }
        let mut found: Vec<_> = values.iter().map(|(place, value)| (place, Rc::clone(value))).collect();
        let mut wanted: Vec<_> = model.into_iter().collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
        values
    }

    #[test]
    fn values_are_found_as_a_map_would_find_them() {
        // Chunks, and multiples of eight in them.
        let values = check(|number| (number % 64) << 32 | (number / 64 * 8), 100_000, 400_000);
        let largest = values.index.iter().map(|table| table.len).max().unwrap();
        assert!(largest < 2 * values.len() / PARTS, "{largest} of {} in one part", values.len());
        let sampled = values.sample(1000).count();
        assert!((500..2000).contains(&sampled), "{sampled} of {}", values.len());
        check(|number| number, 3, 2_000);
        check(|number| number << 40, 1_000, 20_000);
    }

    #[test]
    fn places_that_look_alike_to_the_index_are_told_apart() {
        // What the factor of the hash makes 1 of: places so far apart have hashes that differ in the lowest bits only.
        let inverse = (0..6).fold(1u64, |inverse, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(inverse.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        });
        let alike = |number: u64| number.wrapping_mul(inverse);
        assert_eq!(Hash::of(alike(7)).tag(), Hash::of(alike(900)).tag());
        check(alike, 40, 20_000);
        // Tables that are run through from their ends.
        check(|number| (number << 20 | u64::MAX << 40).wrapping_mul(inverse), 300, 20_000);
    }

    #[test]
    fn notes_of_uses_are_counted_to_three_and_leave_the_number_alone() {
        let mut values = Values::default();
        let (standing, _) = values.insert(8, Rc::from(&b"value"[..]));
        let slot = values.get(8).unwrap();
        (0..5).for_each(|_| slot.count_use());
        assert!(values.at(standing).is_some());
        let notes = (0..5).filter(|_| slot.take_note()).count();
        assert_eq!(notes, 3);
        assert!(values.at(standing).is_some());
    }
}
