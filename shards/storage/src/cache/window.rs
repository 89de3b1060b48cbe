//! A map from numbers that are given out one after the other, of which the oldest go first, more or less.
//!
//! Always: a number lies in the run that it is of, and runs without entries have no memory. What came together lies together, which a hash table
//! would spread: entries that are made, looked up and taken in about the same order are found in the processor's cache.

use std::collections::VecDeque;

/// Numbers of one run. One entry keeps the memory of its run: 1.5 KiB of values without a place.
const RUN: u64 = 32;

struct Run<T> {
    entries: [Option<T>; RUN as usize],
    len: usize,
}

pub(crate) struct Window<T> {
    runs: VecDeque<Option<Box<Run<T>>>>,
    /// The number of the first run.
    first: u64,
    len: usize,
    next: u64,
}

impl<T> Window<T> {
    /// The first number is 1.
    pub fn new() -> Self {
        Window { runs: VecDeque::new(), first: 0, len: 0, next: 1 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The number that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Gives the entry's number.
    pub fn push(&mut self, entry: T) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.runs.is_empty() {
            self.first = number / RUN;
        }
        let place = (number / RUN - self.first) as usize;
        if place >= self.runs.len() {
            self.runs.resize_with(place + 1, || None);
        }
        let make = || Box::new(Run { entries: std::array::from_fn(|_| None), len: 0 });
        let run = self.runs[place].get_or_insert_with(make);
        run.entries[(number % RUN) as usize] = Some(entry);
        run.len += 1;
        self.len += 1;
        number
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        (number / RUN).checked_sub(self.first).map(|place| place as usize)
    }

    pub fn get(&self, number: u64) -> Option<&T> {
        self.runs.get(self.place_of(number)?)?.as_ref()?.entries[(number % RUN) as usize].as_ref()
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let place = self.place_of(number)?;
        self.runs.get_mut(place)?.as_mut()?.entries[(number % RUN) as usize].as_mut()
    }

    pub fn remove(&mut self, number: u64) -> Option<T> {
        let place = self.place_of(number)?;
        let slot = self.runs.get_mut(place)?;
        let run = slot.as_mut()?;
        let entry = run.entries[(number % RUN) as usize].take()?;
        run.len -= 1;
        self.len -= 1;
        if run.len == 0 {
            *slot = None;
            while let Some(None) = self.runs.front() {
                self.runs.pop_front();
                self.first += 1;
            }
        }
        Some(entry)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        (self.first..).zip(&self.runs).flat_map(|(place, run)| {
            let entries = run.iter().flat_map(|run| &run.entries);
            (place * RUN..).zip(entries).filter_map(|(number, entry)| Some((number, entry.as_ref()?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Random;
    use std::collections::BTreeMap;

    #[test]
    fn it_is_a_map_and_what_is_empty_takes_nothing() {
        let mut random = Random::new(1);
        let (mut window, mut model) = (Window::new(), BTreeMap::new());
        for step in 0..200_000_u64 {
            // It grows and shrinks by turns.
            if random.below(10) < if step / 20_000 % 2 == 0 { 7 } else { 3 } {
                let number = window.push(step);
                assert_eq!(model.insert(number, step), None, "a number is given out once");
                assert_eq!(number + 1, window.next());
            } else {
                let number = window.next().saturating_sub(random.below(3000));
                assert_eq!(window.remove(number), model.remove(&number));
            }
            let number = window.next().saturating_sub(random.below(5000));
            assert_eq!(window.get(number), model.get(&number));
            assert_eq!(window.get_mut(number).copied(), model.get(&number).copied());
            assert_eq!(window.len(), model.len());
        }
        let model: Vec<(u64, u64)> = model.into_iter().collect();
        assert!(model.len() > 1000);
        assert_eq!(window.iter().map(|(number, entry)| (number, *entry)).collect::<Vec<_>>(), model);
        for (number, entry) in model {
            assert_eq!(window.remove(number), Some(entry));
        }
        assert!(window.runs.is_empty());
        assert_eq!(window.push(1), window.next() - 1);
    }
}
