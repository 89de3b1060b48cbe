//! A store that is nothing but a log, to test the tests: sound, it must pass; with a flaw, the power losses must find it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use photondb_storage::disk::{BLOCK_BYTES, Directory, Disk, OpenMode};
use photondb_storage::engine::{
    Cached, CommitInfo, Direction, Edit, Entries, Lsn, Merged, Part, Range, StorageEngine, StorageError,
    StorageStats, TreeId, TreeName, Value, Visited,
};
use photondb_storage::memory::MemoryEngine;

use crate::life::{Backend, live};
use crate::workload::Workload;
use crate::{SimulatedDirectory, SimulatedDisk};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    AcknowledgesBeforeTheSync,
    NeverSyncsTheDirectory,
    TrustsTornRecords,
    LogsEditsOneByOne,
}

#[derive(Clone)]
struct Journal(Flaw);

impl Backend for Journal {
    type Engine = JournalEngine;

    async fn open(
        &self,
        directory: SimulatedDirectory,
        _cache_bytes: u64,
    ) -> Result<JournalEngine, StorageError> {
        let file = directory.open("journal", OpenMode::Create).await?;
        if self.0 != Flaw::NeverSyncsTheDirectory {
            directory.sync().await?;
        }
        let memory = MemoryEngine::new();
        let mut end = 0;
        while let Some((effects, bytes)) = read_record(&file, end, self.0).await? {
            for effect in effects {
                effect.apply(&memory).await?;
            }
            end += bytes;
        }
        let flushed = memory.applied();
        file.truncate(end).await?;
        Ok(JournalEngine {
            flaw: self.0,
            memory,
            file,
            end: Cell::new(end),
            flushed: Cell::new(flushed),
            queue: RefCell::default(),
            wakers: RefCell::default(),
            closing: Cell::default(),
        })
    }
}

struct JournalEngine {
    flaw: Flaw,
    memory: MemoryEngine,
    file: SimulatedDisk,
    end: Cell<u64>,
    flushed: Cell<Lsn>,
    queue: RefCell<Vec<(Lsn, Vec<u8>)>>,
    wakers: RefCell<Vec<Waker>>,
    closing: Cell<bool>,
}

/// Tree, key and value; no key makes or drops the tree, no value deletes the key.
struct Effect {
    tree: Vec<u8>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl Effect {
    async fn apply(self, memory: &MemoryEngine) -> Result<(), StorageError> {
        let name = TreeName(self.tree.into());
        let tree = memory.create_tree(&name).await?;
        let edit = match (self.key, self.value) {
            (Some(key), Some(value)) => Edit::Put { tree, key, value },
            (Some(key), None) => Edit::Delete { tree, key },
            (None, Some(_)) => return Ok(()),
            (None, None) => return memory.drop_tree(tree).await,
        };
        memory.commit(CommitInfo::default(), &[edit]).await.map(drop)
    }

    fn encode(&self, record: &mut Vec<u8>) {
        for field in [Some(&self.tree), self.key.as_ref(), self.value.as_ref()] {
            record.extend(field.map_or(u32::MAX, |field| field.len() as u32).to_le_bytes());
            record.extend(field.into_iter().flatten());
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut field = || -> Option<Option<Vec<u8>>> {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            *bytes = rest;
            let length = u32::from_le_bytes(*length);
            if length == u32::MAX {
                return Some(None);
            }
            let (field, rest) = bytes.split_at_checked(length as usize)?;
            *bytes = rest;
            Some(Some(field.to_vec()))
        };
        Some(Self { tree: field()??, key: field()?, value: field()? })
    }
}

const HEADER_BYTES: usize = 16;

fn record(effects: &[Effect]) -> Vec<u8> {
    let mut record = vec![0; HEADER_BYTES];
    effects.iter().for_each(|effect| effect.encode(&mut record));
    let (bytes, sum) = (record.len() as u64, checksum(&record[HEADER_BYTES..]));
    record[..8].copy_from_slice(&bytes.to_le_bytes());
    record[8..16].copy_from_slice(&sum.to_le_bytes());
    record.resize(record.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    record
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

async fn read_record(
    file: &SimulatedDisk,
    offset: u64,
    flaw: Flaw,
) -> Result<Option<(Vec<Effect>, u64)>, StorageError> {
    let head = file.read(offset, BLOCK_BYTES).await?;
    let Some(bytes) = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Ok(None);
    };
    if bytes < HEADER_BYTES as u64 || bytes > 1 << 30 {
        return Ok(None);
    }
    let blocks = bytes.next_multiple_of(u64::from(BLOCK_BYTES));
    let record = file.read(offset, blocks as u32).await?;
    let Some(payload) = record.get(HEADER_BYTES..bytes as usize) else { return Ok(None) };
    if flaw != Flaw::TrustsTornRecords && checksum(payload).to_le_bytes() != record[8..16] {
        return Ok(None);
    }
    let mut rest = payload;
    let mut effects = Vec::new();
    while let Some(effect) = Effect::decode(&mut rest) {
        effects.push(effect);
    }
    Ok(Some((effects, blocks)))
}

impl JournalEngine {
    fn log(&self, lsn: Lsn, effects: Vec<Effect>) {
        if self.flaw == Flaw::LogsEditsOneByOne {
            self.queue.borrow_mut().extend(effects.into_iter().map(|effect| (lsn, record(&[effect]))));
        } else {
            self.queue.borrow_mut().push((lsn, record(&effects)));
        }
        self.wake();
    }

    fn wake(&self) {
        let wakers = self.wakers.take();
        wakers.into_iter().for_each(Waker::wake);
    }

    async fn until(&self, done: impl Fn() -> bool) {
        poll_fn(|context| {
            if done() {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn name_of(&self, id: TreeId) -> Vec<u8> {
        let names = self.memory.tree_names();
        let name = names.into_iter().find(|name| self.memory.tree(name) == Some(id));
        name.map_or(Vec::new(), |name| name.0.into_vec())
    }
}

impl StorageEngine for JournalEngine {
    fn tree(&self, name: &TreeName) -> Option<TreeId> {
        self.memory.tree(name)
    }

    fn tree_names(&self) -> Vec<TreeName> {
        self.memory.tree_names()
    }

    async fn create_tree(&self, name: &TreeName) -> Result<TreeId, StorageError> {
        if let Some(tree) = self.memory.tree(name) {
            return Ok(tree);
        }
        let tree = self.memory.create_tree(name).await?;
        self.log(
            self.memory.applied(),
            vec![Effect { tree: name.0.to_vec(), key: None, value: Some(Vec::new()) }],
        );
        Ok(tree)
    }

    async fn drop_tree(&self, tree: TreeId) -> Result<(), StorageError> {
        let name = self.name_of(tree);
        self.memory.drop_tree(tree).await?;
        self.log(self.memory.applied(), vec![Effect { tree: name, key: None, value: None }]);
        Ok(())
    }

    async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Value>, StorageError> {
        self.memory.get(tree, key).await
    }

    fn cached(&self, tree: TreeId, key: &[u8]) -> Result<Cached<Option<Value>>, StorageError> {
        self.memory.cached(tree, key)
    }

    async fn range(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Entries, StorageError> {
        self.memory.range(tree, range, direction, rows_max, bytes_max).await
    }

    fn merge(
        &self,
        trees: &[TreeId],
        range: &Range,
        direction: Direction,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Merged, StorageError> {
        self.memory.merge(trees, range, direction, rows_max, bytes_max)
    }

    fn visit(
        &self,
        tree: TreeId,
        range: &Range,
        rows_max: usize,
        see: &mut dyn FnMut(&[&[u8]]) -> usize,
    ) -> Result<Visited, StorageError> {
        self.memory.visit(tree, range, rows_max, see)
    }

    async fn count(&self, tree: TreeId, range: &Range) -> Result<u64, StorageError> {
        self.memory.count(tree, range).await
    }

    async fn nth(
        &self,
        tree: TreeId,
        range: &Range,
        direction: Direction,
        n: u64,
    ) -> Result<Option<(Vec<u8>, Value)>, StorageError> {
        self.memory.nth(tree, range, direction, n).await
    }

    async fn bulk_build(
        &self,
        tree: TreeId,
        entries: &mut dyn Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StorageError> {
        for (key, value) in entries {
            self.commit(CommitInfo::default(), &[Edit::Put { tree, key, value }]).await?;
        }
        Ok(())
    }

    fn apply_parts(&self, parts: &[Part], edits: &[Edit]) -> Result<Cached<Lsn>, StorageError> {
        let applied = self.memory.apply_parts(parts, edits)?;
        let Cached::Hit(lsn) = applied else { return Ok(applied) };
        let effect = |edit: &Edit| match edit {
            Edit::Put { tree, key, value } => {
                Effect { tree: self.name_of(*tree), key: Some(key.clone()), value: Some(value.clone()) }
            }
            Edit::Delete { tree, key } => {
                Effect { tree: self.name_of(*tree), key: Some(key.clone()), value: None }
            }
        };
        self.log(lsn, edits.iter().map(effect).collect());
        Ok(applied)
    }

    async fn prepare(&self, _edits: &[Edit]) -> Result<(), StorageError> {
        Ok(())
    }

    async fn flushed(&self, lsn: Lsn) -> Result<(), StorageError> {
        if self.flaw != Flaw::AcknowledgesBeforeTheSync {
            self.until(|| self.flushed.get() >= lsn).await;
        }
        Ok(())
    }

    fn applied(&self) -> Lsn {
        self.memory.applied()
    }

    async fn foreground(&self) {}

    async fn background(&self) -> Result<(), StorageError> {
        loop {
            self.until(|| !self.queue.borrow().is_empty() || self.closing.get()).await;
            let records = self.queue.take();
            let Some(&(last, _)) = records.last() else { return Ok(()) };
            let bytes = records.into_iter().flat_map(|(_, record)| record).collect::<Vec<u8>>();
            let end = self.end.get() + bytes.len() as u64;
            self.file.write(self.end.get(), bytes).await?;
            self.file.sync().await?;
            self.end.set(end);
            self.flushed.set(last);
            self.wake();
        }
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.closing.set(true);
        self.wake();
        let applied = self.applied();
        self.until(|| self.flushed.get() >= applied).await;
        Ok(())
    }

    fn stats(&self) -> StorageStats {
        self.memory.stats()
    }
}

const WORKLOAD: Workload = Workload {
    writers: 3,
    batches_each: 20,
    readers: 1,
    reads_each: 10,
    trees: 4,
    keys: 50,
    value_bytes_min: 0,
    value_bytes_max: 20_000,
};

#[test]
fn a_sound_log_passes() {
    crate::for_seeds(100, |seed| live(Journal(Flaw::None), seed, WORKLOAD));
}

/// How many of the seeds find the flaw.
fn found(flaw: Flaw) -> usize {
    let fails = |seed: &u64| std::panic::catch_unwind(|| live(Journal(flaw), *seed, WORKLOAD)).is_err();
    (0..60).filter(fails).count()
}

#[test]
fn power_losses_find_every_flaw() {
    let flaws = [
        Flaw::AcknowledgesBeforeTheSync,
        Flaw::NeverSyncsTheDirectory,
        Flaw::TrustsTornRecords,
        Flaw::LogsEditsOneByOne,
    ];
    for flaw in flaws {
        assert!(found(flaw) >= 3, "{flaw:?}");
    }
}
