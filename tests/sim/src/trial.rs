//! One seed, tried: a store lives through its [`Plan`] and is compared with its [`History`] at every turn.
//!
//! Always: a broken promise is a panic that says which. As long as the disk was honest the store must open with exactly a
//! whole prefix of its batches, with all that was acknowledged, and read what was applied while it runs; an operation may
//! fail only for a trouble that the plan holds. Once the disk has lied, the store may refuse to open or to read, saying so;
//! whatever it does give must be right, and what was acknowledged may be missing silently only where nobody can know: when
//! the lie was about the log's last flush.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use photondb_storage::disk::DiskError;
use photondb_storage::engine::{StorageEngine, StorageError};

use crate::executor::Trace;
use crate::history::{Floor, History, Readable, contents};
use crate::life::{Backend, Ending, Life};
use crate::plan::{LIED_ABOUT, Opening, Plan};
use crate::slab::Slab;
use crate::trouble::Happening;
use crate::workload::Site;
use crate::{Random, SimulatedDirectory, Simulation};

/// A bug that is planted to see whether trials find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// The disk says that it has flushed and has not.
    SkipsFlushes,
    /// Damaged blocks are given out as if they were whole.
    IgnoresChecksums,
    /// A batch reaches the store as two.
    HalvesBatches,
}

/// What a trial met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    pub power_losses: u64,
    /// Openings, or operations, that failed for a trouble of the disk.
    pub failed: u64,
    pub read_only: u64,
    pub full: u64,
    pub lies: u64,
    /// Reads and openings that said that something is damaged.
    pub damage_reported: u64,
    pub batches: u64,
}

impl Met {
    pub fn add(&mut self, other: Met) {
        self.power_losses += other.power_losses;
        self.failed += other.failed;
        self.read_only += other.read_only;
        self.full += other.full;
        self.lies += other.lies;
        self.damage_reported += other.damage_reported;
        self.batches += other.batches;
    }
}

/// What the history was when the log was written last, and when the disk first lied about it.
#[derive(Default)]
struct Log {
    /// The file that a flush writes to.
    flushing: RefCell<Option<String>>,
    /// Batches acknowledged when each flush began that ended, in the whole life of the store. One that goes over to the next
    /// segment counts twice.
    before_flushes: RefCell<Vec<u64>>,
    /// Batches acknowledged at the first lie about the log, and applied at the last.
    at_lie: Cell<Option<(u64, u64)>>,
    lies: Cell<u64>,
    flips: Cell<usize>,
}

struct Trial {
    flaw: Flaw,
    life: Life<Slab>,
    log: Rc<Log>,
    met: Met,
}

/// Runs a seed's plan; panics when a promise is broken.
pub fn run(seed: u64, trace: Trace, flaw: Flaw) -> Met {
    let plan = Plan::draw(seed);
    let simulation = Simulation::traced(seed, trace);
    let life = Life::within(Slab::new(seed), simulation);
    let mut trial = Trial { flaw, life, log: Rc::default(), met: Met::default() };
    if flaw == Flaw::SkipsFlushes {
        trial.life.directory.skip_flushes();
    }
    for opening in &plan.openings {
        if trace == Trace::Printed {
            println!("{opening:#?}");
        }
        trial.live(opening);
        trial.flip(opening);
        if trial.met.lies > 0 {
            trial.judge_damage();
            return trial.met;
        }
    }
    for _ in 0..2 {
        trial.life.directory.set_capacity_bytes(None);
        trial.life.opening(None, Ending::Closed);
        trial.life.lose_power();
    }
    trial.met
}

impl Trial {
    /// One opening, from arming its troubles to the power that goes or the store that closes.
    fn live(&mut self, opening: &Opening) {
        self.watch();
        let directory = self.life.directory.clone();
        directory.set_delay_us_max(opening.delay_us_max);
        directory.set_capacity_bytes(opening.spare_bytes.map(|spare| directory.used_bytes() + spare));
        if let Some(operation) = opening.crash_at {
            directory.stop_at(operation);
        }
        for failure in &opening.opening_failures {
            directory.fail(failure.operation, failure.file_prefix, failure.skipped, failure.times);
        }
        let before = self.life.history.borrow().count();
        let errors: Rc<RefCell<Vec<StorageError>>> = Rc::default();
        let ended = self.life.simulation.run(self.open_and_work(opening, errors.clone()));
        if ended.is_none() {
            self.met.power_losses += 1;
        }
        self.met.lies += self.log.lies.take();
        self.count_errors(&errors.borrow(), opening);
        let after = self.life.history.borrow().count();
        self.met.batches += after.saturating_sub(before);
        self.log.abandon();
        self.life.lose_power();
    }

    async fn open_and_work(&self, opening: &Opening, errors: Rc<RefCell<Vec<StorageError>>>) {
        let life = &self.life;
        let engine = match life.open().await {
            Ok(engine) => engine,
            Err(error) => return errors.borrow_mut().push(error),
        };
        life.directory.heal();
        life.verify(&*engine).await;
        for failure in &opening.working_failures {
            life.directory.fail(failure.operation, failure.file_prefix, failure.skipped, failure.times);
        }
        for lie in &opening.lies {
            life.directory.lie(lie.lie, lie.file_prefix, lie.skipped);
        }
        let site = Site::new(&life.simulation, engine.clone(), life.history.clone());
        site.halves_batches.set(self.flaw == Flaw::HalvesBatches);
        self.checkpoint_now_and_then(opening.checkpoints, &engine);
        let worked = site.work(opening.workload).await;
        errors.borrow_mut().extend(site.errors.take());
        errors.borrow_mut().extend(worked.err());
        life.directory.heal();
        life.directory.set_capacity_bytes(None);
        match contents(&*engine).await {
            Ok(held) => {
                let holds = life.history.borrow().holds(held);
                holds.unwrap_or_else(|what| life.fail(&format!("while it runs {what}")));
            }
            Err(error) => errors.borrow_mut().push(error),
        }
        if opening.ending == Ending::Closed {
            match engine.close().await {
                Ok(()) => life.history.borrow_mut().acknowledge_all(),
                Err(error) => errors.borrow_mut().push(error),
            }
        }
    }

    fn checkpoint_now_and_then(&self, count: u64, engine: &Rc<<Slab as Backend>::Engine>) {
        let (simulation, engine) = (self.life.simulation.clone(), engine.clone());
        self.life.simulation.spawn(async move {
            for _ in 0..count {
                let pause_us = simulation.random(|random| random.below(20_000));
                simulation.sleep_us(pause_us).await;
                // Why it did not come about is told to those who write.
                let _ = Slab::checkpoint(&engine).await;
            }
        });
    }

    fn count_errors(&mut self, errors: &[StorageError], opening: &Opening) {
        let has_failures = !(opening.opening_failures.is_empty() && opening.working_failures.is_empty());
        let (is_full, has_lied) = (opening.spare_bytes.is_some(), self.met.lies > 0);
        for error in errors {
            let (count, is_allowed) = match error {
                StorageError::ReadOnly { .. } => (&mut self.met.read_only, has_failures || has_lied),
                StorageError::Full { .. } | StorageError::Disk(DiskError::Full { .. }) => {
                    (&mut self.met.full, is_full)
                }
                StorageError::Disk(_) => (&mut self.met.failed, has_failures),
                StorageError::Corrupt { .. } => (&mut self.met.damage_reported, has_lied),
                StorageError::Format { .. }
                | StorageError::Backend { .. }
                | StorageError::NoTree(_)
                | StorageError::KeyTooLong { .. } => (&mut self.met.failed, false),
            };
            *count += 1;
            if !is_allowed {
                self.life.fail(&format!("nothing was wrong, but: {error}"));
            }
        }
    }

    fn watch(&self) {
        let (log, history) = (self.log.clone(), self.life.history.clone());
        self.life.directory.watch(Rc::new(move |happening| log.take(happening, &history.borrow())));
    }

    /// Flips bits of the files as the opening left them.
    fn flip(&mut self, opening: &Opening) {
        let directory = self.life.directory.clone();
        for _ in 0..opening.flips {
            let place = self.life.simulation.random(|random| random_place(&directory, random));
            let Some((file, offset, bit)) = place else { return };
            if self.life.simulation.is_traced() {
                println!("bit {bit} of {file} at {offset} flips");
            }
            directory.flip_bit(&file, offset, bit);
            self.met.lies += 1;
            if file.starts_with("wal") {
                self.log.flips.set(self.log.flips.get() + 1);
            }
        }
    }

    /// Opens the store that the disk lied to: it may refuse, it must not be wrong.
    fn judge_damage(&mut self) {
        let life = &self.life;
        let floor = self.log.floor(life.history.borrow().acknowledged());
        let reported = Cell::new(0);
        life.simulation.run(async {
            let engine = match life.open().await {
                Ok(engine) => engine,
                Err(error) => return reported.set(reported.get() + self.check_report(&error)),
            };
            let mut read = Readable::new();
            let keys = life.history.borrow().keys();
            for (name, keys) in keys {
                let Some(tree) = engine.tree(&name) else { continue };
                let rows = read.entry(name).or_default();
                for key in keys {
                    match engine.get(tree, &key).await {
                        Ok(value) => drop(rows.insert(key, value)),
                        Err(error) => {
                            reported.set(reported.get() + self.check_report(&error));
                            if self.flaw == Flaw::IgnoresChecksums {
                                rows.insert(key, Some(Rc::from(&b"damaged"[..])));
                            }
                        }
                    }
                }
            }
            let explained = life.history.borrow().explains(&read, floor);
            explained.unwrap_or_else(|what| life.fail(&format!("after the disk lied, {what}")));
        });
        self.met.damage_reported += reported.get();
    }

    /// Whether an error says that something is damaged: 1; it must.
    fn check_report(&self, error: &StorageError) -> u64 {
        match error {
            StorageError::Corrupt { .. } | StorageError::Format { .. } => 1,
            StorageError::Disk(_)
            | StorageError::ReadOnly { .. }
            | StorageError::Full { .. }
            | StorageError::Backend { .. }
            | StorageError::NoTree(_)
            | StorageError::KeyTooLong { .. } => {
                self.life.fail(&format!("the disk lied, and the store says: {error}"))
            }
        }
    }
}

impl Log {
    /// Batches that the store must hold, if it does not say that it is damaged. A lie about the log is seen by what was flushed
    /// after it; only of the last flush that ended, or of as many of the last as there were flips, nobody can know.
    fn floor(&self, acknowledged: u64) -> Floor {
        let flushes = self.before_flushes.borrow();
        let flipped = flushes.len().checked_sub(self.flips.get()).and_then(|index| flushes.get(index));
        let by_flips = if self.flips.get() > 0 { flipped.copied().unwrap_or(0) } else { acknowledged };
        match self.at_lie.get() {
            Some((before, applied)) if acknowledged <= applied => {
                Floor { batches: before.min(by_flips), keeps_trees: false }
            }
            Some(_) | None => {
                Floor { batches: acknowledged.min(by_flips), keeps_trees: self.flips.get() == 0 }
            }
        }
    }

    fn begin(&self, file: &str, acknowledged: u64) {
        *self.flushing.borrow_mut() = Some(file.to_owned());
        self.before_flushes.borrow_mut().push(acknowledged);
    }

    /// The power goes: nobody knows what is left of the flush that has not ended, and the next is written over it.
    fn abandon(&self) {
        if self.flushing.take().is_some() {
            self.before_flushes.borrow_mut().pop();
        }
    }

    fn take(&self, happening: Happening<'_>, history: &History) {
        match happening {
            Happening::Write { file } if file.starts_with("wal") => self.begin(file, history.acknowledged()),
            Happening::Synced { file } if self.flushing.borrow().as_deref() == Some(file) => {
                self.flushing.take();
            }
            Happening::Lied { file } => {
                self.lies.set(self.lies.get() + 1);
                if file.starts_with("wal") {
                    let first = self.at_lie.get().map_or(history.acknowledged(), |(first, _)| first);
                    self.at_lie.set(Some((first, history.count())));
                }
            }
            Happening::Issued | Happening::Write { .. } | Happening::Synced { .. } => {}
        }
    }
}

/// A bit of a block that holds something.
fn random_place(directory: &SimulatedDirectory, random: &mut Random) -> Option<(String, u64, u8)> {
    let mut blocks = Vec::new();
    let is_lied_about = |file: &String| LIED_ABOUT.iter().any(|prefix| file.starts_with(prefix));
    for file in directory.lengths().into_keys().filter(is_lied_about) {
        for (index, block) in directory.bytes(&file).chunks(4096).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                blocks.push((file.clone(), index as u64 * 4096));
            }
        }
    }
    if blocks.is_empty() {
        return None;
    }
    let (file, block) = blocks.swap_remove(random.below(blocks.len() as u64) as usize);
    Some((file, block + random.below(4096), random.below(8) as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_in_the_log_may_hide_the_last_flush_that_ended() {
        for (before_flushes, abandoned, flips, want) in [
            (&[0, 4, 8][..], 0, 0, 10),
            (&[0, 4, 8], 0, 1, 8),
            (&[0, 4, 8], 0, 2, 4),
            (&[0, 4, 8], 0, 4, 0),
            // The power went twice in the flush behind, so nothing whole lies there.
            (&[0, 4, 8], 2, 1, 8),
            // Of what the last but one made durable only one was acknowledged when the last began.
            (&[0, 0], 1, 1, 0),
            (&[], 1, 1, 0),
        ] {
            let log = Log::default();
            for before in before_flushes {
                log.begin("wal", *before);
                log.flushing.take();
            }
            for _ in 0..abandoned {
                log.begin("wal", 10);
                log.abandon();
            }
            log.flips.set(flips);
            assert_eq!(log.floor(10).batches, want, "{before_flushes:?} {abandoned} {flips}");
        }
    }
}
