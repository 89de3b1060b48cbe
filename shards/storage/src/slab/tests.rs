//! The engine as a whole over ordinary files: the suite of behaviours, and how it uses disk and memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::pin::pin;

use crate::blocking::{BlockingDirectory, block_on, block_on_with};
use crate::btree::page::PageKind;
use crate::engine::{Cached, CommitInfo, Direction, Edit, Range, StorageEngine, StorageError};
use crate::event::{both, yield_now};
use crate::slab::room::DataFile;
use crate::slab::{Placement, SlabEngine, SlabOptions};
use crate::suite::{self, EVERYTHING, Host, Random, named};

/// Small, so that tests evict pages, fill segments and write checkpoints.
pub(super) const SMALL: SlabOptions = SlabOptions {
    placement: None,
    cache_bytes: 1 << 20,
    cache_entries: u64::MAX,
    wal_segment_bytes: 1 << 20,
    checkpoint_log_bytes: 2 << 20,
    checkpoint_dirty_bytes: 0,
    compression_level: 1,
    compression_bytes_min: 129,
    table_of: |name| Some(&name.0),
};

pub(super) struct Blocking {
    pub directory: BlockingDirectory,
    options: SlabOptions,
}

impl Blocking {
    pub fn new(name: &str, options: SlabOptions) -> Self {
        let path = std::env::temp_dir().join(format!("photondb-slab-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self { directory: BlockingDirectory::new(path).unwrap(), options }
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.directory.path());
    }
}

impl Host for Blocking {
    type Engine = SlabEngine<BlockingDirectory>;

    fn run<T>(&mut self, test: impl AsyncFnOnce(&Self::Engine) -> T) -> T {
        let engine = block_on(SlabEngine::open(self.directory.clone(), self.options)).unwrap();
        let training = async {
            while let Some(training) = engine.training().await {
                engine.set_dictionary(training.train()).await.unwrap();
            }
        };
        let mut background = pin!(both(engine.work(), training));
        block_on_with(background.as_mut(), async {
            let result = test(&engine).await;
            engine.close().await.unwrap();
            result
        })
    }
}

#[test]
fn slabs_over_blocking_files_behave() {
    let mut number = 0;
    suite::run_all(|| {
        number += 1;
        Blocking::new(&format!("suite-{number}"), SMALL)
    });
}

#[test]
fn slabs_with_a_large_cache_behave() {
    let mut number = 0;
    suite::run_all(|| {
        number += 1;
        Blocking::new(&format!("suite-large-{number}"), SlabOptions::default())
    });
}

#[test]
fn values_in_leaves_over_blocking_files_behave() {
    let mut number = 0;
    suite::run_all(|| {
        number += 1;
        let options = SlabOptions { placement: Some(Placement::Leaves), ..SMALL };
        Blocking::new(&format!("suite-leaves-{number}"), options)
    });
}

#[test]
fn a_store_of_leaves_keeps_whole_values_there_and_is_not_opened_as_slabs() {
    let mut host =
        Blocking::new("leaves", SlabOptions { placement: Some(Placement::Leaves), ..SlabOptions::default() });
    let sizes = [0, 128, 129, 1000, 2000, 2100, 60_000, 70_000];
    for _ in 0..2 {
        host.run(async |engine| {
            let tree = engine.create_tree(&named("documents")).await.unwrap();
            for bytes in sizes {
                let key = format!("{bytes}").into_bytes();
                let put = Edit::Put { tree, key: key.clone(), value: vec![7; bytes] };
                engine.commit(CommitInfo::default(), &[put]).await.unwrap();
                engine.checkpoint().await.unwrap();
                assert_eq!(engine.get(tree, &key).await.unwrap().unwrap().len(), bytes);
            }
            let slots =
                engine.shared.state.borrow().chunks.list.iter().filter(|chunk| chunk.live_bytes > 0).count();
            assert!((1..=3).contains(&slots), "only what no leaf holds is elsewhere: {slots} chunks");
        });
        // What the store remembers is enough.
        host.options.placement = None;
    }
    let wrong = SlabOptions { placement: Some(Placement::Slots), ..SMALL };
    let refused = block_on(SlabEngine::open(host.directory.clone(), wrong)).err();
    assert_eq!(refused, Some(StorageError::Backend { found: "btree", wanted: "slab" }));
}

#[test]
fn a_store_that_is_told_to_settle_writes_what_waits_unless_it_just_did() {
    let mut host = Blocking::new("settle", SMALL);
    host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        engine.checkpoint().await.unwrap();
        let put = async |value: &[u8]| {
            engine.commit(CommitInfo::default(), &[suite::put(tree, *b"key", value)]).await.unwrap();
        };
        // How many checkpoints come about within some turns.
        let written = async || {
            let before = engine.stats().checkpoints;
            for _ in 0..200 {
                yield_now().await;
            }
            engine.stats().checkpoints - before
        };
        engine.settle();
        put(b"one").await;
        assert_eq!(written().await, 0, "told once");
        engine.settle();
        assert_eq!(written().await, 1, "told again");
        engine.settle();
        engine.settle();
        assert_eq!(written().await, 0, "nothing waits");
        put(b"two").await;
        engine.checkpoint().await.unwrap();
        put(b"three").await;
        engine.settle();
        assert_eq!(written().await, 0, "one ended since it was told before");
        engine.settle();
        assert_eq!(written().await, 1, "and none since");
    });
}

#[test]
fn a_store_without_background_work_flushes_and_checkpoints_by_itself() {
    let host = Blocking::new("alone", SMALL);
    let open = || block_on(SlabEngine::open(host.directory.clone(), SMALL)).unwrap();
    let engine = open();
    block_on(async {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        for number in 0..4000_u32 {
            let edit = suite::put(tree, number.to_be_bytes(), vec![number as u8; 1000]);
            let lsn = engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
            if number % 100 == 0 {
                engine.flushed(lsn).await.unwrap();
            }
        }
        engine.flushed(engine.applied()).await.unwrap();
        assert!(engine.stats().checkpoints > 0 && engine.stats().cache_bytes <= 1 << 20);
    });
    // The process ends without a word.
    drop(engine);
    let engine = open();
    assert_eq!(engine.epoch(), 2);
    block_on(async {
        let tree = engine.tree(&named("a")).unwrap();
        assert_eq!(engine.count(tree, &EVERYTHING).await.unwrap(), 4000);
        for number in 0..4000_u32 {
            let value = engine.get(tree, &number.to_be_bytes()).await.unwrap().unwrap();
            assert_eq!(value[..], vec![number as u8; 1000]);
        }
        engine.close().await.unwrap();
    });
}

#[test]
fn pressure_rises_before_writers_have_to_wait_and_a_checkpoint_takes_it_away() {
    let options = SlabOptions {
        checkpoint_dirty_bytes: 1 << 20,
        checkpoint_log_bytes: u64::MAX,
        ..SlabOptions::default()
    };
    let host = Blocking::new("pressure", options);
    let engine = block_on(SlabEngine::open(host.directory.clone(), options)).unwrap();
    block_on(async {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        let mut seen = Vec::new();
        for number in 0.. {
            let edit = suite::put(tree, u32::to_be_bytes(number), vec![1; 1000]);
            match engine.apply(CommitInfo::default(), std::slice::from_ref(&edit)).unwrap() {
                Cached::Hit(_) => seen.push((engine.stats().dirty_bytes, engine.pressure())),
                Cached::Miss if seen.last().is_some_and(|(dirty, _)| *dirty >= 4 << 20) => break,
                Cached::Miss => engine.prepare(&[edit]).await.unwrap(),
            }
        }
        assert!(seen.iter().all(|(dirty, pressure)| *dirty > 2 << 20 || *pressure == 0));
        assert!(seen.iter().any(|(_, pressure)| (1..100).contains(pressure)));
        assert_eq!(seen.last().unwrap().1, 100, "writers have to wait now");
        engine.checkpoint().await.unwrap();
        assert_eq!(engine.pressure(), 0);
    });
}

#[test]
fn the_file_of_pages_keeps_what_checkpoints_under_load_write() {
    const DOCUMENTS: u64 = 120_000;
    let options = SlabOptions {
        cache_bytes: 128 << 20,
        checkpoint_dirty_bytes: 4 << 20,
        checkpoint_log_bytes: u64::MAX,
        ..SlabOptions::default()
    };
    let host = Blocking::new("breathing", options);
    let engine = block_on(SlabEngine::open(host.directory.clone(), options)).unwrap();
    block_on(async {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        let put = async |number: u64, value: u8| {
            let edit = [suite::put(tree, Random::new(number).bytes(128), vec![value])];
            while let Cached::Miss = engine.apply(CommitInfo::default(), &edit).unwrap() {
                engine.prepare(&edit).await.unwrap();
            }
        };
        for number in 0..DOCUMENTS {
            put(number, 0).await;
            if engine.pressure() == 100 {
                engine.checkpoint().await.unwrap();
            }
        }
        // Checkpoints have more than three times the pages that they are due for, and writers beside them made room for as many.
        let mut random = Random::new(1);
        let mut files = Vec::new();
        let filled = || {
            let space = &engine.shared.state.borrow().page_space;
            space.blocks() - space.hole_blocks()
        };
        for round in 0..4 {
            for _ in 0..DOCUMENTS {
                put(random.below(DOCUMENTS), round).await;
                if engine.pressure() == 100 {
                    break;
                }
            }
            if round == 0 {
                let (dirty, _) = engine.shared.needed_blocks(0, 0);
                engine.shared.grow(&DataFile::Pages, dirty).await.unwrap();
                files.push(filled());
            }
            engine.checkpoint().await.unwrap();
            files.push(filled());
        }
        assert!(files.iter().all(|blocks| *blocks == files[0]), "under load: {files:?}");
        for round in 0..2 {
            put(0, round).await;
            engine.checkpoint().await.unwrap();
        }
        files.push(filled());
        assert!(files[5] < files[0] * 9 / 10, "with little to do: {files:?}");
    });
}

#[test]
fn files_and_log_are_long_enough_before_writers_get_there() {
    let options =
        SlabOptions { checkpoint_dirty_bytes: 256 << 20, cache_bytes: 1 << 30, ..SlabOptions::default() };
    let mut host = Blocking::new("ahead", options);
    let waits = host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        let mut waits = 0;
        for number in 0..40_000_u32 {
            let edit = [suite::put(tree, number.to_be_bytes(), vec![number as u8; 1000])];
            while let Cached::Miss = engine.apply(CommitInfo::default(), &edit).unwrap() {
                waits += 1;
                engine.prepare(&edit).await.unwrap();
            }
            yield_now().await;
        }
        waits
    });
    // The first file grows from nothing.
    assert!(waits <= 2, "writers waited {waits} times");
}

#[test]
fn space_of_deletes_and_updates_is_used_again() {
    let mut host = Blocking::new("space", SlabOptions { cache_bytes: 4 << 20, ..SMALL });
    let sizes = host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        let mut random = Random::new(1);
        let mut sizes = Vec::new();
        for round in 0..4_u32 {
            for number in 0..20_000_u32 {
                let key = (u64::from(number) << 16 | random.below(1000)).to_be_bytes();
                let key = if round % 2 == 0 { number.to_be_bytes().to_vec() } else { key[..].to_vec() };
                engine
                    .commit(CommitInfo::default(), &[suite::put(tree, key, vec![round as u8; 1000])])
                    .await
                    .unwrap();
            }
            // Updates in a random order leave holes everywhere.
            for _ in 0..20_000 {
                let key = (random.below(20_000) as u32).to_be_bytes();
                engine.commit(CommitInfo::default(), &[suite::put(tree, key, vec![9; 900])]).await.unwrap();
            }
            engine.checkpoint().await.unwrap();
            engine.checkpoint().await.unwrap();
            sizes.push((engine.count(tree, &EVERYTHING).await.unwrap(), engine.stats().disk_bytes >> 20));
            let rows = suite::read_all(engine, tree).await.unwrap();
            for (key, _) in rows {
                engine.commit(CommitInfo::default(), &[suite::delete(tree, key)]).await.unwrap();
            }
            engine.checkpoint().await.unwrap();
        }
        sizes
    });
    println!("{sizes:?}");
    // Files do not shrink, so what counts is the most that was in them. The log keeps up to seven segments beside.
    let most = sizes.iter().map(|(count, _)| (count * 1020) >> 20).max().unwrap();
    for (_, mebibytes) in sizes {
        assert!(mebibytes <= most * 13 / 10 + 9, "{mebibytes} MiB for {most} MiB of data");
    }
}

/// Leaves change while a checkpoint writes them, and pages above them are not in memory when it is done: their values are placed
/// once more by the next one.
#[test]
fn what_was_placed_in_vain_is_given_back() {
    let mut host = Blocking::new("placed-again", SMALL);
    host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        let mut random = Random::new(3);
        for number in 0..5_000_u64 {
            let edit = suite::put(tree, number.to_be_bytes(), random.bytes(200));
            engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
        }
        for _ in 0..4 {
            let writes = async {
                for _ in 0..300 {
                    let edit = suite::put(tree, random.below(5_000).to_be_bytes(), random.bytes(200));
                    engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
                    engine.shared.state.borrow_mut().pool.forget_clean_inner_pages();
                    yield_now().await;
                }
            };
            let (written, ()) = both(engine.checkpoint(), writes).await;
            written.unwrap();
        }
    });
    let report = block_on(crate::verify::verify(&host.directory, &named("none"), &mut |_, _| {})).unwrap();
    assert_eq!(report.problems, []);
}

#[test]
fn trees_of_three_inner_levels_are_merged_from_every_bound() {
    let mut host = Blocking::new("deep", SlabOptions::default());
    host.run(async |engine| {
        let mut random = Random::new(11);
        let mut trees = Vec::new();
        for name in ["a", "b"] {
            trees.push(engine.create_tree(&named(name)).await.unwrap());
        }
        let mut model = BTreeMap::new();
        for number in 0..12_000_u32 {
            // Neighbours differ late, so that inner pages have room for few.
            let mut key = (number / 10).to_be_bytes().to_vec();
            key.extend_from_slice(&[b'.'; 600]);
            key.extend_from_slice(&number.to_be_bytes());
            let (tree, value) = (random.below(2) as usize, random.bytes(20));
            engine
                .commit(CommitInfo::default(), &[suite::put(trees[tree], key.clone(), value.clone())])
                .await
                .unwrap();
            model.insert(key, (tree, value));
        }
        for tree in &trees {
            let state = engine.shared.state.borrow();
            let (mut id, mut levels) = (state.root(*tree).unwrap(), 0);
            while let Some(page) = state.pool.peek(id).filter(|page| page.kind() == PageKind::Inner) {
                (id, levels) = (page.child(0).page, levels + 1);
            }
            assert_eq!(levels, 3);
        }
        let keys: Vec<Vec<u8>> = model.keys().cloned().collect();
        for bound in suite::bounds_around(&keys) {
            for (start, end) in [(bound.clone(), Bound::Unbounded), (Bound::Unbounded, bound)] {
                let range = Range { start, end };
                for direction in [Direction::Forward, Direction::Backward] {
                    let limits = (1 + random.below(300) as usize, 1 << 20);
                    suite::merging::read_merged(engine, &trees, &model, &range, direction, limits).await;
                }
            }
        }
    });
}
