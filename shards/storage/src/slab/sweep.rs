//! Reading the values of a range in the order of the disk, for who does not ask for the order of keys.
//!
//! A *sweep* takes a beginning of the range that is as long as its list of keys and places may be (not its values: those go by).
//! 1. The list is made from the leaves, in the order of keys. What is in memory and has no place on disk is shown on the way.
//! 2. The list is sorted by places, in pieces of some thousand, which are merged as they are used.
//! 3. Values are read in groups of some hundred KiB, the next group while one is shown. A value that is in the cache is shown from
//!    there; what is read is not kept, so that a sweep washes nothing out of the cache.
//!
//! Always: the keys say what is shown, each once, so it does not matter where checkpoints and the emptying of chunks move values
//! meanwhile. A slot never changes while it is one: what bears the checksum that the leaf gave is the value as it stood when the leaf was
//! read. Where another lies there now, the tree is asked again by key. So each value that is there throughout is shown once,
//! as it stood at some moment of the call; and where a sweep ended says a key.

use std::ops::Bound;

use crate::btree::cell::{Cell, Slotted};
use crate::btree::tree;
use crate::compress::{How, Unready};
use crate::disk::{Directory, Disk, DiskError};
use crate::engine::{Direction, Range, StorageError, Sweeping, TreeId, Value};
use crate::event::{all, both};
use crate::slab::Shared;
use crate::slab::read::{bounds_in, is_before_end};
use crate::slab::slot;

/// Values that are shown at once.
const SHOWN_MAX: usize = 128;
/// A list takes at most this part of the cache,
const CACHE_PART: u64 = 32;
/// and is at least so long.
const LIST_MIN: usize = 1024;
/// What one entry takes beside its key.
const ENTRY_BYTES: usize = 48;
/// Entries that are sorted at once, and pieces that are merged.
const PIECE_MAX: usize = 8 << 10;
const PIECES_MAX: usize = 24;
/// Values without a place that a sweep shows; more would be kept in memory by it.
const PLACELESS_BYTES_MAX: usize = 4 << 20;
/// Bytes of the reads of one group, and entries of it.
const GROUP_BYTES_MAX: u64 = 1 << 20;
const GROUP_MAX: usize = 4096;
/// Slots are read together when no more than this lies between them.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// Bytes of one read: several of a group are in flight at once.
const READ_BYTES_MAX: u64 = 256 << 10;
/// Larger values, and those in extents, are read one by one.
const SLOT_BYTES_MAX: u32 = 128 << 10;
const READS_AT_ONCE: usize = 32;
/// Leaves of the list that are looked at before others have their turn.
const LEAVES_PER_TURN: usize = 64;

/// A value that has a place.
struct Entry {
    /// In the file.
    offset: u64,
    slotted: Slotted,
    /// Where its key lies in [`List::keys`].
    key: u32,
    key_bytes: u16,
}

#[derive(Default)]
struct List {
    keys: Vec<u8>,
    /// Sorted; the next is the last.
    pieces: Vec<Vec<Entry>>,
    count: usize,
    /// Values without a place, and their bytes.
    placeless: Vec<Value>,
    placeless_bytes: usize,
    /// Entries whose value is read by key.
    by_key: Vec<Vec<u8>>,
    /// The last key, and whether the range ends with it.
    last: Option<Vec<u8>>,
    is_end: bool,
}

/// Entries that are read and shown together.
struct Group {
    entries: Vec<Entry>,
    /// What was in memory.
    cached: Vec<Value>,
    /// Runs of entries that are read at once: offset, bytes, entries.
    runs: Vec<(u64, u32, usize)>,
}

/// What one leaf gave to a list: where the next begins, if there is one; or the page that must be read first.
type Leafed = Result<Option<Bound<Vec<u8>>>, tree::Gap>;

type Pages<D> = Vec<Result<<<D as Directory>::File as Disk>::Page, DiskError>>;

/// Values that are shown at once, one behind the other.
#[derive(Default)]
struct Shown {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Shown {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn values(&self) -> Vec<&[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[*start..*end]).collect()
    }
}

impl List {
    fn key(&self, entry: &Entry) -> &[u8] {
        &self.keys[entry.key as usize..][..usize::from(entry.key_bytes)]
    }

    fn push(&mut self, key: &[u8], offset: u64, slotted: Slotted) {
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE_MAX) {
            self.sort_last();
            self.pieces.push(Vec::new());
        }
        let at = self.keys.len() as u32;
        self.keys.extend_from_slice(key);
        let entry = Entry { offset, slotted, key: at, key_bytes: key.len() as u16 };
        self.pieces.last_mut().expect("one was pushed").push(entry);
        self.count += 1;
    }

    fn sort_last(&mut self) {
        if let Some(piece) = self.pieces.last_mut() {
            piece.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.offset));
        }
    }

    /// The offset of the next entry and the piece that it is in.
    fn next(&self) -> Option<(u64, usize)> {
        let heads = self.pieces.iter().enumerate();
        heads.filter_map(|(at, piece)| Some((piece.last()?.offset, at))).min()
    }
}

impl<D: Directory> Shared<D> {
    pub async fn sweep(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut impl AsyncFnMut(&[&[u8]]) -> Sweeping,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let mut list = self.list(tree, range, rows_max, see).await?;
        let end = list.last.take().filter(|_| !list.is_end);
        let mut shown = Shown::default();
        for value in std::mem::take(&mut list.placeless).chunks(SHOWN_MAX) {
            let values: Vec<&[u8]> = value.iter().map(|value| &**value).collect();
            if see(&values).await == Sweeping::Stop {
                return Ok(end);
            }
        }
        let mut group = self.next_group(tree, &mut list);
        let mut pages = self.read_group(&group).await;
        while !group.entries.is_empty() || !group.cached.is_empty() {
            let next = self.next_group(tree, &mut list);
            let (next_pages, shown) = both(
                self.read_group(&next),
                self.show_group(tree, &mut list, &group, &pages, &mut shown, see),
            )
            .await;
            if shown? == Sweeping::Stop {
                return Ok(end);
            }
            (group, pages) = (next, next_pages);
        }
        for key in std::mem::take(&mut list.by_key) {
            if let Some(value) = self.get(tree, &key).await?
                && see(&[&*value]).await == Sweeping::Stop
            {
                break;
            }
        }
        Ok(end)
    }

    /// The beginning of a range as the leaves have it.
    async fn list(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut impl AsyncFnMut(&[&[u8]]) -> Sweeping,
    ) -> Result<List, StorageError> {
        let mut list = List::default();
        let bytes_max = (self.options.cache_bytes / CACHE_PART) as usize;
        let rows_max = rows_max.clamp(1, PIECE_MAX * PIECES_MAX);
        let is_full = |list: &List| {
            let bytes = list.count * ENTRY_BYTES + list.keys.len();
            list.count + list.placeless.len() >= rows_max
                || (list.count >= LIST_MIN && bytes >= bytes_max)
                || list.placeless_bytes >= PLACELESS_BYTES_MAX
        };
        let mut from = range.start.clone();
        for leaves in 1.. {
            if is_full(&list) {
                break;
            }
            if leaves % LEAVES_PER_TURN == 0 {
                see(&[]).await;
            }
            match self.add_leaf(tree, range, &from, &mut list)? {
                Ok(Some(next)) if is_before_end(&next, range, Direction::Forward) => from = next,
                Ok(_) => {
                    list.is_end = true;
                    break;
                }
                Err(gap) => {
                    let ahead = gap.ahead.iter().map(|page| self.load_page(*page));
                    let (loaded, _) = both(self.load_page(gap.page), all(ahead, READS_AT_ONCE)).await;
                    match loaded {
                        Err(_) if list.last.is_some() => break,
                        loaded => loaded?,
                    }
                }
            }
        }
        list.sort_last();
        Ok(list)
    }

    /// Adds the entries of the leaf that `from` leads to, and says where the next begins.
    fn add_leaf(
        &self,
        tree: TreeId,
        range: &Range,
        from: &Bound<Vec<u8>>,
        list: &mut List,
    ) -> Result<Leafed, StorageError> {
        let state = &mut *self.state.borrow_mut();
        let root = state.root(tree)?;
        state.pool.in_passing = true;
        let stop = tree::seek(&mut state.pool, root, from, Direction::Forward);
        state.pool.in_passing = false;
        let stop = match stop {
            Ok(stop) => stop,
            Err(gap) => return Ok(Err(gap)),
        };
        let page = state.pool.peek(stop.leaf).expect("a leaf that was just found");
        let (start, end) = bounds_in(page, range, from, Direction::Forward);
        for index in start..end {
            let key = page.key(index);
            match Cell::decode(page.value(index)).expect("cells are checked when a page is read") {
                Cell::Inline(inline) => {
                    list.placeless_bytes += inline.len();
                    list.placeless.push(Value::from(inline));
                }
                Cell::Unplaced { number, .. } => {
                    let value = Value::clone(state.unplaced(number));
                    list.placeless_bytes += value.len();
                    list.placeless.push(value);
                }
                Cell::Placed(slotted) => match state.slot_place(slotted.location, slotted.slot_bytes) {
                    Ok((offset, before, _))
                        if slotted.slot_bytes <= SLOT_BYTES_MAX
                            && state.bound_to(slotted.location) == slotted.location =>
                    {
                        list.push(&key, offset + before as u64, slotted);
                    }
                    Ok(_) | Err(_) => list.by_key.push(key.clone()),
                },
            }
            if index + 1 == end {
                list.last = Some(key);
            }
        }
        Ok(Ok(stop.next))
    }

    /// The entries that come next in the order of the disk, those that are in memory with their values.
    fn next_group(&self, tree: TreeId, list: &mut List) -> Group {
        let state = &mut *self.state.borrow_mut();
        let mut group = Group { entries: Vec::new(), cached: Vec::new(), runs: Vec::new() };
        let (mut bytes, mut cached_bytes) = (0, 0);
        while bytes < GROUP_BYTES_MAX
            && cached_bytes < GROUP_BYTES_MAX
            && group.entries.len() + group.cached.len() < GROUP_MAX
            && let Some((_, piece)) = list.next()
        {
            let entry = list.pieces[piece].pop().expect("the next is there");
            let Slotted { location, slot_bytes, .. } = entry.slotted;
            if let Some(value) = state.pool.value_in_passing(location) {
                cached_bytes += value.len() as u64;
                group.cached.push(value);
                continue;
            }
            let first = entry.offset / 4096 * 4096;
            let end = (entry.offset + u64::from(slot_bytes)).next_multiple_of(4096);
            match group.runs.last_mut() {
                Some((offset, run_bytes, count))
                    if first <= *offset + u64::from(*run_bytes) + GAP_BYTES_MAX
                        && end - *offset <= READ_BYTES_MAX =>
                {
                    *run_bytes = (*run_bytes).max((end - *offset) as u32);
                    *count += 1;
                }
                Some(_) | None => group.runs.push((first, (end - first) as u32, 1)),
            }
            bytes += u64::from(slot_bytes);
            group.entries.push(entry);
        }
        state.pool.hits += group.cached.len() as u64;
        state.pool.misses += group.entries.len() as u64;
        state.count_read(tree.0, group.runs.iter().map(|(_, bytes, _)| u64::from(*bytes)).sum());
        group
    }

    async fn read_group(&self, group: &Group) -> Pages<D> {
        all(group.runs.iter().map(|(offset, bytes, _)| self.slabs.read(*offset, *bytes)), READS_AT_ONCE).await
    }

    async fn show_group(
        &self,
        tree: TreeId,
        list: &mut List,
        group: &Group,
        pages: &Pages<D>,
        shown: &mut Shown,
        see: &mut impl AsyncFnMut(&[&[u8]]) -> Sweeping,
    ) -> Result<Sweeping, StorageError> {
        for values in group.cached.chunks(SHOWN_MAX) {
            let values: Vec<&[u8]> = values.iter().map(|value| &**value).collect();
            if see(&values).await == Sweeping::Stop {
                return Ok(Sweeping::Stop);
            }
        }
        let mut rest = &group.entries[..];
        for ((offset, _, count), page) in group.runs.iter().zip(pages) {
            let (run, behind) = rest.split_at(*count);
            rest = behind;
            for entries in run.chunks(SHOWN_MAX) {
                shown.clear();
                for entry in entries {
                    let slot = page.as_ref().ok().and_then(|page| {
                        page.get((entry.offset - offset) as usize..)?.get(..entry.slotted.slot_bytes as usize)
                    });
                    if !self.take_out(tree, list.key(entry), entry.slotted, slot, shown).await {
                        let key = list.key(entry).to_vec();
                        list.by_key.push(key);
                    }
                }
                if see(&shown.values()).await == Sweeping::Stop {
                    return Ok(Sweeping::Stop);
                }
            }
        }
        Ok(Sweeping::GoOn)
    }

    /// Adds the value in a slot to what is shown; false if another slot lies there, or none.
    async fn take_out(
        &self,
        tree: TreeId,
        key: &[u8],
        slotted: Slotted,
        bytes: Option<&[u8]>,
        shown: &mut Shown,
    ) -> bool {
        let Some(bytes) = bytes else { return false };
        let Ok(slot) = slot::slot_of(bytes, slotted.location, slotted.sum, tree.0, key) else { return false };
        if slot.how == How::Plain {
            shown.bytes.extend_from_slice(slot.stored);
        } else {
            let plain =
                self.state.borrow_mut().codec.append_plain(slot.stored, slot.plain_bytes, &mut shown.bytes);
            match plain {
                Ok(()) => {}
                Err(Unready::Broken(_)) => return false,
                Err(Unready::Dictionary(_)) => match self.plain(&slot).await {
                    Ok(value) => shown.bytes.extend_from_slice(&value),
                    Err(_) => return false,
                },
            }
        }
        shown.ends.push(shown.bytes.len());
        true
    }
}
