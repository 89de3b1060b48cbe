//! Pages and values in memory: which are there, which differ from the disk, what may go.
//!
//! Always: a page or value that is not yet on disk stays; everything else may go at any time between two calls, so nothing
//! keeps a page number for a page across an await. A page that a checkpoint is writing is shared with it (`Rc`): the first
//! change after the checkpoint began copies it, so the checkpoint writes the store exactly as it was at one position of the log.

use std::hint::black_box;
use std::rc::Rc;

use crate::btree::cell::{Cell, Location};
use crate::btree::page::{Page, PageKind};
use crate::btree::{Missing, PageId};
use crate::cache::queue::{Queue, Verdict};
use crate::cache::shortcuts::{Mark, Shortcuts};
use crate::cache::values::{Guess, Slot, Standing, Values};
use crate::cache::window::Window;
use crate::engine::Value;

/// What an entry costs beside its bytes: map and queue.
const OVERHEAD_BYTES: u64 = 64;
/// The counts of references before the bytes of a value.
const COUNTS_BYTES: usize = 16;
/// What room on disk is promised to a value beside its bytes, for its slot and its entry.
const SLOT_BYTES: u64 = 80;
/// What points to the bytes of a page, and its counts.
const PAGE_BYTES: u64 = 48;
/// This part of the budget is the allocator's: of its runs of one size some are partly free after entries of all sizes came and went. Measured: 4 to 6%.
const ALLOCATOR_PART: u64 = 16;
/// What can go keeps this part of the budget, and no less than this many bytes, however much is dirty: what calls read ahead, 16 leaves and
/// what leads there at a time, would go before they came back to it.
const CLEAN_PART_MIN: u64 = 16;
const CLEAN_BYTES_MIN: u64 = 512 << 10;
const PAGE_KEY: u64 = 1 << 63;
/// No value stands there: one that is numbered so has no place on disk.
const UNPLACED_SLOT: u32 = u32::MAX;
const FREQUENCY_MAX: u8 = 3;
/// Values that an estimate of what trees have in memory looks at.
const SAMPLED_VALUES: usize = 4096;

/// What a value of so many bytes takes of memory.
fn value_memory(length: usize) -> u64 {
    allocated(length + COUNTS_BYTES) + OVERHEAD_BYTES
}

fn page_memory(page: &Page) -> u64 {
    allocated(page.len()) + PAGE_BYTES + OVERHEAD_BYTES
}

/// What the allocator takes for so many bytes: it rounds up to one of four sizes per power of two (jemalloc's size classes), so by a
/// tenth on average and by a fifth at most.
fn allocated(bytes: usize) -> u64 {
    // A quarter of the power of two below; small ones come in steps of 16.
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step) as u64
}

/// Where a page lies on disk. `blocks` is 0 for a page that was never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    pub block: u32,
    pub blocks: u8,
    pub sum: u32,
}

/// A page's entry: its place on disk and, when it is in memory, its bytes.
#[derive(Default)]
pub(crate) struct Frame {
    pub address: Address,
    pub tree: u32,
    pub state: FrameState,
    page: Option<Rc<Page>>,
    /// Where the values of its entries were when they were last looked for, if they were.
    guesses: Box<[Guess]>,
    frequency: u8,
    queued: bool,
}

impl Frame {
    fn memory(&self) -> u64 {
        self.page.as_deref().map_or(0, page_memory) + size_of_val(&*self.guesses) as u64
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FrameState {
    /// Number not in use.
    #[default]
    Free,
    Clean,
    /// Differs from the disk.
    Dirty,
    /// Being written by the checkpoint, unchanged since it began.
    Frozen,
    /// Given back since the last checkpoint began; the number may be used again after it.
    Freed,
}

/// What a tree has in the pool, or a part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolUsage {
    pub page_bytes: u64,
    pub cache_bytes: u64,
}

/// A value that has no place on disk yet.
pub(crate) struct Unplaced {
    pub bytes: Value,
    pub tree: u32,
    /// The place that the newest checkpoint gave it.
    pub placed: Option<(Location, u32)>,
    /// It is there for the running checkpoint alone.
    pub is_old: bool,
}

pub(crate) struct Pool {
    pub frames: Vec<Frame>,
    free_ids: Vec<PageId>,
    /// Pages given back since the last checkpoint began.
    pub freed: Vec<PageId>,
    pub dirty: Vec<PageId>,
    values: Values,
    pub unplaced: Window<Unplaced>,
    shortcuts: Shortcuts,
    queue: Queue,
    budget: u64,
    /// Values that may be kept though they are on disk.
    pub values_max: u64,
    bytes: u64,
    /// What can go of them: pages and values that are on disk.
    clean_bytes: u64,
    dirty_page_bytes: u64,
    unplaced_bytes: u64,
    /// What frozen pages take that were changed since, beside what became of them; part of `bytes`.
    original_bytes: u64,
    /// Reads of a value that memory answered, and those that had to wait for the disk.
    pub hits: u64,
    pub misses: u64,
    /// What is looked up now does not count as used.
    pub in_passing: bool,
}

impl Pool {
    pub fn new(budget: u64) -> Self {
        let budget = budget - budget / ALLOCATOR_PART;
        Self {
            frames: Vec::new(),
            free_ids: Vec::new(),
            freed: Vec::new(),
            dirty: Vec::new(),
            values: Values::default(),
            unplaced: Window::new(),
            shortcuts: Shortcuts::new(budget),
            queue: Queue::default(),
            budget,
            values_max: u64::MAX,
            bytes: 0,
            clean_bytes: 0,
            dirty_page_bytes: 0,
            unplaced_bytes: 0,
            original_bytes: 0,
            hits: 0,
            misses: 0,
            in_passing: false,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_page_bytes + self.unplaced_bytes
    }

    pub fn dirty_page_bytes(&self) -> u64 {
        self.dirty_page_bytes
    }

    pub fn unplaced_bytes(&self) -> u64 {
        self.unplaced_bytes
    }

    /// After the frames were read from disk: numbers that are not in use can be given out.
    pub fn opened(&mut self) {
        self.free_ids = (0..self.frames.len() as u32)
            .rev()
            .filter(|id| self.frames[*id as usize].state == FrameState::Free)
            .collect();
    }

    // Pages.

    pub fn page(&mut self, id: PageId) -> Result<&Rc<Page>, Missing> {
        let Some(frame) = self.frames.get_mut(id as usize) else { return Err(Missing(id)) };
        // Written only when it changes: a hot page's entry then stays clean in the processor's cache.
        if frame.frequency < FREQUENCY_MAX && !self.in_passing {
            frame.frequency += 1;
        }
        frame.page.as_ref().ok_or(Missing(id))
    }

    /// The page if it is in memory, without counting as a use.
    pub fn peek(&self, id: PageId) -> Option<&Rc<Page>> {
        self.frames.get(id as usize)?.page.as_ref()
    }

    /// Has the processor fetch what searches of these pages look at. One that is named several times in a row is touched once.
    pub fn touch_pages(&self, ids: impl Iterator<Item = PageId>) {
        let mut ids: Vec<PageId> = ids.collect();
        ids.dedup();
        for id in &ids {
            black_box(self.peek(*id).is_some());
        }
        Page::touch_all(ids.iter().filter_map(|id| self.peek(*id)).map(|page| &**page));
    }

    /// What was guessed of the values of a page's first entries, for [`Pool::peek_guessed`]. Whatever became of the page and its values since: a guess may be wrong.
    pub fn guesses(&self, id: PageId) -> &[Guess] {
        self.frames.get(id as usize).map_or(&[], |frame| &frame.guesses)
    }

    /// Has a page with values that lie elsewhere have a guess for each of its entries.
    pub fn expect_guesses(&mut self, id: PageId) {
        let Some(frame) = self.frames.get_mut(id as usize) else { return };
        let Some(page) = &frame.page else { return };
        let entries = page.count();
        let is_elsewhere = |index| matches!(Cell::decode(page.value(index)), Some(Cell::Placed(_)));
        if frame.guesses.len() < entries && (is_elsewhere(0) || is_elsewhere(entries - 1)) {
            let before = frame.memory();
            // Pages that grow do not get new guesses for each entry.
            frame.guesses = (0..entries + entries / 8).map(|_| Guess::default()).collect();
            let more = frame.memory() - before;
            self.bytes += more;
            if frame.state == FrameState::Clean {
                self.clean_bytes += more;
            }
        }
    }

    /// The page to change: it differs from the disk from now on. It must be in memory.
    pub fn page_mut(&mut self, id: PageId) -> &mut Page {
        self.touch(id);
        let frame = &mut self.frames[id as usize];
        Rc::make_mut(frame.page.as_mut().expect("a page that is changed was looked up before"))
    }

    fn touch(&mut self, id: PageId) {
        let frame = &mut self.frames[id as usize];
        match frame.state {
            FrameState::Clean | FrameState::Frozen => {
                if frame.state == FrameState::Clean {
                    self.clean_bytes -= frame.memory();
                    self.dirty_page_bytes += frame.page.as_ref().map_or(0, |page| page.len() as u64);
                } else if let Some(page) = frame.page.as_ref().filter(|page| Rc::strong_count(page) > 1) {
                    self.original_bytes += page_memory(page);
                    self.bytes += page_memory(page);
                }
                frame.state = FrameState::Dirty;
                self.dirty.push(id);
            }
            FrameState::Dirty => {}
            FrameState::Free | FrameState::Freed => unreachable!("page {id} is used after it was freed"),
        }
    }

    /// Puts a changed page in the place of the old.
    pub fn replace(&mut self, id: PageId, page: Page) {
        self.touch(id);
        let frame = &mut self.frames[id as usize];
        let sizes = |page: &Page| (page_memory(page), page.len() as u64);
        let (old_memory, old) = frame.page.as_deref().map_or((0, 0), sizes);
        let (memory, new) = sizes(&page);
        frame.page = Some(Rc::new(page));
        self.bytes = self.bytes + memory - old_memory;
        self.dirty_page_bytes = self.dirty_page_bytes + new - old;
    }

    pub fn allocate_page(&mut self, tree: u32, make: impl FnOnce(PageId) -> Page) -> PageId {
        let id = self.free_ids.pop().unwrap_or_else(|| {
            self.frames.push(Frame::default());
            u32::try_from(self.frames.len() - 1).expect("page numbers fit 32 bits")
        });
        let page = make(id);
        self.bytes += page_memory(&page);
        self.dirty_page_bytes += page.len() as u64;
        let frame = &mut self.frames[id as usize];
        frame.state = FrameState::Dirty;
        frame.tree = tree;
        frame.page = Some(Rc::new(page));
        self.dirty.push(id);
        id
    }

    pub fn free_page(&mut self, id: PageId) {
        self.forget_page(id);
        self.frames[id as usize].state = FrameState::Freed;
        self.freed.push(id);
    }

    fn forget_page(&mut self, id: PageId) {
        let frame = &mut self.frames[id as usize];
        let memory = frame.memory();
        if let Some(page) = frame.page.take() {
            self.bytes -= memory;
            frame.guesses = Box::default();
            match frame.state {
                FrameState::Dirty | FrameState::Frozen => self.dirty_page_bytes -= page.len() as u64,
                FrameState::Clean => self.clean_bytes -= memory,
                FrameState::Free | FrameState::Freed => {}
            }
        }
    }

    /// As memory pressure does it to inner pages above which nobody came by for long, however much was done below them.
    #[cfg(test)]
    pub fn forget_clean_inner_pages(&mut self) {
        for id in 0..self.frames.len() {
            let frame = &self.frames[id];
            let is_inner = frame.page.as_ref().is_some_and(|page| page.kind() == PageKind::Inner);
            if frame.state == FrameState::Clean && is_inner {
                self.forget_page(id as PageId);
            }
        }
    }

    /// The number of a freed page may be used again: the checkpoint without it is durable.
    pub fn reuse_id(&mut self, id: PageId) {
        self.frames[id as usize] = Frame::default();
        self.free_ids.push(id);
    }

    /// A page came from disk.
    pub fn loaded(&mut self, id: PageId, page: Page) {
        let frame = &mut self.frames[id as usize];
        if frame.page.is_some() || frame.state != FrameState::Clean {
            return;
        }
        let bytes = page.len() as u32;
        frame.page = Some(Rc::new(page));
        self.bytes += frame.memory();
        self.clean_bytes += frame.memory();
        frame.frequency = 0;
        if !std::mem::replace(&mut frame.queued, true) {
            self.queue.push(PAGE_KEY | u64::from(id), bytes);
        }
        self.evict();
    }

    /// Takes the pages that differ from the disk for a checkpoint, as they are now.
    pub fn freeze(&mut self) -> Vec<(PageId, Rc<Page>)> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        let mut frozen = Vec::with_capacity(dirty.len());
        for id in dirty {
            let frame = &mut self.frames[id as usize];
            if frame.state != FrameState::Dirty {
                continue;
            }
            frame.state = FrameState::Frozen;
            if let Some(page) = &frame.page {
                frozen.push((id, Rc::clone(page)));
            }
        }
        frozen
    }

    /// Whether the page is still what the checkpoint froze.
    pub fn is_unchanged(&self, id: PageId, frozen: &Rc<Page>) -> bool {
        let frame = &self.frames[id as usize];
        frame.state == FrameState::Frozen && frame.page.as_ref().is_some_and(|page| Rc::ptr_eq(page, frozen))
    }

    /// A frozen page that was changed since is about to be forgotten.
    pub fn original_written(&mut self, original: &Page) {
        let bytes = page_memory(original).min(self.original_bytes);
        self.original_bytes -= bytes;
        self.bytes -= bytes;
    }

    /// No frozen page is left.
    pub fn originals_written(&mut self) {
        self.bytes -= std::mem::take(&mut self.original_bytes);
    }

    /// The frozen page, with its values' places filled in. Still frozen: it is not on disk yet.
    pub fn settle(&mut self, id: PageId, page: Rc<Page>) {
        self.frames[id as usize].page = Some(page);
    }

    /// The checkpoint with this page is durable.
    pub fn cleaned(&mut self, id: PageId) {
        let frame = &mut self.frames[id as usize];
        if frame.state != FrameState::Frozen {
            return;
        }
        frame.state = FrameState::Clean;
        self.clean_bytes += frame.memory();
        let bytes = frame.page.as_ref().map_or(0, |page| page.len());
        self.dirty_page_bytes -= bytes as u64;
        if !std::mem::replace(&mut frame.queued, true) {
            self.queue.push(PAGE_KEY | u64::from(id), bytes as u32);
        }
    }

    /// The checkpoint did not come about: the page still differs from the disk.
    pub fn thaw(&mut self, id: PageId) {
        let frame = &mut self.frames[id as usize];
        if frame.state == FrameState::Frozen {
            frame.state = FrameState::Dirty;
            self.dirty.push(id);
        }
    }

    // Values.

    pub fn cached_value(&self, location: Location) -> Option<&Value> {
        Some(self.used(self.values.get(location.0)?))
    }

    fn used<'a>(&self, slot: &'a Slot) -> &'a Value {
        if !self.in_passing {
            slot.count_use();
        }
        slot.bytes()
    }

    /// Makes a guess where a value is, if none was made; false when it is certainly not in memory. Guesses at several are made before the first is
    /// used: then the memory answers for all at once.
    pub fn guess(&self, location: Location, guess: &Guess) -> bool {
        self.values.guess(location.0, guess)
    }

    /// [`Pool::cached_value`] of what was guessed at. A wrong guess is mended.
    pub fn guessed_value(&self, location: Location, guess: Option<&Guess>) -> Option<&Value> {
        Some(self.used(self.guessed(location, guess)?))
    }

    fn guessed(&self, location: Location, guess: Option<&Guess>) -> Option<&Slot> {
        match guess {
            Some(guess) => self.values.guessed(location.0, guess),
            None => self.values.get(location.0),
        }
    }

    /// The same without counting as a use: what scans pass by should not stay for that.
    pub fn peek_guessed(&self, location: Location, guess: Option<&Guess>) -> Option<&[u8]> {
        self.guessed(location, guess).map(|slot| &**slot.bytes())
    }

    /// A share in the value if it is in memory, without counting as a use.
    pub fn value_in_passing(&self, location: Location) -> Option<Value> {
        self.values.get(location.0).map(|slot| Rc::clone(slot.bytes()))
    }

    /// Keeps a value that is on disk. Gives where it stands in memory.
    pub fn add_value(&mut self, location: Location, bytes: Value) -> Standing {
        let length = bytes.len();
        let (standing, old) = self.values.insert(location.0, bytes);
        if old.is_none() {
            self.bytes += value_memory(length);
            self.clean_bytes += value_memory(length);
            self.queue.push(location.0, length as u32);
            if self.queue.len() > 2 * (self.values.len() + self.frames.len()) + 1024 {
                let (values, frames) = (&self.values, &self.frames);
                self.queue.sweep(|key| match key & PAGE_KEY {
                    0 => values.get(key).is_some(),
                    _ => frames.get((key & !PAGE_KEY) as usize).is_some_and(|frame| frame.queued),
                });
            }
        }
        self.evict();
        standing
    }

    /// A value got its place on disk: it stays in memory, and the shortcut of its key leads there.
    pub fn place_value(&mut self, number: u64, location: Location, mark: Mark) {
        if let Some(unplaced) = self.take_unplaced(number) {
            let standing = self.add_value(location, unplaced.bytes);
            self.set_shortcut(mark, standing);
        }
    }

    pub fn drop_value(&mut self, location: Location) {
        if let Some(bytes) = self.values.remove(location.0) {
            self.bytes -= value_memory(bytes.len());
            self.clean_bytes -= value_memory(bytes.len());
        }
    }

    /// Gives the value's number: no other value without a place ever had it.
    pub fn add_unplaced(&mut self, tree: u32, bytes: Value) -> u64 {
        self.bytes += value_memory(bytes.len());
        self.unplaced_bytes += bytes.len() as u64 + SLOT_BYTES;
        self.unplaced.push(Unplaced { bytes, tree, placed: None, is_old: false })
    }

    // Shortcuts.

    pub fn mark(&self, tree: u32, key: &[u8]) -> Mark {
        self.shortcuts.mark(tree, key)
    }

    pub fn touch_shortcut(&self, mark: Mark) {
        self.shortcuts.touch(mark);
    }

    /// Where a shortcut says that a key's value stands.
    pub fn shortcut(&self, mark: Mark) -> Option<Standing> {
        self.shortcuts.find(mark)
    }

    /// The value that stood there, if it still does and is not an old one.
    pub fn value_standing(&self, standing: Standing) -> Option<&Value> {
        if standing.slot == UNPLACED_SLOT {
            let unplaced = self.unplaced.get(standing.number)?;
            return (!unplaced.is_old).then_some(&unplaced.bytes);
        }
        Some(self.used(self.values.at(standing)?))
    }

    /// From now on a shortcut leads to the value without a place that is the key's.
    pub fn set_shortcut_unplaced(&mut self, mark: Mark, number: u64) {
        self.set_shortcut(mark, Standing { slot: UNPLACED_SLOT, number });
    }

    /// From now on a shortcut leads to the key's value at that place, if it is in memory.
    pub fn set_shortcut_placed(&mut self, mark: Mark, location: Location) {
        if let Some(standing) = self.values.standing(location.0) {
            self.set_shortcut(mark, standing);
        }
    }

    fn set_shortcut(&mut self, mark: Mark, standing: Standing) {
        self.bytes += self.shortcuts.set(mark, standing, self.values.len() + self.unplaced.len());
    }

    /// The number that the next value without a place will get; older ones may be in pages that a checkpoint froze.
    pub fn next_value(&self) -> u64 {
        self.unplaced.next()
    }

    pub fn take_unplaced(&mut self, number: u64) -> Option<Unplaced> {
        let unplaced = self.unplaced.remove(number)?;
        self.bytes -= value_memory(unplaced.bytes.len());
        self.unplaced_bytes -= unplaced.bytes.len() as u64 + SLOT_BYTES;
        Some(unplaced)
    }

    /// Adds the pages on disk and the memory of each tree. Of the values that are on disk too a sample is looked at: there may
    /// be millions.
    pub fn usage(&self, tree_of: impl Fn(Location) -> Option<u32>, mut add: impl FnMut(u32, PoolUsage)) {
        let (mut pages, mut unplaced) = (0, 0);
        for frame in &self.frames {
            if matches!(frame.state, FrameState::Free | FrameState::Freed) {
                continue;
            }
            let page_bytes = u64::from(frame.address.blocks) * u64::from(crate::disk::BLOCK_BYTES);
            let cache_bytes = frame.memory();
            pages += cache_bytes;
            add(frame.tree, PoolUsage { page_bytes, cache_bytes });
        }
        for (_, value) in self.unplaced.iter() {
            let cache_bytes = value_memory(value.bytes.len());
            unplaced += cache_bytes;
            add(value.tree, PoolUsage { page_bytes: 0, cache_bytes });
        }
        let sample = || self.values.sample(SAMPLED_VALUES);
        let sampled: u64 = sample().map(|(_, value)| value_memory(value.len())).sum();
        let clean =
            self.bytes.saturating_sub(pages + unplaced + self.original_bytes + self.shortcuts.bytes());
        for (location, value) in sample() {
            let Some(tree) = tree_of(Location(location)) else { continue };
            let bytes = value_memory(value.len());
            let cache_bytes = (u128::from(bytes) * u128::from(clean) / u128::from(sampled.max(1))) as u64;
            add(tree, PoolUsage { page_bytes: 0, cache_bytes });
        }
    }

    /// Gives back all pages of some trees.
    pub fn free_trees(&mut self, is_freed: impl Fn(u32) -> bool) {
        for id in 0..self.frames.len() as u32 {
            let frame = &self.frames[id as usize];
            let in_use = match frame.state {
                FrameState::Free | FrameState::Freed => false,
                FrameState::Clean | FrameState::Dirty | FrameState::Frozen => true,
            };
            if in_use && is_freed(frame.tree) {
                self.free_page(id);
            }
        }
    }

    /// The numbers of all unplaced values of some trees.
    pub fn unplaced_of(&self, is_of: impl Fn(u32) -> bool) -> Vec<u64> {
        self.unplaced.iter().filter(|(_, value)| is_of(value.tree)).map(|(number, _)| number).collect()
    }

    /// Where cached values lie that are wanted.
    pub fn values_at(&self, is_wanted: impl Fn(Location) -> bool) -> Vec<Location> {
        self.values
            .iter()
            .map(|(location, _)| Location(location))
            .filter(|location| is_wanted(*location))
            .collect()
    }

    /// Throws out what was not asked for until the budget holds. A part of it is always left to what can go, else a page
    /// would go before the call that loaded it came back to it.
    pub fn evict(&mut self) {
        loop {
            let clean_min = (self.budget / CLEAN_PART_MIN).max(CLEAN_BYTES_MIN);
            let is_heavy = self.bytes > self.budget && self.clean_bytes > clean_min;
            if !is_heavy && self.values.len() as u64 <= self.values_max {
                return;
            }
            let (values, frames) = (&self.values, &mut self.frames);
            // Where there are only too many values, the newest go first and pages stay.
            let budget = if is_heavy { self.budget } else { 0 };
            let victim = self.queue.victim(budget, |key| match key & PAGE_KEY {
                0 => judge_value(values.get(key)),
                _ if !is_heavy => Verdict::Asked,
                _ => judge_page(&mut frames[(key & !PAGE_KEY) as usize]),
            });
            match victim {
                None => return,
                Some(key) if key & PAGE_KEY == 0 => self.drop_value(Location(key)),
                Some(key) => self.forget_page((key & !PAGE_KEY) as u32),
            }
        }
    }
}

fn judge_value(slot: Option<&Slot>) -> Verdict {
    match slot {
        None => Verdict::Absent,
        Some(slot) if slot.take_note() => Verdict::Asked,
        Some(_) => Verdict::Idle,
    }
}

fn judge_page(frame: &mut Frame) -> Verdict {
    if frame.state != FrameState::Clean || frame.page.is_none() {
        frame.queued = false;
        return Verdict::Absent;
    }
    // Inner pages stand on the way to everything below them; they go only when nobody came by for long.
    let is_inner = frame.page.as_ref().is_some_and(|page| page.kind() == PageKind::Inner);
    if frame.frequency > 0 {
        frame.frequency -= if is_inner && frame.frequency > 1 { 1 } else { frame.frequency };
        return Verdict::Asked;
    }
    frame.queued = false;
    Verdict::Idle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_page_that_is_changed_counts_twice_until_its_original_is_written() {
        let mut pool = Pool::new(1 << 20);
        let ids = [1, 2].map(|tree| pool.allocate_page(tree, |id| Page::new(PageKind::Leaf, id, tree, 8192)));
        let both = pool.bytes();
        let frozen = pool.freeze();
        for _ in 0..2 {
            pool.page_mut(ids[0]);
        }
        assert_eq!(pool.bytes(), both / 2 * 3);
        pool.page_mut(ids[1]);
        assert_eq!(pool.bytes(), both * 2);
        pool.original_written(&frozen[0].1);
        assert_eq!(pool.bytes(), both / 2 * 3);
        pool.originals_written();
        assert_eq!(pool.bytes(), both);
        pool.freeze();
        pool.page_mut(ids[0]);
        assert_eq!(pool.bytes(), both, "nobody else has the frozen page any more");
    }
}
