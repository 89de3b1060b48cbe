//! Two thousand seeds through their plans, every power loss of one workload, and bugs that must be found.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use photondb_storage::engine::StorageEngine;

use crate::executor::Trace;
use crate::history::History;
use crate::life::{Backend, Ending, Life};
use crate::slab::Slab;
use crate::trial::{Flaw, Met, run};
use crate::trouble::Happening;
use crate::workload::{Site, Workload};
use crate::{SimulatedDirectory, for_seeds, seeds};

const SEEDS: u64 = 2000;
/// They are split over so many tests, which run side by side.
const PARTS: u64 = 4;

fn try_part(part: u64) {
    let met = Cell::new(Met::default());
    let is_alone = seeds(SEEDS).len() == 1;
    let trace = if is_alone { Trace::Printed } else { Trace::Off };
    for_seeds(SEEDS, |seed| {
        if seed % PARTS == part || is_alone {
            let mut sum = met.get();
            sum.add(run(seed, trace, Flaw::None));
            met.set(sum);
        }
    });
    let met = met.get();
    println!("{met:?}");
    let kinds = [met.power_losses, met.failed, met.read_only, met.full, met.lies, met.damage_reported];
    assert!(is_alone || kinds.iter().all(|&count| count > 0), "some troubles are never met: {met:?}");
}

#[test]
fn a_store_keeps_its_promises_through_every_trouble_first_quarter() {
    try_part(0);
}

#[test]
fn a_store_keeps_its_promises_through_every_trouble_second_quarter() {
    try_part(1);
}

#[test]
fn a_store_keeps_its_promises_through_every_trouble_third_quarter() {
    try_part(2);
}

#[test]
fn a_store_keeps_its_promises_through_every_trouble_last_quarter() {
    try_part(3);
}

/// Seeds that found a fault once: files that grew into a tail they had cut, or behind what a crash had left of them; a block
/// that was written again after its write had failed; a flush of the log that landed on those before it.
const FINDERS: [u64; 11] = [2335, 2901, 4696, 31_541, 40_810, 48_298, 51_843, 64_516, 77_925, 78_310, 92_712];

#[test]
fn seeds_that_found_a_fault_hold() {
    for seed in FINDERS {
        run(seed, Trace::Off, Flaw::None);
    }
}

/// The first seeds that find a planted bug, among so many tried.
fn finders(flaw: Flaw, tried: u64) -> Vec<u64> {
    let finds = |seed: &u64| catch_unwind(|| run(*seed, Trace::Off, flaw)).is_err();
    (0..tried).filter(finds).take(3).collect()
}

#[test]
fn planted_bugs_are_found() {
    for flaw in [Flaw::SkipsFlushes, Flaw::IgnoresChecksums, Flaw::HalvesBatches] {
        let found = finders(flaw, 200);
        assert!(found.len() == 3, "{flaw:?} is found by {found:?} alone");
    }
}

#[test]
fn a_seed_is_met_again_exactly() {
    for seed in 0..20 {
        assert_eq!(run(seed, Trace::Off, Flaw::None), run(seed, Trace::Off, Flaw::None), "seed {seed}");
    }
}

/// Three hundred operations: batches, trees made, trees dropped, and now and then a checkpoint.
const THREE_HUNDRED: Workload = Workload {
    writers: 3,
    batches_each: 94,
    readers: 0,
    reads_each: 0,
    trees: 9,
    keys: 80,
    value_bytes_min: 0,
    value_bytes_max: 2_000,
};
/// What a power loss leaves is a matter of chance, so each is tried so many times.
const CHANCES: u64 = 4;

#[test]
fn every_power_loss_of_three_hundred_operations_is_survived() {
    let life = Life::new(Slab::new(1), 0);
    let tried = Rc::new(Cell::new(0));
    let (counted, directory, history) = (tried.clone(), life.directory.clone(), life.history.clone());
    life.directory.watch(Rc::new(move |happening| {
        if matches!(happening, Happening::Issued) {
            let operation = counted.replace(counted.get() + 1);
            (0..CHANCES).for_each(|chance| survive(&directory, &history.borrow(), operation, chance));
        }
    }));
    work_with_checkpoints(&life);
    assert!(tried.get() > 200, "{} operations of the disk", tried.get());
}

/// The power goes in a copy of the world as it is.
fn survive(directory: &SimulatedDirectory, history: &History, operation: u64, chance: u64) {
    let survived = catch_unwind(AssertUnwindSafe(|| {
        let mut life = Life::new(Slab::new(1), operation * CHANCES + chance);
        life.directory = directory.forked(&life.simulation);
        *life.history.borrow_mut() = history.clone();
        life.opening(None, Ending::Loss);
    }));
    survived.unwrap_or_else(|panic| {
        eprintln!("the power went at operation {operation}, chance {chance}");
        resume_unwind(panic)
    });
}

fn work_with_checkpoints(life: &Life<Slab>) {
    let ended = life.simulation.run(async {
        let engine = life.open().await.expect("it opens");
        life.verify(&*engine).await;
        let site = Site::new(&life.simulation, engine.clone(), life.history.clone());
        let (simulation, checkpointed) = (life.simulation.clone(), engine.clone());
        life.simulation.spawn(async move {
            for _ in 0..12 {
                simulation.sleep_us(3000).await;
                Slab::checkpoint(&checkpointed).await.expect("nothing is in its way");
            }
        });
        site.work(THREE_HUNDRED).await.expect("trees can be made");
        assert!(site.errors.take().is_empty());
        engine.close().await.expect("it closes");
        life.history.borrow_mut().acknowledge_all();
    });
    ended.expect("nothing stops it");
}
