//! A mixed workload on one store, by several tasks at once, every effect told to a [`History`].
//!
//! Writers send batches over several trees, some waiting for the flush (hard) and some not (soft), with values from nothing to
//! extents; one task makes and drops trees; readers compare what they read with the history when nothing happened meanwhile.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use photondb_storage::engine::{
    Cached, CommitInfo, Direction, Edit, Lsn, Part, Range, StorageEngine, StorageError, TreeId, TreeName,
};
use photondb_storage::suite::{EVERYTHING, Random, model_range_of, named};

use crate::Simulation;
use crate::history::{Change, History, SEQUENCE_TREE, sequence_change, sequence_edit};

/// How much a workload does.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub writers: u64,
    pub batches_each: u64,
    pub readers: u64,
    pub reads_each: u64,
    /// Trees made and, most of them, dropped.
    pub trees: u64,
    pub keys: u64,
    /// Most values are small, unless this says otherwise.
    pub value_bytes_min: usize,
    pub value_bytes_max: usize,
}

/// What the tasks of a workload share.
pub struct Site<E> {
    pub simulation: Simulation,
    pub engine: Rc<E>,
    pub history: Rc<RefCell<History>>,
    busy: Cell<u64>,
    /// What operations failed with. A store that is read-only ends its tasks; after other failures they go on.
    pub errors: RefCell<Vec<StorageError>>,
    /// A flaw for tests of the tests: some batches are handed to the store in halves.
    pub halves_batches: Cell<bool>,
}

/// How long a task waits after a failure.
const REST_US: u64 = 5000;

/// Trees that every workload writes into and never drops.
const STANDING_TREES: [&str; 3] = [SEQUENCE_TREE, "a", "b"];

impl<E: StorageEngine + 'static> Site<E> {
    pub fn new(simulation: &Simulation, engine: Rc<E>, history: Rc<RefCell<History>>) -> Rc<Self> {
        Rc::new(Self {
            simulation: simulation.clone(),
            engine,
            history,
            busy: Cell::new(0),
            errors: RefCell::default(),
            halves_batches: Cell::default(),
        })
    }

    /// Makes the trees that stand, then runs all tasks to their ends.
    pub async fn work(self: &Rc<Self>, workload: Workload) -> Result<(), StorageError> {
        for name in STANDING_TREES {
            self.make_tree(&named(name)).await?;
        }
        for _ in 0..workload.writers {
            let site = self.clone();
            self.spawn(async move { site.writer(workload).await });
        }
        for _ in 0..workload.readers {
            let site = self.clone();
            self.spawn(async move { site.reader(workload).await });
        }
        let site = self.clone();
        self.spawn(async move { site.maker_of_trees(workload).await });
        while self.busy.get() > 0 {
            self.simulation.sleep_us(500).await;
        }
        Ok(())
    }

    fn spawn(self: &Rc<Self>, task: impl Future<Output = Result<(), StorageError>> + 'static) {
        self.busy.set(self.busy.get() + 1);
        let site = self.clone();
        self.simulation.spawn(async move {
            if let Err(error) = task.await {
                site.errors.borrow_mut().push(error);
            }
            site.busy.set(site.busy.get() - 1);
        });
    }

    fn random<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        self.simulation.random(draw)
    }

    async fn writer(&self, workload: Workload) -> Result<(), StorageError> {
        for _ in 0..workload.batches_each {
            let changes = self.random_batch(workload);
            let written = self.write_some(changes).await;
            self.outlive(written).await?;
        }
        Ok(())
    }

    async fn write_some(&self, changes: Vec<Change>) -> Result<(), StorageError> {
        let Some((number, lsn)) = self.write(changes).await? else { return Ok(()) };
        if self.random(|random| random.one_in(2)) {
            self.engine.flushed(lsn).await?;
            self.history.borrow_mut().acknowledge(number);
        } else if self.random(|random| random.one_in(3)) {
            let pause_us = self.random(|random| random.below(2000));
            self.simulation.sleep_us(pause_us).await;
        }
        Ok(())
    }

    /// Notes a failure and rests; an error when there is no use in going on.
    async fn outlive(&self, result: Result<(), StorageError>) -> Result<(), StorageError> {
        match result {
            Ok(()) => Ok(()),
            Err(StorageError::ReadOnly { reason }) => Err(StorageError::ReadOnly { reason }),
            Err(error) => {
                self.errors.borrow_mut().push(error);
                self.simulation.sleep_us(REST_US).await;
                Ok(())
            }
        }
    }

    fn random_batch(&self, workload: Workload) -> Vec<Change> {
        let trees: Vec<TreeName> = self.history.borrow().settled_trees();
        let trees: Vec<&TreeName> = trees.iter().filter(|name| **name != named(SEQUENCE_TREE)).collect();
        self.random(|random| {
            let count = 1 + if random.one_in(10) { random.below(60) } else { random.below(6) };
            let change = |_| {
                let tree = trees[random.below(trees.len() as u64) as usize].clone();
                let key = random_key(random, workload.keys);
                let value = (!random.one_in(4)).then(|| random_value(random, workload));
                Change { tree, key, value }
            };
            (0..count).map(change).collect()
        })
    }

    /// Applies a batch and tells the history in the same breath. `None` when a tree of it was dropped meanwhile.
    pub async fn write(&self, mut changes: Vec<Change>) -> Result<Option<(u64, Lsn)>, StorageError> {
        let mut halves = self.halves_batches.get();
        loop {
            let number = self.history.borrow().count() + 1;
            let Some(mut edits) = self.edits(&changes) else { return Ok(None) };
            if std::mem::take(&mut halves) && edits.len() > 1 {
                // Nothing is waited for in between, so that only a power loss can tell.
                let half = edits.split_off(edits.len() / 2);
                if let Cached::Hit(_) = self.engine.apply(CommitInfo::default(), &edits)? {
                    edits = half;
                } else {
                    edits.extend(half);
                }
            }
            edits.push(sequence_edit(&*self.engine, number));
            let parts = self.random_parts(number, edits.len());
            match self.engine.apply_parts(&parts, &edits)? {
                Cached::Hit(lsn) => {
                    changes.push(sequence_change(number));
                    self.history.borrow_mut().applied(changes);
                    return Ok(Some((number, lsn)));
                }
                Cached::Miss => match self.engine.prepare(&edits).await {
                    Ok(()) | Err(StorageError::NoTree(_)) => {}
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// So many edits as one part, or cut into several: they are one batch all the same.
    fn random_parts(&self, number: u64, edits: usize) -> Vec<Part> {
        let info = CommitInfo { commit_number: number, ..CommitInfo::default() };
        let part = |edits| Part { info, edits, kept: None };
        self.random(|random| {
            let (mut parts, mut left) = (Vec::new(), edits);
            let is_cut = random.one_in(2);
            while is_cut && left > 1 {
                let own = 1 + random.below(left as u64 - 1) as usize;
                parts.push(part(own));
                left -= own;
            }
            parts.push(part(left));
            parts
        })
    }

    fn edits(&self, changes: &[Change]) -> Option<Vec<Edit>> {
        let edit = |change: &Change| {
            let tree = self.engine.tree(&change.tree)?;
            let key = change.key.clone();
            Some(match &change.value {
                Some(value) => Edit::Put { tree, key, value: value.to_vec() },
                None => Edit::Delete { tree, key },
            })
        };
        changes.iter().map(edit).collect()
    }

    async fn make_tree(&self, name: &TreeName) -> Result<TreeId, StorageError> {
        self.history.borrow_mut().making(name);
        let tree = self.engine.create_tree(name).await?;
        self.history.borrow_mut().made(name);
        Ok(tree)
    }

    async fn maker_of_trees(&self, workload: Workload) -> Result<(), StorageError> {
        for _ in 0..workload.trees {
            let made = self.make_and_drop().await;
            self.outlive(made).await?;
        }
        Ok(())
    }

    async fn make_and_drop(&self) -> Result<(), StorageError> {
        let number = self.random(Random::number);
        let name = named(&format!("tree {number:016x}"));
        let tree = self.make_tree(&name).await?;
        if self.random(|random| random.one_in(2)) {
            self.acknowledge_tree(&name).await?;
        }
        let pause_us = self.random(|random| random.below(20_000));
        self.simulation.sleep_us(pause_us).await;
        if self.random(|random| random.one_in(4)) {
            return Ok(());
        }
        self.history.borrow_mut().dropping(&name);
        self.engine.drop_tree(tree).await?;
        self.history.borrow_mut().dropped(&name);
        if self.random(|random| random.one_in(2)) {
            self.acknowledge_tree(&name).await?;
        }
        Ok(())
    }

    async fn acknowledge_tree(&self, name: &TreeName) -> Result<(), StorageError> {
        let applied = self.engine.applied();
        self.engine.flushed(applied).await?;
        self.history.borrow_mut().acknowledge_trees(std::slice::from_ref(name));
        Ok(())
    }

    async fn reader(&self, workload: Workload) -> Result<(), StorageError> {
        for _ in 0..workload.reads_each {
            let read = self.read_some(workload).await;
            self.outlive(read).await?;
        }
        Ok(())
    }

    async fn read_some(&self, workload: Workload) -> Result<(), StorageError> {
        let name = named(STANDING_TREES[1 + self.random(|random| random.below(2)) as usize]);
        let tree = self.engine.tree(&name).expect("it stands");
        let before = self.history.borrow().count();
        let key = self.random(|random| random_key(random, workload.keys));
        match self.random(|random| random.below(4)) {
            0 | 1 => {
                let read = self.engine.get(tree, &key).await?;
                self.if_nothing_happened(before, &name, |rows| {
                    read.as_deref() == rows.get(&key).map(|value| &**value)
                });
            }
            2 => {
                let range = Range { start: std::ops::Bound::Included(key), end: std::ops::Bound::Unbounded };
                let direction = if self.random(|random| random.one_in(2)) {
                    Direction::Forward
                } else {
                    Direction::Backward
                };
                let read = self.engine.range(tree, &range, direction, 20, 10_000).await?;
                self.if_nothing_happened(before, &name, |rows| {
                    let want = model_range_of(rows, &range, direction);
                    read.more == (read.entries.len() < want.len())
                        && read
                            .entries
                            .iter()
                            .zip(want)
                            .all(|((key, value), (want_key, want))| key == want_key && **value == **want)
                });
            }
            3.. => {
                let count = self.engine.count(tree, &EVERYTHING).await?;
                self.if_nothing_happened(before, &name, |rows| count == rows.len() as u64);
            }
        }
        let pause_us = self.random(|random| random.below(1000));
        self.simulation.sleep_us(pause_us).await;
        Ok(())
    }

    fn if_nothing_happened(
        &self,
        before: u64,
        name: &TreeName,
        right: impl FnOnce(&crate::history::Rows) -> bool,
    ) {
        let history = self.history.borrow();
        if history.count() == before {
            assert!(
                right(&history.live()[name]),
                "seed {}: a read of {name:?} is wrong",
                self.simulation.seed()
            );
        }
    }
}

fn random_key(random: &mut Random, keys: u64) -> Vec<u8> {
    let number = random.below(keys);
    let tail = if number.is_multiple_of(7) { "with a tail ".repeat(10) } else { String::new() };
    format!("key/{number:05}{tail}").into_bytes()
}

/// Half of the values can be compressed.
fn random_value(random: &mut Random, workload: Workload) -> Rc<[u8]> {
    let at_least = workload.value_bytes_min + random.below(workload.value_bytes_min as u64 + 1) as usize;
    let bytes = random.value_bytes().max(at_least).min(workload.value_bytes_max);
    let mut value = random.bytes(bytes);
    if random.one_in(2) {
        value.iter_mut().for_each(|byte| *byte &= 3);
    }
    value.into()
}
