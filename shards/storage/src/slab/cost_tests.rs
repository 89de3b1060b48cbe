//! What calls cost: reads of the disk per miss, what a scan does to the cache, what many trees and small values take.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;

use crate::blocking::{BlockingDirectory, BlockingDisk, block_on, block_on_with};
use crate::disk::{Directory, Disk, DiskError, OpenMode};
use crate::engine::{CommitInfo, Direction, StorageEngine, StorageError, Sweeping, TreeId};
use crate::event::yield_now;
use crate::slab::slot::{SLOT_HEADER_BYTES, slot_bytes};
use crate::slab::tests::{Blocking, SMALL};
use crate::slab::{SlabEngine, SlabOptions};
use crate::suite::{self, EVERYTHING, Host, Random, named};

/// File and bytes of each read.
type Reads = Rc<RefCell<Vec<(String, u32)>>>;

/// A directory that notes every read, and can be full.
#[derive(Clone)]
struct Noting {
    directory: BlockingDirectory,
    reads: Reads,
    is_full: Rc<Cell<bool>>,
}

struct NotingDisk {
    disk: BlockingDisk,
    name: String,
    reads: Reads,
    is_full: Rc<Cell<bool>>,
}

impl Directory for Noting {
    type File = NotingDisk;

    async fn open(&self, name: &str, mode: OpenMode) -> Result<NotingDisk, DiskError> {
        let disk = self.directory.open(name, mode).await?;
        let (reads, is_full) = (self.reads.clone(), self.is_full.clone());
        Ok(NotingDisk { disk, name: name.to_owned(), reads, is_full })
    }

    async fn list(&self) -> Result<Vec<String>, DiskError> {
        self.directory.list().await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.directory.rename(from, to).await
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.directory.remove(name).await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.directory.sync().await
    }
}

impl Disk for NotingDisk {
    type Page = <BlockingDisk as Disk>::Page;
    type Buffer = <BlockingDisk as Disk>::Buffer;

    fn buffer(&self, bytes: u32) -> Self::Buffer {
        self.disk.buffer(bytes)
    }

    async fn read(&self, offset: u64, bytes: u32) -> Result<Self::Page, DiskError> {
        self.reads.borrow_mut().push((self.name.clone(), bytes));
        self.disk.read(offset, bytes).await
    }

    async fn write(&self, offset: u64, source: Self::Buffer) -> Result<(), DiskError> {
        // Zeros fill a hole.
        if self.is_full.get() && source.as_ref().iter().all(|&byte| byte == 0) {
            return Err(DiskError::Full { file: self.name.clone() });
        }
        self.disk.write(offset, source).await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.disk.sync().await
    }

    async fn preallocate(&self, bytes: u64) -> Result<(), DiskError> {
        if self.is_full.get() {
            return Err(DiskError::Full { file: self.name.clone() });
        }
        self.disk.preallocate(bytes).await
    }

    async fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.disk.punch(offset, bytes).await
    }

    async fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        self.disk.truncate(bytes).await
    }

    async fn length(&self) -> Result<u64, DiskError> {
        self.disk.length().await
    }
}

/// Fills tree "a" with documents of 1.1 KB of noise.
async fn fill<D: Directory>(engine: &SlabEngine<D>, documents: u32) -> TreeId {
    let tree = engine.create_tree(&named("a")).await.unwrap();
    let mut random = Random::new(1);
    for number in 0..documents {
        let edit = suite::put(tree, number.to_be_bytes(), random.bytes(1100));
        engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
    }
    engine.checkpoint().await.unwrap();
    tree
}

#[test]
fn a_miss_reads_one_leaf_and_the_blocks_of_its_document() {
    const DOCUMENTS: u32 = 16_000;
    let options = SlabOptions { cache_bytes: 2 << 20, ..SMALL };
    let host = Blocking::new("miss", options);
    let reads = Reads::default();
    let directory =
        Noting { directory: host.directory.clone(), reads: reads.clone(), is_full: Rc::default() };
    let engine = block_on(SlabEngine::open(directory, options)).unwrap();
    let background = pin!(engine.work());
    block_on_with(background, async {
        let tree = fill(&engine, DOCUMENTS).await;
        let mut random = Random::new(2);
        for is_warm in [false, true] {
            reads.borrow_mut().clear();
            let before = engine.stats();
            for _ in 0..4000 {
                let key = (random.below(u64::from(DOCUMENTS)) as u32).to_be_bytes();
                assert!(engine.get(tree, &key).await.unwrap().is_some());
            }
            if !is_warm {
                continue;
            }
            let misses = (engine.stats().cache_misses - before.cache_misses) as usize;
            let reads = reads.borrow();
            let (data, pages): (Vec<_>, Vec<_>) = reads.iter().partition(|(file, _)| file == "slabs");
            assert!(misses > 2000, "a store eight times its cache misses: {misses}");
            assert!(data.len() <= misses && data.iter().all(|(_, bytes)| *bytes <= 8192));
            assert!(pages.len() <= misses, "{} reads of pages for {misses} misses", pages.len());
        }
        engine.close().await.unwrap();
    });
}

#[test]
fn a_scan_finds_what_was_read_ahead_and_nothing_is_read_twice() {
    const DOCUMENTS: u32 = 8_000;
    let options = SlabOptions { cache_bytes: 4 << 20, ..SMALL };
    let host = Blocking::new("ahead", options);
    let reads = Reads::default();
    let directory =
        Noting { directory: host.directory.clone(), reads: reads.clone(), is_full: Rc::default() };
    let engine = block_on(SlabEngine::open(directory, options)).unwrap();
    let background = pin!(engine.work());
    block_on_with(background, async {
        let tree = fill(&engine, DOCUMENTS).await;
        for direction in [Direction::Forward, Direction::Backward] {
            reads.borrow_mut().clear();
            let before = engine.stats();
            let rows =
                suite::read_range(&engine, tree, &EVERYTHING, direction, 200, 128 << 10).await.unwrap();
            assert_eq!(rows.len(), DOCUMENTS as usize);
            let reads = reads.borrow();
            let data: u64 =
                reads.iter().filter(|(file, _)| file == "slabs").map(|(_, bytes)| u64::from(*bytes)).sum();
            assert!(data < u64::from(DOCUMENTS) * 1120 * 11 / 10, "{data} bytes were read");
            assert!(reads.len() < 400, "{} reads of {data} bytes", reads.len());
            let hits = engine.stats().cache_hits - before.cache_hits;
            println!("{hits} hits, {} reads", reads.len());
        }
        engine.close().await.unwrap();
    });
}

#[test]
fn documents_that_came_in_any_order_are_scanned_in_pieces_that_grow() {
    const DOCUMENTS: u32 = 24_000;
    const ROUNDS: u32 = 8;
    let options = SlabOptions {
        cache_bytes: 32 << 20,
        checkpoint_log_bytes: 64 << 20,
        checkpoint_dirty_bytes: 8 << 20,
        ..SMALL
    };
    let host = Blocking::new("pieces", options);
    let reads = Reads::default();
    let open = || {
        let directory =
            Noting { directory: host.directory.clone(), reads: reads.clone(), is_full: Rc::default() };
        block_on(SlabEngine::open(directory, options)).unwrap()
    };
    let engine = open();
    block_on_with(pin!(engine.work()), async {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        let mut random = Random::new(1);
        for round in 0..ROUNDS {
            for number in (round..DOCUMENTS).step_by(ROUNDS as usize) {
                let edit = suite::put(tree, number.to_be_bytes(), random.bytes(1100));
                engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
            }
            engine.checkpoint().await.unwrap();
        }
        engine.close().await.unwrap();
    });
    let engine = open();
    block_on_with(pin!(engine.work()), async {
        let tree = engine.tree(&named("a")).unwrap();
        // The store's own work begins when somebody waits.
        yield_now().await;
        reads.borrow_mut().clear();
        let rows = suite::read_range(&engine, tree, &EVERYTHING, Direction::Forward, 200, 64 << 10).await;
        assert_eq!(rows.unwrap().len(), DOCUMENTS as usize);
        let pieces = reads.borrow().iter().filter(|(file, _)| file == "slabs").count();
        // Portions as large as what the caller asks for would be read in some 3,300 pieces.
        assert!(pieces < 1000, "{pieces} reads");
        // In the order of the disk all that one checkpoint wrote lies in a few of them, and nothing is read twice.
        reads.borrow_mut().clear();
        assert_eq!(sweep_all(&engine, tree).await, DOCUMENTS as usize);
        let data: Vec<u64> = reads
            .borrow()
            .iter()
            .filter(|(file, _)| file == "slabs")
            .map(|(_, bytes)| u64::from(*bytes))
            .collect();
        let bytes: u64 = data.iter().sum();
        assert!(data.len() < 250, "{} reads", data.len());
        assert!(bytes < u64::from(DOCUMENTS) * 1120 * 21 / 20, "{bytes} bytes");
        engine.close().await.unwrap();
    });
}

/// The share of reads of the first `hot` keys that memory answers.
async fn hit_rate(engine: &SlabEngine<BlockingDirectory>, tree: TreeId, hot: u32) -> f64 {
    let before = engine.stats();
    let mut random = Random::new(3);
    for _ in 0..2000 {
        let key = (random.below(u64::from(hot)) as u32).to_be_bytes();
        engine.get(tree, &key).await.unwrap();
    }
    let after = engine.stats();
    let (hits, misses) = (after.cache_hits - before.cache_hits, after.cache_misses - before.cache_misses);
    hits as f64 / (hits + misses) as f64
}

#[test]
fn a_scan_of_everything_leaves_the_hot_set_in_memory() {
    let mut host = Blocking::new("scan", SlabOptions { cache_bytes: 2 << 20, ..SMALL });
    host.run(async |engine| {
        let tree = fill(engine, 16_000).await;
        for _ in 0..5 {
            hit_rate(engine, tree, 800).await;
        }
        for by_disk in [false, true] {
            let before = hit_rate(engine, tree, 800).await;
            if by_disk {
                assert_eq!(sweep_all(engine, tree).await, 16_000);
            } else {
                assert_eq!(suite::read_all(engine, tree).await.unwrap().len(), 16_000);
            }
            let after = hit_rate(engine, tree, 800).await;
            println!("{before:.3} before, {after:.3} after");
            assert!(before > 0.9 && after > before - 0.1, "{before:.3} before, {after:.3} after");
        }
    });
}

/// Sweeps everything; how many values.
async fn sweep_all<D: Directory>(engine: &SlabEngine<D>, tree: TreeId) -> usize {
    let (mut range, mut count) = (EVERYTHING, 0);
    let mut see = async |values: &[&[u8]]| {
        count += values.len();
        Sweeping::GoOn
    };
    while let Some(last) = engine.sweep(tree, &range, usize::MAX, &mut see).await.unwrap() {
        range.start = std::ops::Bound::Excluded(last);
    }
    count
}

#[test]
fn slots_waste_little_of_values_from_50_bytes_to_64_kibibytes() {
    // Sizes that are even on a scale of logarithms: small ones, which waste most, count as much as large ones.
    let (mut wasted, mut count) = (0.0, 0);
    let mut size = 50.0_f64;
    while size <= 65_536.0 {
        let taken = f64::from(slot_bytes(16, size as usize));
        wasted += 1.0 - (size.floor() + 16.0 + SLOT_HEADER_BYTES as f64) / taken;
        count += 1;
        size *= 1.001;
    }
    let mean = wasted / f64::from(count);
    assert!(mean < 0.03, "{:.1}% of a slot is lost on average", mean * 100.0);
}

#[test]
fn ten_thousand_empty_trees_take_no_memory_and_no_files() {
    let mut host = Blocking::new("many", SlabOptions { cache_bytes: 8 << 20, ..SMALL });
    let name = |number: u32| named(&format!("table {number:05}"));
    host.run(async |engine| {
        for number in 0..10_000 {
            engine.create_tree(&name(number)).await.unwrap();
        }
    });
    assert!(std::fs::read_dir(host.directory.path()).unwrap().count() < 12);
    host.run(async |engine| {
        assert_eq!(engine.stats().trees, 10_000);
        assert!(engine.stats().cache_bytes < 2 << 20, "{:?}", engine.stats());
        assert_eq!(engine.count(engine.tree(&name(9_999)).unwrap(), &EVERYTHING).await.unwrap(), 0);
        for number in (0..10_000).step_by(2) {
            engine.drop_tree(engine.tree(&name(number)).unwrap()).await.unwrap();
        }
        assert_eq!(engine.stats().trees, 5_000);
    });
}

/// Bytes that the store's files take on disk.
fn on_disk(host: &Blocking) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(host.directory.path()).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn a_store_that_is_emptied_gives_its_space_back_and_refilled_takes_little_more_than_its_data() {
    const DOCUMENTS: u32 = 60_000;
    let mut host = Blocking::new("given-back", SlabOptions { cache_bytes: 4 << 20, ..SMALL });
    // Segments of the log, and what stays free for the next checkpoints however small the store is.
    let constant = 16 << 20;
    host.run(async |engine| {
        let tree = fill(engine, DOCUMENTS).await;
        let mut random = Random::new(5);
        for _ in 0..DOCUMENTS {
            let key = (random.below(u64::from(DOCUMENTS)) as u32).to_be_bytes();
            let edit = suite::put(tree, key, random.bytes(1100));
            engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
        }
    });
    let data = u64::from(DOCUMENTS) * 1120;
    let full = on_disk(&host);
    assert!(full <= data * 13 / 10 + constant, "{} MiB for {} MiB of data", full >> 20, data >> 20);
    for is_dropped in [false, true] {
        host.run(async |engine| {
            let tree = engine.tree(&named("a")).unwrap();
            if is_dropped {
                engine.drop_tree(tree).await.unwrap();
            } else {
                for number in 0..DOCUMENTS {
                    engine
                        .commit(CommitInfo::default(), &[suite::delete(tree, number.to_be_bytes())])
                        .await
                        .unwrap();
                }
            }
            engine.checkpoint().await.unwrap();
        });
        let empty = on_disk(&host);
        assert!(empty < 2 * constant, "{} MiB for nothing", empty >> 20);
        host.run(async |engine| fill(engine, DOCUMENTS).await);
        let full = on_disk(&host);
        println!("{} MiB full, {} MiB empty, {} MiB of data", full >> 20, empty >> 20, data >> 20);
        assert!(full <= data * 13 / 10 + constant, "{} MiB for {} MiB of data", full >> 20, data >> 20);
    }
}

#[test]
fn space_is_given_back_beside_writers_that_leave_as_much_dirty_as_they_may() {
    const DOCUMENTS: u32 = 20_000;
    // Nothing begins a checkpoint but the writer who may leave no more dirty.
    let options = SlabOptions { cache_bytes: 16 << 20, checkpoint_dirty_bytes: 64 << 20, ..SMALL };
    let mut host = Blocking::new("restless", SlabOptions { checkpoint_log_bytes: 1 << 30, ..options });
    host.run(async |engine| {
        let tree = fill(engine, DOCUMENTS).await;
        let mut random = Random::new(7);
        for _ in 0..4 * DOCUMENTS {
            let key = (random.below(u64::from(DOCUMENTS)) as u32).to_be_bytes();
            let edit = suite::put(tree, key, random.bytes(1100));
            engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
        }
        let state = engine.shared.state.borrow();
        let (taken, live) = (state.chunks.taken_bytes >> 20, state.chunks.live_bytes >> 20);
        println!("{taken} MiB taken, {live} MiB live");
        assert!(taken <= live * 2, "{taken} MiB taken for {live} MiB");
    });
}

#[test]
fn a_dropped_tree_is_no_reason_to_empty_chunks_of_others() {
    const DOCUMENTS: u32 = 12_000;
    let mut host = Blocking::new("dropped-beside", SlabOptions { cache_bytes: 64 << 20, ..SMALL });
    host.run(async |engine| {
        let kept = fill(engine, DOCUMENTS).await;
        let dropped = engine.create_tree(&named("b")).await.unwrap();
        let mut random = Random::new(2);
        for number in 0..2 * DOCUMENTS {
            let edit = suite::put(dropped, number.to_be_bytes(), random.bytes(1100));
            engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
        }
        // A fifth of half of the kept documents: their chunks could be emptied, but together they take no more than they may.
        for number in (0..DOCUMENTS / 2).step_by(5) {
            let edit = suite::delete(kept, number.to_be_bytes());
            engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
        }
        engine.checkpoint().await.unwrap();
        let chunks_of = |tree: TreeId| {
            let state = engine.shared.state.borrow();
            let of_tree = state.chunks.list.iter().filter(|chunk| chunk.tree == tree.0);
            of_tree.copied().collect::<Vec<_>>()
        };
        let before = chunks_of(kept);
        let sparse = before.iter().filter(|chunk| u64::from(chunk.live_bytes) * 100 <= chunk.bytes() * 85);
        assert!(sparse.count() > 3, "nothing that could be emptied");
        engine.drop_tree(dropped).await.unwrap();
        engine.checkpoint().await.unwrap();
        assert!(chunks_of(dropped).is_empty());
        assert_eq!(chunks_of(kept), before);
    });
}

#[test]
fn a_closed_store_keeps_of_its_log_one_short_segment_beside_the_current_one() {
    const DOCUMENTS: u32 = 10_000;
    let segment_bytes = 3 << 20;
    let mut host = Blocking::new("closed-log", SlabOptions { wal_segment_bytes: segment_bytes, ..SMALL });
    for _ in 0..3 {
        host.run(async |engine| fill(engine, DOCUMENTS).await);
        let files = std::fs::read_dir(host.directory.path()).unwrap().map(Result::unwrap);
        let of_log = files.filter(|file| file.file_name().to_string_lossy().starts_with("wal-"));
        let log_bytes: u64 = of_log.map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(log_bytes, segment_bytes + (1 << 20));
    }
    host.run(async |engine| {
        let tree = engine.tree(&named("a")).unwrap();
        let count = engine.count(tree, &suite::EVERYTHING).await.unwrap();
        assert_eq!(count, u64::from(DOCUMENTS));
    });
}

#[test]
fn a_checkpoint_that_has_no_room_for_its_tables_is_put_off_before_anything_of_it_holds() {
    const TREES: u32 = 24_000;
    let options = SlabOptions { wal_segment_bytes: 16 << 20, cache_bytes: 256 << 20, ..SMALL };
    let options = SlabOptions { checkpoint_log_bytes: 64 << 20, checkpoint_dirty_bytes: 60 << 20, ..options };
    let host = Blocking::new("no-room-for-tables", options);
    let is_full = Rc::new(Cell::new(false));
    let directory =
        Noting { directory: host.directory.clone(), reads: Reads::default(), is_full: is_full.clone() };
    let engine = block_on(SlabEngine::open(directory, options)).unwrap();
    block_on(async {
        let mut trees = Vec::new();
        for number in 0..TREES {
            let tree = engine.create_tree(&named(&format!("tree {number}"))).await.unwrap();
            engine.commit(CommitInfo::default(), &[suite::put(tree, *b"k", *b"v")]).await.unwrap();
            trees.push(tree);
        }
        engine.checkpoint().await.unwrap();
        is_full.set(true);
        // So many pages of a block each have room, their tables and directories have not.
        let free = engine.shared.state.borrow().page_space.free();
        let deleted = free - 24 - free / 100 - 2;
        for number in 0..deleted {
            let place = number * 254 % TREES + number * 254 / TREES;
            let delete = suite::delete(trees[place as usize], *b"k");
            engine.commit(CommitInfo::default(), &[delete]).await.unwrap();
        }
        let put_off = engine.checkpoint().await;
        assert!(matches!(put_off, Err(StorageError::Full { .. })), "{put_off:?} with {free} free blocks");
        is_full.set(false);
        engine.checkpoint().await.unwrap();
    });
}
