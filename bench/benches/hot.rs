//! Each hot operation: how long it takes, and how often it allocates how much.

use std::path::PathBuf;

use criterion::{Criterion, criterion_group, criterion_main};
use photondb_bench::hot::OPERATIONS;
use photondb_bench::server::emptied;

/// Carried out before anything is counted, so that buffers have their size, and then counted.
const TIMES: u64 = 1000;

fn operations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hot");
    // A folder for one run, on the disk of the build and not in memory.
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("hot-{}", std::process::id()));
    for operation in OPERATIONS {
        emptied(&folder).expect("a folder");
        let mut run = (operation.make)(&folder);
        (0..TIMES).for_each(|_| run());
        let counted = allocation_counter::measure(|| (0..TIMES).for_each(|_| run()));
        let each = |total: u64| total as f64 / TIMES as f64;
        println!(
            "{}: {:.2} allocations, {:.0} bytes each time",
            operation.name,
            each(counted.count_total),
            each(counted.bytes_total)
        );
        group.bench_function(operation.name, |bencher| bencher.iter(&mut run));
    }
    group.finish();
    let _ = std::fs::remove_dir_all(folder);
}

criterion_group!(benches, operations);
criterion_main!(benches);
