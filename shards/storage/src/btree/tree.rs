//! Searching and changing a tree whose pages are in memory.
//!
//! Always: a call that needs a page that is not in memory says so before it changed anything. Entries of an inner page
//! count what is below them, so a rank or an n-th entry takes one walk down. A tree's root keeps its page number for ever:
//! when it splits, its contents move down. Pages that became small are joined only by [`tidy`], after a whole batch, and
//! only with neighbours that are in memory: joining earlier could lead a later edit of the batch to a page on disk.

use std::ops::Bound;

use crate::btree::page::{Child, PAGE_BYTES, Page, PageKind, SMALL_PAGE_BYTES};
use crate::btree::{Missing, PageId};
use crate::cache::pool::Pool;
use crate::engine::Direction;

/// Inner pages on the way from a root to a leaf, with the entry taken in each.
pub(crate) type Inner = Vec<(PageId, usize)>;

/// A key, and where it was found to belong if it was looked for.
pub(crate) struct Way<'a> {
    pub root: PageId,
    pub key: &'a [u8],
    pub known: Option<Known<'a>>,
}

/// Where a key belonged some puts ago: others may have split what is on the way since.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub inner: &'a [(PageId, usize)],
    pub leaf: PageId,
}

impl Known<'_> {
    /// Whether the key still belongs there. Splitting a page moves the upper part of its entries, so what is to be seen is that each child is
    /// where it was and that the key is below the next.
    fn holds(&self, pool: &Pool, key: &[u8]) -> bool {
        let below = self.inner.iter().skip(1).map(|(page, _)| *page).chain([self.leaf]);
        let mut steps = self.inner.iter().zip(below);
        steps.all(|((page, index), child)| {
            pool.peek(*page).is_some_and(|page| page.leads_to(*index, child, key))
        }) && pool.peek(self.leaf).is_some_and(|leaf| leaf.kind() == PageKind::Leaf)
    }
}

/// The leaf that a key belongs to.
pub(crate) fn leaf_of(pool: &mut Pool, root: PageId, key: &[u8]) -> Result<PageId, Missing> {
    let mut id = root;
    loop {
        let page = pool.page(id)?;
        match page.kind() {
            PageKind::Leaf => return Ok(id),
            PageKind::Inner => id = page.child(page.child_index(key)).page,
        }
    }
}

/// The leaf that a key belongs to; the pages on the way to it are added to `inner`.
pub(crate) fn walk(pool: &mut Pool, root: PageId, key: &[u8], inner: &mut Inner) -> Result<PageId, Missing> {
    let mut id = root;
    loop {
        let page = pool.page(id)?;
        match page.kind() {
            PageKind::Leaf => return Ok(id),
            PageKind::Inner => {
                let index = page.child_index(key);
                inner.push((id, index));
                id = page.child(index).page;
            }
        }
    }
}

/// Where several walks have led.
pub(crate) struct Descent {
    /// The leaf that each of them ended at.
    pub leaves: Vec<Result<PageId, Missing>>,
    /// Steps down, those of a level behind those of the level above; of one level in the order of the walks.
    pub steps: Vec<Step>,
}

/// A step from an inner page to one of its children.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// The place of its walk among the others.
    pub walk: usize,
    pub page: PageId,
    pub index: usize,
}

/// Walks down from several roots. All go one level down before the first goes the next: what they need of memory is touched before it is used,
/// and so waited for together. The entries of the leaves are touched, too. `choose` says which child of a page a walk goes on to.
pub(crate) fn descend(
    pool: &mut Pool,
    roots: impl Iterator<Item = PageId>,
    choose: impl Fn(usize, &Page) -> usize,
) -> Descent {
    let mut open: Vec<(usize, PageId)> = roots.enumerate().collect();
    let mut leaves: Vec<_> = open.iter().map(|(_, root)| Ok(*root)).collect();
    let mut steps: Vec<Step> = Vec::with_capacity(2 * open.len());
    while !open.is_empty() {
        pool.touch_pages(open.iter().map(|(_, page)| *page));
        let level = steps.len();
        for (walk, id) in open.drain(..) {
            match pool.page(id) {
                Ok(page) if page.kind() == PageKind::Inner => {
                    let index = choose(walk, page);
                    page.touch_cell(index);
                    steps.push(Step { walk, page: id, index });
                }
                found => leaves[walk] = found.map(|_| id),
            }
        }
        open.extend(steps[level..].iter().map(|step| {
            let page = pool.peek(step.page).expect("a page that was just looked at");
            (step.walk, page.child(step.index).page)
        }));
    }
    Descent { leaves, steps }
}

impl<'a> Way<'a> {
    pub fn new(root: PageId, key: &'a [u8]) -> Self {
        Way { root, key, known: None }
    }

    /// The way as it is now; if it has to be walked, `walked` holds it.
    fn now<'w>(&self, pool: &mut Pool, walked: &'w mut Inner) -> Result<Known<'w>, Missing>
    where
        'a: 'w,
    {
        if let Some(known) = self.known
            && known.holds(pool, self.key)
        {
            return Ok(known);
        }
        let leaf = walk(pool, self.root, self.key, walked)?;
        Ok(Known { inner: walked, leaf })
    }
}

/// Puts a cell behind a key and gives what was there to `replaced`.
pub(crate) fn put(
    pool: &mut Pool,
    way: &Way<'_>,
    cell: &[u8],
    replaced: impl FnOnce(&[u8]),
) -> Result<(), Missing> {
    let (key, mut walked) = (way.key, Inner::new());
    let Known { inner, leaf } = way.now(pool, &mut walked)?;
    let page = pool.page(leaf)?;
    match page.search(key) {
        Ok(index) if page.value(index).len() == cell.len() => {
            replaced(page.value(index));
            pool.page_mut(leaf).value_mut(index).copy_from_slice(cell);
        }
        Ok(index) => {
            let page = pool.page_mut(leaf);
            replaced(page.value(index));
            page.remove(index);
            insert(pool, way.root, inner, leaf, (index, key, cell));
        }
        Err(index) => {
            add_to_counts(pool, inner, 1);
            insert(pool, way.root, inner, leaf, (index, key, cell));
        }
    }
    Ok(())
}

fn add_to_counts(pool: &mut Pool, inner: &[(PageId, usize)], added: i64) {
    for (id, index) in inner {
        let page = pool.page_mut(*id);
        let child = page.child(*index);
        page.set_child(*index, Child { count: child.count.wrapping_add_signed(added), ..child });
    }
}

fn insert(
    pool: &mut Pool,
    root: PageId,
    above: &[(PageId, usize)],
    id: PageId,
    entry: (usize, &[u8], &[u8]),
) {
    let (index, key, value) = entry;
    let page = pool.page_mut(id);
    if page.insert(index, key, value) {
        return;
    }
    if page.len() < PAGE_BYTES
        && let Some(mut grown) = page.rebuilt(PAGE_BYTES, Some(key))
        && grown.insert(index, key, value)
    {
        pool.replace(id, grown);
        return;
    }
    let halves = split(page, entry);
    let tree = halves.left.tree();
    let mut right = halves.right;
    let right_count = right.subtotal();
    let right_id = pool.allocate_page(tree, |id| {
        right.set_id(id);
        right
    });
    let right_child = Child { page: right_id, count: right_count };
    if id == root {
        let mut left = halves.left;
        let left_count = left.subtotal();
        let left_id = pool.allocate_page(tree, |id| {
            left.set_id(id);
            left
        });
        let mut top = Page::new(PageKind::Inner, root, tree, SMALL_PAGE_BYTES);
        let left_child = Child { page: left_id, count: left_count };
        let fits = top.insert(0, &[], &left_child.encode())
            && top.insert(1, &halves.separator, &right_child.encode());
        assert!(fits, "two children fit in an empty page");
        pool.replace(root, top);
        return;
    }
    let left_count = halves.left.subtotal();
    pool.replace(id, halves.left);
    let ((parent, index), above) = above.split_last().expect("a page that is not the root has a parent");
    let parent_page = pool.page_mut(*parent);
    parent_page.set_child(*index, Child { page: id, count: left_count });
    let encoded = right_child.encode();
    insert(pool, root, above, *parent, (index + 1, &halves.separator, &encoded));
}

struct Halves {
    left: Page,
    right: Page,
    separator: Vec<u8>,
}

fn split(page: &Page, (index, key, value): (usize, &[u8], &[u8])) -> Halves {
    const ROOM: &str = "half a page fits in a page";
    let (at, goes_left) = page.split_at(index, key, key.len() + value.len() + 10);
    let left_extra = goes_left.then_some(key);
    let right_extra = (!goes_left).then_some(key);
    let mut left = page.extract(0..at, page.id(), PAGE_BYTES, left_extra).expect(ROOM);
    let mut right = page.extract(at..page.count(), page.id(), PAGE_BYTES, right_extra).expect(ROOM);
    let fits = if goes_left { left.insert(index, key, value) } else { right.insert(index - at, key, value) };
    assert!(fits, "{ROOM}");
    let separator = match page.kind() {
        PageKind::Leaf => separator(&left.key(left.count() - 1), &right.key(0)),
        PageKind::Inner => {
            let separator = right.key(0);
            right.drop_first_key();
            separator
        }
    };
    Halves { left, right, separator }
}

/// The shortest key above `left` and not above `right`.
fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    right[..right.len().min(common + 1)].to_vec()
}

/// Removes a key and gives what was there. True when the leaf has become small: [`tidy`] it after the batch.
pub(crate) fn delete(pool: &mut Pool, way: &Way<'_>, removed: impl FnOnce(&[u8])) -> Result<bool, Missing> {
    let mut walked = Inner::new();
    let Known { inner, leaf: id } = way.now(pool, &mut walked)?;
    let leaf = pool.page(id)?;
    let Ok(index) = leaf.search(way.key) else { return Ok(false) };
    removed(leaf.value(index));
    let leaf = pool.page_mut(id);
    leaf.remove(index);
    let is_small = leaf.live_bytes() < PAGE_BYTES / 4;
    add_to_counts(pool, inner, -1);
    Ok(is_small)
}

/// Joins the leaf of a key with a neighbour when both are small, and takes empty pages out.
pub(crate) fn tidy(pool: &mut Pool, root: PageId, key: &[u8]) {
    let mut inner = Inner::new();
    let Ok(mut id) = walk(pool, root, key, &mut inner) else { return };
    while let Some((parent, index)) = inner.pop() {
        let Some(page) = pool.peek(id) else { break };
        if page.count() == 0 {
            pool.free_page(id);
            let parent_page = pool.page_mut(parent);
            parent_page.remove(index);
            if index == 0 && parent_page.count() > 0 {
                parent_page.drop_first_key();
            }
        } else if page.live_bytes() >= PAGE_BYTES / 4 || !join(pool, parent, index) {
            break;
        }
        id = parent;
    }
    collapse(pool, root);
}

/// Joins a child with the one behind or before it when both are in memory and fit with room to spare.
fn join(pool: &mut Pool, parent: PageId, index: usize) -> bool {
    let Some(parent_page) = pool.peek(parent) else { return false };
    let candidates = [index.checked_sub(1), Some(index).filter(|left| left + 1 < parent_page.count())];
    for left_index in candidates.into_iter().flatten() {
        let Some(parent_page) = pool.peek(parent) else { return false };
        let (left, right) = (parent_page.child(left_index), parent_page.child(left_index + 1));
        let separator = parent_page.key(left_index + 1);
        let (Some(left_page), Some(right_page)) = (pool.peek(left.page), pool.peek(right.page)) else {
            continue;
        };
        let Some(joined) = joined(left_page, right_page, &separator) else { continue };
        pool.replace(left.page, joined);
        pool.free_page(right.page);
        let parent_page = pool.page_mut(parent);
        parent_page.remove(left_index + 1);
        parent_page.set_child(left_index, Child { page: left.page, count: left.count + right.count });
        return true;
    }
    false
}

fn joined(left: &Page, right: &Page, separator: &[u8]) -> Option<Page> {
    if left.count() == 0 || right.count() == 0 || left.live_bytes() + right.live_bytes() > PAGE_BYTES * 3 / 4
    {
        return None;
    }
    let last = right.key(right.count() - 1);
    let mut page = left.rebuilt(PAGE_BYTES, Some(&last))?;
    let first = match right.kind() {
        PageKind::Leaf => 0,
        PageKind::Inner => {
            let count = page.count();
            if !page.insert(count, separator, &right.child(0).encode()) {
                return None;
            }
            1
        }
    };
    page.append(right, first..right.count()).then_some(page)
}

/// Makes the tree lower while its root has a single child, or none.
fn collapse(pool: &mut Pool, root: PageId) {
    while let Some(page) = pool.peek(root) {
        if page.kind() == PageKind::Leaf || page.count() > 1 {
            return;
        }
        let tree = page.tree();
        if page.count() == 0 {
            pool.replace(root, Page::new(PageKind::Leaf, root, tree, SMALL_PAGE_BYTES));
            return;
        }
        let child = page.child(0).page;
        let Some(child_page) = pool.peek(child) else { return };
        let mut raised = Page::clone(child_page);
        raised.set_id(root);
        pool.replace(root, raised);
        pool.free_page(child);
    }
}

/// Entries before a bound of a range: before its start, or before what follows its end.
pub(crate) fn rank(pool: &mut Pool, root: PageId, key: &[u8], inclusive: bool) -> Result<u64, Missing> {
    let (mut id, mut before) = (root, 0);
    loop {
        let page = pool.page(id)?;
        match page.kind() {
            PageKind::Leaf => {
                return Ok(before
                    + match page.search(key) {
                        Ok(index) => index + usize::from(inclusive),
                        Err(index) => index,
                    } as u64);
            }
            PageKind::Inner => {
                let index = page.child_index(key);
                before += (0..index).map(|index| page.child(index).count).sum::<u64>();
                id = page.child(index).page;
            }
        }
    }
}

/// Ranks of the first entry of a range and of what follows its last.
pub(crate) fn ranks(
    pool: &mut Pool,
    root: PageId,
    range: &crate::engine::Range,
) -> Result<(u64, u64), Missing> {
    let start = match &range.start {
        Bound::Unbounded => 0,
        Bound::Included(key) => rank(pool, root, key, false)?,
        Bound::Excluded(key) => rank(pool, root, key, true)?,
    };
    let end = match &range.end {
        Bound::Unbounded => pool.page(root)?.subtotal(),
        Bound::Included(key) => rank(pool, root, key, true)?,
        Bound::Excluded(key) => rank(pool, root, key, false)?,
    };
    Ok((start, end.max(start)))
}

/// The leaf and the place in it of the entry with this rank.
pub(crate) fn select(pool: &mut Pool, root: PageId, rank: u64) -> Result<Option<(PageId, usize)>, Missing> {
    let (mut id, mut left) = (root, rank);
    loop {
        let page = pool.page(id)?;
        match page.kind() {
            PageKind::Leaf => {
                let index = usize::try_from(left).ok().filter(|index| *index < page.count());
                return Ok(index.map(|index| (id, index)));
            }
            PageKind::Inner => {
                let mut next = None;
                for index in 0..page.count() {
                    let child = page.child(index);
                    if left < child.count {
                        next = Some(child.page);
                        break;
                    }
                    left -= child.count;
                }
                match next {
                    Some(child) => id = child,
                    None => return Ok(None),
                }
            }
        }
    }
}

/// A leaf on the way of a scan, and the bound with which the scan goes on behind it.
pub(crate) struct Stop {
    pub leaf: PageId,
    /// `None` at the end of the tree.
    pub next: Option<Bound<Vec<u8>>>,
}

/// A page on the way of a scan that is not in memory.
pub(crate) struct Gap {
    pub page: PageId,
    /// The pages that the scan comes to behind it, as far as its parent tells.
    pub ahead: Vec<PageId>,
    /// The bound behind all that lies below it; `None` at the end of the tree.
    pub next: Option<Bound<Vec<u8>>>,
}

/// Pages that a [`Gap`] names beside its own: a scan reads them together.
const AHEAD_MAX: usize = 31;

/// The leaf where a scan from `from` begins.
pub(crate) fn seek(
    pool: &mut Pool,
    root: PageId,
    from: &Bound<Vec<u8>>,
    direction: Direction,
) -> Result<Stop, Gap> {
    let (mut id, mut next) = (root, None);
    let mut parent = None;
    loop {
        let Ok(page) = pool.page(id) else {
            let ahead =
                parent.map_or_else(Vec::new, |(parent, index)| siblings(pool, parent, index, direction));
            return Err(Gap { page: id, ahead, next });
        };
        if page.kind() == PageKind::Leaf {
            return Ok(Stop { leaf: id, next });
        }
        let index = child_towards(page, from, direction);
        match direction {
            Direction::Forward if index + 1 < page.count() => {
                next = Some(Bound::Included(page.key(index + 1)))
            }
            Direction::Backward if index > 0 => next = Some(Bound::Excluded(page.key(index))),
            Direction::Forward | Direction::Backward => {}
        }
        parent = Some((id, index));
        id = page.child(index).page;
    }
}

/// The child of an inner page where a scan from `from` begins.
pub(crate) fn child_towards(page: &Page, from: &Bound<Vec<u8>>, direction: Direction) -> usize {
    match (from, direction) {
        (Bound::Unbounded, Direction::Forward) => 0,
        (Bound::Unbounded, Direction::Backward) => page.count() - 1,
        (Bound::Excluded(key), Direction::Backward) => match page.search(key) {
            Ok(index) | Err(index) => index.saturating_sub(1),
        },
        (Bound::Included(key), Direction::Backward)
        | (Bound::Included(key) | Bound::Excluded(key), Direction::Forward) => page.child_index(key),
    }
}

/// What a scan comes to behind a child of a page.
fn siblings(pool: &Pool, parent: PageId, index: usize, direction: Direction) -> Vec<PageId> {
    let Some(page) = pool.peek(parent) else { return Vec::new() };
    let siblings: &mut dyn Iterator<Item = usize> = match direction {
        Direction::Forward => &mut (index + 1..page.count()),
        Direction::Backward => &mut (0..index).rev(),
    };
    siblings.take(AHEAD_MAX).map(|sibling| page.child(sibling).page).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::btree::page::PAIR_BYTES_MAX;
    use crate::engine::Range;
    use crate::suite::Random;

    #[test]
    fn trees_agree_with_maps() {
        for seed in 0..30 {
            let mut random = Random::new(seed);
            let mut pool = Pool::new(1 << 30);
            let root = pool.allocate_page(1, |id| Page::new(PageKind::Leaf, id, 1, SMALL_PAGE_BYTES));
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let keys = [50, 2000, 100_000][seed as usize % 3];
            for step in 0..6000 {
                let number = random.below(keys);
                let key = match number % 3 {
                    0 => number.to_be_bytes().to_vec(),
                    1 => format!("key {number}").into_bytes(),
                    _ => format!("key {number:0>200}").into_bytes(),
                };
                // Waves of growth and of shrinking.
                let deletes = if step / 1500 % 2 == 0 { 4 } else { 9 };
                if random.below(12) < deletes {
                    let mut found = None;
                    if delete(&mut pool, &Way::new(root, &key), |cell| found = Some(cell.to_vec())).unwrap() {
                        tidy(&mut pool, root, &key);
                    }
                    assert_eq!(found, model.remove(&key));
                } else {
                    let bytes = random.below(120) as usize;
                    let mut cell = random.bytes(bytes);
                    cell.insert(0, 0);
                    let mut found = None;
                    put(&mut pool, &Way::new(root, &key), &cell, |old| found = Some(old.to_vec())).unwrap();
                    assert_eq!(found, model.insert(key, cell));
                }
                if step % 500 == 0 {
                    agree(&mut pool, root, &model, &mut random);
                }
            }
            for (key, _) in std::mem::take(&mut model) {
                if delete(&mut pool, &Way::new(root, &key), |_| {}).unwrap() {
                    tidy(&mut pool, root, &key);
                }
            }
            agree(&mut pool, root, &model, &mut random);
            assert!(pool.frames.len() - pool.freed.len() < 3, "an empty tree gives its pages back");
        }
    }

    #[test]
    fn ways_that_were_walked_before_a_batch_lead_to_where_its_keys_belong() {
        let (mut held, mut asked) = (0, 0);
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut pool = Pool::new(1 << 30);
            let root = pool.allocate_page(1, |id| Page::new(PageKind::Leaf, id, 1, SMALL_PAGE_BYTES));
            let mut model = BTreeMap::new();
            for batch in 0..60 {
                let (mut edits, mut small) = (Vec::new(), Vec::new());
                for _ in 0..1 + random.below(200) {
                    let key = format!("key {:0>50}", random.below(20_000)).into_bytes();
                    let mut inner = Inner::new();
                    let leaf = walk(&mut pool, root, &key, &mut inner).unwrap();
                    edits.push((key, inner, leaf));
                }
                for (key, inner, leaf) in &edits {
                    let known = Known { inner, leaf: *leaf };
                    asked += 1;
                    held += u32::from(known.holds(&pool, key));
                    let way = Way { root, key, known: Some(known) };
                    let mut found = None;
                    // Batches that mostly put, and some that mostly delete.
                    if random.below(8) < if batch % 4 == 3 { 6 } else { 1 } {
                        if delete(&mut pool, &way, |cell| found = Some(cell.to_vec())).unwrap() {
                            small.push(key.clone());
                        }
                        assert_eq!(found, model.remove(key));
                    } else {
                        let cell = vec![0; 1 + random.below(60) as usize];
                        put(&mut pool, &way, &cell, |old| found = Some(old.to_vec())).unwrap();
                        assert_eq!(found, model.insert(key.clone(), cell));
                    }
                }
                small.iter().for_each(|key| tidy(&mut pool, root, key));
                agree(&mut pool, root, &model, &mut random);
            }
        }
        assert!(asked / 2 < held && held < asked, "{held} of {asked} ways still held");
    }

    #[test]
    fn a_leaf_of_a_few_large_cells_is_cut_wherever_the_next_one_comes() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut pool = Pool::new(1 << 30);
            let root = pool.allocate_page(1, |id| Page::new(PageKind::Leaf, id, 1, SMALL_PAGE_BYTES));
            let mut model = BTreeMap::new();
            for _ in 0..120 {
                let key = random.number().to_be_bytes().to_vec();
                let most = PAIR_BYTES_MAX - key.len();
                let bytes = if random.one_in(3) { most } else { 1 + random.below(most as u64) as usize };
                let cell = vec![1; bytes];
                put(&mut pool, &Way::new(root, &key), &cell, |_| {}).unwrap();
                model.insert(key, cell);
            }
            agree(&mut pool, root, &model, &mut random);
        }
    }

    #[test]
    fn a_key_that_shares_nothing_with_a_full_leaf_finds_room() {
        for (prefix, other) in
            [("customer/", "a"), ("customer/", "z"), (&"p".repeat(1400), "a"), ("ab", "aa")]
        {
            for entries in [20, 100, 400, 1000] {
                let mut pool = Pool::new(1 << 30);
                let root = pool.allocate_page(1, |id| Page::new(PageKind::Leaf, id, 1, SMALL_PAGE_BYTES));
                let mut model = BTreeMap::new();
                let keys = (0..entries).map(|number| format!("{prefix}{number:0>40}").into_bytes());
                for key in keys.chain([other.as_bytes().to_vec()]) {
                    put(&mut pool, &Way::new(root, &key), &[1; 17], |_| {}).unwrap();
                    model.insert(key, vec![1; 17]);
                }
                agree(&mut pool, root, &model, &mut Random::new(1));
            }
        }
    }

    #[test]
    fn inner_pages_have_the_prefix_of_their_keys_and_take_any_other() {
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let mut pool = Pool::new(1 << 30);
            let root = pool.allocate_page(1, |id| Page::new(PageKind::Leaf, id, 1, SMALL_PAGE_BYTES));
            let mut model = BTreeMap::new();
            // Most keys begin alike, at some length; others come before, behind, and are a part of that.
            let shared = "shared/".repeat([1, 3, 60, 190][seed as usize % 4]);
            for step in 0..6000 {
                let number = random.below(100_000);
                let key = match random.below(if step < 3000 { 1 } else { 12 }) {
                    1 => format!("{number}"),
                    2 => format!("z{number}"),
                    3 => shared[..random.below(shared.len() as u64) as usize].to_owned(),
                    4 => format!("{}{number}", &shared[..random.below(shared.len() as u64) as usize]),
                    _ => format!("{shared}{number:0>9}"),
                };
                let key = key.into_bytes();
                if step >= 3000 && random.one_in(3) {
                    if delete(&mut pool, &Way::new(root, &key), |_| {}).unwrap() {
                        tidy(&mut pool, root, &key);
                    }
                    model.remove(&key);
                } else {
                    put(&mut pool, &Way::new(root, &key), &[0; 40], |_| {}).unwrap();
                    model.insert(key, vec![0; 40]);
                }
                if step == 2999 {
                    let prefix = pool.peek(root).unwrap().prefix().len();
                    assert!(prefix >= shared.len(), "seed {seed}: a prefix of {prefix} bytes");
                }
                if step % 500 == 0 {
                    agree(&mut pool, root, &model, &mut random);
                }
            }
            agree(&mut pool, root, &model, &mut random);
        }
    }

    fn agree(pool: &mut Pool, root: PageId, model: &BTreeMap<Vec<u8>, Vec<u8>>, random: &mut Random) {
        for direction in [Direction::Forward, Direction::Backward] {
            let mut found = Vec::new();
            let mut from = Bound::Unbounded;
            loop {
                let Ok(stop) = seek(pool, root, &from, direction) else { panic!("all pages are in memory") };
                let leaf = pool.page(stop.leaf).unwrap();
                let mut run: Vec<_> =
                    (0..leaf.count()).map(|index| (leaf.key(index), leaf.value(index).to_vec())).collect();
                if direction == Direction::Backward {
                    run.reverse();
                }
                found.extend(run);
                let Some(next) = stop.next else { break };
                from = next;
            }
            if direction == Direction::Backward {
                found.reverse();
            }
            let want: Vec<_> = model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            assert!(found == want);
        }
        for _ in 0..20 {
            let place = random.below(model.len() as u64 + 1) as usize;
            let Some(key) = model.keys().nth(place) else { continue };
            let (leaf, index) = select(pool, root, place as u64).unwrap().unwrap();
            assert_eq!(pool.page(leaf).unwrap().key(index), *key);
            let range = Range { start: Bound::Excluded(key.clone()), end: Bound::Unbounded };
            assert_eq!(ranks(pool, root, &range).unwrap(), (place as u64 + 1, model.len() as u64));
        }
    }
}
