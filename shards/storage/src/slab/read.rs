//! Reading what is not in memory, and the calls that may need it.
//!
//! Always: after every await the tree is walked again, because what was read may have moved meanwhile. Bytes that fail their
//! check are an error only if the tree still points to them. Values of a range are read in the order of the disk, those that
//! lie close together at once, because a checkpoint writes the values of a leaf side by side.

use std::ops::Bound;
use std::rc::Rc;

use crate::btree::cell::{Cell, Location};
use crate::btree::page::Page;
use crate::btree::{Missing, PageId, tree};
use crate::disk::{Directory, Disk};
use crate::engine::{Direction, Entries, Range, StorageError, TreeId, Value};
use crate::slab::Shared;
use crate::slab::slot;
use crate::slab::state::{Found, State};

/// Slots are read together when no more than this lies between them.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// Read at once.
const READ_BYTES_MAX: u64 = 1 << 20;

/// A value of a range that is on disk.
struct Wanted {
    entry: usize,
    location: Location,
    slot_bytes: u32,
    offset: u64,
    before: usize,
    bytes: u32,
}

/// What one leaf gave to a range.
enum Step {
    Page(PageId),
    Leaf { wanted: Vec<(usize, Location, u32)>, next: Option<Bound<Vec<u8>>>, full: bool },
}

impl<D: Directory> Shared<D> {
    pub async fn load_page(&self, id: PageId) -> Result<(), StorageError> {
        let address = {
            let state = self.state.borrow();
            if state.pool.peek(id).is_some() {
                return Ok(());
            }
            match state.pool.frames.get(id as usize) {
                Some(frame) if frame.address.blocks > 0 => frame.address,
                Some(_) | None => {
                    let what = format!("page {id} is pointed to, but was never written");
                    return Err(StorageError::Corrupt { file: "pages".into(), offset: 0, what });
                }
            }
        };
        let offset = u64::from(address.block) * 4096;
        let bytes = self.pages.read(offset, u32::from(address.blocks) * 4096).await?;
        let mut state = self.state.borrow_mut();
        if state.pool.frames[id as usize].address != address {
            return Ok(());
        }
        match Page::open(&bytes, id, address.block, address.sum) {
            Ok(page) => {
                state.pool.loaded(id, page);
                Ok(())
            }
            Err(what) => {
                let error = StorageError::Corrupt { file: "pages".into(), offset, what };
                tracing::error!(%error, "a block is bad");
                Err(error)
            }
        }
    }

    pub async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Value>, StorageError> {
        let mut is_first = true;
        loop {
            let found = {
                let mut state = self.state.borrow_mut();
                let root = state.root(tree)?;
                let found = state.lookup(root, key);
                if std::mem::replace(&mut is_first, false) {
                    match &found {
                        Found::Value(_) => state.pool.hits += 1,
                        Found::Page(_) | Found::Slot { .. } => state.pool.misses += 1,
                    }
                }
                found
            };
            match found {
                Found::Value(value) => return Ok(value),
                Found::Page(page) => self.load_page(page).await?,
                Found::Slot { location, slot_bytes } => {
                    if let Some(value) = self.load_value(tree, key, location, slot_bytes).await? {
                        return Ok(Some(value));
                    }
                }
            }
        }
    }

    /// The value of a slot; `None` when the tree does not point there any more.
    async fn load_value(
        &self,
        tree: TreeId,
        key: &[u8],
        location: Location,
        slot_bytes: u32,
    ) -> Result<Option<Value>, StorageError> {
        let place = self.state.borrow().slot_place(location, slot_bytes);
        let (offset, before, bytes) = place.map_err(|what| bad_slot(0, what))?;
        let read = self.slabs.read(offset, bytes).await?;
        let slot = read.get(before..before + slot_bytes as usize).unwrap_or(&[]);
        self.take_slot(tree, key, location, slot, offset)
    }

    /// Checks a slot that was read and keeps its value in the cache.
    fn take_slot(
        &self,
        tree: TreeId,
        key: &[u8],
        location: Location,
        slot: &[u8],
        offset: u64,
    ) -> Result<Option<Value>, StorageError> {
        let mut state = self.state.borrow_mut();
        let root = state.root(tree)?;
        match state.lookup(root, key) {
            Found::Slot { location: now, .. } if now == location => {}
            Found::Value(_) | Found::Page(_) | Found::Slot { .. } => return Ok(None),
        }
        match slot::value_of(slot, state.bound_to(location), tree.0, key) {
            Ok(Some(value)) => {
                state.pool.add_value(location, Rc::clone(&value));
                Ok(Some(value))
            }
            Ok(None) => Err(bad_slot(offset, format!("the slot at {location:?} is another key's"))),
            Err(what) => Err(bad_slot(offset, what)),
        }
    }

    pub async fn ranks(&self, tree: TreeId, range: &Range) -> Result<(u64, u64), StorageError> {
        loop {
            let ranks = {
                let mut state = self.state.borrow_mut();
                let root = state.root(tree)?;
                tree::ranks(&mut state.pool, root, range)
            };
            match ranks {
                Ok(ranks) => return Ok(ranks),
                Err(Missing(page)) => self.load_page(page).await?,
            }
        }
    }

    pub async fn nth(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        n: u64,
    ) -> Result<Option<(Vec<u8>, Value)>, StorageError> {
        loop {
            let selected = {
                let mut state = self.state.borrow_mut();
                let root = state.root(tree)?;
                select(&mut state, root, range, direction, n)
            };
            match selected {
                Ok(None) => return Ok(None),
                Err(Missing(page)) => self.load_page(page).await?,
                Ok(Some(key)) => {
                    if let Some(value) = self.get(tree, &key).await? {
                        return Ok(Some((key, value)));
                    }
                }
            }
        }
    }

    pub async fn range(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Entries, StorageError> {
        let mut from = match direction {
            Direction::Forward => range.start.clone(),
            Direction::Backward => range.end.clone(),
        };
        let mut entries = Entries::default();
        let mut bytes = 0;
        if rows_max == 0 {
            return Ok(entries);
        }
        loop {
            let limits = (rows_max, bytes_max);
            match self.collect(tree, range, &from, direction, limits, &mut entries, &mut bytes)? {
                Step::Page(page) => self.load_page(page).await?,
                Step::Leaf { wanted, next, full } => {
                    self.load_values(tree, &mut entries, wanted).await?;
                    if full {
                        entries.more = true;
                        return Ok(entries);
                    }
                    match next {
                        Some(next) if is_before_end(&next, range, direction) => from = next,
                        Some(_) | None => return Ok(entries),
                    }
                }
            }
        }
    }

    /// Adds the entries of one leaf, those on disk with an empty value.
    #[allow(clippy::too_many_arguments, reason = "one step of a loop over its own state")]
    fn collect(
        &self,
        tree: TreeId,
        range: &Range,
        from: &Bound<Vec<u8>>,
        direction: Direction,
        (rows_max, bytes_max): (usize, usize),
        entries: &mut Entries,
        bytes: &mut usize,
    ) -> Result<Step, StorageError> {
        let mut state = self.state.borrow_mut();
        let root = state.root(tree)?;
        let stop = match tree::seek(&mut state.pool, root, from, direction) {
            Ok(stop) => stop,
            Err(Missing(page)) => return Ok(Step::Page(page)),
        };
        let Some(page) = state.pool.peek(stop.leaf).map(Rc::clone) else { return Ok(Step::Page(stop.leaf)) };
        let (start, end) = match direction {
            Direction::Forward => (start_index(&page, from), end_index(&page, &range.end)),
            Direction::Backward => (start_index(&page, &range.start), end_index(&page, from)),
        };
        let mut wanted = Vec::new();
        for step in 0..end.saturating_sub(start) {
            if entries.entries.len() >= rows_max || (*bytes >= bytes_max && !entries.entries.is_empty()) {
                return Ok(Step::Leaf { wanted, next: None, full: true });
            }
            let index = match direction {
                Direction::Forward => start + step,
                Direction::Backward => end - 1 - step,
            };
            let value = match Cell::decode(page.value(index)).expect("cells are checked when a page is read")
            {
                Cell::Inline(inline) => Rc::from(inline),
                Cell::Unplaced { number, .. } => state.unplaced(number),
                Cell::Placed { location, slot_bytes } => match state.pool.cached_value(location) {
                    Some(value) => {
                        state.pool.hits += 1;
                        value
                    }
                    None => {
                        wanted.push((entries.entries.len(), location, slot_bytes));
                        *bytes += slot_bytes as usize;
                        Rc::from(&[][..])
                    }
                },
            };
            *bytes += value.len();
            entries.entries.push((page.key(index), value));
        }
        Ok(Step::Leaf { wanted, next: stop.next, full: false })
    }

    async fn load_values(
        &self,
        tree: TreeId,
        entries: &mut Entries,
        wanted: Vec<(usize, Location, u32)>,
    ) -> Result<(), StorageError> {
        let mut slots = Vec::with_capacity(wanted.len());
        {
            let mut state = self.state.borrow_mut();
            state.pool.misses += wanted.len() as u64;
            for (entry, location, slot_bytes) in wanted {
                let (offset, before, bytes) =
                    state.slot_place(location, slot_bytes).map_err(|what| bad_slot(0, what))?;
                slots.push(Wanted { entry, location, slot_bytes, offset, before, bytes });
            }
        }
        slots.sort_unstable_by_key(|slot| slot.offset);
        let mut gone = Vec::new();
        let mut rest = &slots[..];
        while let Some(first) = rest.first() {
            let mut end = first.offset + u64::from(first.bytes);
            let mut count = 1;
            for slot in &rest[1..] {
                let slot_end = slot.offset + u64::from(slot.bytes);
                if slot.offset > end + GAP_BYTES_MAX || slot_end.max(end) - first.offset > READ_BYTES_MAX {
                    break;
                }
                end = end.max(slot_end);
                count += 1;
            }
            let read = self.slabs.read(first.offset, (end - first.offset) as u32).await?;
            for slot in &rest[..count] {
                let start = (slot.offset - first.offset) as usize + slot.before;
                let bytes = read.get(start..start + slot.slot_bytes as usize).unwrap_or(&[]);
                let entry = &mut entries.entries[slot.entry];
                match self.take_slot(tree, &entry.0, slot.location, bytes, slot.offset)? {
                    Some(value) => entry.1 = value,
                    None => gone.push(slot.entry),
                }
            }
            rest = &rest[count..];
        }
        gone.sort_unstable();
        for entry in gone.into_iter().rev() {
            match self.get(tree, &entries.entries[entry].0).await? {
                Some(value) => entries.entries[entry].1 = value,
                None => drop(entries.entries.remove(entry)),
            }
        }
        Ok(())
    }
}

fn bad_slot(offset: u64, what: String) -> StorageError {
    let error = StorageError::Corrupt { file: "slabs".into(), offset, what };
    tracing::error!(%error, "a block is bad");
    error
}

fn select(
    state: &mut State,
    root: PageId,
    range: &Range,
    direction: Direction,
    n: u64,
) -> Result<Option<Vec<u8>>, Missing> {
    let (start, end) = tree::ranks(&mut state.pool, root, range)?;
    if n >= end - start {
        return Ok(None);
    }
    let rank = match direction {
        Direction::Forward => start + n,
        Direction::Backward => end - 1 - n,
    };
    let Some((leaf, index)) = tree::select(&mut state.pool, root, rank)? else { return Ok(None) };
    Ok(Some(state.pool.page(leaf)?.key(index)))
}

fn start_index(page: &Page, start: &Bound<Vec<u8>>) -> usize {
    match start {
        Bound::Unbounded => 0,
        Bound::Included(key) => page.search(key).unwrap_or_else(|index| index),
        Bound::Excluded(key) => page.search(key).map_or_else(|index| index, |index| index + 1),
    }
}

fn end_index(page: &Page, end: &Bound<Vec<u8>>) -> usize {
    match end {
        Bound::Unbounded => page.count(),
        Bound::Included(key) => page.search(key).map_or_else(|index| index, |index| index + 1),
        Bound::Excluded(key) => page.search(key).unwrap_or_else(|index| index),
    }
}

/// Whether a range can have entries from there on.
fn is_before_end(next: &Bound<Vec<u8>>, range: &Range, direction: Direction) -> bool {
    let (Bound::Included(next) | Bound::Excluded(next)) = next else { return true };
    match direction {
        Direction::Forward => match &range.end {
            Bound::Unbounded => true,
            Bound::Included(end) => next <= end,
            Bound::Excluded(end) => next < end,
        },
        Direction::Backward => match &range.start {
            Bound::Unbounded => true,
            Bound::Included(start) | Bound::Excluded(start) => next > start,
        },
    }
}
