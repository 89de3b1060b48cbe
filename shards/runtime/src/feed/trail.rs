//! The changes of one plan, kept once for all of a core's listeners who take them as they come, and so is their JSON.
//!
//! A change costs the same however many follow: it goes to the trail's open stretch. Now and then that is closed and shown to all
//! ([`Trail::close`]), who keep a place each and copy whole stretches of JSON.
//!
//! Always: only places hold stretches, each of which holds the next, so what all have taken is gone. Stretches are bounded, so
//! that making the JSON of one is short.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};

use super::Stamp;
use super::queue::Change;

/// A stretch ends with the change that makes it as large as this.
const STRETCH_CHANGES: usize = 1024;
const STRETCH_BYTES: u64 = 256 << 10;

#[derive(Default)]
pub struct Trail {
    /// Changes that nobody has been shown.
    open: RefCell<Vec<Rc<Change>>>,
    /// The number of the change that comes next.
    end: Cell<u64>,
    last: RefCell<Weak<Stretch>>,
    /// What was last taken: others will take the same.
    taken: RefCell<Option<Taken>>,
}

/// JSON of changes that were taken together.
#[derive(Clone)]
struct Taken {
    from: u64,
    upto: u64,
    include_types: bool,
    items: Rc<Vec<u8>>,
}

/// Some changes in a row.
pub struct Stretch {
    /// The number of the first.
    first: u64,
    changes: Vec<Rc<Change>>,
    /// The first commit of each shard.
    commits: Vec<Stamp>,
    /// Without types and with them.
    json: [OnceCell<Json>; 2],
    next: RefCell<Option<Rc<Stretch>>>,
}

struct Json {
    bytes: Vec<u8>,
    /// Where the text of each change ends; a comma follows.
    ends: Vec<u32>,
}

impl Drop for Stretch {
    /// One after the other: there may be more than a stack can hold.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(stretch) = next.and_then(Rc::into_inner) {
            next = stretch.next.take();
        }
    }
}

/// What a follower has come to.
pub struct Place {
    /// `None` when it has taken all it was shown.
    stretch: Option<Rc<Stretch>>,
    /// The number of the change that it takes next.
    at: u64,
    /// Changes up to these are known from before. Those of shards that have passed theirs are taken out.
    known: Vec<Stamp>,
}

impl Trail {
    pub fn push(&self, change: Rc<Change>) {
        self.open.borrow_mut().push(change);
        self.end.set(self.end.get() + 1);
    }

    /// Changes that nobody has been shown.
    pub fn open(&self) -> usize {
        self.open.borrow().len()
    }

    /// A place at the end, behind these changes.
    pub fn place(&self, known: Vec<Stamp>) -> Place {
        Place { stretch: None, at: self.end.get(), known }
    }

    /// How many changes are behind a place.
    pub fn waiting(&self, place: &Place) -> u64 {
        self.end.get() - place.at
    }

    /// Moves a place to the end. Gives how many changes it leaves out.
    pub fn skip(&self, place: &mut Place) -> u64 {
        let waiting = self.waiting(place);
        (place.stretch, place.at) = (None, self.end.get());
        waiting
    }

    /// Closes the open stretch; gives the first of those that it has become, which is to be [shown](Place::show) to all.
    pub fn close(&self) -> Option<Rc<Stretch>> {
        let changes = self.open.take();
        self.taken.take();
        let mut at = self.end.get() - changes.len() as u64;
        let (mut first, mut bytes, mut part) = (None, 0, Vec::new());
        let mut rest = changes.into_iter().peekable();
        while let Some(change) = rest.next() {
            bytes += change.bytes();
            part.push(change);
            if bytes >= STRETCH_BYTES || part.len() >= STRETCH_CHANGES || rest.peek().is_none() {
                let stretch = Rc::new(Stretch::new(at, std::mem::take(&mut part)));
                (at, bytes) = (at + stretch.changes.len() as u64, 0);
                if let Some(last) = self.last.replace(Rc::downgrade(&stretch)).upgrade() {
                    last.next.replace(Some(stretch.clone()));
                }
                first.get_or_insert(stretch);
            }
        }
        first
    }
}

impl Stretch {
    fn new(first: u64, changes: Vec<Rc<Change>>) -> Stretch {
        let mut commits: Vec<Stamp> = Vec::new();
        for change in &changes {
            if !commits.iter().any(|stamp| stamp.shard == change.shard) {
                commits.push(Stamp { shard: change.shard, commit: change.commit });
            }
        }
        Stretch { first, changes, commits, json: Default::default(), next: RefCell::default() }
    }

    fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    fn json(&self, include_types: bool) -> &Json {
        self.json[usize::from(include_types)].get_or_init(|| {
            let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(self.changes.len()));
            for change in &self.changes {
                if !bytes.is_empty() {
                    bytes.push(b',');
                }
                change.write(None, include_types, &mut bytes);
                ends.push(bytes.len() as u32);
            }
            Json { bytes, ends }
        })
    }
}

impl Place {
    /// Shows what was closed to one that has taken all before.
    pub fn show(&mut self, stretch: &Rc<Stretch>) {
        if self.stretch.is_none() {
            self.stretch = Some(stretch.clone());
            self.step();
        }
    }

    /// Something is to be taken.
    pub fn is_shown(&self) -> bool {
        self.stretch.is_some()
    }

    /// Goes on to the stretch where the next change is.
    fn step(&mut self) {
        while let Some(stretch) = &self.stretch
            && self.at >= stretch.end()
        {
            let next = stretch.next.borrow().clone();
            self.stretch = next;
        }
    }

    /// Whether all changes of the stretch are news.
    pub fn is_news(&mut self) -> bool {
        let Some(stretch) = &self.stretch else { return true };
        let mut is_news = true;
        self.known.retain(|known| {
            let first = stretch.commits.iter().find(|first| first.shard == known.shard);
            let passed = first.is_some_and(|first| first.commit > known.commit);
            is_news &= passed || first.is_none();
            !passed
        });
        is_news
    }

    /// Takes one change.
    pub fn next(&mut self) -> Option<Rc<Change>> {
        let stretch = self.stretch.as_ref()?;
        let change = stretch.changes[(self.at - stretch.first) as usize].clone();
        self.at += 1;
        self.step();
        Some(change)
    }

    /// Takes the JSON of changes that are all news: as many as fit, but at least one.
    pub fn take(
        &mut self,
        trail: &Trail,
        include_types: bool,
        elements_max: u32,
        bytes_max: u32,
    ) -> (Rc<Vec<u8>>, u32) {
        let from = self.at;
        if let Some(taken) = &*trail.taken.borrow()
            && (taken.from, taken.include_types) == (from, include_types)
            && taken.upto - from <= u64::from(elements_max)
            && taken.items.len() <= bytes_max as usize
            && self.is_news_upto(taken.upto)
        {
            self.at = taken.upto;
            self.step();
            return (taken.items.clone(), (taken.upto - from) as u32);
        }
        let mut items = Vec::new();
        let count = self.copy(include_types, elements_max, bytes_max, &mut items);
        let taken = Taken { from, upto: self.at, include_types, items: items.into() };
        trail.taken.replace(Some(taken.clone()));
        (taken.items, count)
    }

    /// Whether all changes before that number are news.
    fn is_news_upto(&mut self, upto: u64) -> bool {
        self.known.is_empty() || self.stretch.as_ref().is_none_or(|stretch| stretch.end() >= upto)
    }

    fn copy(&mut self, include_types: bool, elements_max: u32, bytes_max: u32, items: &mut Vec<u8>) -> u32 {
        let mut count = 0;
        while count < elements_max && self.is_news() {
            let Some(stretch) = &self.stretch else { break };
            let Some(room) = (bytes_max as usize).checked_sub(items.len()) else { break };
            let json = stretch.json(include_types);
            let from = (self.at - stretch.first) as usize;
            let start = if from == 0 { 0 } else { json.ends[from - 1] as usize + 1 };
            let fitting = json.ends[from..].partition_point(|end| *end as usize - start <= room);
            let fitting = fitting.min((elements_max - count) as usize).max(usize::from(count == 0));
            if fitting == 0 {
                break;
            }
            if count > 0 {
                items.push(b',');
            }
            items.reserve(json.ends[from + fitting - 1] as usize - start + 1);
            items.extend_from_slice(&json.bytes[start..json.ends[from + fitting - 1] as usize]);
            count += fitting as u32;
            self.at += fitting as u64;
            self.step();
        }
        count
    }
}
