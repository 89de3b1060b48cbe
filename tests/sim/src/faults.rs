//! Disks that fail without losing power: full, refusing to flush, refusing to read, spoiling bits.

use std::cell::RefCell;
use std::rc::Rc;

use photondb_storage::disk::DiskError;
use photondb_storage::engine::{CommitInfo, StorageEngine, StorageError};
use photondb_storage::suite::{named, put};

use crate::history::{Change, History, SEQUENCE_KEY, contents};
use crate::life::{Backend, Ending, Life};
use crate::slab::Slab;
use crate::trouble::Operation;
use crate::workload::{Site, Workload};
use crate::{Random, SimulatedDirectory, for_seeds, seeds};

const FILL: Workload = Workload {
    writers: 3,
    batches_each: 30,
    readers: 1,
    reads_each: 10,
    trees: 3,
    keys: 200,
    value_bytes_min: 0,
    value_bytes_max: 100_000,
};

fn site<B: Backend>(life: &Life<B>, engine: &Rc<B::Engine>) -> Rc<Site<B::Engine>> {
    Site::new(&life.simulation, engine.clone(), life.history.clone())
}

fn growing(number: u64) -> Vec<Change> {
    let value: Rc<[u8]> = Random::new(number).bytes(30_000).into();
    vec![Change { tree: named("a"), key: number.to_be_bytes().to_vec(), value: Some(value) }]
}

/// One batch and its flush.
async fn write_hard<E: StorageEngine + 'static>(
    site: &Site<E>,
    changes: Vec<Change>,
) -> Result<(), StorageError> {
    if let Some((number, lsn)) = site.write(changes).await? {
        site.engine.flushed(lsn).await?;
        site.history.borrow_mut().acknowledge(number);
    }
    Ok(())
}

async fn holds_what_is_live(engine: &impl StorageEngine, history: &RefCell<History>) {
    let held = contents(engine).await.expect("reads go on");
    assert!(held == *history.borrow().live(), "reads give what was applied");
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers_when_there_is_room() {
    for_seeds(20, |seed| {
        let mut life = Life::new(Slab::new(seed), seed);
        life.opening(Some(FILL), Ending::Closed).expect("nothing stops it");
        let spare = life.simulation.random(|random| random.below(4 << 20));
        life.directory.set_capacity_bytes(Some(life.directory.used_bytes() + spare));
        life.simulation.run(async {
            let engine = life.open().await.expect("it opens on a full disk");
            let site = site(&life, &engine);
            let mut refused = None;
            for number in 0..2000 {
                if let Err(error) = write_hard(&site, growing(number)).await {
                    refused = Some(error);
                    break;
                }
            }
            assert!(matches!(refused, Some(StorageError::Full { .. })), "{refused:?}");
            assert!(engine.full().is_some(), "it says that the disk is full");
            let tiny = Change { tree: named("a"), key: vec![1], value: Some([1].into()) };
            let tiny = write_hard(&site, vec![tiny]).await;
            assert!(engine.full().is_some(), "what fits beside it ({tiny:?}) gives no room to what did not");
            holds_what_is_live(&*engine, &life.history).await;

            life.directory.set_capacity_bytes(None);
            let mut tries = 0;
            while let Err(error) = write_hard(&site, growing(5000)).await {
                assert!(matches!(error, StorageError::Full { .. }), "{error}");
                tries += 1;
                assert!(tries < 100, "it does not notice that there is room");
                life.simulation.sleep_us(100_000).await;
            }
            becomes_roomy(&life, &*engine).await;
            holds_what_is_live(&*engine, &life.history).await;
        });
        life.lose_power();
        life.opening(Some(FILL), Ending::Closed);
    });
}

/// Asks until the store says that it has room.
async fn becomes_roomy(life: &Life<Slab>, engine: &impl StorageEngine) {
    let mut asked = 0;
    while let Some(reason) = engine.full() {
        asked += 1;
        assert!(asked < 100, "it still says: {reason}");
        life.simulation.sleep_us(100_000).await;
    }
}

#[test]
fn a_disk_that_has_room_again_is_not_called_full_though_nobody_writes() {
    for_seeds(5, |seed| {
        let life = Life::new(Slab::new(seed), seed);
        life.opening(Some(FILL), Ending::Closed).expect("nothing stops it");
        life.directory.set_capacity_bytes(Some(life.directory.used_bytes() + (2 << 20)));
        life.simulation.run(async {
            let engine = life.open().await.expect("it opens");
            let site = site(&life, &engine);
            let mut number = 0;
            while write_hard(&site, growing(number)).await.is_ok() {
                number += 1;
            }
            life.simulation.sleep_us(1_000_000).await;
            assert!(engine.full().is_some(), "it says that the disk is full");
            life.directory.set_capacity_bytes(None);
            becomes_roomy(&life, &*engine).await;
        });
    });
}

#[test]
fn deletes_make_room_on_a_full_disk() {
    for_seeds(5, |seed| {
        let mut life = Life::new(Slab::new(seed), seed);
        life.opening(Some(FILL), Ending::Closed).expect("nothing stops it");
        life.directory.set_capacity_bytes(Some(life.directory.used_bytes() + (3 << 20)));
        life.simulation.run(async {
            let engine = life.open().await.expect("it opens");
            let site = site(&life, &engine);
            let mut number = 0;
            while write_hard(&site, growing(number)).await.is_ok() {
                number += 1;
            }
            for deleted in 0..number {
                let key = deleted.to_be_bytes().to_vec();
                let change = Change { tree: named("a"), key, value: None };
                write_hard(&site, vec![change]).await.expect("a delete works on a full disk");
            }
            let mut tries = 0;
            while let Err(error) = write_hard(&site, growing(9000)).await {
                tries += 1;
                assert!(tries < 100, "deletes made no room: {error}");
                life.simulation.sleep_us(100_000).await;
            }
        });
        life.lose_power();
        life.opening(None, Ending::Closed);
    });
}

#[test]
fn a_disk_that_gives_nothing_more_puts_checkpoints_off_and_all_goes_on_when_there_is_room() {
    // Trees, bytes of a value at least and at most.
    for (trees, least, most) in
        [(40_u64, 40, 300), (1, 33_000, 34_000), (3, 2_000, 70_000), (1, 100_000, 300_000)]
    {
        for_seeds(4, |seed| {
            let mut life = Life::new(Slab::new(seed), seed);
            life.opening(Some(FILL), Ending::Closed).expect("nothing stops it");
            let spare = life.simulation.random(|random| random.below(2) * random.below(3 << 20));
            life.directory.set_capacity_bytes(Some(life.directory.used_bytes() + spare));
            life.simulation.run(async {
                let engine = life.open().await.expect("it opens on a full disk");
                let site = site(&life, &engine);
                for number in 0..trees {
                    let name = named(&format!("full {number}"));
                    if engine.create_tree(&name).await.is_err() {
                        break;
                    }
                    life.history.borrow_mut().making(&name);
                    life.history.borrow_mut().made(&name);
                }
                for number in 0..600_u64 {
                    let trees = life.history.borrow().settled_trees();
                    let (tree, value) = life.simulation.random(|random| {
                        let bytes = least + random.below(most - least);
                        (random.below(trees.len() as u64) as usize, random.bytes(bytes as usize))
                    });
                    let key = (number % 250).to_be_bytes().to_vec();
                    let change = Change { tree: trees[tree].clone(), key, value: Some(value.into()) };
                    match write_hard(&site, vec![change]).await {
                        Ok(()) | Err(StorageError::Full { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    if number % 100 == 99 {
                        let ended = engine.checkpoint().await;
                        assert!(matches!(ended, Ok(()) | Err(StorageError::Full { .. })), "{ended:?}");
                    }
                }
                life.directory.set_capacity_bytes(None);
                engine.checkpoint().await.expect("there is room again");
                let live = life.history.borrow().live().clone();
                for (tree, rows) in live {
                    for key in rows.into_keys().filter(|key| key != SEQUENCE_KEY) {
                        let change = Change { tree: tree.clone(), key, value: None };
                        write_hard(&site, vec![change]).await.expect("there is room again");
                    }
                }
            });
            life.lose_power();
            life.opening(None, Ending::Closed);
        });
    }
}

#[test]
fn after_a_failed_flush_the_store_is_read_only_and_keeps_its_promises() {
    let mut failed = 0;
    for seed in seeds(120) {
        let mut life = Life::new(Slab::new(seed), seed);
        life.directory.fail(Operation::Sync, ["", "wal", "slabs", "pages"][(seed % 4) as usize], seed / 4, 1);
        life.simulation.run(async {
            let Ok(engine) = life.open().await else { return };
            let site = site(&life, &engine);
            let worked = site.work(FILL).await;
            let mut errors = site.errors.take();
            errors.extend(worked.err());
            if errors.is_empty() {
                return;
            }
            failed += 1;
            let told =
                |error: &StorageError| matches!(error, StorageError::ReadOnly { .. } | StorageError::Disk(_));
            assert!(errors.iter().all(told), "seed {seed}: {errors:?}");
            let Some(tree) = engine.tree(&named("a")) else { return };
            match engine.apply(CommitInfo::default(), &[put(tree, *b"k", *b"v")]).err() {
                Some(StorageError::ReadOnly { .. }) => {}
                found => panic!("seed {seed}: {found:?} after {errors:?}"),
            }
            engine.get(tree, b"k").await.expect("reads go on");
        });
        life.lose_power();
        life.opening(None, Ending::Closed);
    }
    assert!(failed > 20, "the failures hit {failed} times");
}

#[test]
fn zeros_that_could_not_be_written_are_not_written_again() {
    for_seeds(10, |seed| {
        let mut life = Life::new(Slab::new(seed), seed);
        life.opening(Some(FILL), Ending::Closed).expect("nothing stops it");
        life.simulation.run(async {
            let engine = life.open().await.expect("it opens");
            let site = site(&life, &engine);
            // At opening every free unit is taken for a hole, so room is zeros that are written first.
            life.directory.fail(Operation::Write, "slabs", 0, 1);
            let mut refused = None;
            for number in 0..200 {
                refused = refused.or(write_hard(&site, growing(number)).await.err());
            }
            assert!(matches!(refused, Some(StorageError::ReadOnly { .. })), "{refused:?}");
            match write_hard(&site, growing(900)).await {
                Err(StorageError::ReadOnly { .. }) => {}
                found => panic!("{found:?}"),
            }
        });
        life.lose_power();
        life.opening(None, Ending::Closed);
    });
}

#[test]
fn a_failed_read_is_an_error_of_that_read_alone() {
    for_seeds(30, |seed| {
        let life = Life::new(Slab::new(seed), seed);
        life.opening(Some(FILL), Ending::Closed).expect("nothing stops it");
        life.simulation.run(async {
            let engine = life.open().await.expect("it opens");
            life.directory.fail(Operation::Read, "", seed % 10, 1);
            match contents(&*engine).await {
                Ok(held) => assert!(held == *life.history.borrow().live()),
                Err(StorageError::Disk(DiskError::Io { operation: "read", .. })) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
            life.directory.heal();
            holds_what_is_live(&*engine, &life.history).await;
        });
    });
}

#[test]
fn a_spoiled_bit_is_named_and_never_read_as_data() {
    let mut named_ones = 0;
    for seed in seeds(200) {
        let life = Life::new(Slab::new(seed % 5), seed % 5);
        life.opening(Some(FILL), Ending::Closed).expect("nothing stops it");
        let mut random = Random::new(seed);
        let (file, offset) = &random_place(&life.directory, &mut random);
        life.directory.flip_bit(file, *offset, random.below(8) as u8);
        life.simulation.run(async {
            let found = match life.open().await {
                Ok(engine) => read_beside(&*engine, &life.history).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(()) => {}
                Err(StorageError::Corrupt { file: named, offset: at, .. }) => {
                    named_ones += 1;
                    assert_eq!(&named, file, "seed {seed}: the error names another file");
                    assert!(at <= *offset, "seed {seed}: offset {at} lies behind the bit at {offset}");
                }
                Err(error) => panic!("seed {seed}: {file} at {offset}: {error}"),
            }
        });
    }
    assert!(named_ones > 20, "{named_ones} flips were found");
}

/// A byte of a block that holds something.
fn random_place(directory: &SimulatedDirectory, random: &mut Random) -> (String, u64) {
    let mut blocks = Vec::new();
    for file in directory.lengths().into_keys().filter(|file| !file.starts_with("wal")) {
        for (index, block) in directory.bytes(&file).chunks(4096).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                blocks.push((file.clone(), index as u64 * 4096));
            }
        }
    }
    let (file, block) = blocks.swap_remove(random.below(blocks.len() as u64) as usize);
    (file, block + random.below(4096))
}

/// Reads everything by key, going on after an error; what is read must be right. Gives the first error.
async fn read_beside(engine: &impl StorageEngine, history: &RefCell<History>) -> Result<(), StorageError> {
    let mut first = Ok(());
    let mut errors = 0;
    let mut reads = 0;
    let live = history.borrow().live().clone();
    for (name, rows) in &live {
        let tree = engine.tree(name).expect("a tree is not lost by a spoiled bit");
        for (key, want) in rows {
            reads += 1;
            match engine.get(tree, key).await {
                Ok(read) => assert!(read.as_deref() == Some(&**want), "a spoiled bit was read as data"),
                Err(error) => {
                    errors += 1;
                    first = first.and(Err(error));
                }
            }
        }
    }
    assert!(errors < reads, "nothing is served beside the spoiled bit");
    first
}
