//! Reading ahead of scans: while a caller works on what it has of a range, the store's background reads what comes next.
//!
//! Always: a *part* of a range is read once: a scan that comes to it while it is being read waits, and what a scan asks for
//! ends where a part ends. Parts begin as large as what the caller asks for and grow while it goes on: documents that lie close
//! together in keys lie close together in what each checkpoint wrote, so the larger a part, the longer the runs that it is read in.
//! Scans that memory answers leave no wish here. Parts are few and the oldest goes first, since a scan that does not come back
//! would only be read for nothing. What is read in passing is no sign that it will be wanted again, so the cache does not count it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Bound;

use crate::disk::Directory;
use crate::engine::{Direction, Range, TreeId};
use crate::event::Event;
use crate::slab::Shared;

/// Parts that wait to be read, are read or were.
const PARTS_MAX: usize = 16;
/// A part is at most this, and at most so much of the cache, unless the caller asks for more at once.
const PART_BYTES_MAX: u64 = 4 << 20;
const CACHE_PART: u64 = 64;
/// Nothing is read ahead for calls that ask for more than this part of the cache at once.
const CALL_PART: u64 = 20;
/// Entries of a part are bounded as if each had this many bytes.
const ENTRY_BYTES: usize = 128;

/// A scan, as far as it can be told from others: where it began does not matter.
#[derive(Clone, PartialEq)]
struct Course {
    tree: TreeId,
    direction: Direction,
    /// The end of the range.
    far: Bound<Vec<u8>>,
}

/// A part of a range.
#[derive(Clone)]
struct Part {
    number: u64,
    course: Course,
    /// It begins behind this key,
    behind: Vec<u8>,
    bytes: usize,
    rows: usize,
    state: Reading,
    /// A scan has come to it.
    met: bool,
}

#[derive(Clone, PartialEq)]
enum Reading {
    Wished,
    Now,
    /// and ends with this one, or with the range.
    Done(Option<Vec<u8>>),
}

#[derive(Default)]
pub(crate) struct Ahead {
    parts: RefCell<VecDeque<Part>>,
    next: Cell<u64>,
    closed: Cell<bool>,
    wished: Event,
    read: Event,
}

/// A part that a scan has come to.
pub(crate) struct Met {
    /// Its last key, unless the range ends with it.
    pub last: Option<Vec<u8>>,
}

fn near(range: &Range, direction: Direction) -> &Bound<Vec<u8>> {
    match direction {
        Direction::Forward => &range.start,
        Direction::Backward => &range.end,
    }
}

impl Course {
    fn of(tree: TreeId, range: &Range, direction: Direction) -> Course {
        let far = match direction {
            Direction::Forward => range.end.clone(),
            Direction::Backward => range.start.clone(),
        };
        Course { tree, direction, far }
    }

    fn range_behind(&self, key: Vec<u8>) -> Range {
        let (near, far) = (Bound::Excluded(key), self.far.clone());
        match self.direction {
            Direction::Forward => Range { start: near, end: far },
            Direction::Backward => Range { start: far, end: near },
        }
    }

    /// Whether a scan in this direction comes to `one` before `other`.
    fn is_before(&self, one: &[u8], other: &[u8]) -> bool {
        match self.direction {
            Direction::Forward => one < other,
            Direction::Backward => one > other,
        }
    }
}

impl Part {
    /// Whether entries behind this key are of the part, as far as is known.
    fn holds(&self, course: &Course, key: &[u8]) -> bool {
        let is_within = match &self.state {
            Reading::Wished | Reading::Now | Reading::Done(None) => true,
            Reading::Done(Some(last)) => course.is_before(key, last),
        };
        self.course == *course && is_within && !course.is_before(key, &self.behind)
    }
}

impl Ahead {
    fn wish(&self, course: Course, behind: Vec<u8>, bytes: usize, rows: usize) {
        if self.closed.get() {
            return;
        }
        let mut parts = self.parts.borrow_mut();
        if parts.len() == PARTS_MAX {
            parts.pop_front();
        }
        let number = self.next.get();
        self.next.set(number + 1);
        parts.push_back(Part { number, course, behind, bytes, rows, state: Reading::Wished, met: false });
        drop(parts);
        self.wished.notify();
    }

    /// What a scan leaves to be read behind the last key that it was given, because it had to wait for the disk.
    pub fn wish_behind(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        last: &[u8],
        limits: (usize, usize),
    ) {
        let (rows, bytes) = limits;
        self.wish(Course::of(tree, range, direction), last.to_vec(), bytes, rows);
    }

    /// A scan has come to the begin of a range: waits if that is being read, and takes back the wish if something else is. If it
    /// was read ahead, so will be what is behind it.
    pub async fn come_to(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        bytes_max: usize,
    ) -> Option<Met> {
        let Bound::Excluded(key) = near(range, direction) else { return None };
        let course = Course::of(tree, range, direction);
        loop {
            let read = self.read.listen();
            let found = {
                let mut parts = self.parts.borrow_mut();
                let place = parts.iter().position(|part| part.holds(&course, key))?;
                let is_idle = parts.iter().all(|part| part.state != Reading::Now);
                match &parts[place].state {
                    Reading::Now => None,
                    // It is about to be read: the loop has only not had its turn yet.
                    Reading::Wished if is_idle => None,
                    Reading::Wished => {
                        parts.remove(place);
                        return None;
                    }
                    Reading::Done(last) => {
                        let last = last.clone();
                        let (behind, met) =
                            (parts[place].behind.clone(), std::mem::replace(&mut parts[place].met, true));
                        let (bytes, rows) = (parts[place].bytes, parts[place].rows);
                        if !met {
                            // Who is here has left what lies before.
                            parts.retain(|part| {
                                part.course != course || !course.is_before(&part.behind, &behind)
                            });
                        }
                        Some((last, met, bytes, rows))
                    }
                }
            };
            match found {
                None => read.await,
                Some((last, met, bytes, rows)) => {
                    if let (Some(last), false) = (&last, met) {
                        let grown = (bytes * 2).min(bytes_max.max(bytes));
                        self.wish(course, last.clone(), grown, rows.max(grown / ENTRY_BYTES));
                    }
                    return Some(Met { last });
                }
            }
        }
    }

    /// The store closes: the loop ends, and nobody waits for it.
    pub fn close(&self) {
        self.closed.set(true);
        self.parts.borrow_mut().clear();
        self.wished.notify();
        self.read.notify();
    }

    fn take_wish(&self) -> Option<Part> {
        let mut parts = self.parts.borrow_mut();
        let part = parts.iter_mut().find(|part| part.state == Reading::Wished)?;
        part.state = Reading::Now;
        Some(part.clone())
    }

    /// A part was read as far as this, or could not be.
    fn ended(&self, number: u64, read: Option<Option<Vec<u8>>>) {
        let mut parts = self.parts.borrow_mut();
        if let Some(place) = parts.iter().position(|part| part.number == number) {
            match read {
                Some(last) => parts[place].state = Reading::Done(last),
                None => {
                    parts.remove(place);
                }
            }
        }
        drop(parts);
        self.read.notify();
    }
}

/// Forgets a part that is not read to its end, also when the reading was dropped half-way.
struct Guard<'a> {
    ahead: &'a Ahead,
    number: u64,
    read: Option<Option<Vec<u8>>>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.ahead.ended(self.number, self.read.take());
    }
}

impl<D: Directory> Shared<D> {
    /// How large parts may grow.
    pub fn part_bytes_max(&self) -> usize {
        (self.options.cache_bytes / CACHE_PART).min(PART_BYTES_MAX) as usize
    }

    /// Whether two parts of what a caller asks for, the one in hand and the next, go through the cache without washing it out.
    pub fn is_worth_reading_ahead(&self, bytes_max: usize) -> bool {
        self.background.get() && bytes_max as u64 <= self.options.cache_bytes / CALL_PART
    }

    pub async fn ahead_loop(&self) {
        while !self.closing.get() {
            let wished = self.ahead.wished.listen();
            let Some(part) = self.ahead.take_wish() else {
                wished.await;
                continue;
            };
            let mut guard = Guard { ahead: &self.ahead, number: part.number, read: None };
            let Part { course, behind, bytes, rows, .. } = part;
            let range = course.range_behind(behind);
            // Whoever comes for it meets the error himself.
            if let Ok((entries, _)) =
                self.read_portion(course.tree, &range, course.direction, (rows, bytes), Use::InPassing).await
            {
                let last = entries.entries.into_iter().next_back().map(|(key, _)| key);
                guard.read = match (entries.more, last) {
                    (true, None) => None,
                    (true, last) => Some(last),
                    (false, _) => Some(None),
                };
            }
        }
    }
}

/// Whether reading something says that it will be read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Use {
    #[default]
    Counts,
    InPassing,
}
