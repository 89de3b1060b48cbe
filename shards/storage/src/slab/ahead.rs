//! Reading ahead of scans: while a caller works on one portion of a range, the store's background reads the next into the cache.
//!
//! Always: only what is asked for next is read, once: a scan that comes for a portion that is being read waits for it. Scans
//! that memory answers leave no wish here. Wishes are few and the oldest goes first, since a scan that does not come back
//! would only be read for nothing.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Bound;

use crate::disk::Directory;
use crate::engine::{Direction, Range, TreeId};
use crate::event::Event;
use crate::slab::Shared;

/// Portions that wait to be read.
const WISHES_MAX: usize = 8;

/// The portion of a range that a scan will ask for next.
#[derive(Clone, PartialEq)]
pub(crate) struct Portion {
    pub tree: TreeId,
    pub start: Bound<Vec<u8>>,
    pub end: Bound<Vec<u8>>,
    pub direction: Direction,
    pub limits: (usize, usize),
}

#[derive(Default)]
pub(crate) struct Ahead {
    wishes: RefCell<VecDeque<Portion>>,
    reading: RefCell<Option<Portion>>,
    wished: Event,
    read: Event,
    /// The portion that was read last: a scan that comes for it goes on being read ahead, though memory answers.
    last: RefCell<Option<Portion>>,
}

impl Portion {
    /// What is left of this one behind a key.
    pub fn behind(&self, last: &[u8]) -> Portion {
        let mut rest = self.clone();
        match self.direction {
            Direction::Forward => rest.start = Bound::Excluded(last.to_vec()),
            Direction::Backward => rest.end = Bound::Excluded(last.to_vec()),
        }
        rest
    }
}

impl Ahead {
    pub fn wish(&self, portion: Portion) {
        let mut wishes = self.wishes.borrow_mut();
        if wishes.len() == WISHES_MAX {
            wishes.pop_front();
        }
        wishes.push_back(portion);
        drop(wishes);
        self.wished.notify();
    }

    /// Whether a portion was read ahead, so that the one behind it is worth reading too.
    pub fn is_followed(&self, portion: &Portion) -> bool {
        let mut last = self.last.borrow_mut();
        last.take_if(|last| last == portion).is_some()
    }

    /// Wakes the loop so that it sees that the store closes.
    pub fn close(&self) {
        self.wished.notify();
    }

    /// A scan has come for a portion: waits if it is being read, and takes back the wish if it is not.
    pub async fn come_for(&self, portion: &Portion) {
        self.wishes.borrow_mut().retain(|wish| wish != portion);
        loop {
            let read = self.read.listen();
            if self.reading.borrow().as_ref() != Some(portion) {
                return;
            }
            read.await;
        }
    }
}

/// Says that nothing is being read any more, also when the reading was dropped half-way.
struct Guard<'a>(&'a Ahead);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.reading.replace(None);
        self.0.read.notify();
    }
}

impl<D: Directory> Shared<D> {
    pub async fn ahead_loop(&self) {
        while !self.closing.get() {
            let wished = self.ahead.wished.listen();
            let wish = self.ahead.wishes.borrow_mut().pop_front();
            let Some(wish) = wish else {
                wished.await;
                continue;
            };
            self.ahead.reading.replace(Some(wish.clone()));
            let _guard = Guard(&self.ahead);
            let Portion { tree, start, end, direction, limits } = wish.clone();
            let range = Range { start, end };
            // Whoever comes for it meets the error himself.
            if self.read_portion(tree, &range, direction, limits).await.is_ok() {
                self.ahead.last.replace(Some(wish));
            }
        }
    }
}
