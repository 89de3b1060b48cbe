//! What an open store knows, and what it can do without waiting: look up, check, apply.
//!
//! Always: between two awaits this is one consistent store at the end of the log. While a checkpoint runs, what it froze is
//! left alone: values and slots that the frozen pages point to are given back only when it ends ([`State::release`]).

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::btree::cell::{Cell, INLINE_BYTES_MAX, Location, Pointer, Slotted, inline_cell, whole_cell};
use crate::btree::page::{KEY_BYTES_MAX, PAIR_BYTES_MAX, Page, PageKind, SMALL_PAGE_BYTES};
use crate::btree::tree::{self, Descent, Inner, Known, Way};
use crate::btree::{Missing, PageId};
use crate::cache::pool::Pool;
use crate::cache::shortcuts::Mark;
use crate::cache::{touch, touch_head};
use crate::compress::Codec;
use crate::engine::{Cached, Edit, StorageError, TreeId, TreeName, Value};
use crate::slab::chunks::{CHUNK_BLOCKS_FIRST, Chunk, ChunkKind, Chunks};
use crate::slab::dictionaries::{DICTIONARIES, Dictionaries};
use crate::slab::{Placement, SlabOptions, slot};
use crate::space::Space;
use crate::superblock::Superblock;
use crate::tables::{Table, TableKind};
use crate::wal::record::{Change, Extent};

/// The tree of trees: name to number and root.
pub(crate) const CATALOG: u32 = 0;
pub(crate) const CATALOG_ROOT: PageId = 0;
/// Values above this go to extents before their record.
pub(crate) const SLOT_VALUE_BYTES_MAX: usize = 64 << 10;

/// So many keys are worth walking to together.
const WALKS_TOGETHER_MIN: usize = 4;
/// Values of dropped trees that go at once: some 0.2 ms.
const FORGOTTEN_AT_ONCE: usize = 1024;

pub(crate) struct Tree {
    pub name: TreeName,
    pub root: PageId,
    /// The table that its dictionaries belong to.
    pub table: Option<Rc<[u8]>>,
    /// The chunk that the next checkpoint goes on filling.
    pub open_chunk: Option<u32>,
    pub chunk_blocks: u32,
    /// Values in a row that compressing did not make smaller.
    pub incompressible: u32,
    pub traffic: Traffic,
}

/// What went to and from the disk for a tree since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// A checkpoint that runs.
#[derive(Clone, Copy)]
pub(crate) struct Running {
    /// Values with lower numbers may be in frozen pages.
    pub first_new_value: u64,
}

pub(crate) struct State {
    pub pool: Pool,
    pub by_name: HashMap<TreeName, u32>,
    pub trees: BTreeMap<u32, Tree>,
    /// How many trees each table has.
    pub tables: HashMap<Rc<[u8]>, u32>,
    pub next_tree: u32,
    pub chunks: Chunks,
    pub page_space: Space,
    pub slab_space: Space,
    pub page_table: Table,
    pub chunk_table: Table,
    pub superblock: Superblock,
    pub running: Option<Running>,
    /// What was released while a checkpoint runs.
    pub deferred: Vec<Pointer>,
    /// Dropped trees whose pages and chunks are still to be freed.
    pub dropped: Vec<u32>,
    /// Large values that are on disk and wait for their batch, by digest.
    pub extents: BTreeMap<(u128, usize), Extent>,
    pub checkpoints: u64,
    pub codec: Codec,
    pub dictionaries: Dictionaries,
    table_of: fn(&TreeName) -> Option<&[u8]>,
}

/// Values that dropped trees have left in memory: there may be millions, so they go little by little.
#[derive(Default)]
pub(crate) struct Forgotten {
    values: Vec<Location>,
    unplaced: Vec<u64>,
}

/// What a lookup found.
pub(crate) enum Found {
    Value(Option<Value>),
    Page(PageId),
    Slot(Slotted),
}

/// What a look at a batch before it is applied has found.
#[derive(Default)]
pub(crate) struct Checked {
    /// The pages to load before the edits touch nothing but memory.
    pub missing: Vec<PageId>,
    /// The leaf of each edit's key, and where the pages on the way to it end in `inner`.
    leaves: Vec<(PageId, usize)>,
    inner: Inner,
}

impl Checked {
    fn known(&self, edit: usize) -> Option<Known<'_>> {
        let (leaf, end) = *self.leaves.get(edit)?;
        let start = edit.checked_sub(1).map_or(0, |before| self.leaves[before].1);
        Some(Known { inner: &self.inner[start..end], leaf })
    }
}

/// [`Found`], where it lies.
enum Met<'a> {
    Nothing,
    Inline(&'a [u8]),
    Value(&'a Value, Pointer),
    Page(PageId),
    Slot(Slotted),
}

impl Met<'_> {
    fn value(&self) -> Option<&[u8]> {
        match self {
            Met::Value(value, _) => Some(value),
            Met::Nothing | Met::Inline(_) | Met::Page(_) | Met::Slot(_) => None,
        }
    }

    /// A share in it, and where it is if it is a value outside its leaf.
    fn found(self) -> (Found, Option<Pointer>) {
        match self {
            Met::Nothing => (Found::Value(None), None),
            Met::Inline(bytes) => (Found::Value(Some(Rc::from(bytes))), None),
            Met::Value(value, pointer) => (Found::Value(Some(Rc::clone(value))), Some(pointer)),
            Met::Page(page) => (Found::Page(page), None),
            Met::Slot(slotted) => (Found::Slot(slotted), None),
        }
    }
}

impl State {
    pub fn count_read(&mut self, tree: u32, bytes: u64) {
        if let Some(tree) = self.trees.get_mut(&tree) {
            tree.traffic.read_bytes += bytes;
        }
    }

    pub fn count_written(&mut self, tree: u32, bytes: u64) {
        if let Some(tree) = self.trees.get_mut(&tree) {
            tree.traffic.written_bytes += bytes;
        }
    }

    pub fn new(options: &SlabOptions) -> Self {
        Self {
            pool: Pool::new(options.cache_bytes),
            by_name: HashMap::new(),
            trees: BTreeMap::new(),
            tables: HashMap::new(),
            next_tree: 1,
            chunks: Chunks::default(),
            page_space: Space::default(),
            slab_space: Space::default(),
            page_table: Table::new(TableKind::Pages, Vec::new()),
            chunk_table: Table::new(TableKind::Chunks, Vec::new()),
            superblock: Superblock::default(),
            running: None,
            deferred: Vec::new(),
            dropped: Vec::new(),
            extents: BTreeMap::new(),
            checkpoints: 0,
            codec: Codec::new(options.compression_level),
            dictionaries: Dictionaries::default(),
            table_of: options.table_of,
        }
    }

    pub fn root(&self, tree: TreeId) -> Result<PageId, StorageError> {
        match self.trees.get(&tree.0) {
            Some(found) => Ok(found.root),
            None => Err(StorageError::NoTree(TreeName(format!("number {}", tree.0).into_bytes().into()))),
        }
    }

    pub fn lookup(&mut self, tree: TreeId, key: &[u8]) -> Result<Found, StorageError> {
        let root = self.root(tree)?;
        let mark = self.pool.mark(tree.0, key);
        let standing = self.pool.shortcut(mark);
        if let Some(value) = standing.and_then(|standing| self.pool.value_standing(standing)) {
            return Ok(Found::Value(Some(Rc::clone(value))));
        }
        let (found, led_to) = match tree::leaf_of(&mut self.pool, root, key) {
            Ok(leaf) => self.meet(self.cell_in(leaf, key)).found(),
            Err(Missing(page)) => (Found::Page(page), None),
        };
        self.remember(mark, led_to);
        Ok(found)
    }

    /// [`State::lookup`] of several keys, all of which go one step before the first goes the next: what they need of memory is
    /// touched before it is used, and so waited for together.
    pub fn lookup_many(&mut self, keys: &[(TreeId, &[u8])]) -> Result<Vec<Found>, StorageError> {
        let mut roots: Vec<PageId> = Vec::with_capacity(keys.len());
        for (entry, (tree, _)) in keys.iter().enumerate() {
            let known = entry.checked_sub(1).filter(|before| keys[*before].0 == *tree);
            roots.push(known.map_or_else(|| self.root(*tree), |before| Ok(roots[before]))?);
        }
        let marks: Vec<Mark> = keys.iter().map(|(tree, key)| self.pool.mark(tree.0, key)).collect();
        marks.iter().for_each(|mark| self.pool.touch_shortcut(*mark));
        let standings: Vec<_> = marks.iter().map(|mark| self.pool.shortcut(*mark)).collect();
        let known = standings.into_iter().map(|standing| self.pool.value_standing(standing?));
        let known: Vec<Option<&Value>> = known.collect();
        known.iter().flatten().for_each(|value| touch_head(value));
        let mut found: Vec<Option<Found>> =
            known.into_iter().map(|value| value.map(|value| Found::Value(Some(Rc::clone(value))))).collect();
        let open: Vec<usize> = (0..keys.len()).filter(|entry| found[*entry].is_none()).collect();
        let rooted: Vec<_> = open.iter().map(|entry| (roots[*entry], keys[*entry].1)).collect();
        let walked = self.walk_many(&rooted);
        for (entry, (walked, led_to)) in open.into_iter().zip(walked) {
            self.remember(marks[entry], led_to);
            found[entry] = Some(walked);
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Looks keys up in their trees, and says where each value is.
    fn walk_many(&mut self, keys: &[(PageId, &[u8])]) -> Vec<(Found, Option<Pointer>)> {
        let roots = keys.iter().map(|(root, _)| *root);
        let Descent { leaves, .. } =
            tree::descend(&mut self.pool, roots, |walk, page| page.child_index(keys[walk].1));
        let cells = leaves.iter().zip(keys).map(|(leaf, (_, key))| {
            let cell = leaf.map_or_else(|Missing(page)| Err(page), |leaf| self.cell_in(leaf, key));
            if let Ok(Some(cell)) = cell {
                touch(cell);
            }
            cell
        });
        let cells: Vec<_> = cells.collect();
        let met: Vec<Met<'_>> = cells.into_iter().map(|cell| self.meet(cell)).collect();
        for value in met.iter().filter_map(Met::value) {
            touch_head(value);
        }
        met.into_iter().map(Met::found).collect()
    }

    /// Makes a shortcut to the value that a walk led to.
    fn remember(&mut self, mark: Mark, led_to: Option<Pointer>) {
        match led_to {
            None => {}
            Some(Pointer::Unplaced { number, .. }) => self.pool.set_shortcut_unplaced(mark, number),
            Some(Pointer::Placed(slotted)) => self.pool.set_shortcut_placed(mark, slotted.location),
        }
    }

    /// What the leaf has for a key, or the page that is not in memory.
    fn cell_in(&self, leaf: PageId, key: &[u8]) -> Result<Option<&[u8]>, PageId> {
        let page = self.pool.peek(leaf).ok_or(leaf)?;
        Ok(page.search(key).ok().map(|index| page.value(index)))
    }

    fn meet<'a>(&'a self, cell: Result<Option<&'a [u8]>, PageId>) -> Met<'a> {
        let cell = match cell {
            Ok(Some(cell)) => cell,
            Ok(None) => return Met::Nothing,
            Err(page) => return Met::Page(page),
        };
        match Cell::decode(cell).expect("cells are checked when a page is read") {
            Cell::Inline(bytes) => Met::Inline(bytes),
            Cell::Placed(slotted) => match self.pool.cached_value(slotted.location) {
                Some(value) => Met::Value(value, Pointer::Placed(slotted)),
                None => Met::Slot(slotted),
            },
            Cell::Unplaced { number, value_bytes } => {
                Met::Value(self.unplaced(number), Pointer::Unplaced { number, value_bytes })
            }
        }
    }

    /// What can be answered from memory of what a lookup found.
    pub fn cached(&mut self, found: Found) -> Cached<Option<Value>> {
        match found {
            Found::Value(value) => {
                self.pool.hits += 1;
                Cached::Hit(value)
            }
            Found::Page(_) | Found::Slot(_) => Cached::Miss,
        }
    }

    /// Whether that slot is the key's still, and its value not in memory.
    pub fn points_to(&mut self, tree: TreeId, key: &[u8], slotted: Slotted) -> bool {
        matches!(self.lookup(tree, key), Ok(Found::Slot(now)) if now == slotted)
    }

    pub fn unplaced(&self, number: u64) -> &Value {
        let unplaced = self.pool.unplaced.get(number);
        &unplaced.expect("a value without a place stays in memory").bytes
    }

    /// Looks where the edits go.
    pub fn check(&mut self, edits: &[Edit]) -> Result<Checked, StorageError> {
        let mut keys: Vec<(PageId, &[u8])> = Vec::with_capacity(edits.len());
        for edit in edits {
            let (Edit::Put { tree, key, .. } | Edit::Delete { tree, key }) = edit;
            if key.len() > KEY_BYTES_MAX {
                return Err(StorageError::KeyTooLong { bytes: key.len(), bytes_max: KEY_BYTES_MAX });
            }
            keys.push((self.root(*tree)?, key));
        }
        let mut checked = Checked { leaves: Vec::with_capacity(keys.len()), ..Checked::default() };
        let Checked { missing, leaves, inner } = &mut checked;
        let mut arrive = |leaf, steps| match leaf {
            Ok(leaf) => leaves.push((leaf, steps)),
            Err(Missing(page)) => missing.push(page),
        };
        if keys.len() < WALKS_TOGETHER_MIN {
            for (root, key) in keys {
                let leaf = tree::walk(&mut self.pool, root, key, inner);
                arrive(leaf, inner.len());
            }
            return Ok(checked);
        }
        let roots = keys.iter().map(|(root, _)| *root);
        let mut descent = tree::descend(&mut self.pool, roots, |walk, page| page.child_index(keys[walk].1));
        // Those of one walk are in the order of their levels still.
        descent.steps.sort_by_key(|step| step.walk);
        let mut steps = descent.steps.into_iter().peekable();
        for (walk, leaf) in descent.leaves.into_iter().enumerate() {
            while let Some(step) = steps.next_if(|step| step.walk == walk) {
                inner.push((step.page, step.index));
            }
            arrive(leaf, inner.len());
        }
        Ok(checked)
    }

    /// Applies a batch whose pages are all in memory. `position` is the log's end behind its record.
    pub fn apply(&mut self, changes: &[Change<'_>], checked: &Checked, position: u64) {
        let mut small: Vec<(PageId, &[u8])> = Vec::new();
        for (place, change) in changes.iter().enumerate() {
            let (Change::Put { tree, key, .. }
            | Change::Delete { tree, key }
            | Change::Extent { tree, key, .. }) = change;
            let Some(root) = self.trees.get(tree).map(|tree| tree.root) else { continue };
            let way = Way { root, key, known: checked.known(place) };
            match change {
                Change::Put { tree, value, .. } => self.put(*tree, &way, value),
                Change::Extent { tree, extent, .. } => self.put_extent(*tree, &way, *extent, position),
                Change::Delete { .. } => {
                    let mut old = None;
                    let became_small = tree::delete(&mut self.pool, &way, |cell| old = pointer_of(cell));
                    if became_small.expect("the batch was checked") {
                        small.push((root, key));
                    }
                    self.release_old(old);
                }
            }
        }
        for (root, key) in small {
            tree::tidy(&mut self.pool, root, key);
        }
        self.pool.evict();
    }

    /// Shows what is written to those who look for what the documents of a table have in common. True when they have seen enough.
    pub fn sample(&mut self, edits: &[Edit]) -> bool {
        let mut is_enough = false;
        for edit in edits {
            let Edit::Put { tree, value, .. } = edit else { continue };
            if value.len() <= INLINE_BYTES_MAX || value.len() > SLOT_VALUE_BYTES_MAX {
                continue;
            }
            if let Some(table) = self.trees.get(&tree.0).and_then(|tree| tree.table.as_ref()) {
                is_enough |= self.dictionaries.sample(table, value);
            }
        }
        is_enough
    }

    fn put(&mut self, tree: u32, way: &Way<'_>, value: &[u8]) {
        if value.len() <= INLINE_BYTES_MAX {
            let mut buffer = [0; 1 + INLINE_BYTES_MAX];
            let cell = inline_cell(value, &mut buffer);
            self.put_cell(way, cell);
        } else if self.superblock.placement == Placement::Leaves
            && way.key.len() + value.len() < PAIR_BYTES_MAX
        {
            self.put_cell(way, &whole_cell(value));
        } else {
            let number = self.pool.add_unplaced(tree, Rc::from(value));
            let mark = self.pool.mark(tree, way.key);
            self.pool.set_shortcut_unplaced(mark, number);
            let cell = Pointer::Unplaced { number, value_bytes: value.len() as u32 }.encode();
            self.put_cell(way, &cell);
        }
    }

    fn put_extent(&mut self, tree: u32, way: &Way<'_>, extent: Extent, position: u64) {
        let Extent { run, slot_bytes, sum } = extent;
        let used_bytes = run.blocks * 4096;
        let chunk =
            Chunk { kind: ChunkKind::Extent, run, tree, live_bytes: slot_bytes, used_bytes, since: position };
        let id = self.chunks.add(chunk);
        self.chunk_table.mark(id);
        let cell = Pointer::Placed(Slotted { location: Location::new(id, 0), slot_bytes, sum }).encode();
        self.put_cell(way, &cell);
    }

    fn put_cell(&mut self, way: &Way<'_>, cell: &[u8]) {
        let mut old = None;
        let put = tree::put(&mut self.pool, way, cell, |cell| old = pointer_of(cell));
        put.expect("the batch was checked");
        self.release_old(old);
    }

    fn release_old(&mut self, old: Option<Pointer>) {
        if let Some(pointer) = old {
            self.release(pointer);
        }
    }

    /// Nothing live points there any more.
    pub fn release(&mut self, pointer: Pointer) {
        match (pointer, self.running) {
            (Pointer::Unplaced { number, .. }, Some(running)) if number < running.first_new_value => {
                if let Some(unplaced) = self.pool.unplaced.get_mut(number) {
                    unplaced.is_old = true;
                }
                self.deferred.push(pointer);
            }
            (Pointer::Placed(Slotted { location, .. }), Some(_)) => {
                self.pool.drop_value(location);
                self.deferred.push(pointer);
            }
            (Pointer::Unplaced { number, .. }, Some(_) | None) => {
                if let Some((location, bytes)) = self.pool.take_unplaced(number).and_then(|old| old.placed) {
                    self.give_back(location, bytes);
                }
            }
            (Pointer::Placed(Slotted { location, slot_bytes, .. }), None) => {
                self.pool.drop_value(location);
                self.give_back(location, slot_bytes);
            }
        }
    }

    pub fn give_back(&mut self, location: Location, bytes: u32) {
        self.chunk_table.mark(location.chunk());
        self.chunks.release(location, bytes);
    }

    /// No checkpoint runs any more: what waited for that is released.
    pub fn release_deferred(&mut self) {
        self.running = None;
        for pointer in std::mem::take(&mut self.deferred) {
            self.release(pointer);
        }
    }

    /// Makes a tree with this number; the catalog's page for its name must be in memory.
    pub fn create(&mut self, name: &TreeName, number: u32) -> Result<(), Missing> {
        tree::leaf_of(&mut self.pool, CATALOG_ROOT, &name.0)?;
        let make = |id| Page::new(PageKind::Leaf, id, number, SMALL_PAGE_BYTES);
        let root = self.pool.allocate_page(number, make);
        let mut value = [0; 8];
        value[..4].copy_from_slice(&number.to_le_bytes());
        value[4..].copy_from_slice(&root.to_le_bytes());
        let mut buffer = [0; 1 + INLINE_BYTES_MAX];
        let way = Way::new(CATALOG_ROOT, &name.0);
        tree::put(&mut self.pool, &way, inline_cell(&value, &mut buffer), |_| {})?;
        self.next_tree = self.next_tree.max(number + 1);
        self.add_tree(name.clone(), number, root);
        Ok(())
    }

    pub fn add_tree(&mut self, name: TreeName, number: u32, root: PageId) {
        self.by_name.insert(name.clone(), number);
        let table = if &*name.0 == DICTIONARIES { None } else { (self.table_of)(&name) };
        let table = table.map(|table| {
            let shared = self.tables.get_key_value(table).map(|(known, _)| Rc::clone(known));
            let shared = shared.unwrap_or_else(|| table.into());
            *self.tables.entry(Rc::clone(&shared)).or_default() += 1;
            shared
        });
        let chunk_blocks = CHUNK_BLOCKS_FIRST;
        let tree = Tree {
            name,
            root,
            table,
            open_chunk: None,
            chunk_blocks,
            incompressible: 0,
            traffic: Traffic::default(),
        };
        self.trees.insert(number, tree);
    }

    /// Forgets a tree; its space is freed when the next checkpoint begins.
    pub fn drop_tree(&mut self, number: u32) -> Result<(), Missing> {
        let Some(name) = self.trees.get(&number).map(|tree| tree.name.clone()) else { return Ok(()) };
        if tree::delete(&mut self.pool, &Way::new(CATALOG_ROOT, &name.0), |_| {})? {
            tree::tidy(&mut self.pool, CATALOG_ROOT, &name.0);
        }
        self.by_name.remove(&name);
        if let Some(table) = self.trees.remove(&number).and_then(|tree| tree.table)
            && let Some(trees) = self.tables.get_mut(&table)
        {
            *trees -= 1;
            if *trees == 0 {
                self.tables.remove(&table);
            }
        }
        self.dropped.push(number);
        Ok(())
    }

    /// Frees pages and chunks of dropped trees. No checkpoint runs. What they had in memory is still to be [forgotten](Self::forget).
    pub fn sweep_dropped(&mut self) -> Forgotten {
        if self.dropped.is_empty() {
            return Forgotten::default();
        }
        let mut dropped = std::mem::take(&mut self.dropped);
        dropped.sort_unstable();
        let is_dropped = |tree: u32| dropped.binary_search(&tree).is_ok();
        self.pool.free_trees(is_dropped);
        for id in 0..self.chunks.list.len() as u32 {
            let chunk = self.chunks.list[id as usize];
            if chunk.kind != ChunkKind::Free && is_dropped(chunk.tree) {
                self.chunks.empty(id);
                self.chunk_table.mark(id);
            }
        }
        let chunks = &self.chunks;
        let values = self.pool.values_at(|location| {
            chunks.list.get(location.chunk() as usize).is_none_or(|chunk| is_dropped(chunk.tree))
        });
        Forgotten { unplaced: self.pool.unplaced_of(is_dropped), values }
    }

    /// Takes some of what dropped trees had in memory out of it; false when there is no more. All must be gone before their chunks'
    /// numbers are given out again.
    pub fn forget(&mut self, forgotten: &mut Forgotten) -> bool {
        let (values, unplaced) = (&mut forgotten.values, &mut forgotten.unplaced);
        values
            .drain(values.len().saturating_sub(FORGOTTEN_AT_ONCE)..)
            .for_each(|at| self.pool.drop_value(at));
        unplaced
            .drain(unplaced.len().saturating_sub(FORGOTTEN_AT_ONCE)..)
            .for_each(|number| drop(self.pool.take_unplaced(number)));
        !(values.is_empty() && unplaced.is_empty())
    }

    /// Where a slot's blocks are: the file offset of its first block, the slot's place behind that, and bytes to read.
    pub fn slot_place(&self, location: Location, slot_bytes: u32) -> Result<(u64, usize, u32), String> {
        let chunk = self.chunks.list.get(location.chunk() as usize);
        let end = u64::from(location.offset()) + u64::from(slot_bytes);
        match chunk {
            Some(chunk) if chunk.kind != ChunkKind::Free && end <= u64::from(chunk.run.blocks) * 4096 => {
                let first = location.offset() / 4096 * 4096;
                let bytes = end.next_multiple_of(4096) - u64::from(first);
                let offset = u64::from(chunk.run.block) * 4096 + u64::from(first);
                Ok((offset, (location.offset() - first) as usize, bytes as u32))
            }
            Some(_) | None => Err(format!("a leaf points to {location:?}, which is in no chunk")),
        }
    }

    /// What the checksum of a slot is bound to.
    pub fn bound_to(&self, location: Location) -> Location {
        match self.chunks.list.get(location.chunk() as usize) {
            Some(chunk) if chunk.kind == ChunkKind::Extent => slot::extent_place(chunk.run),
            Some(_) | None => location,
        }
    }
}

fn pointer_of(cell: &[u8]) -> Option<Pointer> {
    Cell::decode(cell).and_then(|cell| cell.pointer())
}
