//! Showing values of a range where they lie in the cache.
//!
//! Always: nothing of the store changes while values are shown, since the state stays borrowed; so a visit is short, and it ends at the first
//! value that is not in memory. Addresses are gathered before any value is looked at, so that neither what the cache knows values by nor
//! the values are waited for one by one.

use crate::btree::PageId;
use crate::btree::cell::{Cell, Location, Slotted};
use crate::btree::tree;
use crate::cache::pool::Pool;
use crate::cache::values::Guess;
use crate::disk::Directory;
use crate::engine::{Direction, Range, StorageError, TreeId, VisitEnd, Visited};
use crate::slab::Shared;
use crate::slab::read::{bounds_in, is_before_end};
use crate::slab::state::State;

/// A leaf and those of its entries that the range holds.
struct Leaf {
    page: PageId,
    start: usize,
    end: usize,
}

/// Where an entry's value is to be found. Several places are made before the first value is asked for: then the memory answers for all at once.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Here(&'a [u8]),
    Unplaced(u64),
    Placed(Location, Option<&'a Guess>),
}

impl<'a> Place<'a> {
    /// `None` when the value is certainly not in memory.
    pub fn of(pool: &Pool, cell: &'a [u8], guess: Option<&'a Guess>) -> Option<Self> {
        match Cell::decode(cell).expect("cells are checked when a page is read") {
            Cell::Inline(inline) => Some(Place::Here(inline)),
            Cell::Unplaced { number, .. } => Some(Place::Unplaced(number)),
            Cell::Placed(Slotted { location, .. }) => {
                let may_be_there = guess.is_none_or(|guess| pool.guess(location, guess));
                may_be_there.then_some(Place::Placed(location, guess))
            }
        }
    }

    /// `None` when it is not in memory. Does not count as a use.
    pub fn value(&self, pool: &'a Pool) -> Option<&'a [u8]> {
        match *self {
            Place::Here(inline) => Some(inline),
            Place::Unplaced(number) => pool.unplaced.get(number).map(|value| &*value.bytes),
            Place::Placed(location, guess) => pool.peek_guessed(location, guess),
        }
    }
}

impl<D: Directory> Shared<D> {
    pub fn visit(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut dyn FnMut(&[&[u8]]) -> usize,
    ) -> Result<Visited, StorageError> {
        let state = &mut *self.state.borrow_mut();
        let (leaves, end) = leaves_of(state, tree, range, rows_max)?;
        leaves.iter().for_each(|leaf| state.pool.expect_guesses(leaf.page));
        let pool = &state.pool;
        let mut places = Vec::with_capacity(leaves.iter().map(|leaf| leaf.end - leaf.start).sum());
        let mut is_missing = false;
        'leaves: for leaf in &leaves {
            let Some(page) = pool.peek(leaf.page) else { break };
            let guesses = pool.guesses(leaf.page);
            for index in leaf.start..leaf.end {
                let Some(place) = Place::of(pool, page.value(index), guesses.get(index)) else {
                    is_missing = true;
                    break 'leaves;
                };
                places.push(place);
            }
        }
        let values: Vec<&[u8]> = places.iter().map_while(|place| place.value(pool)).collect();
        is_missing |= values.len() < places.len();
        let taken = see(&values).min(values.len());
        let end = match (taken < values.len(), is_missing) {
            (true, _) => VisitEnd::More,
            (false, true) => VisitEnd::Missing,
            (false, false) => end,
        };
        let last = last_of(state, &leaves, taken);
        state.pool.hits += taken as u64;
        Ok(Visited { last, end })
    }
}

/// The leaves of a range that are in memory, until they hold enough, and what follows them.
fn leaves_of(
    state: &mut State,
    tree: TreeId,
    range: &Range,
    rows_max: usize,
) -> Result<(Vec<Leaf>, VisitEnd), StorageError> {
    let root = state.root(tree)?;
    let (mut leaves, mut rows, mut from) = (Vec::new(), 0, range.start.clone());
    while rows < rows_max {
        let Ok(stop) = tree::seek(&mut state.pool, root, &from, Direction::Forward) else {
            return Ok((leaves, VisitEnd::Missing));
        };
        let page = state.pool.peek(stop.leaf).expect("a leaf that was just found");
        let (start, end) = bounds_in(page, range, &from, Direction::Forward);
        if start < end {
            rows += end - start;
            leaves.push(Leaf { page: stop.leaf, start, end });
        }
        match stop.next {
            Some(next) if is_before_end(&next, range, Direction::Forward) => from = next,
            Some(_) | None => return Ok((leaves, VisitEnd::Range)),
        }
    }
    Ok((leaves, VisitEnd::More))
}

/// The key of the last of so many entries.
fn last_of(state: &State, leaves: &[Leaf], taken: usize) -> Option<Vec<u8>> {
    let mut left = taken.checked_sub(1)?;
    for leaf in leaves {
        let count = leaf.end - leaf.start;
        if left < count {
            return Some(state.pool.peek(leaf.page)?.key(leaf.start + left));
        }
        left -= count;
    }
    None
}
