//! The promise of a store, tested by cutting the power: what was acknowledged is there, nothing is half there, it opens.
//!
//! Every test runs from seeds; a failure prints its own, and `PHOTONDB_SIM_SEED` runs it alone.

use photondb_storage::engine::StorageEngine;
use photondb_storage::suite::{Host, run_all};

use crate::for_seeds;
use crate::life::{Backend, Ending, Life, live};
use crate::slab::Slab;
use crate::workload::Workload;

const MIXED: Workload = Workload {
    writers: 4,
    batches_each: 40,
    readers: 2,
    reads_each: 30,
    trees: 6,
    keys: 300,
    value_bytes_min: 0,
    value_bytes_max: 300_000,
};

const SMALL: Workload = Workload {
    writers: 2,
    batches_each: 6,
    readers: 0,
    reads_each: 0,
    trees: 2,
    keys: 40,
    value_bytes_min: 0,
    value_bytes_max: 100_000,
};

#[test]
fn acknowledged_writes_survive_power_loss_and_none_is_half_there() {
    for_seeds(200, |seed| live(Slab::new(seed), seed, MIXED));
}

#[test]
fn a_store_survives_power_loss_at_every_operation_of_a_small_workload() {
    for_seeds(6, |seed| {
        let whole = Life::new(Slab::new(seed), seed);
        whole.opening(Some(SMALL), Ending::Closed).expect("nothing stops it");
        let operations = whole.directory.operations();
        println!("seed {seed}: {operations} operations");
        for operation in 0..operations {
            let mut life = Life::new(Slab::new(seed), seed);
            life.directory.stop_at(operation);
            let ended = std::panic::AssertUnwindSafe(|| {
                assert!(life.opening(Some(SMALL), Ending::Closed).is_none());
                life.lose_power();
                life.opening(None, Ending::Loss);
            });
            std::panic::catch_unwind(ended).unwrap_or_else(|panic| {
                eprintln!("stopped at operation {operation}");
                std::panic::resume_unwind(panic)
            });
        }
    });
}

#[test]
fn a_store_survives_power_loss_at_every_operation_of_its_recovery() {
    for_seeds(4, |seed| {
        let mut crashed = Life::new(Slab::new(seed), seed);
        crashed.directory.stop_at(150 + seed * 40);
        crashed.opening(Some(MIXED), Ending::Loss);
        crashed.lose_power();
        let mut operation = 0;
        // The crashed store is recovered again and again, stopped one operation later each time, and goes on from what is left.
        loop {
            crashed.directory.stop_at(operation);
            let ended = crashed.opening(None, Ending::Closed);
            crashed.lose_power();
            if ended.is_some() {
                break;
            }
            operation += 1;
        }
        crashed.opening(Some(SMALL), Ending::Closed);
        crashed.lose_power();
        crashed.opening(None, Ending::Closed);
    });
}

#[test]
fn a_seed_replays_itself() {
    for_seeds(5, |seed| {
        let run = || {
            let life = Life::new(Slab::new(seed), seed);
            life.opening(Some(MIXED), Ending::Closed).expect("nothing stops it");
            let files = life.directory.lengths();
            let contents: Vec<_> = files.keys().map(|name| life.directory.bytes(name)).collect();
            (life.directory.operations(), life.simulation.now_us(), files, contents)
        };
        assert!(run() == run());
    });
}

/// Replaces the same documents again and again, so that sparse chunks are emptied.
const CHURN: Workload = Workload {
    writers: 3,
    batches_each: 150,
    readers: 1,
    reads_each: 20,
    trees: 3,
    keys: 60,
    value_bytes_min: 8_000,
    value_bytes_max: 60_000,
};

#[test]
fn stores_that_empty_their_chunks_survive_power_loss() {
    for_seeds(30, |seed| live(Slab::new(seed), seed, CHURN));
}

/// A store on a simulated disk, for the suite.
struct SimulatedHost(Life<Slab>);

impl Host for SimulatedHost {
    type Engine = <Slab as Backend>::Engine;

    fn run<T>(&mut self, test: impl AsyncFnOnce(&Self::Engine) -> T) -> T {
        let done = self.0.simulation.run(async {
            let engine = self.0.open().await.expect("it opens");
            let result = test(&engine).await;
            engine.close().await.expect("it closes");
            result
        });
        done.expect("nothing stops the world")
    }
}

#[test]
fn slabs_do_what_every_store_does() {
    for_seeds(1, |seed| run_all(|| SimulatedHost(Life::new(Slab::new(seed), seed))));
}
