//! The promise of change logs, tested by cutting the power: a log is the history of its table up to where the store came back, each
//! change once, and a position behind which something is missing is refused.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use photondb_storage::changelog::{ChangeLogError, LoggedChange, Position, Retention};
use photondb_storage::engine::{
    Cached, CommitInfo, Direction, Edit, Part, Range, StorageEngine, StorageError, TreeId, TreeName, Value,
};
use photondb_storage::slab::{SlabEngine, SlabOptions};

use crate::{Operation, SimulatedDirectory, Simulation, for_seeds};

type Engine = SlabEngine<SimulatedDirectory>;

const LOG: &[u8] = b"t";
const SHARDS: u32 = 3;
const KEYS: u64 = 60;
const EVERYTHING: Retention = Retention { bytes_max: u64::MAX, age_ms_max: u64::MAX };
/// What a log keeps that is bounded.
const KEPT_BYTES: u64 = 400 << 10;
/// Its last changes are there for certain while they are fewer, and have fewer bytes, than these: a segment goes as a whole, and the one in
/// which they begin may hold a frame of 256 KiB before them.
const SURELY_KEPT: usize = 5;
const SURELY_KEPT_BYTES: usize = 32 << 10;

/// What was applied, in the order of the store's log.
#[derive(Default)]
struct Model {
    changes: Vec<LoggedChange>,
    /// So many of them are durable.
    acknowledged: usize,
    /// Where the log began.
    base: u64,
}

struct Machine {
    simulation: Simulation,
    directory: SimulatedDirectory,
    model: Rc<RefCell<Model>>,
    seed: u64,
    retention: Retention,
}

/// One opening of the store.
#[derive(Clone)]
struct Site {
    simulation: Simulation,
    engine: Rc<Engine>,
    model: Rc<RefCell<Model>>,
    trees: Vec<TreeId>,
    /// The next commit of each shard.
    commits: Rc<RefCell<Vec<u64>>>,
}

fn options(seed: u64) -> SlabOptions {
    SlabOptions {
        cache_bytes: 1 << 20,
        wal_segment_bytes: [64 << 10, 1 << 20][(seed % 2) as usize],
        checkpoint_log_bytes: [100 << 10, 400 << 10, 4 << 20][(seed % 3) as usize],
        table_of: |name| Some(&name.0[..1]),
        ..SlabOptions::default()
    }
}

impl Machine {
    fn new(seed: u64, retention: Retention) -> Machine {
        let simulation = Simulation::new(seed);
        let directory = SimulatedDirectory::new(&simulation);
        Machine { simulation, directory, model: Rc::default(), seed, retention }
    }

    /// Opens the store and works on it; `None` when the world was stopped.
    fn run<T>(&self, work: impl AsyncFnOnce(&Site) -> T) -> Option<T> {
        self.simulation.run(async {
            let opened = SlabEngine::open(self.directory.clone(), options(self.seed)).await;
            let engine = Rc::new(opened.expect("it opens"));
            let background = engine.clone();
            self.simulation.spawn(async move {
                let _ = background.work().await;
            });
            let mut trees = Vec::new();
            for shard in 0..SHARDS {
                let name = TreeName(format!("t{shard}").into_bytes().into());
                trees.push(engine.create_tree(&name).await.expect("a tree"));
            }
            let first = engine.epoch() << 40;
            if engine.change_logs().is_empty() {
                let model = &mut *self.model.borrow_mut();
                assert!(model.changes.is_empty(), "a log is there when its first change is");
                model.base = first;
            }
            let bases: Vec<(u32, u64)> = (0..SHARDS).map(|shard| (shard, first)).collect();
            engine.begin_change_log(LOG, &bases, self.retention, 1).await.expect("a log");
            let commits = Rc::new(RefCell::new(vec![first + 1; SHARDS as usize]));
            let (simulation, model) = (self.simulation.clone(), self.model.clone());
            work(&Site { simulation, engine, model, trees, commits }).await
        })
    }

    fn lose_power(&mut self) {
        self.directory = self.directory.after_power_loss();
    }
}

impl Site {
    async fn write(&self) -> Result<(), StorageError> {
        let (shard, key, new) = self.simulation.random(|random| {
            let bytes = random.value_bytes();
            let value = (!random.one_in(4)).then(|| random.bytes(bytes));
            (random.below(u64::from(SHARDS)) as u32, random.below(KEYS).to_be_bytes().to_vec(), value)
        });
        let tree = self.trees[shard as usize];
        let edit = match &new {
            Some(value) => Edit::Put { tree, key: key.clone(), value: value.clone() },
            None => Edit::Delete { tree, key: key.clone() },
        };
        let edits = [edit];
        loop {
            let Cached::Hit(old) = self.engine.cached(tree, &key)? else {
                self.engine.get(tree, &key).await?;
                continue;
            };
            let commit = self.commits.borrow()[shard as usize];
            let info =
                CommitInfo { shard, commit_number: commit, commit_time_ms: 7, ..CommitInfo::default() };
            let part = Part { info, edits: 1, kept: Some(old.clone()) };
            let Cached::Hit(lsn) = self.engine.apply_parts(&[part], &edits)? else {
                self.engine.prepare(&edits).await?;
                continue;
            };
            self.commits.borrow_mut()[shard as usize] += 1;
            let place = {
                let mut model = self.model.borrow_mut();
                let new = new.as_deref().map(Value::from);
                model.changes.push(LoggedChange { shard, commit, time_ms: 7, key, old, new });
                model.changes.len()
            };
            if self.simulation.random(|random| random.one_in(3)) {
                self.engine.flushed(lsn).await?;
                let mut model = self.model.borrow_mut();
                model.acknowledged = model.acknowledged.max(place);
            }
            return Ok(());
        }
    }

    async fn work(&self, writers: u64, writes: u64) -> Result<(), StorageError> {
        let left = Rc::new(RefCell::new(writers));
        for _ in 0..writers {
            let (site, left) = (self.clone(), left.clone());
            self.simulation.spawn(async move {
                for _ in 0..writes {
                    site.write().await.expect("a write");
                    let pause = site.simulation.random(|random| random.below(400));
                    site.simulation.sleep_us(pause).await;
                }
                *left.borrow_mut() -= 1;
            });
        }
        while *left.borrow() > 0 {
            self.simulation.sleep_us(1000).await;
        }
        Ok(())
    }

    async fn read(&self, after: &[Position]) -> Result<Vec<LoggedChange>, ChangeLogError> {
        let mut place = self.engine.change_place(LOG, after).await?;
        let mut found = Vec::new();
        loop {
            let run = self.engine.changes_behind(LOG, after, place, 1).await?;
            found.extend(run.changes);
            place = run.next;
            if !run.more {
                return Ok(found);
            }
        }
    }

    fn beginning(&self) -> Vec<Position> {
        let commit = self.model.borrow().base;
        (0..SHARDS).map(|shard| Position { shard, commit, is_change: false }).collect()
    }

    /// Checks that log and rows are those of a beginning of the history that has all that was acknowledged.
    async fn verify(&self) {
        let found = self.read(&self.beginning()).await.expect("the log is read");
        let lost = {
            let mut model = self.model.borrow_mut();
            assert!(found.len() >= model.acknowledged, "{} of {}", found.len(), model.acknowledged);
            assert_eq!(found, model.changes[..found.len()]);
            model.acknowledged = found.len();
            model.changes.split_off(found.len())
        };
        let mut rows = BTreeMap::new();
        for change in &found {
            let place = (change.shard, change.key.clone());
            match &change.new {
                Some(value) => rows.insert(place, value.clone()),
                None => rows.remove(&place),
            };
        }
        for shard in 0..SHARDS {
            let range = Range { start: std::ops::Bound::Unbounded, end: std::ops::Bound::Unbounded };
            let tree = self.trees[shard as usize];
            let run = self.engine.range(tree, &range, Direction::Forward, usize::MAX, usize::MAX).await;
            let want: Vec<(Vec<u8>, Value)> = rows
                .iter()
                .filter(|((of, _), _)| *of == shard)
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect();
            assert_eq!(run.expect("rows").entries, want);
        }
        self.verify_positions(&found, &lost).await;
    }

    /// From any change that is there the log goes on behind it, and none that a crash took is taken for one.
    async fn verify_positions(&self, found: &[LoggedChange], lost: &[LoggedChange]) {
        for _ in 0..4 {
            let cut = self.simulation.random(|random| random.below(found.len() as u64 + 1)) as usize;
            let mut after = self.beginning();
            for change in &found[..cut] {
                after[change.shard as usize].commit = change.commit;
                after[change.shard as usize].is_change = true;
            }
            assert_eq!(self.read(&after).await.expect("the log is read"), found[cut..]);
        }
        for change in lost.iter().take(3).chain(lost.last()) {
            let mut after = self.beginning();
            after[change.shard as usize].commit = change.commit;
            after[change.shard as usize].is_change = true;
            let refused = self.read(&after).await.map(|found| found.len());
            assert!(matches!(refused, Err(ChangeLogError::Lost { .. })), "{refused:?}");
        }
    }
}

/// Polls some work so many times, or until it is done, and drops it.
async fn break_off<T>(work: impl Future<Output = T>, mut polls: u64) {
    let mut work = pin!(work);
    poll_fn(|context| {
        if polls == 0 || work.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        polls -= 1;
        Poll::Pending
    })
    .await;
}

#[test]
fn a_change_log_is_the_history_of_its_table_after_any_power_loss() {
    for_seeds(60, |seed| {
        let mut machine = Machine::new(seed, EVERYTHING);
        for opening in 0..5 {
            let stop = machine.simulation.random(|random| {
                let end = [40, 400, 2500][random.below(3) as usize];
                random.below(end)
            });
            if opening < 4 {
                machine.directory.stop_at(stop);
            }
            machine.run(async |site| {
                site.verify().await;
                site.work(3, 60).await.expect("nothing fails");
                site.verify().await;
            });
            machine.lose_power();
        }
    });
}

#[test]
fn what_is_kept_is_bounded_and_positions_before_it_are_refused() {
    for_seeds(20, |seed| {
        let mut machine = Machine::new(seed, Retention { bytes_max: KEPT_BYTES, age_ms_max: u64::MAX });
        for _ in 0..3 {
            let stop = machine.simulation.random(|random| 500 + random.below(3000));
            machine.directory.stop_at(stop);
            machine.run(async |site| site.work(2, 150).await);
            machine.lose_power();
            let bytes: u64 = machine
                .directory
                .lengths()
                .iter()
                .filter(|(name, _)| name.starts_with("changes-"))
                .map(|(_, bytes)| bytes)
                .sum();
            // One frame more, and the segment that is being written.
            assert!(bytes <= KEPT_BYTES + 2 * (900 << 10), "{bytes}");
        }
        machine.run(async |site| {
            site.work(2, 150).await.expect("nothing fails");
            let refused = site.read(&site.beginning()).await.map(|found| found.len());
            assert!(matches!(refused, Err(ChangeLogError::TooOld { .. })), "{refused:?}");
            let model = site.model.borrow().changes.clone();
            let (mut after, tail) = (site.beginning(), model.len() - surely_kept(&model));
            for change in &model[..tail] {
                after[change.shard as usize].commit = change.commit;
            }
            assert_eq!(site.read(&after).await.expect("the last are kept"), model[tail..]);
        });
    });
}

/// A log that goes on behind changes that it does not have is begun anew; whoever asks for that may be gone before it is done, or the disk
/// refuse it.
#[test]
fn a_log_that_was_not_begun_anew_to_its_end_never_leaves_changes_out() {
    for_seeds(60, |seed| {
        let mut machine = Machine::new(seed, EVERYTHING);
        let old = machine.run(async |site| {
            site.work(2, 40).await.expect("nothing fails");
            let old = site.beginning();
            site.engine.change_place(LOG, &old).await.expect("all is there");
            // Changes that were not kept.
            let bases: Vec<(u32, u64)> = {
                let commits = &mut *site.commits.borrow_mut();
                commits.iter_mut().for_each(|commit| *commit += 10);
                (0..SHARDS).map(|shard| (shard, commits[shard as usize] - 1)).collect()
            };
            let again = async || site.engine.begin_change_log(LOG, &bases, EVERYTHING, 2).await;
            if seed % 2 == 0 {
                machine.directory.fail(Operation::Remove, "changes-", seed / 2 % 3, 1);
                let _ = again().await;
                machine.directory.heal();
            } else {
                break_off(again(), seed / 2 % 12).await;
            }
            if site.simulation.random(|random| random.one_in(2)) {
                site.engine.tend_change_logs(9).await;
            }
            let _ = again().await;
            site.work(2, 10).await.expect("nothing fails");
            let refused = site.read(&old).await.map(|found| found.len());
            assert!(refused.is_err(), "{refused:?}");
            site.engine.close().await.expect("it is closed");
            old
        });
        let old = old.expect("nothing stops the world");
        machine.lose_power();
        // A log that was given up need not be there.
        machine.model.borrow_mut().changes.clear();
        machine.run(async |site| {
            let refused = site.read(&old).await.map(|found| found.len());
            assert!(refused.is_err(), "{refused:?}");
        });
    });
}

/// Segments are removed, and so cut short, under those who read them.
#[test]
fn who_reads_what_is_dropped_meanwhile_is_told_that_it_is_too_old() {
    let (whole, dropped) = (Cell::new(0), Cell::new(0));
    for_seeds(20, |seed| {
        let machine = Machine::new(seed, Retention { bytes_max: KEPT_BYTES, age_ms_max: u64::MAX });
        machine.run(async |site| {
            site.work(2, 150).await.expect("nothing fails");
            let written = Rc::new(RefCell::new(false));
            let (writer, is_written) = (site.clone(), written.clone());
            machine.simulation.spawn(async move {
                writer.work(2, 300).await.expect("nothing fails");
                *is_written.borrow_mut() = true;
            });
            while !*written.borrow() {
                let kept = SURELY_KEPT + site.simulation.random(|random| random.below(200)) as usize;
                let (after, start) = {
                    let model = site.model.borrow();
                    let start = model.changes.len().saturating_sub(kept);
                    let mut after = site.beginning();
                    for change in &model.changes[..start] {
                        after[change.shard as usize].commit = change.commit;
                    }
                    (after, start)
                };
                match site.read(&after).await {
                    Ok(found) => {
                        assert_eq!(found, site.model.borrow().changes[start..][..found.len()]);
                        whole.set(whole.get() + 1);
                    }
                    Err(ChangeLogError::TooOld { .. }) => dropped.set(dropped.get() + 1),
                    Err(error) => panic!("{error}"),
                }
            }
        });
    });
    let (whole, dropped) = (whole.get(), dropped.get());
    assert!(whole > 0 && dropped > 0, "{whole} read, {dropped} too old");
}

/// How many of the last changes a bounded log must have.
fn surely_kept(changes: &[LoggedChange]) -> usize {
    let mut bytes = 0;
    let fits = |change: &&LoggedChange| {
        bytes += change.old.iter().chain(&change.new).map(|value| value.len()).sum::<usize>();
        bytes <= SURELY_KEPT_BYTES
    };
    changes.iter().rev().take(SURELY_KEPT).take_while(fits).count()
}

#[test]
fn a_log_that_cannot_be_written_costs_the_store_nothing_and_begins_anew() {
    for_seeds(20, |seed| {
        let mut machine = Machine::new(seed, EVERYTHING);
        machine.run(async |site| {
            site.work(2, 40).await.expect("nothing fails");
            site.verify().await;
        });
        machine.lose_power();
        machine.run(async |site| {
            machine.directory.fail(Operation::Write, "changes-", seed % 3, 1);
            site.work(2, 200).await.expect("the store goes on");
            let _ = site.read(&site.beginning()).await;
            machine.directory.heal();
            site.engine.tend_change_logs(9).await;
            let refused = site.read(&site.beginning()).await.map(|found| found.len());
            assert!(matches!(refused, Err(ChangeLogError::TooOld { .. })), "{refused:?}");
            // From here on it is whole again.
            let before = site.model.borrow().changes.len();
            let after: Vec<Position> = (0..SHARDS)
                .map(|shard| Position {
                    shard,
                    commit: site.commits.borrow()[shard as usize] - 1,
                    is_change: false,
                })
                .collect();
            site.work(2, 30).await.expect("nothing fails");
            let model = site.model.borrow().changes.clone();
            assert_eq!(site.read(&after).await.expect("it is whole"), model[before..]);
        });
    });
}

/// Whoever reads writes what waits first, and may be gone before that is done.
#[test]
fn a_reader_that_is_broken_off_takes_no_change_with_it() {
    for_seeds(60, |seed| {
        let machine = Machine::new(seed, EVERYTHING);
        machine.run(async |site| {
            let after = site.beginning();
            for _ in 0..20 {
                site.work(2, 3).await.expect("nothing fails");
                let polls = machine.simulation.random(|random| random.below(8));
                break_off(site.read(&after), polls).await;
                match site.read(&after).await {
                    Ok(found) => assert_eq!(found, site.model.borrow().changes),
                    Err(ChangeLogError::TooOld { .. }) => return,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    });
}
