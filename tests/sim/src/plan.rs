//! What a seed has in store for a store: how it is used in each of its openings, and what goes wrong.
//!
//! Always: a plan follows from its seed alone and is drawn before anything runs. Honest troubles (power losses, errors, a
//! full or slow disk) mix freely, and the store must keep its whole promise through them. A lie (a lost or misdirected
//! write, a flipped bit) may cost data, so it comes last: after it the store has to say what is damaged, and give nothing else.

use crate::Random;
use crate::life::Ending;
use crate::trouble::{Lie, Operation};
use crate::workload::Workload;

#[derive(Clone, Debug)]
pub struct Plan {
    pub openings: Vec<Opening>,
}

#[derive(Clone, Debug)]
pub struct Opening {
    pub workload: Workload,
    pub checkpoints: u64,
    /// Completions of the disk come after up to so long.
    pub delay_us_max: u64,
    /// The power goes at this change of the disk.
    pub crash_at: Option<u64>,
    /// How it ends if the power does not go before.
    pub ending: Ending,
    /// Failures while the store opens, and while it works.
    pub opening_failures: Vec<Failure>,
    pub working_failures: Vec<Failure>,
    /// Room that the disk has beyond what is used when the opening begins.
    pub spare_bytes: Option<u64>,
    pub lies: Vec<PlannedLie>,
    /// Bits that flip after the opening has ended.
    pub flips: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Failure {
    pub operation: Operation,
    pub file_prefix: &'static str,
    pub skipped: u64,
    pub times: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct PlannedLie {
    pub lie: Lie,
    pub file_prefix: &'static str,
    pub skipped: u64,
}

/// Files that the disk may lie about.
pub const LIED_ABOUT: [&str; 4] = ["pages", "slabs", "superblocks", "wal"];
const FILES: [&str; 5] = ["", "wal", "pages", "slabs", "superblocks"];
const OPERATIONS: [Operation; 10] = [
    Operation::Read,
    Operation::Write,
    Operation::Sync,
    Operation::Open,
    Operation::Preallocate,
    Operation::Punch,
    Operation::Truncate,
    Operation::Rename,
    Operation::Remove,
    Operation::SyncDirectory,
];

impl Plan {
    pub fn draw(seed: u64) -> Self {
        // Not the stream that the simulation itself begins with.
        let random = &mut Random::new(seed ^ 0x706c_616e);
        let mut openings: Vec<Opening> = (0..1 + random.below(3)).map(|_| Opening::draw(random)).collect();
        if random.one_in(3) {
            let mut last = Opening { opening_failures: Vec::new(), ..Opening::draw(random) };
            match random.below(2) {
                0 => last.lies = (0..1 + random.below(2)).map(|_| PlannedLie::draw(random)).collect(),
                1.. => last.flips = 1 + random.below(3),
            }
            openings.push(last);
        }
        Self { openings }
    }
}

impl Opening {
    fn draw(random: &mut Random) -> Self {
        let failures = |random: &mut Random, one_in: u64, skipped_max: u64| {
            random.one_in(one_in).then(|| Failure::draw(random, skipped_max)).into_iter().collect()
        };
        Self {
            workload: draw_workload(random),
            checkpoints: random.below(4).saturating_sub(1),
            delay_us_max: pick(random, &[0, 200, 200, 200, 3000, 30_000]),
            crash_at: (!random.one_in(4)).then(|| {
                let end = pick(random, &[20, 80, 300, 1000]);
                random.below(end)
            }),
            ending: if random.one_in(3) { Ending::Closed } else { Ending::Loss },
            opening_failures: failures(random, 12, 8),
            working_failures: failures(random, 4, 60),
            spare_bytes: random.one_in(6).then(|| {
                let end = pick(random, &[40_000, 400_000, 3 << 20]);
                random.below(end)
            }),
            lies: Vec::new(),
            flips: 0,
        }
    }
}

impl Failure {
    fn draw(random: &mut Random, skipped_max: u64) -> Self {
        // Half of the failures are those that happen most.
        let kinds = if random.one_in(2) { 3 } else { OPERATIONS.len() };
        Self {
            operation: pick(random, &OPERATIONS[..kinds]),
            file_prefix: pick(random, &FILES),
            skipped: random.below(skipped_max),
            times: pick(random, &[1, 1, 3, 1000]),
        }
    }
}

impl PlannedLie {
    fn draw(random: &mut Random) -> Self {
        let lie = if random.one_in(2) { Lie::Lost } else { Lie::Misdirected };
        Self { lie, file_prefix: pick(random, &LIED_ABOUT), skipped: random.below(40) }
    }
}

fn draw_workload(random: &mut Random) -> Workload {
    Workload {
        writers: 1 + random.below(4),
        batches_each: 2 + random.below(24),
        readers: random.below(3),
        reads_each: random.below(20),
        trees: random.below(4),
        keys: pick(random, &[4, 30, 200]),
        value_bytes_min: pick(random, &[0, 0, 0, 200, 4000]),
        value_bytes_max: pick(random, &[300, 20_000, 100_000, 300_000]),
    }
}

fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.below(of.len() as u64) as usize]
}
