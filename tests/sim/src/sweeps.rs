//! Sweeps beside writers, from seeds: a value that is there throughout is shown once, as it stood at some moment of the sweep, wherever
//! checkpoints and the emptying of chunks move it meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use photondb_storage::engine::{
    CommitInfo, Direction, Edit, Range, StorageEngine, StorageError, Sweeping, TreeId,
};
use photondb_storage::slab::{SlabEngine, SlabOptions};
use photondb_storage::suite::{EVERYTHING, named};

use crate::{SimulatedDirectory, Simulation, for_seeds};

const KEYS: u64 = 400;
const WRITERS: u64 = 3;
const WRITES_EACH: u64 = 150;
const SWEEPS: u64 = 6;

/// What each key held when, in steps of the model's clock: versions with the steps from which they stood; `None` is no value.
#[derive(Default)]
struct Model {
    step: u64,
    versions: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
}

impl Model {
    fn wrote(&mut self, key: u64, version: Option<u64>) {
        self.step += 1;
        self.versions.entry(key).or_default().push((self.step, version));
    }

    /// What a key held at some moment from one step to another.
    fn held(&self, key: u64, from: u64, to: u64) -> Vec<Option<u64>> {
        let versions = self.versions.get(&key).map_or(&[][..], Vec::as_slice);
        let begin = versions.iter().rposition(|(step, _)| *step <= from);
        let before = if begin.is_none() { Some(None) } else { None };
        let during = versions[begin.unwrap_or(0)..].iter().take_while(|(step, _)| *step <= to);
        before.into_iter().chain(during.map(|(_, version)| *version)).collect()
    }
}

struct Site {
    simulation: Simulation,
    engine: Rc<SlabEngine<SimulatedDirectory>>,
    tree: TreeId,
    other: TreeId,
    model: RefCell<Model>,
    busy: Cell<u64>,
}

fn options(seed: u64) -> SlabOptions {
    SlabOptions {
        cache_bytes: [1 << 20, 2 << 20, 16 << 20][seed as usize % 3],
        wal_segment_bytes: 1 << 20,
        checkpoint_log_bytes: 1 << 20,
        checkpoint_dirty_bytes: 100 << 10,
        ..SlabOptions::default()
    }
}

fn key(number: u64) -> Vec<u8> {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec()
}

impl Site {
    async fn put(&self, number: u64, version: Option<u64>) -> Result<(), StorageError> {
        let bytes = self.simulation.random(|random| match random.below(30) {
            0 => 70_000 + random.below(100_000),
            1..=4 => 5_000 + random.below(20_000),
            5..=8 => random.below(90),
            9.. => 200 + random.below(2_000),
        });
        let edit = match version {
            Some(version) => {
                let mut value = number.to_be_bytes().to_vec();
                value.extend_from_slice(&version.to_be_bytes());
                value.extend((0..bytes).map(|place| (place.wrapping_mul(version) % 251) as u8));
                Edit::Put { tree: self.tree, key: key(number), value }
            }
            None => Edit::Delete { tree: self.tree, key: key(number) },
        };
        let edits = [edit];
        loop {
            match self.engine.apply(CommitInfo::default(), &edits)? {
                photondb_storage::engine::Cached::Hit(_) => {
                    self.model.borrow_mut().wrote(number, version);
                    return Ok(());
                }
                photondb_storage::engine::Cached::Miss => self.engine.prepare(&edits).await?,
            }
        }
    }

    async fn write(&self) -> Result<(), StorageError> {
        let (number, version) = self.simulation.random(|random| {
            // Some keys are never written again.
            let number = random.below(KEYS / 4) * 4 + random.below(3);
            (number, (!random.one_in(4)).then(|| random.number() >> 8))
        });
        self.put(number, version).await?;
        // Neighbours in the slabs, which another tree's sweep must not show.
        if self.simulation.random(|random| random.one_in(3)) {
            let edit = Edit::Put { tree: self.other, key: key(number), value: vec![0xaa; 700] };
            self.engine.commit(CommitInfo::default(), &[edit]).await?;
        }
        let pause_us = self.simulation.random(|random| random.below(1500));
        self.simulation.sleep_us(pause_us).await;
        Ok(())
    }

    async fn sweep(&self) -> Result<(), StorageError> {
        let began = self.model.borrow().step;
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        let mut range = EVERYTHING;
        loop {
            let rows_max = self.simulation.random(|random| 1 + random.below(2 * KEYS)) as usize;
            let mut see = async |values: &[&[u8]]| {
                for value in values {
                    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
                    let (key, version) = (number(&value[..8]), number(&value[8..16]));
                    let is_whole = (0..).zip(&value[16..]).all(|(place, byte): (u64, &u8)| {
                        place.wrapping_mul(version) % 251 == u64::from(*byte)
                    });
                    assert!(is_whole, "the value of {key} is another's");
                    assert_eq!(seen.insert(key, version), None, "{key} is shown twice");
                }
                if self.simulation.random(|random| random.one_in(3)) {
                    let pause_us = self.simulation.random(|random| random.below(3000));
                    self.simulation.sleep_us(pause_us).await;
                }
                Sweeping::GoOn
            };
            match self.engine.sweep(self.tree, &range, rows_max, &mut see).await? {
                Some(last) => range.start = Bound::Excluded(last),
                None => break,
            }
        }
        let model = self.model.borrow();
        for key in 0..KEYS {
            let held = model.held(key, began, model.step);
            let found = seen.get(&key).copied();
            let fits = held.contains(&found);
            assert!(fits, "{key}: found version {found:?}, it held {held:?}");
        }
        Ok(())
    }
}

async fn history(simulation: Simulation, seed: u64) {
    let directory = SimulatedDirectory::new(&simulation);
    let engine = Rc::new(SlabEngine::open(directory.clone(), options(seed)).await.expect("it opens"));
    let background = engine.clone();
    simulation.spawn(async move {
        let _ = background.work().await;
    });
    let tree = engine.create_tree(&named("swept")).await.expect("a tree");
    let other = engine.create_tree(&named("other")).await.expect("a tree");
    let model = RefCell::default();
    let site = Rc::new(Site { simulation, engine, tree, other, model, busy: Cell::new(WRITERS) });
    for number in 0..KEYS {
        let version = site.simulation.random(|random| random.number() >> 8);
        site.put(number, Some(version)).await.expect("a write");
    }
    directory.set_delay_us_max(600);
    for _ in 0..WRITERS {
        let writer = site.clone();
        site.simulation.spawn(async move {
            for _ in 0..WRITES_EACH {
                writer.write().await.expect("a write");
            }
            writer.busy.set(writer.busy.get() - 1);
        });
    }
    for _ in 0..SWEEPS {
        site.sweep().await.expect("a sweep");
    }
    while site.busy.get() > 0 {
        site.simulation.sleep_us(1000).await;
    }
    // With nobody beside it a sweep shows what a range gives.
    site.sweep().await.expect("a sweep");
    let mut values = Vec::new();
    let mut see = async |shown: &[&[u8]]| {
        values.extend(shown.iter().map(|value| value.to_vec()));
        Sweeping::GoOn
    };
    let range = Range { start: Bound::Included(key(7)), end: Bound::Excluded(key(2)) };
    let end = site.engine.sweep(site.tree, &range, usize::MAX, &mut see).await.expect("a sweep");
    let ranged = site.engine.range(site.tree, &range, Direction::Forward, usize::MAX, usize::MAX).await;
    let mut want: Vec<_> =
        ranged.expect("a range").entries.into_iter().map(|(_, value)| value.to_vec()).collect();
    values.sort();
    want.sort();
    assert!(values == want || end.is_some(), "bounds hold");
}

#[test]
fn a_sweep_shows_each_value_once_whatever_is_written_and_moved_beside_it() {
    for_seeds(90, |seed| {
        let simulation = Simulation::new(seed);
        let done = simulation.run(history(simulation.clone(), seed));
        assert_eq!(done, Some(()), "seed {seed}");
    });
}
