//! The floor `storage` by itself: reads and writes of one store, in memory and in slabs on ordinary files.
//!
//! Writes are soft, so what counts is the work of the core and not the disk's; the log is flushed when the store wants.

use std::hint::black_box;
use std::path::PathBuf;
use std::pin::pin;

use criterion::{Criterion, criterion_group, criterion_main};
use photondb_bench::work::{Random, document, key};
use photondb_storage::blocking::{BlockingDirectory, block_on, block_on_with};
use photondb_storage::engine::{CommitInfo, Direction, Edit, Range, StorageEngine, TreeId, TreeName};
use photondb_storage::memory::MemoryEngine;
use photondb_storage::slab::{SlabEngine, SlabOptions};

const DOCUMENTS: u64 = 20_000;

fn put(tree: TreeId, number: u64) -> [Edit; 1] {
    [Edit::Put { tree, key: key(number).into_bytes(), value: document(number).into_bytes() }]
}

fn bench_engine(criterion: &mut Criterion, name: &str, engine: &impl StorageEngine) {
    let mut background = pin!(engine.work());
    let fill = async {
        let tree = engine.create_tree(&TreeName((*b"bench").into())).await.expect("a tree");
        for number in 0..DOCUMENTS {
            engine.commit(CommitInfo::default(), &put(tree, number)).await.expect("a write");
        }
        tree
    };
    let tree = block_on_with(background.as_mut(), fill);
    let mut group = criterion.benchmark_group(name);
    let mut random = Random(1);
    group.bench_function("cached get", |bencher| {
        bencher.iter(|| engine.cached(tree, black_box(key(random.below(DOCUMENTS)).as_bytes())).map(|_| ()));
    });
    let mut next = DOCUMENTS;
    group.bench_function("insert", |bencher| {
        bencher.iter(|| {
            next += 1;
            let edits = put(tree, next);
            block_on_with(background.as_mut(), engine.commit(CommitInfo::default(), &edits))
        });
    });
    group.bench_function("overwrite", |bencher| {
        bencher.iter(|| {
            let edits = put(tree, random.below(DOCUMENTS));
            block_on_with(background.as_mut(), engine.commit(CommitInfo::default(), &edits))
        });
    });
    group.bench_function("scan of 100", |bencher| {
        bencher.iter(|| {
            let start = std::ops::Bound::Included(key(random.below(DOCUMENTS - 100)).into_bytes());
            let range = Range { start, end: std::ops::Bound::Unbounded };
            let entries = engine.range(tree, &range, Direction::Forward, 100, 1 << 20);
            block_on_with(background.as_mut(), entries)
        });
    });
    group.finish();
}

fn memory(criterion: &mut Criterion) {
    bench_engine(criterion, "memory", &MemoryEngine::new());
}

/// A folder for one run, on the disk of the build and not in memory.
fn folder() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn slab(criterion: &mut Criterion) {
    let path = folder();
    let directory = BlockingDirectory::new(path.clone()).expect("a folder");
    let options = SlabOptions { cache_bytes: 256 << 20, ..SlabOptions::default() };
    let engine = block_on(SlabEngine::open(directory, options)).expect("a new store");
    bench_engine(criterion, "slab", &engine);
    let _ = std::fs::remove_dir_all(path);
}

criterion_group!(benches, memory, slab);
criterion_main!(benches);
