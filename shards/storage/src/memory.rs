//! The test double of a store: every tree is a `BTreeMap`, nothing touches a disk, a flush is done when it is asked for.
//!
//! Always: it answers exactly as [`StorageEngine`] says, so that the suite that runs over every backend has a reference and
//! floors above can be tested without a disk. [`MemoryEngine::reopen`] stands in for closing and opening; there is no crash.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::engine::{
    Cached, Direction, Edit, Entries, Lsn, Merged, MergedEntry, Part, Range, StorageEngine, StorageError,
    StorageStats, TreeId, TreeName, Value, VisitEnd, Visited,
};

/// A store in memory.
#[derive(Default)]
pub struct MemoryEngine {
    store: Rc<RefCell<Store>>,
    closed: Cell<bool>,
    /// Woken by [`StorageEngine::close`].
    background: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Store {
    names: BTreeMap<TreeName, TreeId>,
    trees: BTreeMap<TreeId, Tree>,
    trees_made: u32,
    applied: u64,
    reads: u64,
}

type Tree = BTreeMap<Vec<u8>, Value>;

impl MemoryEngine {
    pub fn new() -> Self {
        Self::default()
    }

    /// The same store, opened anew.
    pub fn reopen(&self) -> Self {
        Self { store: self.store.clone(), ..Self::default() }
    }
}

impl Store {
    fn tree(&self, tree: TreeId) -> Result<&Tree, StorageError> {
        self.trees.get(&tree).ok_or_else(|| no_tree(tree))
    }

    fn tree_mut(&mut self, tree: TreeId) -> Result<&mut Tree, StorageError> {
        self.trees.get_mut(&tree).ok_or_else(|| no_tree(tree))
    }

    /// One position of the log per change, so that every commit has its own.
    fn advance(&mut self) -> Lsn {
        self.applied += 1;
        Lsn(self.applied)
    }
}

impl StorageEngine for MemoryEngine {
    fn tree(&self, name: &TreeName) -> Option<TreeId> {
        self.store.borrow().names.get(name).copied()
    }

    fn tree_names(&self) -> Vec<TreeName> {
        self.store.borrow().names.keys().cloned().collect()
    }

    async fn create_tree(&self, name: &TreeName) -> Result<TreeId, StorageError> {
        let mut store = self.store.borrow_mut();
        if let Some(&tree) = store.names.get(name) {
            return Ok(tree);
        }
        let tree = TreeId(store.trees_made);
        store.trees_made += 1;
        store.names.insert(name.clone(), tree);
        store.trees.insert(tree, Tree::new());
        store.advance();
        Ok(tree)
    }

    async fn drop_tree(&self, tree: TreeId) -> Result<(), StorageError> {
        let mut store = self.store.borrow_mut();
        store.trees.remove(&tree).ok_or_else(|| no_tree(tree))?;
        store.names.retain(|_, named| *named != tree);
        store.advance();
        Ok(())
    }

    async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Value>, StorageError> {
        let mut store = self.store.borrow_mut();
        store.reads += 1;
        Ok(store.tree(tree)?.get(key).cloned())
    }

    fn cached(&self, tree: TreeId, key: &[u8]) -> Result<Cached<Option<Value>>, StorageError> {
        let mut store = self.store.borrow_mut();
        store.reads += 1;
        Ok(Cached::Hit(store.tree(tree)?.get(key).cloned()))
    }

    async fn range(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Entries, StorageError> {
        let store = self.store.borrow();
        let mut rest = in_order(store.tree(tree)?, range, direction);
        let mut entries = Vec::new();
        let mut bytes = 0;
        while entries.is_empty() || (entries.len() < rows_max && bytes < bytes_max) {
            let Some((key, value)) = rest.next() else { break };
            bytes += value.len();
            entries.push((key.clone(), value.clone()));
        }
        let more = rest.next().is_some();
        Ok(Entries { entries, more })
    }

    fn merge(
        &self,
        trees: &[TreeId],
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Merged, StorageError> {
        let store = self.store.borrow();
        let mut all = Vec::new();
        for (place, tree) in trees.iter().enumerate() {
            let entries = in_order(store.tree(*tree)?, range, direction).take(rows_max + 1);
            all.extend(entries.map(|(key, value)| (key, place, value)));
        }
        all.sort_unstable_by(|(one, ..), (other, ..)| match direction {
            Direction::Forward => one.cmp(other),
            Direction::Backward => other.cmp(one),
        });
        let mut merged = Merged { end: VisitEnd::Range, ..Merged::default() };
        let mut bytes = 0;
        for (key, tree, value) in all {
            if merged.entries.len() == rows_max || (bytes >= bytes_max && !merged.entries.is_empty()) {
                merged.end = VisitEnd::More;
                break;
            }
            let start = merged.keys.len();
            merged.keys.extend_from_slice(key);
            merged.entries.push(MergedEntry { tree, key: start..merged.keys.len(), value: value.clone() });
            bytes += value.len();
        }
        Ok(merged)
    }

    fn visit(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut dyn FnMut(&[&[u8]]) -> usize,
    ) -> Result<Visited, StorageError> {
        let store = self.store.borrow();
        let mut rest = in_order(store.tree(tree)?, range, Direction::Forward);
        let shown: Vec<_> = rest.by_ref().take(rows_max).collect();
        let values: Vec<&[u8]> = shown.iter().map(|(_, value)| &***value).collect();
        let taken = see(&values);
        let is_all = taken == shown.len() && rest.next().is_none();
        let last = taken.checked_sub(1).map(|last| shown[last].0.clone());
        Ok(Visited { last, end: if is_all { VisitEnd::Range } else { VisitEnd::More } })
    }

    async fn count(&self, tree: TreeId, range: &Range) -> Result<u64, StorageError> {
        Ok(in_order(self.store.borrow().tree(tree)?, range, Direction::Forward).count() as u64)
    }

    async fn nth(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        n: u64,
    ) -> Result<Option<(Vec<u8>, Value)>, StorageError> {
        let store = self.store.borrow();
        let found =
            in_order(store.tree(tree)?, range, direction).nth(usize::try_from(n).unwrap_or(usize::MAX));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }

    async fn bulk_build(
        &self,
        tree: TreeId,
        entries: &mut dyn Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StorageError> {
        let mut built = Tree::new();
        for (key, value) in entries {
            let in_order = built.last_key_value().is_none_or(|(last, _)| *last < key);
            assert!(in_order, "a bulk build's entries come sorted by key");
            built.insert(key, value.into());
        }
        let mut store = self.store.borrow_mut();
        let empty = store.tree_mut(tree)?;
        assert!(empty.is_empty(), "a bulk build fills an empty tree");
        *empty = built;
        store.advance();
        Ok(())
    }

    fn apply_parts(&self, _parts: &[Part], edits: &[Edit]) -> Result<Cached<Lsn>, StorageError> {
        let mut store = self.store.borrow_mut();
        // All trees are looked up first: a batch that fails must change nothing.
        for edit in edits {
            match edit {
                Edit::Put { tree, .. } | Edit::Delete { tree, .. } => drop(store.tree(*tree)?),
            }
        }
        for edit in edits {
            match edit {
                Edit::Put { tree, key, value } => {
                    store.tree_mut(*tree)?.insert(key.clone(), value.as_slice().into());
                }
                Edit::Delete { tree, key } => {
                    store.tree_mut(*tree)?.remove(key);
                }
            }
        }
        Ok(Cached::Hit(store.advance()))
    }

    async fn prepare(&self, _edits: &[Edit]) -> Result<(), StorageError> {
        Ok(())
    }

    async fn flushed(&self, _lsn: Lsn) -> Result<(), StorageError> {
        Ok(())
    }

    fn applied(&self) -> Lsn {
        Lsn(self.store.borrow().applied)
    }

    async fn foreground(&self) {}

    async fn background(&self) -> Result<(), StorageError> {
        std::future::poll_fn(|context| {
            if self.closed.get() {
                return Poll::Ready(Ok(()));
            }
            *self.background.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.closed.set(true);
        if let Some(waker) = self.background.borrow_mut().take() {
            waker.wake();
        }
        Ok(())
    }

    fn stats(&self) -> StorageStats {
        let store = self.store.borrow();
        StorageStats { cache_hits: store.reads, trees: store.trees.len() as u64, ..StorageStats::default() }
    }
}

fn no_tree(tree: TreeId) -> StorageError {
    StorageError::NoTree(TreeName(format!("#{}", tree.0).into_bytes().into()))
}

/// The entries of a range in the order asked for; an inverted range is empty, where `BTreeMap::range` would panic.
fn in_order<'a>(
    tree: &'a Tree,
    range: &Range,
    direction: Direction,
) -> Box<dyn Iterator<Item = (&'a Vec<u8>, &'a Value)> + 'a> {
    let inverted = match (&range.start, &range.end) {
        (Bound::Excluded(start), Bound::Excluded(end)) => start >= end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start > end
        }
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    };
    if inverted {
        return Box::new(std::iter::empty());
    }
    let entries = tree.range::<Vec<u8>, _>((range.start.as_ref(), range.end.as_ref()));
    match direction {
        Direction::Forward => Box::new(entries),
        Direction::Backward => Box::new(entries.rev()),
    }
}
