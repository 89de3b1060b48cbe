//! One page of a B-tree: sorted entries in 4 or 8 KiB, the same bytes in memory and on disk.
//!
//! ```text
//!  0  checksum u64     XXH3 of bytes 8.., seeded with the page's number
//!  8  page u32         its own number
//! 12  kind u8          1 leaf, 2 inner
//! 13  zero u8
//! 14  count u16        entries
//! 16  tree u32         the tree it belongs to
//! 20  prefix u16       bytes that begin every key
//! 22  heap u16         where the lowest cell begins
//! 24  dead u16         bytes of removed cells above it
//! 26  zero u16
//! 28  block u32        the block it was written to
//! 32  the prefix, then per entry {head u32, cell u16}, free space, cells
//! ```
//!
//! A cell is {key bytes u16, value bytes u16, key without the prefix, value}. An entry's head is the first four bytes of
//! the key behind the prefix as a big-endian number (zero-padded), so that most steps of a search stay within the
//! array. In a leaf the value is a [`crate::btree::cell`]; in an inner page it is {child u32, entries below it u64}, and
//! the first key is none, which is written as nothing behind the prefix: it stands for everything below the second. So the prefix
//! is that of all keys but the first, and shorter than any of them, else two entries would look the same to a search.
//!
//! Always, for a page that passed [`Page::check`]: every offset lies inside the page, so nothing here panics on it.
//! Pages begin with 4 KiB and grow to 8, so that the many trees of small tables cost little.

use std::cmp::Ordering;
use std::hint::black_box;

use crate::btree::PageId;
use crate::bytes::checksum;
use crate::cache::touch;

/// The largest page; one read of the disk.
pub(crate) const PAGE_BYTES: usize = 8192;
/// What a tree begins with.
pub(crate) const SMALL_PAGE_BYTES: usize = 4096;
/// Largest key: at least four cells of this size and an inline value fit in a page, so that splits always succeed.
pub(crate) const KEY_BYTES_MAX: usize = 1500;
const HEADER: usize = 32;
const ENTRY: usize = 6;
const CELL_HEADER: usize = 4;
const CHILD_BYTES: usize = 12;
/// Key and value of the largest entry: a page that overflows can be split so that each half has room for one more.
pub(crate) const PAIR_BYTES_MAX: usize = (PAGE_BYTES - HEADER) / 4 - ENTRY - CELL_HEADER;
const _: () = assert!(
    KEY_BYTES_MAX + super::cell::INLINE_BYTES_MAX < PAIR_BYTES_MAX,
    "every key can have a small value in the leaf"
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    Leaf,
    Inner,
}

#[derive(Clone)]
pub(crate) struct Page {
    bytes: Box<[u8]>,
}

/// What an inner page says of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub page: PageId,
    pub count: u64,
}

impl Child {
    pub fn encode(self) -> [u8; CHILD_BYTES] {
        let mut bytes = [0; CHILD_BYTES];
        bytes[..4].copy_from_slice(&self.page.to_le_bytes());
        bytes[4..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }
}

fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(four) => u32::from_be_bytes(*four),
        None => {
            let mut four = [0; 4];
            four[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(four)
        }
    }
}

fn head_in(entry: &[u8; ENTRY]) -> u32 {
    let [a, b, c, d, _, _] = *entry;
    u32::from_le_bytes([a, b, c, d])
}

fn cell_in(entry: &[u8; ENTRY]) -> usize {
    let [_, _, _, _, a, b] = *entry;
    usize::from(u16::from_le_bytes([a, b]))
}

fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

impl Page {
    pub fn new(kind: PageKind, id: PageId, tree: u32, bytes: usize) -> Self {
        let mut page = Self { bytes: vec![0; bytes].into_boxed_slice() };
        page.bytes[12] = match kind {
            PageKind::Leaf => 1,
            PageKind::Inner => 2,
        };
        page.set_id(id);
        page.bytes[16..20].copy_from_slice(&tree.to_le_bytes());
        page.set_u16(22, bytes);
        page
    }

    fn u16_at(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    fn set_u16(&mut self, at: usize, value: usize) {
        let value = u16::try_from(value).expect("offsets in a page fit 16 bits");
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn id(&self) -> PageId {
        self.u32_at(8)
    }

    pub fn set_id(&mut self, id: PageId) {
        self.bytes[8..12].copy_from_slice(&id.to_le_bytes());
    }

    pub fn kind(&self) -> PageKind {
        match self.bytes[12] {
            1 => PageKind::Leaf,
            _ => PageKind::Inner,
        }
    }

    pub fn tree(&self) -> u32 {
        self.u32_at(16)
    }

    pub fn count(&self) -> usize {
        self.u16_at(14)
    }

    pub fn prefix(&self) -> &[u8] {
        &self.bytes[HEADER..HEADER + self.u16_at(20)]
    }

    fn entry_at(&self, index: usize) -> usize {
        HEADER + self.u16_at(20) + ENTRY * index
    }

    fn cell_at(&self, index: usize) -> usize {
        self.u16_at(self.entry_at(index) + 4)
    }

    fn cell_bytes(&self, index: usize) -> usize {
        let cell = self.cell_at(index);
        CELL_HEADER + self.u16_at(cell) + self.u16_at(cell + 2)
    }

    /// The key without the page's prefix.
    pub fn suffix(&self, index: usize) -> &[u8] {
        self.suffix_of(self.cell_at(index))
    }

    fn suffix_of(&self, cell: usize) -> &[u8] {
        &self.bytes[cell + CELL_HEADER..cell + CELL_HEADER + self.u16_at(cell)]
    }

    pub fn key(&self, index: usize) -> Vec<u8> {
        let (prefix, suffix) = (self.prefix(), self.suffix(index));
        let mut key = Vec::with_capacity(prefix.len() + suffix.len());
        key.extend_from_slice(prefix);
        key.extend_from_slice(suffix);
        key
    }

    pub fn value(&self, index: usize) -> &[u8] {
        let cell = self.cell_at(index);
        let start = cell + CELL_HEADER + self.u16_at(cell);
        &self.bytes[start..start + self.u16_at(cell + 2)]
    }

    pub fn value_mut(&mut self, index: usize) -> &mut [u8] {
        let cell = self.cell_at(index);
        let start = cell + CELL_HEADER + self.u16_at(cell);
        let end = start + self.u16_at(cell + 2);
        &mut self.bytes[start..end]
    }

    pub fn child(&self, index: usize) -> Child {
        let value = self.value(index);
        let mut count = [0; 8];
        count.copy_from_slice(&value[4..CHILD_BYTES]);
        let page = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        Child { page, count: u64::from_le_bytes(count) }
    }

    pub fn set_child(&mut self, index: usize, child: Child) {
        self.value_mut(index).copy_from_slice(&child.encode());
    }

    /// Entries of the tree at or below this page.
    pub fn subtotal(&self) -> u64 {
        match self.kind() {
            PageKind::Leaf => self.count() as u64,
            PageKind::Inner => (0..self.count()).map(|index| self.child(index).count).sum(),
        }
    }

    /// Where the key is, or where it would go.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        let Some(suffix) = key.strip_prefix(prefix) else {
            return Err(if key < prefix { 0 } else { self.count() });
        };
        let head = head_of(suffix);
        let entries = self.entries();
        let is_like = |entry: &[u8; ENTRY]| head_in(entry) == head;
        let mut at = entries.partition_point(|entry| head_in(entry) < head);
        if entries.get(at + 1).is_some_and(is_like) {
            let is_before = |entry: &[u8; ENTRY]| is_like(entry) && self.suffix_of(cell_in(entry)) < suffix;
            at += entries[at..].partition_point(is_before);
        }
        let order = match entries.get(at) {
            Some(entry) if is_like(entry) => self.suffix_of(cell_in(entry)).cmp(suffix),
            Some(_) | None => Ordering::Greater,
        };
        match order {
            Ordering::Equal => Ok(at),
            Ordering::Less => Err(at + 1),
            Ordering::Greater => Err(at),
        }
    }

    fn entries(&self) -> &[[u8; ENTRY]] {
        let (start, end) = (self.entry_at(0), self.entry_at(self.count()));
        self.bytes[start..end].as_chunks().0
    }

    /// Has the processor fetch what a search of these pages looks at. Each page is known by way of two others, and where its entries end
    /// by its head, so all go one step before the first goes the next: they are waited for together.
    pub fn touch_all<'a>(pages: impl Iterator<Item = &'a Page> + Clone) {
        for page in pages.clone() {
            black_box(page.bytes.as_ptr());
        }
        for page in pages.clone() {
            black_box(page.bytes[0]);
        }
        for page in pages {
            touch(&page.bytes[..page.entry_at(page.count())]);
        }
    }

    /// Has the processor fetch an entry's cell.
    pub fn touch_cell(&self, index: usize) {
        let cell = self.cell_at(index);
        black_box(self.bytes[cell]);
    }

    /// The child of an inner page that a key belongs to.
    pub fn child_index(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        }
    }

    /// Whether this is an inner page whose child at `index` that is, and the key is below the next one's.
    pub fn leads_to(&self, index: usize, child: PageId, key: &[u8]) -> bool {
        let is_below_next = || {
            key.strip_prefix(self.prefix())
                .is_some_and(|suffix| index + 1 == self.count() || suffix < self.suffix(index + 1))
        };
        self.kind() == PageKind::Inner
            && index < self.count()
            && self.child(index).page == child
            && is_below_next()
    }

    fn gap(&self) -> usize {
        self.u16_at(22) - self.entry_at(self.count())
    }

    /// Bytes in use, without those of removed cells.
    pub fn live_bytes(&self) -> usize {
        self.len() - self.gap() - self.u16_at(24)
    }

    /// Whether the first entry has no key. In the half of an inner page that was just cut off it has one still.
    fn has_none_first(&self) -> bool {
        self.kind() == PageKind::Inner && self.count() > 0 && self.suffix(0).is_empty()
    }

    /// Makes the first entry of an inner page the one without a key.
    pub fn drop_first_key(&mut self) {
        let (entry, cell) = (self.entry_at(0), self.cell_at(0));
        let (key_bytes, value_bytes) = (self.u16_at(cell), self.u16_at(cell + 2));
        match cell == self.u16_at(22) {
            true => self.set_u16(22, cell + key_bytes),
            false => self.set_u16(24, self.u16_at(24) + key_bytes),
        }
        self.bytes[entry..entry + 4].fill(0);
        self.set_u16(entry + 4, cell + key_bytes);
        self.set_u16(cell + key_bytes, 0);
        self.set_u16(cell + key_bytes + 2, value_bytes);
    }

    /// What a key that comes in at `index` has behind the prefix, if it can have it here.
    fn suffix_for<'a>(&self, index: usize, key: &'a [u8]) -> Option<&'a [u8]> {
        let suffix = key.strip_prefix(self.prefix())?;
        (self.kind() == PageKind::Leaf || index == 0 || !suffix.is_empty() || self.prefix().is_empty())
            .then_some(suffix)
    }

    /// Whether an inner page that gets one more entry is to look for a longer prefix, so that the heads tell its keys apart.
    fn is_prefix_due(&self) -> bool {
        self.kind() == PageKind::Inner && self.count() >= 7 && (self.count() + 1).is_power_of_two()
    }

    /// Puts an entry at `index`, where the key belongs; false when there is no room.
    pub fn insert(&mut self, index: usize, key: &[u8], value: &[u8]) -> bool {
        if let Some(suffix) = self.suffix_for(index, key).filter(|_| !self.is_prefix_due()) {
            let cell_bytes = CELL_HEADER + suffix.len() + value.len();
            if self.gap() >= ENTRY + cell_bytes {
                let suffix_start = key.len() - suffix.len();
                self.insert_cell(index, &key[suffix_start..], value);
                return true;
            }
            if self.gap() + self.u16_at(24) < ENTRY + cell_bytes {
                return false;
            }
        }
        let Some(mut rebuilt) = self.rebuilt(self.len(), Some(key)) else { return false };
        let suffix = &key[rebuilt.prefix().len()..];
        if rebuilt.gap() < ENTRY + CELL_HEADER + suffix.len() + value.len() {
            return false;
        }
        rebuilt.insert_cell(index, suffix, value);
        *self = rebuilt;
        true
    }

    fn insert_cell(&mut self, index: usize, suffix: &[u8], value: &[u8]) {
        let count = self.count();
        let cell = self.u16_at(22) - (CELL_HEADER + suffix.len() + value.len());
        let (entry, end) = (self.entry_at(index), self.entry_at(count));
        self.bytes.copy_within(entry..end, entry + ENTRY);
        self.bytes[entry..entry + 4].copy_from_slice(&head_of(suffix).to_le_bytes());
        self.set_u16(entry + 4, cell);
        self.set_u16(cell, suffix.len());
        self.set_u16(cell + 2, value.len());
        let key_at = cell + CELL_HEADER;
        self.bytes[key_at..key_at + suffix.len()].copy_from_slice(suffix);
        self.bytes[key_at + suffix.len()..key_at + suffix.len() + value.len()].copy_from_slice(value);
        self.set_u16(22, cell);
        self.set_u16(14, count + 1);
    }

    pub fn remove(&mut self, index: usize) {
        let count = self.count();
        let (cell, cell_bytes) = (self.cell_at(index), self.cell_bytes(index));
        if cell == self.u16_at(22) {
            self.set_u16(22, cell + cell_bytes);
        } else {
            self.set_u16(24, self.u16_at(24) + cell_bytes);
        }
        let (entry, end) = (self.entry_at(index), self.entry_at(count));
        self.bytes.copy_within(entry + ENTRY..end, entry);
        self.set_u16(14, count - 1);
    }

    /// A page of `bytes` with the same entries, no dead bytes, and the longest prefix that `extra` shares too; `None` when
    /// they do not fit.
    pub fn rebuilt(&self, bytes: usize, extra: Option<&[u8]>) -> Option<Page> {
        self.extract(0..self.count(), self.id(), bytes, extra)
    }

    /// A page of `bytes` with a run of this one's entries.
    pub fn extract(
        &self,
        entries: std::ops::Range<usize>,
        id: PageId,
        bytes: usize,
        extra: Option<&[u8]>,
    ) -> Option<Page> {
        let mut page = Page::new(self.kind(), id, self.tree(), bytes);
        let prefix = self.prefix_of(&entries, extra);
        page.bytes[HEADER..HEADER + prefix.len()].copy_from_slice(&prefix);
        page.set_u16(20, prefix.len());
        page.append(self, entries).then_some(page)
    }

    /// What all keys of a run begin with, and one more.
    fn prefix_of(&self, entries: &std::ops::Range<usize>, extra: Option<&[u8]>) -> Vec<u8> {
        let first = entries.start + usize::from(entries.start == 0 && self.has_none_first());
        if first >= entries.end {
            return Vec::new();
        }
        let mut prefix = self.key(first);
        let shortest = extra.map_or(prefix.len(), |extra| extra.len().min(prefix.len()));
        prefix.truncate(common_bytes(&prefix, &self.key(entries.end - 1)));
        if let Some(extra) = extra {
            prefix.truncate(common_bytes(&prefix, extra));
        }
        if self.kind() == PageKind::Inner {
            prefix.truncate(shortest.saturating_sub(1));
        }
        prefix
    }

    /// Adds another page's entries behind this one's; false when they do not fit or do not share the prefix.
    pub fn append(&mut self, other: &Page, entries: std::ops::Range<usize>) -> bool {
        for index in entries {
            let (others, suffix) = (other.prefix(), other.suffix(index));
            let ours = self.prefix().len();
            let has_no_key = index == 0 && other.has_none_first();
            let fits = |suffix_bytes: usize, page: &Page| {
                page.gap() >= ENTRY + CELL_HEADER + suffix_bytes + other.value(index).len()
            };
            if has_no_key || (ours == others.len() && self.prefix() == others) {
                if !fits(suffix.len(), self) {
                    return false;
                }
                self.insert_cell(self.count(), suffix, other.value(index));
            } else {
                let key = other.key(index);
                if !key.starts_with(self.prefix()) || !fits(key.len() - ours, self) {
                    return false;
                }
                self.insert_cell(self.count(), &key[ours..], other.value(index));
            }
        }
        true
    }

    /// Where to cut the page so that both halves have room, if an entry of `added` bytes with this key is to come in at `index`; and
    /// whether that goes to the first half.
    pub fn split_at(&self, index: usize, key: &[u8], added: usize) -> (usize, bool) {
        let count = self.count();
        // Keys that come in order fill pages to the brim.
        if index == count {
            return (count, false);
        }
        // It stands before all others, but for the first of an inner page, and those might not fit even in two pages without the prefix that they share.
        if !key.starts_with(self.prefix()) {
            return (usize::from(self.kind() == PageKind::Inner), true);
        }
        let total: usize = (0..count).map(|entry| self.cell_bytes(entry) + ENTRY).sum::<usize>() + added;
        let mut before = 0;
        for entry in 0..count {
            // The cut may lie on either side of the new entry: with its neighbour it could be more than there is room for.
            if entry == index {
                before += added;
                if before * 2 >= total {
                    return (entry, true);
                }
            }
            before += self.cell_bytes(entry) + ENTRY;
            if before * 2 >= total {
                let at = (entry + 1).min(count - 1).max(1);
                return (at, index < at);
            }
        }
        (count, true)
    }

    /// The bytes to write at `block`: with own address and checksum.
    pub fn seal(&self, block: u32, target: &mut [u8]) -> u64 {
        target.copy_from_slice(&self.bytes);
        target[28..32].copy_from_slice(&block.to_le_bytes());
        let sum = checksum(&target[8..], u64::from(self.id()));
        target[..8].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    /// A page from disk, or what is wrong with it.
    pub fn open(bytes: &[u8], id: PageId, block: u32, sum: u32) -> Result<Page, String> {
        if bytes.len() != PAGE_BYTES && bytes.len() != SMALL_PAGE_BYTES {
            return Err(format!("page {id} is cut short"));
        }
        let page = Page { bytes: bytes.into() };
        let found = checksum(&bytes[8..], u64::from(id));
        if bytes[..8] != found.to_le_bytes() || found as u32 != sum {
            return Err(format!("the checksum of page {id} is {:08x}, want {sum:08x}", found as u32));
        }
        if page.id() != id || page.u32_at(28) != block {
            return Err(format!(
                "page {} of block {} lies where page {id} should",
                page.id(),
                page.u32_at(28)
            ));
        }
        page.check()?;
        Ok(page)
    }

    /// Whether all offsets lie inside, so that nothing else needs to look again.
    fn check(&self) -> Result<(), String> {
        let broken = |what: &str| Err(format!("page {}: {what}", self.id()));
        if !(1..=2).contains(&self.bytes[12]) {
            return broken("it is neither leaf nor inner page");
        }
        let entries_end = HEADER + self.u16_at(20) + ENTRY * self.count();
        let heap = self.u16_at(22);
        if entries_end > heap || heap > self.len() || self.u16_at(24) > self.len() - heap {
            return broken("entries and cells overlap");
        }
        for index in 0..self.count() {
            let cell = self.cell_at(index);
            if cell < heap || cell + CELL_HEADER > self.len() || cell + self.cell_bytes(index) > self.len() {
                return broken("a cell lies outside");
            }
            let value = self.value(index);
            let whole = match self.kind() {
                PageKind::Leaf => matches!(
                    crate::btree::cell::Cell::decode(value),
                    Some(crate::btree::cell::Cell::Inline(_) | crate::btree::cell::Cell::Placed { .. })
                ),
                PageKind::Inner => value.len() == CHILD_BYTES,
            };
            if !whole {
                return broken("a value is broken");
            }
        }
        if self.kind() == PageKind::Inner && self.count() == 0 {
            return broken("an inner page is empty");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::suite::Random;

    fn entries(page: &Page) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..page.count()).map(|index| (page.key(index), page.value(index).to_vec())).collect()
    }

    #[test]
    fn random_entries_are_kept_as_a_map_keeps_them() {
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let mut page = Page::new(PageKind::Leaf, 5, 1, if seed % 2 == 0 { 4096 } else { 8192 });
            let mut model = BTreeMap::new();
            for _ in 0..2000 {
                let number = random.below(300);
                let key =
                    if random.one_in(2) { format!("shared/{number}") } else { format!("shared{number}") };
                let key = key.into_bytes();
                match page.search(&key) {
                    Ok(index) => {
                        assert_eq!(
                            Some(page.value(index)),
                            model.get(&key).map(|value: &Vec<u8>| &value[..])
                        );
                        page.remove(index);
                        model.remove(&key);
                    }
                    Err(index) => {
                        let bytes = random.below(60) as usize;
                        let mut value = random.bytes(bytes);
                        value.insert(0, 0);
                        if page.insert(index, &key, &value) {
                            model.insert(key, value);
                        } else {
                            assert!(page.live_bytes() + 100 + 40 > page.len(), "a page with room refuses");
                        }
                    }
                }
            }
            assert_eq!(entries(&page), model.into_iter().collect::<Vec<_>>(), "seed {seed}");
            page.check().unwrap();
            assert_eq!(entries(&page.rebuilt(8192, None).unwrap()), entries(&page));
        }
    }

    #[test]
    fn golden_bytes_of_a_page() {
        let mut page = Page::new(PageKind::Leaf, 7, 9, 4096);
        assert!(page.insert(0, b"key", &[0, b'v']));
        let mut bytes = vec![0; 4096];
        let sum = page.seal(11, &mut bytes);
        assert_eq!(sum, u64::from_le_bytes(bytes[..8].try_into().unwrap()));
        assert_eq!(
            bytes[8..32],
            [7, 0, 0, 0, 1, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0xf7, 0x0f, 0, 0, 0, 0, 11, 0, 0, 0]
        );
        assert_eq!(bytes[32..38], [0, b'y', b'e', b'k', 0xf7, 0x0f]);
        assert_eq!(bytes[4087..], [3, 0, 2, 0, b'k', b'e', b'y', 0, b'v']);
        assert_eq!(entries(&Page::open(&bytes, 7, 11, sum as u32).unwrap()), entries(&page));
    }

    #[test]
    fn golden_bytes_of_an_inner_page_with_a_prefix() {
        let mut page = Page::new(PageKind::Inner, 7, 9, 4096);
        let child = |number: u8| Child { page: number.into(), count: 1 }.encode();
        assert!(page.insert(0, b"", &child(1)));
        for number in 1..8 {
            assert!(page.insert(number.into(), &[b'k', b'e', b'y', number], &child(number + 1)));
        }
        assert_eq!(page.bytes[14..26], [8, 0, 9, 0, 0, 0, 3, 0, 0x79, 0x0f, 0, 0]);
        // The first entry has nothing behind the prefix, the others a byte.
        assert_eq!(page.bytes[32..47], [b'k', b'e', b'y', 0, 0, 0, 0, 0xf0, 0x0f, 0, 0, 0, 1, 0xdf, 0x0f]);
        assert_eq!(page.bytes[4080..], [0, 0, 12, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page.bytes[4063..4068], [1, 0, 12, 0, 1]);
        assert_eq!(page.child_index(b"kex"), 0);
        assert_eq!(page.child_index(b"key"), 0);
        assert_eq!(page.child_index(b"key\x01"), 1);
        assert_eq!(page.child_index(b"key\x07\x07"), 7);
        assert_eq!(page.child_index(b"kez"), 7);
    }

    #[test]
    fn a_page_with_any_bit_flipped_or_out_of_place_is_refused() {
        let mut page = Page::new(PageKind::Leaf, 7, 9, 4096);
        assert!(page.insert(0, b"key", &[0, b'v']));
        let mut bytes = vec![0; 4096];
        let sum = page.seal(11, &mut bytes) as u32;
        for bit in (0..4096 * 8).step_by(37) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Page::open(&flipped, 7, 11, sum).is_err(), "bit {bit}");
        }
        assert!(Page::open(&bytes, 8, 11, sum).is_err());
        assert!(Page::open(&bytes, 7, 12, sum).is_err());
        assert!(Page::open(&bytes[..4000], 7, 11, sum).is_err());
    }

    #[test]
    fn broken_structure_under_a_right_checksum_is_an_error() {
        for seed in 0..3000 {
            let mut random = Random::new(seed);
            let mut page = Page::new(PageKind::Leaf, 7, 9, 4096);
            for number in 0..9_u8 {
                let count = page.count();
                assert!(page.insert(count, &[b'k', number], &[0, number]));
            }
            for _ in 0..3 {
                let place = 12 + random.below(80) as usize;
                page.bytes[place] = random.number() as u8;
            }
            page.bytes[28..32].fill(0);
            let mut bytes = vec![0; 4096];
            let sum = page.seal(0, &mut bytes) as u32;
            if let Ok(opened) = Page::open(&bytes, opened_id(&bytes), 0, sum) {
                let _ = (entries(&opened), opened.search(b"kk"), opened.live_bytes());
            }
        }
    }

    fn opened_id(bytes: &[u8]) -> u32 {
        u32::from_le_bytes(bytes[8..12].try_into().unwrap())
    }
}
