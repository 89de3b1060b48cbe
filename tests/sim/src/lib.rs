//! The simulated world: a disk in memory with faults, a clock that only the simulation moves, one thread, one seed.
//!
//! Always: everything that happens in a [`Simulation`] follows from its seed, so a failure is replayed by running that seed
//! again. Stores run here unchanged, since they know the world only through the traits `Disk` and `Directory`.
//! `PHOTONDB_SIM_SEED` makes the tests run one seed alone, `PHOTONDB_SIM_SEEDS` more of them, `PHOTONDB_SIM_TRACE` prints every operation of the disk.

#![forbid(unsafe_code)]

#[cfg(test)]
mod change_log;
#[cfg(test)]
mod client;
pub mod disk;
pub mod env;
pub mod executor;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod feeds;
#[cfg(test)]
mod following;
pub mod history;
mod image;
#[cfg(test)]
mod inserts;
#[cfg(test)]
mod journal;
pub mod life;
pub mod plan;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod resumes;
pub mod slab;
#[cfg(test)]
mod sweeps;
pub mod trial;
#[cfg(test)]
mod trials;
pub mod trouble;
pub mod workload;

pub use disk::{SimulatedDirectory, SimulatedDisk};
pub use executor::{Simulation, Trace};
pub use photondb_storage::suite::Random;
pub use trouble::Operation;

/// The seeds a test runs: `count` of them, or as many as `PHOTONDB_SIM_SEEDS` says, or the one in `PHOTONDB_SIM_SEED`.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a whole number"));
    match number("PHOTONDB_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("PHOTONDB_SIM_SEEDS").unwrap_or(count)).collect(),
    }
}

/// Runs `test` for each seed of [`seeds`] and names the seed when one fails.
pub fn for_seeds(count: u64, test: impl Fn(u64)) {
    for seed in seeds(count) {
        let run = std::panic::AssertUnwindSafe(|| test(seed));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("failed at seed {seed}; replay with PHOTONDB_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
