//! Reading several trees as one, in the order of their keys, from memory.
//!
//! Always: nothing waits, so an answer is the store at one moment; it ends before the first entry that must be read from disk.
//! Keys go first: of each tree one entry more is looked at than is given. The values of what is given are looked up together, so that
//! the memory answers for many at once.

use std::cmp::Ordering;
use std::ops::{Bound, Range as Span};
use std::rc::Rc;

use crate::btree::PageId;
use crate::btree::cell::{Cell, Pointer};
use crate::btree::page::Page;
use crate::btree::tree::{self, Descent, Step};
use crate::cache::touch_head;
use crate::cache::values::Guess;
use crate::disk::Directory;
use crate::engine::{Direction, Merged, MergedEntry, Range, StorageError, TreeId, Value, VisitEnd};
use crate::slab::Shared;
use crate::slab::read::{bounds_in, is_before_end};
use crate::slab::state::State;

/// Where one of the trees is read.
struct Source {
    /// Its place among the trees.
    tree: usize,
    root: PageId,
    leaf: Rc<Page>,
    /// What is left of the range in the leaf.
    left: Span<usize>,
    /// The inner page and its entry whose key is the bound where the tree goes on behind the leaf.
    next: Option<(PageId, usize)>,
    /// The key of the entry that comes next, in the keys of the merge.
    key: Span<usize>,
}

/// Where the value of an entry is.
enum Place {
    Here(Value),
    Elsewhere(Pointer),
}

/// An entry that is to be given.
struct Chosen {
    tree: usize,
    key: Span<usize>,
    place: Place,
}

/// A leaf, and the inner page and its entry whose key is the bound where its tree goes on behind it.
type Sought = (Rc<Page>, Option<(PageId, usize)>);

/// A page is not in memory.
struct Missing;

struct Merging<'a> {
    state: &'a mut State,
    range: &'a Range,
    direction: Direction,
    /// Keys of the entries that were looked at, one behind the other.
    keys: Vec<u8>,
    /// The value of an entry that has none.
    nothing: Value,
}

impl<D: Directory> Shared<D> {
    pub fn merge(
        &self,
        trees: &[TreeId],
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Merged, StorageError> {
        let state = &mut *self.state.borrow_mut();
        let roots = trees.iter().map(|tree| state.root(*tree)).collect::<Result<Vec<_>, _>>()?;
        let mut merging = Merging { state, range, direction, keys: Vec::new(), nothing: Rc::from([]) };
        let Ok(sources) = merging.begin(&roots, rows_max) else { return Ok(Merged::default()) };
        let mut chosen = Vec::with_capacity(rows_max.min(64));
        let end = merging.choose(sources, rows_max, &mut chosen);
        let Merging { state, keys, .. } = merging;
        Ok(fetch(state, keys, chosen, end, bytes_max))
    }
}

impl Merging<'_> {
    /// Goes to the beginning of the range in each of the trees, of which `rows_max` entries are wanted.
    fn begin(&mut self, roots: &[PageId], rows_max: usize) -> Result<Vec<Source>, Missing> {
        let range = self.range;
        let from = match self.direction {
            Direction::Forward => &range.start,
            Direction::Backward => &range.end,
        };
        let mut sources: Vec<Source> = Vec::with_capacity(roots.len());
        for (tree, (leaf, next)) in self.seek(roots, from)?.into_iter().enumerate() {
            let left = bounds_in(&leaf, range, from, self.direction);
            sources.push(Source { tree, root: roots[tree], leaf, left: left.0..left.1, next, key: 0..0 });
        }
        // About so many are taken of each, and one more is looked at.
        let each = (rows_max / roots.len().max(1)).saturating_add(2);
        for Source { leaf, left, .. } in &sources {
            let first = match self.direction {
                Direction::Forward => left.start..left.end.min(left.start.saturating_add(each)),
                Direction::Backward => left.start.max(left.end.saturating_sub(each))..left.end,
            };
            first.for_each(|index| leaf.touch_cell(index));
        }
        Ok(sources)
    }

    /// The leaves where a range from `from` on begins, and where each tree goes on behind its leaf.
    fn seek(&mut self, roots: &[PageId], from: &Bound<Vec<u8>>) -> Result<Vec<Sought>, Missing> {
        let direction = self.direction;
        let choose = |_, page: &Page| tree::child_towards(page, from, direction);
        let Descent { leaves, steps } = tree::descend(&mut self.state.pool, roots.iter().copied(), choose);
        let mut sought = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let leaf = leaf.ok().and_then(|leaf| self.state.pool.peek(leaf)).ok_or(Missing)?;
            sought.push((Rc::clone(leaf), None));
        }
        // The lowest page that has a child behind the one taken says where the tree goes on.
        for Step { walk, page: id, index } in steps {
            let page = self.state.pool.peek(id).ok_or(Missing)?;
            match direction {
                Direction::Forward if index + 1 < page.count() => sought[walk].1 = Some((id, index + 1)),
                Direction::Backward if index > 0 => sought[walk].1 = Some((id, index)),
                Direction::Forward | Direction::Backward => {}
            }
        }
        Ok(sought)
    }

    /// Takes the entries that come first, and says what follows them.
    fn choose(&mut self, mut sources: Vec<Source>, rows_max: usize, chosen: &mut Vec<Chosen>) -> VisitEnd {
        // Those with entries left, the nearest last.
        let mut order: Vec<usize> = Vec::with_capacity(sources.len());
        for (place, source) in sources.iter_mut().enumerate() {
            match self.look(source) {
                Ok(true) => order.push(place),
                Ok(false) => {}
                Err(Missing) => return VisitEnd::Missing,
            }
        }
        order.sort_unstable_by(|a, b| self.compare(&sources[*b].key, &sources[*a].key));
        while let Some(nearest) = order.pop() {
            if chosen.len() == rows_max {
                return VisitEnd::More;
            }
            chosen.push(self.take(&mut sources[nearest]));
            match self.look(&mut sources[nearest]) {
                Ok(true) => {
                    let key = &sources[nearest].key;
                    let is_behind = |other: &usize| self.compare(&sources[*other].key, key).is_gt();
                    order.insert(order.partition_point(is_behind), nearest);
                }
                Ok(false) => {}
                Err(Missing) => return VisitEnd::Missing,
            }
        }
        VisitEnd::Range
    }

    /// Goes to the next entry of a tree; false when the range has none left there.
    fn look(&mut self, source: &mut Source) -> Result<bool, Missing> {
        while source.left.is_empty() {
            let Some((page, index)) = source.next else { return Ok(false) };
            let key = self.state.pool.peek(page).ok_or(Missing)?.key(index);
            let from = match self.direction {
                Direction::Forward => Bound::Included(key),
                Direction::Backward => Bound::Excluded(key),
            };
            if !is_before_end(&from, self.range, self.direction) {
                source.next = None;
                return Ok(false);
            }
            let (leaf, next) = self.seek(&[source.root], &from)?.pop().ok_or(Missing)?;
            let (start, end) = bounds_in(&leaf, self.range, &from, self.direction);
            (source.left, source.leaf, source.next) = (start..end, leaf, next);
        }
        let start = self.keys.len();
        self.keys.extend_from_slice(source.leaf.prefix());
        self.keys.extend_from_slice(source.leaf.suffix(self.index(source)));
        source.key = start..self.keys.len();
        Ok(true)
    }

    /// The place in its leaf of the entry that comes next.
    fn index(&self, source: &Source) -> usize {
        match self.direction {
            Direction::Forward => source.left.start,
            Direction::Backward => source.left.end - 1,
        }
    }

    fn compare(&self, one: &Span<usize>, other: &Span<usize>) -> Ordering {
        let order = self.keys[one.clone()].cmp(&self.keys[other.clone()]);
        match self.direction {
            Direction::Forward => order,
            Direction::Backward => order.reverse(),
        }
    }

    /// Takes the entry that comes next.
    fn take(&self, source: &mut Source) -> Chosen {
        let cell = Cell::decode(source.leaf.value(self.index(source)));
        let place = match cell.expect("cells are checked when a page is read") {
            Cell::Inline([]) => Place::Here(Rc::clone(&self.nothing)),
            Cell::Inline(inline) => Place::Here(Rc::from(inline)),
            Cell::Placed(slotted) => Place::Elsewhere(Pointer::Placed(slotted)),
            Cell::Unplaced { number, value_bytes } => {
                Place::Elsewhere(Pointer::Unplaced { number, value_bytes })
            }
        };
        match self.direction {
            Direction::Forward => source.left.start += 1,
            Direction::Backward => source.left.end -= 1,
        }
        Chosen { tree: source.tree, key: source.key.clone(), place }
    }
}

/// Looks up the values of what was chosen, up to the first that is not in memory. All are found before the first is touched, and where
/// each begins is touched before the first is taken.
fn fetch(state: &mut State, keys: Vec<u8>, chosen: Vec<Chosen>, end: VisitEnd, bytes_max: usize) -> Merged {
    let mut merged = Merged { keys, entries: Vec::with_capacity(chosen.len()), end };
    let guess_at = |chosen: &Chosen| {
        let guess = Guess::default();
        if let Place::Elsewhere(Pointer::Placed(slotted)) = chosen.place {
            state.pool.guess(slotted.location, &guess);
        }
        guess
    };
    let guesses: Vec<Guess> = chosen.iter().map(guess_at).collect();
    let found = chosen.iter().zip(&guesses).map(|(chosen, guess)| match (&chosen.place, guess) {
        (Place::Here(value), _) => Some(value),
        (Place::Elsewhere(Pointer::Unplaced { number, .. }), _) => Some(state.unplaced(*number)),
        (Place::Elsewhere(Pointer::Placed(slotted)), guess) => {
            state.pool.guessed_value(slotted.location, Some(guess))
        }
    });
    let found: Vec<Option<&Value>> = found.collect();
    found.iter().flatten().for_each(|value| touch_head(value));
    let mut bytes = 0;
    for (Chosen { tree, key, .. }, value) in chosen.iter().zip(found) {
        if bytes >= bytes_max && !merged.entries.is_empty() {
            merged.end = VisitEnd::More;
            break;
        }
        let Some(value) = value else {
            merged.end = VisitEnd::Missing;
            break;
        };
        bytes += value.len();
        merged.entries.push(MergedEntry { tree: *tree, key: key.clone(), value: Rc::clone(value) });
    }
    state.pool.hits += merged.entries.len() as u64;
    merged
}
