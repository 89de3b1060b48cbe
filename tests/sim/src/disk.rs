//! A directory and its files in the memory of a simulation, with everything that a disk may do to a store.
//!
//! Always: reads see a change once its call has completed, and the platter has it for certain only when a sync that began
//! after that completion has completed too. What lies between may survive a power loss or not: writes per 512-byte sector,
//! growth by blocks, directory entries one by one. An operation whose future is dropped goes on, as the kernel's would.
//! Reads and syncs are strict about alignment, as O_DIRECT is. And a write of anything but zeros to a file of
//! [`ROOM_IS_ASKED_FOR`] must find its blocks there: on a full disk it would fail, when it is too late to refuse.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use photondb_storage::disk::{BLOCK_BYTES, Directory, Disk, DiskError, OpenMode};

use crate::Random;
use crate::executor::Simulation;
use crate::image::{Change, Image};
use crate::trouble::{Happening, Lie, Operation, Troubles, Watcher};

/// Once in so many operations one takes [`SLOW_TIMES`] as long as it might have.
const SLOW_ONE_IN: u64 = 50;
const SLOW_TIMES: u64 = 30;
/// Files whose room is asked for before anything is promised, so that no write to them can find the disk full.
const ROOM_IS_ASKED_FOR: [&str; 4] = ["pages", "slabs", "superblocks", "wal-"];

/// A directory of one store. Clones are the same directory.
#[derive(Clone)]
pub struct SimulatedDirectory(Rc<State>);

/// An open file.
pub struct SimulatedDisk {
    directory: SimulatedDirectory,
    name: String,
    file: FileNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileNumber(u64);

struct State {
    simulation: Simulation,
    delay_us_max: Cell<u64>,
    /// Changes of the disk issued so far; reads are not counted, since a power loss at one shows nothing new.
    operations: Cell<u64>,
    stop_at: Cell<Option<u64>>,
    capacity_bytes: Cell<Option<u64>>,
    troubles: RefCell<Troubles>,
    watcher: RefCell<Option<Watcher>>,
    /// A flaw for tests of the tests: syncs say that they have kept what they have not.
    skips_flushes: Cell<bool>,
    has_lied: Cell<bool>,
    contents: RefCell<Contents>,
}

#[derive(Clone, Default)]
struct Contents {
    files: BTreeMap<FileNumber, File>,
    files_made: u64,
    names: Names,
    names_durable: Names,
    /// Changes of names since the last sync of the directory.
    names_pending: Vec<NameChange>,
}

type Names = BTreeMap<String, FileNumber>;

/// One change of names: these go, then these come. A rename is one, so it is atomic.
#[derive(Clone)]
struct NameChange {
    gone: Option<String>,
    come: Option<(String, FileNumber)>,
}

#[derive(Clone, Default)]
struct File {
    /// What reads see.
    visible: Image,
    durable: Image,
    /// Changes that are not certain yet, in the order of their completion, those in flight last.
    pending: Vec<Pending>,
    changes_made: u64,
}

#[derive(Clone)]
struct Pending {
    number: u64,
    change: Change,
    completed: bool,
}

impl SimulatedDirectory {
    /// An empty directory.
    pub fn new(simulation: &Simulation) -> Self {
        Self::with(simulation, Contents::default())
    }

    fn with(simulation: &Simulation, contents: Contents) -> Self {
        Self(Rc::new(State {
            simulation: simulation.clone(),
            delay_us_max: Cell::new(200),
            operations: Cell::new(0),
            stop_at: Cell::new(None),
            capacity_bytes: Cell::new(None),
            troubles: RefCell::default(),
            watcher: RefCell::default(),
            skips_flushes: Cell::default(),
            has_lied: Cell::default(),
            contents: RefCell::new(contents),
        }))
    }

    /// What a power loss leaves of this directory, drawn from the simulation's chance. This one must not be used any more.
    pub fn after_power_loss(&self) -> Self {
        let mut contents = self.0.contents.borrow_mut();
        let contents = std::mem::take(&mut *contents);
        let survived = self.0.simulation.random(|random| contents.survivors(random));
        self.trace(|| "power loss".to_owned());
        let left = Self::with(&self.0.simulation, survived);
        left.0.delay_us_max.set(self.0.delay_us_max.get());
        left.0.capacity_bytes.set(self.0.capacity_bytes.get());
        left.0.skips_flushes.set(self.0.skips_flushes.get());
        left.0.has_lied.set(self.0.has_lied.get() || self.0.skips_flushes.get());
        left
    }

    /// A copy as it is now, every change durable: what an orderly stop leaves.
    pub fn copy(&self, simulation: &Simulation) -> Self {
        let contents = self.0.contents.borrow();
        let mut copied = Contents { files_made: contents.files_made, ..Contents::default() };
        for (&number, file) in &contents.files {
            let image = file.visible.clone();
            copied.files.insert(number, File { durable: image.clone(), visible: image, ..File::default() });
        }
        copied.names = contents.names.clone();
        copied.names_durable = contents.names.clone();
        Self::with(simulation, copied)
    }

    /// What a power loss would leave now, in another world; this directory goes on.
    pub fn forked(&self, simulation: &Simulation) -> Self {
        let contents = self.0.contents.borrow().clone();
        Self::with(simulation, simulation.random(|random| contents.survivors(random)))
    }

    /// Completions come after up to so long, in any order.
    pub fn set_delay_us_max(&self, delay_us_max: u64) {
        self.0.delay_us_max.set(delay_us_max);
    }

    /// Changes of the disk issued so far.
    pub fn operations(&self) -> u64 {
        self.0.operations.get()
    }

    /// Stops the world when the `operation`-th change of the disk (from 0) is issued and not yet completed.
    pub fn stop_at(&self, operation: u64) {
        self.0.stop_at.set(Some(operation));
    }

    /// The space that all files may take together.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.0.capacity_bytes.set(capacity_bytes);
    }

    pub fn used_bytes(&self) -> u64 {
        self.0.contents.borrow().used_bytes()
    }

    /// After `skipped` more operations of that kind on files whose name begins so, the next `times` fail. A failed sync
    /// loses some of what it should have kept.
    pub fn fail(&self, operation: Operation, file_prefix: &str, skipped: u64, times: u64) {
        self.0.troubles.borrow_mut().fail(operation, file_prefix, skipped, times);
    }

    /// After `skipped` more writes of files whose name begins so, the next is lied about.
    pub fn lie(&self, lie: Lie, file_prefix: &str, skipped: u64) {
        self.0.troubles.borrow_mut().lie(lie, file_prefix, skipped);
    }

    /// Lets every operation succeed again.
    pub fn heal(&self) {
        self.0.troubles.borrow_mut().clear();
    }

    /// Tells `watcher` of writes, syncs and lies from now on.
    pub fn watch(&self, watcher: Watcher) {
        *self.0.watcher.borrow_mut() = Some(watcher);
    }

    /// Makes every sync from now on a lie, as a test of the tests.
    pub fn skip_flushes(&self) {
        self.0.skips_flushes.set(true);
    }

    fn tell(&self, happening: Happening<'_>) {
        let watcher = self.0.watcher.borrow().clone();
        if let Some(watcher) = watcher {
            watcher(happening);
        }
    }

    /// Names and lengths of the files there are.
    pub fn lengths(&self) -> BTreeMap<String, u64> {
        let contents = self.0.contents.borrow();
        contents
            .names
            .iter()
            .map(|(name, number)| (name.clone(), contents.files[number].visible.length()))
            .collect()
    }

    /// All bytes of a file.
    pub fn bytes(&self, name: &str) -> Rc<[u8]> {
        let contents = self.0.contents.borrow();
        let image = &contents.files[&contents.names[name]].visible;
        image.read(0, image.length())
    }

    /// Spoils one bit of a file for good.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        let mut contents = self.0.contents.borrow_mut();
        let number = contents.names[name];
        let file = contents.file(number);
        file.visible.flip(offset, bit);
        file.durable.flip(offset, bit);
    }

    fn trace(&self, line: impl FnOnce() -> String) {
        if self.0.simulation.is_traced() {
            println!("{:>9} us  {:>5}  {}", self.0.simulation.now_us(), self.0.operations.get(), line());
        }
    }

    /// Counts an operation that changes the disk; true when the world ends with it.
    fn count(&self) -> bool {
        let number = self.0.operations.get();
        self.0.operations.set(number + 1);
        let ends = self.0.stop_at.get() == Some(number);
        if ends {
            self.0.simulation.stop();
        }
        ends
    }

    fn fails(&self, operation: Operation, name: &str) -> bool {
        let fails = self.0.troubles.borrow_mut().fails(operation, name);
        if fails {
            self.trace(|| format!("{operation:?} {name} fails"));
        }
        fails
    }

    /// Completes `event` after a delay, whether or not the future that waits for it is still there.
    async fn complete<T: 'static>(&self, event: impl FnOnce() -> T + 'static) -> T {
        let delay_us = self.0.simulation.random(|random| {
            let delay_us = random.below(self.0.delay_us_max.get() + 1);
            if random.one_in(SLOW_ONE_IN) { delay_us * SLOW_TIMES } else { delay_us }
        });
        let slot: Rc<RefCell<(Option<T>, Option<Waker>)>> = Rc::new(RefCell::new((None, None)));
        let completed = slot.clone();
        self.0.simulation.after_us(delay_us, move || {
            let result = event();
            completed.borrow_mut().0 = Some(result);
            let waker = completed.borrow_mut().1.take();
            waker.into_iter().for_each(Waker::wake);
        });
        poll_fn(|context| {
            let mut slot = slot.borrow_mut();
            if let Some(result) = slot.0.take() {
                return Poll::Ready(result);
            }
            slot.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    async fn change_names(
        &self,
        operation: Operation,
        name: &str,
        change: NameChange,
    ) -> Result<(), DiskError> {
        if self.count() {
            self.0.contents.borrow_mut().names_pending.push(change);
            return std::future::pending().await;
        }
        if self.fails(operation, name) {
            return Err(failed(name, operation, 0, 0));
        }
        self.0.contents.borrow_mut().names_pending.push(change.clone());
        self.tell(Happening::Issued);
        self.0.contents.borrow_mut().names_pending.pop();
        let state = self.clone();
        self.complete(move || state.0.contents.borrow_mut().change_names(change)).await;
        Ok(())
    }
}

impl Contents {
    fn file(&mut self, number: FileNumber) -> &mut File {
        self.files.get_mut(&number).expect("a file lives as long as its directory")
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|number| self.files[number].visible.allocated_bytes()).sum()
    }

    fn change_names(&mut self, change: NameChange) {
        // Who has a removed file open finds it shorter: here empty, at once.
        if let NameChange { gone: Some(name), come: None } = &change
            && let Some(number) = self.names.get(name).copied()
        {
            self.file(number).visible = Image::default();
        }
        change.apply(&mut self.names);
        self.names_pending.push(change);
    }

    fn survivors(mut self, random: &mut Random) -> Contents {
        let policy = Survival::draw(random);
        for change in std::mem::take(&mut self.names_pending) {
            if policy.keeps(random) {
                change.apply(&mut self.names_durable);
            }
        }
        let mut survived = Contents { files_made: self.files_made, ..Contents::default() };
        for &number in self.names_durable.values() {
            let mut file = self.files.remove(&number).expect("a name belongs to one file");
            for pending in std::mem::take(&mut file.pending) {
                match (policy, pending.completed) {
                    (Survival::Nothing, _) => {}
                    (Survival::Everything, true) => file.durable.apply(&pending.change),
                    (Survival::Everything | Survival::Torn, _) => {
                        file.durable.apply_torn(&pending.change, random)
                    }
                    (Survival::Some, _) if random.one_in(2) => file.durable.apply(&pending.change),
                    (Survival::Some, _) => {}
                }
            }
            let image = file.durable;
            survived.files.insert(number, File { visible: image.clone(), durable: image, ..File::default() });
        }
        survived.names = self.names_durable.clone();
        survived.names_durable = self.names_durable;
        survived
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, number)) = &self.come {
            names.insert(name.clone(), *number);
        }
    }
}

/// How a power loss treats what was not synced. Pure chance would seldom keep all or nothing, which break stores most.
#[derive(Clone, Copy)]
enum Survival {
    Nothing,
    /// All that had completed; what was in flight is torn.
    Everything,
    /// Each change whole or not at all.
    Some,
    /// Each sector for itself.
    Torn,
}

impl Survival {
    fn draw(random: &mut Random) -> Self {
        match random.below(4) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 => Survival::Some,
            3.. => Survival::Torn,
        }
    }

    fn keeps(self, random: &mut Random) -> bool {
        match self {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Some | Survival::Torn => random.one_in(2),
        }
    }
}

impl File {
    /// Puts a change in flight.
    fn issue(&mut self, change: Change) -> u64 {
        let number = self.changes_made;
        self.changes_made += 1;
        self.pending.push(Pending { number, change, completed: false });
        number
    }

    fn complete(&mut self, number: u64) {
        let place = self.pending.iter().position(|pending| pending.number == number).expect("it was issued");
        let mut pending = self.pending.remove(place);
        pending.completed = true;
        self.visible.apply(&pending.change);
        let after_completed = self.pending.iter().filter(|pending| pending.completed).count();
        self.pending.insert(after_completed, pending);
    }

    /// The numbers of the changes that a sync beginning now is about.
    fn completed(&self) -> Vec<u64> {
        self.pending.iter().filter(|pending| pending.completed).map(|pending| pending.number).collect()
    }

    fn settle(&mut self, numbers: &[u64], mut apply: impl FnMut(&mut Image, &Change)) {
        let (settled, left) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| numbers.contains(&pending.number));
        self.pending = left;
        let settled: Vec<Pending> = settled;
        for pending in settled {
            apply(&mut self.durable, &pending.change);
        }
    }
}

impl Directory for SimulatedDirectory {
    type File = SimulatedDisk;

    async fn open(&self, name: &str, mode: OpenMode) -> Result<SimulatedDisk, DiskError> {
        self.trace(|| format!("open {name} {mode:?}"));
        let existing = self.0.contents.borrow().names.get(name).copied();
        let file = match (existing, mode) {
            (Some(number), OpenMode::Existing | OpenMode::Create) => {
                if self.fails(Operation::Open, name) {
                    return Err(failed(name, Operation::Open, 0, 0));
                }
                number
            }
            (None, OpenMode::Existing) => return Err(DiskError::NotFound { file: name.to_owned() }),
            (None, OpenMode::Create) => {
                let number = self.0.contents.borrow_mut().make_file();
                let change = NameChange { gone: None, come: Some((name.to_owned(), number)) };
                self.change_names(Operation::Open, name, change).await?;
                number
            }
        };
        Ok(SimulatedDisk { directory: self.clone(), name: name.to_owned(), file })
    }

    async fn list(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.0.contents.borrow().names.keys().cloned().collect())
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.trace(|| format!("rename {from} to {to}"));
        let found = self.0.contents.borrow().names.get(from).copied();
        let number = found.ok_or_else(|| DiskError::NotFound { file: from.to_owned() })?;
        let change = NameChange { gone: Some(from.to_owned()), come: Some((to.to_owned(), number)) };
        self.change_names(Operation::Rename, from, change).await
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.trace(|| format!("remove {name}"));
        if !self.0.contents.borrow().names.contains_key(name) {
            return Err(DiskError::NotFound { file: name.to_owned() });
        }
        let change = NameChange { gone: Some(name.to_owned()), come: None };
        self.change_names(Operation::Remove, name, change).await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.trace(|| "sync directory".to_owned());
        if self.count() {
            return std::future::pending().await;
        }
        if self.fails(Operation::SyncDirectory, "") {
            return Err(failed("directory", Operation::SyncDirectory, 0, 0));
        }
        let synced = self.0.contents.borrow().names_pending.len();
        let state = self.clone();
        let settle = move || {
            let mut contents = state.0.contents.borrow_mut();
            // Another sync may have settled some of them meanwhile.
            let settled = synced.min(contents.names_pending.len());
            let changes: Vec<NameChange> = contents.names_pending.drain(..settled).collect();
            changes.iter().for_each(|change| change.apply(&mut contents.names_durable));
        };
        self.complete(settle).await;
        Ok(())
    }
}

impl Contents {
    fn make_file(&mut self) -> FileNumber {
        let number = FileNumber(self.files_made);
        self.files_made += 1;
        self.files.insert(number, File::default());
        number
    }
}

impl SimulatedDisk {
    async fn change(
        &self,
        operation: Operation,
        offset: u64,
        bytes: u64,
        change: Change,
    ) -> Result<(), DiskError> {
        self.directory.trace(|| format!("{operation:?} {} {offset}+{bytes}", self.name));
        let state = &self.directory.0;
        let ends = self.directory.count();
        if operation == Operation::Write {
            self.directory.tell(Happening::Write { file: &self.name });
        }
        if self.directory.fails(operation, &self.name) {
            // Nobody sees a failed write, but a power loss may show some of it.
            if operation == Operation::Write {
                state.contents.borrow_mut().file(self.file).issue(change);
            }
            return Err(failed(&self.name, operation, offset, bytes));
        }
        self.check_room(&change);
        if let Some(capacity_bytes) = state.capacity_bytes.get() {
            let mut contents = state.contents.borrow_mut();
            let needed = contents.file(self.file).visible.grows_by(&change);
            if needed > 0 && contents.used_bytes() + needed > capacity_bytes {
                return Err(DiskError::Full { file: self.name.clone() });
            }
        }
        let change = self.as_written(change);
        let number = state.contents.borrow_mut().file(self.file).issue(change);
        self.directory.tell(Happening::Issued);
        if ends {
            return std::future::pending().await;
        }
        let (directory, file) = (self.directory.clone(), self.file);
        self.directory.complete(move || directory.0.contents.borrow_mut().file(file).complete(number)).await;
        Ok(())
    }
}

impl SimulatedDisk {
    /// A lie may have taken blocks away that a store rightly counts on.
    fn check_room(&self, change: &Change) {
        let Change::Write { offset, bytes } = change else { return };
        let is_asked_for = ROOM_IS_ASKED_FOR.iter().any(|prefix| self.name.starts_with(prefix));
        if !is_asked_for || self.directory.0.has_lied.get() {
            return;
        }
        let grows_by = self.directory.0.contents.borrow_mut().file(self.file).visible.grows_by(change);
        assert!(
            grows_by == 0 || bytes.iter().all(|&byte| byte == 0),
            "a write of {} at {offset} takes {grows_by} bytes of the disk that were not asked for",
            self.name
        );
    }

    /// What the disk makes of a change: another one if it lies about it.
    fn as_written(&self, change: Change) -> Change {
        let Change::Write { offset, bytes } = &change else { return change };
        let Some(lie) = self.directory.0.troubles.borrow_mut().lied(&self.name) else { return change };
        self.directory.0.has_lied.set(true);
        self.directory.tell(Happening::Lied { file: &self.name });
        let end = offset + bytes.len() as u64;
        let lost = Change::Extend { bytes: end };
        let length = self.directory.0.contents.borrow_mut().file(self.file).visible.length();
        let places = (length.max(end) - bytes.len() as u64) / u64::from(BLOCK_BYTES);
        let place = self.directory.0.simulation.random(|random| random.below(places + 1));
        let elsewhere = place * u64::from(BLOCK_BYTES);
        self.directory.trace(|| format!("{lie:?} write of {} {offset}: to {elsewhere}", self.name));
        match lie {
            Lie::Misdirected if elsewhere != *offset => {
                Change::Write { offset: elsewhere, bytes: bytes.clone() }
            }
            Lie::Misdirected | Lie::Lost => lost,
        }
    }
}

impl Disk for SimulatedDisk {
    type Page = Rc<[u8]>;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: u32) -> Vec<u8> {
        vec![0; bytes as usize]
    }

    async fn read(&self, offset: u64, bytes: u32) -> Result<Rc<[u8]>, DiskError> {
        assert_aligned(offset, u64::from(bytes));
        self.directory.trace(|| format!("Read {} {offset}+{bytes}", self.name));
        if self.directory.fails(Operation::Read, &self.name) {
            return Err(failed(&self.name, Operation::Read, offset, u64::from(bytes)));
        }
        let (directory, file) = (self.directory.clone(), self.file);
        let read =
            move || directory.0.contents.borrow_mut().file(file).visible.read(offset, u64::from(bytes));
        Ok(self.directory.complete(read).await)
    }

    async fn write(&self, offset: u64, source: Vec<u8>) -> Result<(), DiskError> {
        let bytes = source.len() as u64;
        assert_aligned(offset, bytes);
        self.change(Operation::Write, offset, bytes, Change::Write { offset, bytes: source.into() }).await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.directory.trace(|| format!("Sync {}", self.name));
        let ends = self.directory.count();
        let state = &self.directory.0;
        let completed = state.contents.borrow_mut().file(self.file).completed();
        if ends {
            return std::future::pending().await;
        }
        if self.directory.fails(Operation::Sync, &self.name) {
            // What a failed sync was about will never be written again: some of it is there, the rest is lost.
            let mut contents = state.contents.borrow_mut();
            let file = contents.file(self.file);
            state
                .simulation
                .random(|random| file.settle(&completed, |image, change| image.apply_torn(change, random)));
            return Err(failed(&self.name, Operation::Sync, 0, 0));
        }
        let (directory, number) = (self.directory.clone(), self.file);
        let settle = move || {
            if !directory.0.skips_flushes.get() {
                directory.0.contents.borrow_mut().file(number).settle(&completed, Image::apply);
            }
        };
        self.directory.complete(settle).await;
        self.directory.tell(Happening::Synced { file: &self.name });
        Ok(())
    }

    async fn preallocate(&self, bytes: u64) -> Result<(), DiskError> {
        self.change(Operation::Preallocate, 0, bytes, Change::Extend { bytes }).await
    }

    async fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        assert_aligned(offset, bytes);
        self.change(Operation::Punch, offset, bytes, Change::Punch { offset, bytes }).await
    }

    async fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        self.change(Operation::Truncate, 0, bytes, Change::Truncate { bytes }).await
    }

    async fn length(&self) -> Result<u64, DiskError> {
        Ok(self.directory.0.contents.borrow_mut().file(self.file).visible.length())
    }
}

fn assert_aligned(offset: u64, bytes: u64) {
    let block = u64::from(BLOCK_BYTES);
    assert!(
        offset.is_multiple_of(block) && bytes.is_multiple_of(block),
        "I/O of {bytes} bytes at {offset} is unaligned"
    );
}

fn failed(file: &str, operation: Operation, offset: u64, bytes: u64) -> DiskError {
    let name = match operation {
        Operation::Open => "open",
        Operation::Read => "read",
        Operation::Write => "write",
        Operation::Sync | Operation::SyncDirectory => "sync",
        Operation::Preallocate => "preallocate",
        Operation::Punch => "punch",
        Operation::Truncate => "truncate",
        Operation::Rename => "rename",
        Operation::Remove => "remove",
    };
    DiskError::Io {
        file: file.to_owned(),
        operation: name,
        offset,
        bytes,
        reason: "simulated failure".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    /// Runs `work` on a new directory, cuts the power when it ends, and gives what is left.
    fn survivors(seed: u64, work: impl AsyncFnOnce(&SimulatedDirectory)) -> (Simulation, SimulatedDirectory) {
        let simulation = Simulation::new(seed);
        let directory = SimulatedDirectory::new(&simulation);
        simulation.run(work(&directory));
        let left = directory.after_power_loss();
        (simulation, left)
    }

    async fn made(directory: &SimulatedDirectory, name: &str) -> SimulatedDisk {
        let disk = directory.open(name, OpenMode::Create).await.unwrap();
        directory.sync().await.unwrap();
        disk
    }

    #[test]
    fn synced_bytes_survive_and_others_are_whole_sectors_of_either() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let (_, left) = survivors(seed, async |directory| {
                let disk = made(directory, "a").await;
                disk.write(0, vec![1; 4096]).await.unwrap();
                disk.write(4096, vec![2; 4096]).await.unwrap();
                disk.sync().await.unwrap();
                disk.write(4096, vec![3; 4096]).await.unwrap();
            });
            let bytes = left.bytes("a");
            assert_eq!(bytes.len(), 8192);
            assert!(bytes[..4096].iter().all(|&byte| byte == 1));
            let sectors: Vec<u8> = bytes[4096..].chunks(512).map(|sector| sector[0]).collect();
            assert!(bytes[4096..].chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
            kinds.insert((sectors.contains(&2), sectors.contains(&3)));
        }
        assert_eq!(kinds.len(), 3, "all old, all new and torn all happen");
    }

    #[test]
    fn unsynced_names_may_be_lost_and_synced_ones_may_not() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let (_, left) = survivors(seed, async |directory| {
                made(directory, "a").await;
                directory.open("b", OpenMode::Create).await.unwrap();
                directory.rename("a", "c").await.unwrap();
            });
            let names: Vec<String> = left.lengths().into_keys().collect();
            assert!(names.contains(&"a".to_owned()) != names.contains(&"c".to_owned()));
            kinds.insert(names);
        }
        assert_eq!(kinds.len(), 4);
    }

    #[test]
    fn a_write_completed_during_a_sync_is_not_covered_by_it() {
        let lost = (0..60).filter(|&seed| {
            let simulation = Simulation::new(seed);
            let directory = SimulatedDirectory::new(&simulation);
            let late: Rc<Cell<bool>> = Rc::default();
            simulation.run(async {
                let disk = Rc::new(made(&directory, "a").await);
                let (syncing, written, late) = (disk.clone(), Rc::new(Cell::new(false)), late.clone());
                let written_during = written.clone();
                simulation.spawn(async move {
                    disk.write(0, vec![1; 4096]).await.unwrap();
                    written_during.set(true);
                });
                syncing.sync().await.unwrap();
                late.set(written.get());
            });
            late.get() && directory.after_power_loss().lengths()["a"] == 0
        });
        assert!(lost.count() > 0);
    }

    #[test]
    fn the_world_stops_at_the_operation_asked_for() {
        let simulation = Simulation::new(5);
        let directory = SimulatedDirectory::new(&simulation);
        directory.stop_at(3);
        let ended = simulation.run(async {
            let disk = made(&directory, "a").await;
            disk.write(0, vec![1; 4096]).await.unwrap();
            disk.sync().await.unwrap();
        });
        assert!(ended.is_none());
        assert_eq!(directory.operations(), 4);
    }

    #[test]
    fn failures_full_disks_and_flipped_bits_come_as_ordered() {
        let simulation = Simulation::new(5);
        let directory = SimulatedDirectory::new(&simulation);
        simulation.run(async {
            let disk = made(&directory, "log-1").await;
            directory.fail(Operation::Sync, "log", 0, 1);
            disk.write(0, vec![1; 4096]).await.unwrap();
            assert!(matches!(disk.sync().await, Err(DiskError::Io { operation: "sync", .. })));
            disk.sync().await.unwrap();

            directory.set_capacity_bytes(Some(2 * BLOCK));
            disk.preallocate(2 * BLOCK).await.unwrap();
            let full = disk.write(2 * BLOCK, vec![1; 4096]).await;
            assert_eq!(full, Err(DiskError::Full { file: "log-1".into() }));
            disk.write(BLOCK, vec![1; 4096]).await.unwrap();
            disk.punch(0, BLOCK).await.unwrap();
            disk.write(2 * BLOCK, vec![1; 4096]).await.unwrap();
            assert_eq!(directory.used_bytes(), 2 * BLOCK);

            directory.flip_bit("log-1", BLOCK + 7, 1);
            let page = disk.read(0, 8192).await.unwrap();
            assert_eq!((page[0], page[4096 + 6], page[4096 + 7]), (0, 1, 3));
        });
    }
}
