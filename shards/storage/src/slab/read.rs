//! Reading what is not in memory, and the calls that may need it.
//!
//! Always: after every await the tree is walked again, because what was read may have moved meanwhile. Bytes that fail their
//! check are an error only if the tree still points to them. Values of a range are read in the order of the disk, those that
//! lie close together at once, because a checkpoint writes the values of a leaf side by side, and several runs beside each
//! other. A range ends before an entry that cannot be read, so nothing is passed over in silence: only
//! [`Shared::behind_damage`] goes on behind it.

use std::borrow::Cow;
use std::hint::black_box;
use std::ops::Bound;
use std::rc::Rc;

use crate::btree::cell::{Cell, Slotted};
use crate::btree::page::Page;
use crate::btree::{Missing, PageId, tree};
use crate::cache::pool::Pool;
use crate::cache::values::Guess;
use crate::compress::Unready;
use crate::disk::{Directory, Disk, DiskError};
use crate::engine::{Direction, Entries, Range, StorageError, TreeId, Value};
use crate::event::{all, yield_now};
use crate::slab::Shared;
use crate::slab::ahead::{Met, Use};
use crate::slab::slot;
use crate::slab::state::{Found, State};
use crate::slab::visit::Place;

/// Slots are read together when no more than this lies between them.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// Bytes of one read.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Reads of one call that are in flight at once.
const READS_AT_ONCE: usize = 32;
/// Entries that a range must be able to use before it reads more than one leaf at once.
const ROWS_PER_LEAF: usize = 100;
/// Leaves that a range reads at once.
const LEAVES_AHEAD_MAX: usize = 32;
/// Slots that are taken out of what was read before others have their turn.
const SLOTS_PER_TURN: usize = 64;

/// A value that is on disk, for one entry of an answer.
struct Wanted {
    entry: usize,
    slotted: Slotted,
    offset: u64,
    before: usize,
    bytes: u32,
}

/// What a read gave, and the offset it began at.
type Read<D> = Result<(<<D as Directory>::File as Disk>::Page, u64), DiskError>;

/// What one leaf gave to a range.
enum Step {
    Missing(tree::Gap),
    Leaf { next: Option<Bound<Vec<u8>>>, full: bool },
}

/// What a range has gathered.
#[derive(Default)]
struct Gathered {
    entries: Vec<(Vec<u8>, Value)>,
    /// Entries whose value is still to be read.
    wanted: Vec<(usize, Slotted)>,
    bytes: usize,
    used: Use,
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
        let tree = state.pool.frames[id as usize].tree;
        state.count_read(tree, bytes.len() as u64);
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
                let found = state.lookup(tree, key)?;
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
                Found::Slot(slotted) => {
                    if let Some(value) = self.read_value(tree, key, slotted).await? {
                        return Ok(Some(value));
                    }
                }
            }
        }
    }

    /// The values of several keys of a tree, read beside each other.
    pub async fn get_many(&self, tree: TreeId, keys: &[Vec<u8>]) -> Result<Vec<Option<Value>>, StorageError> {
        let mut values = vec![None; keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        let mut is_first = true;
        while !open.is_empty() {
            let (mut pages, mut wanted) = (Vec::new(), Vec::new());
            {
                let mut state = self.state.borrow_mut();
                let asked = open.len() as u64;
                let wanted_keys: Vec<_> = open.iter().map(|entry| (tree, keys[*entry].as_slice())).collect();
                let mut found = state.lookup_many(&wanted_keys)?.into_iter();
                open.retain(|entry| match found.next() {
                    Some(Found::Value(value)) => {
                        values[*entry] = value;
                        false
                    }
                    Some(Found::Page(page)) => {
                        pages.push(page);
                        true
                    }
                    Some(Found::Slot(slotted)) => {
                        wanted.push((*entry, slotted));
                        true
                    }
                    None => true,
                });
                if std::mem::replace(&mut is_first, false) {
                    state.pool.hits += asked - open.len() as u64;
                    state.pool.misses += open.len() as u64;
                }
            }
            self.load_pages(pages).await?;
            for (entry, value) in self.read_values(tree, |entry| &keys[entry], wanted).await {
                if let Some(value) = value? {
                    values[entry] = Some(value);
                    open.retain(|other| *other != entry);
                }
            }
        }
        Ok(values)
    }

    /// Loads pages beside each other.
    pub async fn load_pages(&self, mut pages: Vec<PageId>) -> Result<(), StorageError> {
        pages.sort_unstable();
        pages.dedup();
        let loaded = all(pages.into_iter().map(|page| self.load_page(page)), READS_AT_ONCE).await;
        loaded.into_iter().collect()
    }

    /// Checks a slot that was read and keeps its value in the cache. `None` when the tree does not point there any more.
    async fn take_slot(
        &self,
        tree: TreeId,
        key: &[u8],
        wanted: &Wanted,
        bytes: &[u8],
    ) -> Result<Option<Value>, StorageError> {
        let Slotted { location, sum, .. } = wanted.slotted;
        let bad = |what: &str| bad_slot(key, wanted.offset, what);
        let slot = {
            let state = &mut *self.state.borrow_mut();
            state.root(tree)?;
            if !state.points_to(tree, key, wanted.slotted) {
                return Ok(None);
            }
            let slot = slot::slot_of(bytes, state.bound_to(location), sum, tree.0, key);
            let slot = slot.map_err(|what| bad(&what))?;
            match state.codec.plain(slot.how, slot.stored, slot.plain_bytes) {
                Ok(value) => {
                    state.pool.add_value(location, Rc::clone(&value));
                    return Ok(Some(value));
                }
                Err(Unready::Broken(what)) => return Err(bad(&what)),
                Err(Unready::Dictionary(_)) => slot,
            }
        };
        let value = self.plain(&slot).await.map_err(|what| bad(&what))?;
        let mut state = self.state.borrow_mut();
        state.root(tree)?;
        if !state.points_to(tree, key, wanted.slotted) {
            return Ok(None);
        }
        state.pool.add_value(location, Rc::clone(&value));
        Ok(Some(value))
    }

    /// Reads the value in one slot. `None` when the tree does not point to it any more.
    async fn read_value(
        &self,
        tree: TreeId,
        key: &[u8],
        slotted: Slotted,
    ) -> Result<Option<Value>, StorageError> {
        let place = self.state.borrow().slot_place(slotted.location, slotted.slot_bytes);
        let (offset, before, bytes) = match place {
            Ok(place) => place,
            Err(what) if self.state.borrow_mut().points_to(tree, key, slotted) => {
                return Err(bad_slot(key, 0, &what));
            }
            // It was written anew meanwhile, and its chunk freed.
            Err(_) => return Ok(None),
        };
        self.state.borrow_mut().count_read(tree.0, u64::from(bytes));
        let read = self.slabs.read(offset, bytes).await?;
        let slot = read.get(before..before + slotted.slot_bytes as usize).unwrap_or(&[]);
        self.take_slot(tree, key, &Wanted { entry: 0, slotted, offset, before, bytes }, slot).await
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
        let limits = (rows_max, bytes_max);
        let mut range = Cow::Borrowed(range);
        loop {
            let part_bytes_max = self.part_bytes_max();
            let met = self.ahead.come_to(tree, &range, direction, part_bytes_max).await;
            let Some(Met { last }) = met else {
                let (entries, was_on_disk) =
                    self.read_portion(tree, &range, direction, limits, Use::Counts).await?;
                if let Some((last, _)) = entries.entries.last()
                    && entries.more
                    && was_on_disk
                    && rows_max >= ROWS_PER_LEAF
                    && self.is_worth_reading_ahead(bytes_max)
                {
                    self.ahead.wish_behind(tree, &range, direction, last, limits);
                }
                return Ok(entries);
            };
            // What is behind the part is being read: it is not read here too.
            let mut part = Range::clone(&range);
            let is_cut = last.is_some();
            match (last, direction) {
                (None, _) => {}
                (Some(last), Direction::Forward) => part.end = Bound::Included(last),
                (Some(last), Direction::Backward) => part.start = Bound::Included(last),
            }
            let (mut entries, _) = self.read_portion(tree, &part, direction, limits, Use::InPassing).await?;
            if !is_cut {
                return Ok(entries);
            }
            if entries.more || !entries.entries.is_empty() {
                entries.more = true;
                return Ok(entries);
            }
            // All that is left of the part was deleted meanwhile.
            match (direction, part) {
                (Direction::Forward, Range { end: Bound::Included(last), .. }) => {
                    range.to_mut().start = Bound::Excluded(last);
                }
                (Direction::Backward, Range { start: Bound::Included(last), .. }) => {
                    range.to_mut().end = Bound::Excluded(last);
                }
                (Direction::Forward | Direction::Backward, _) => return Ok(entries),
            }
        }
    }

    /// A portion of a range, and whether any of it had to be read from the disk.
    pub async fn read_portion(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        (rows_max, bytes_max): (usize, usize),
        used: Use,
    ) -> Result<(Entries, bool), StorageError> {
        let mut from = match direction {
            Direction::Forward => range.start.clone(),
            Direction::Backward => range.end.clone(),
        };
        if rows_max == 0 {
            return Ok((Entries::default(), false));
        }
        let mut was_on_disk = false;
        loop {
            let mut gathered = Gathered { used, ..Gathered::default() };
            let more =
                self.gather(tree, range, &from, direction, (rows_max, bytes_max), &mut gathered).await?;
            was_on_disk |= !gathered.wanted.is_empty();
            let last = gathered.entries.last().map(|(key, _)| key.clone());
            let entries = self.fill(tree, gathered, more).await?;
            match last {
                // All that was found was deleted while it was read.
                Some(last) if more && entries.entries.is_empty() => from = Bound::Excluded(last),
                Some(_) | None => return Ok((entries, was_on_disk)),
            }
        }
    }

    /// The entries of a range from `from` on, until a limit is reached, and whether there are more.
    async fn gather(
        &self,
        tree: TreeId,
        range: &Range,
        from: &Bound<Vec<u8>>,
        direction: Direction,
        limits: (usize, usize),
        gathered: &mut Gathered,
    ) -> Result<bool, StorageError> {
        let (rows_max, _) = limits;
        let mut from = from.clone();
        let more = loop {
            match self.collect(tree, range, &from, direction, limits, gathered)? {
                Step::Missing(gap) => {
                    let leaves = ((rows_max - gathered.entries.len()) / ROWS_PER_LEAF).min(LEAVES_AHEAD_MAX);
                    let ahead = gap.ahead.iter().take(leaves).map(|page| self.load_page(*page));
                    let page = self.load_page(gap.page);
                    let (loaded, _) = crate::event::both(page, all(ahead, READS_AT_ONCE)).await;
                    match loaded {
                        Err(_) if !gathered.entries.is_empty() => break true,
                        loaded => loaded?,
                    }
                }
                Step::Leaf { full: true, .. } => break true,
                Step::Leaf { next: Some(next), .. } if is_before_end(&next, range, direction) => from = next,
                Step::Leaf { .. } => break false,
            }
        };
        Ok(more)
    }

    /// Adds the entries of one leaf, those on disk with an empty value.
    fn collect(
        &self,
        tree: TreeId,
        range: &Range,
        from: &Bound<Vec<u8>>,
        direction: Direction,
        limits: (usize, usize),
        gathered: &mut Gathered,
    ) -> Result<Step, StorageError> {
        let state = &mut *self.state.borrow_mut();
        let root = state.root(tree)?;
        state.pool.in_passing = gathered.used == Use::InPassing;
        let step = collect_leaf(state, root, range, from, direction, limits, gathered);
        state.pool.in_passing = false;
        Ok(step)
    }

    /// Reads the values that a range has not got yet. It ends before the first that cannot be read.
    async fn fill(&self, tree: TreeId, gathered: Gathered, more: bool) -> Result<Entries, StorageError> {
        let Gathered { mut entries, wanted, .. } = gathered;
        if wanted.is_empty() {
            return Ok(Entries { entries, more });
        }
        let read = self.read_values(tree, |entry| &entries[entry].0, wanted).await;
        let mut damage: Option<(usize, StorageError)> = None;
        let mut gone = Vec::new();
        for (entry, value) in read {
            let value = match value {
                Ok(None) => self.get(tree, &entries[entry].0).await,
                read => read,
            };
            match value {
                Ok(Some(value)) => entries[entry].1 = value,
                Ok(None) => gone.push(entry),
                Err(StorageError::NoTree(name)) => return Err(StorageError::NoTree(name)),
                Err(error) if damage.as_ref().is_none_or(|(first, _)| entry < *first) => {
                    damage = Some((entry, error));
                }
                Err(_) => {}
            }
        }
        let is_damaged = damage.is_some();
        if let Some((first, error)) = damage {
            gone.retain(|entry| *entry < first);
            if gone.len() == first {
                return Err(error);
            }
            entries.truncate(first);
        }
        gone.sort_unstable();
        for entry in gone.into_iter().rev() {
            entries.remove(entry);
        }
        Ok(Entries { entries, more: more || is_damaged })
    }

    /// Reads values in the order of the disk, those that lie close together at once. `None` where the tree does not point to
    /// the slot any more.
    async fn read_values<'k>(
        &self,
        tree: TreeId,
        key_of: impl Fn(usize) -> &'k [u8],
        wanted: Vec<(usize, Slotted)>,
    ) -> Vec<(usize, Result<Option<Value>, StorageError>)> {
        let mut values = Vec::with_capacity(wanted.len());
        let mut slots = Vec::with_capacity(wanted.len());
        {
            let mut state = self.state.borrow_mut();
            for (entry, slotted) in wanted {
                match state.slot_place(slotted.location, slotted.slot_bytes) {
                    Ok((offset, before, bytes)) => {
                        slots.push(Wanted { entry, slotted, offset, before, bytes });
                    }
                    Err(what) if state.points_to(tree, key_of(entry), slotted) => {
                        values.push((entry, Err(bad_slot(key_of(entry), 0, &what))));
                    }
                    // It was written anew while a range went on, and its chunk freed.
                    Err(_) => values.push((entry, Ok(None))),
                }
            }
        }
        slots.sort_unstable_by_key(|slot| slot.offset);
        let runs = runs_of(&slots);
        let run_bytes: u64 = runs.iter().map(|run| run_end(run) - run[0].offset).sum();
        self.state.borrow_mut().count_read(tree.0, run_bytes);
        let read = all(runs.into_iter().map(|run| self.read_run(run)), READS_AT_ONCE).await;
        for (count, (slot, read)) in read.into_iter().flatten().enumerate() {
            if count % SLOTS_PER_TURN == SLOTS_PER_TURN - 1 {
                yield_now().await;
            }
            let value = match read {
                Ok((page, from)) => {
                    let place = (slot.offset - from) as usize + slot.before;
                    let bytes = page.get(place..place + slot.slotted.slot_bytes as usize).unwrap_or(&[]);
                    self.take_slot(tree, key_of(slot.entry), slot, bytes).await
                }
                Err(error) => Err(error.into()),
            };
            values.push((slot.entry, value));
        }
        values
    }

    /// Reads a run of slots at once or, where that fails, each alone, so that a bad block costs only those on it.
    async fn read_run<'w>(&self, run: &'w [Wanted]) -> Vec<(&'w Wanted, Read<D>)> {
        let start = run[0].offset;
        match self.slabs.read(start, (run_end(run) - start) as u32).await {
            Ok(read) => run.iter().map(|slot| (slot, Ok((read.clone(), start)))).collect(),
            Err(error) if run.len() == 1 => vec![(&run[0], Err(error))],
            Err(_) => {
                let mut slots = Vec::with_capacity(run.len());
                for slot in run {
                    let read = self.slabs.read(slot.offset, slot.bytes).await;
                    slots.push((slot, read.map(|read| (read, slot.offset))));
                }
                slots
            }
        }
    }

    /// A range without its first entry, or without the first leaf where that cannot be read; `None` when nothing is left.
    pub async fn behind_damage(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
    ) -> Result<Option<Range>, StorageError> {
        let mut rest = range.clone();
        loop {
            let from = match direction {
                Direction::Forward => &rest.start,
                Direction::Backward => &rest.end,
            };
            let found = {
                let mut state = self.state.borrow_mut();
                let root = state.root(tree)?;
                tree::seek(&mut state.pool, root, from, direction).map(|stop| {
                    let page = state.pool.peek(stop.leaf).expect("a leaf that was just found");
                    let (start, end) = bounds_in(page, &rest, from, direction);
                    let index = match direction {
                        Direction::Forward => start,
                        Direction::Backward => end.wrapping_sub(1),
                    };
                    ((start < end).then(|| page.key(index)), stop.next)
                })
            };
            let (is_behind, next) = match found {
                Ok((Some(key), _)) => (true, Some(Bound::Excluded(key))),
                Ok((None, next)) => (false, next),
                Err(gap) => match self.load_page(gap.page).await {
                    Ok(()) => continue,
                    Err(_) => (true, gap.next),
                },
            };
            match next {
                Some(next) if is_before_end(&next, range, direction) => match direction {
                    Direction::Forward => rest.start = next,
                    Direction::Backward => rest.end = next,
                },
                Some(_) | None => return Ok(None),
            }
            if is_behind {
                return Ok(Some(rest));
            }
        }
    }
}

/// Adds the entries of the leaf that `from` leads to.
fn collect_leaf(
    state: &mut State,
    root: PageId,
    range: &Range,
    from: &Bound<Vec<u8>>,
    direction: Direction,
    (rows_max, bytes_max): (usize, usize),
    gathered: &mut Gathered,
) -> Step {
    let stop = match tree::seek(&mut state.pool, root, from, direction) {
        Ok(stop) => stop,
        Err(gap) => return Step::Missing(gap),
    };
    state.pool.expect_guesses(stop.leaf);
    let pool = &state.pool;
    let (page, guesses) =
        (pool.peek(stop.leaf).expect("a leaf that was just found"), pool.guesses(stop.leaf));
    let (start, end) = bounds_in(page, range, from, direction);
    let count = end.saturating_sub(start);
    let asked = count.min(rows_max.saturating_sub(gathered.entries.len()));
    match direction {
        Direction::Forward => touch(pool, page, guesses, start..start + asked),
        Direction::Backward => touch(pool, page, guesses, end.saturating_sub(asked)..end),
    }
    let (mut hits, mut misses) = (0, 0);
    let mut came_to = Step::Leaf { next: stop.next, full: false };
    for step in 0..count {
        let is_begun = !gathered.entries.is_empty();
        if gathered.entries.len() >= rows_max || (gathered.bytes >= bytes_max && is_begun) {
            came_to = Step::Leaf { next: None, full: true };
            break;
        }
        let index = match direction {
            Direction::Forward => start + step,
            Direction::Backward => end - 1 - step,
        };
        let value = match Cell::decode(page.value(index)).expect("cells are checked when a page is read") {
            Cell::Inline(inline) => Rc::from(inline),
            Cell::Unplaced { number, .. } => Rc::clone(state.unplaced(number)),
            Cell::Placed(slotted) => match pool.guessed_value(slotted.location, guesses.get(index)) {
                Some(value) => {
                    hits += 1;
                    Rc::clone(value)
                }
                None => {
                    misses += 1;
                    gathered.wanted.push((gathered.entries.len(), slotted));
                    gathered.bytes += slotted.slot_bytes as usize;
                    Rc::from(&[][..])
                }
            },
        };
        gathered.bytes += value.len();
        gathered.entries.push((page.key(index), value));
    }
    state.pool.hits += hits;
    state.pool.misses += misses;
    came_to
}

/// Values whose places are looked up before the first of them is touched.
const TOUCHED_TOGETHER: usize = 32;

/// Lets the memory answer for the values of some entries at once: looked up one by one, each would be waited for in turn.
fn touch(pool: &Pool, page: &Page, guesses: &[Guess], mut entries: std::ops::Range<usize>) {
    let mut touched = 0;
    while !entries.is_empty() {
        let mut places = [Place::Here(&[]); TOUCHED_TOGETHER];
        for (place, index) in places.iter_mut().zip(entries.by_ref()) {
            *place = Place::of(pool, page.value(index), guesses.get(index)).unwrap_or(*place);
        }
        let values = places.map(|place| place.value(pool).unwrap_or_default());
        touched ^= values.iter().fold(0, |all, value| all ^ value.first().copied().unwrap_or_default());
    }
    black_box(touched);
}

fn run_end(run: &[Wanted]) -> u64 {
    run.iter().map(|slot| slot.offset + u64::from(slot.bytes)).max().unwrap_or(0)
}

/// Runs of slots that are worth one read each.
fn runs_of(slots: &[Wanted]) -> Vec<&[Wanted]> {
    let mut runs = Vec::new();
    let mut rest = slots;
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
        let (run, behind) = rest.split_at(count);
        runs.push(run);
        rest = behind;
    }
    runs
}

fn bad_slot(key: &[u8], offset: u64, what: &str) -> StorageError {
    let what = format!("the document with key \"{}\": {what}", key.escape_ascii());
    let error = StorageError::Corrupt { file: "slabs".into(), offset, what };
    tracing::error!(%error, "a block is bad");
    error
}

/// The entries of a leaf that a range from `from` on comes to.
pub(super) fn bounds_in(
    page: &Page,
    range: &Range,
    from: &Bound<Vec<u8>>,
    direction: Direction,
) -> (usize, usize) {
    match direction {
        Direction::Forward => (start_index(page, from), end_index(page, &range.end)),
        Direction::Backward => (start_index(page, &range.start), end_index(page, from)),
    }
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
pub(super) fn is_before_end(next: &Bound<Vec<u8>>, range: &Range, direction: Direction) -> bool {
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
