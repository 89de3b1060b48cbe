//! Verifies a whole store without changing it: both superblocks, the tables, every page and slot of every tree, the log.
//!
//! Always: nothing is written, and damage does not end the work: what lies behind it is named by page, tree and key as far as
//! that is known, and everything else is still read. Pages are read one by one as the trees lead to them, slots of a leaf
//! together. What the trees hold is compared with the tables, which are the allocation maps: space that no tree points to is counted,
//! not called damage, since it costs room and no document.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::btree::PageId;
use crate::btree::cell::{Cell, Slotted};
use crate::btree::page::{Page, PageKind};
use crate::compress::{Codec, Unready};
use crate::disk::{BLOCK_BYTES, Directory, Disk, DiskError, OpenMode};
use crate::engine::{StorageError, TreeName};
use crate::recovery;
use crate::slab::SlabOptions;
use crate::slab::chunks::ChunkKind;
use crate::slab::dictionaries::{DICTIONARIES, dictionary_of_key};
use crate::slab::slot;
use crate::slab::state::{CATALOG, CATALOG_ROOT, State};
use crate::superblock::{SUPERBLOCKS_FILE, Superblock};
use crate::wal::record::{Change, Extent, Record};
use crate::wal::replay::LogReader;

/// Problems that a report names; the others are counted.
pub const PROBLEMS_MAX: usize = 1000;
/// Slots are read together when no more than this lies between them, up to so much at once.
const GAP_BYTES_MAX: u64 = 16 << 10;
const READ_BYTES_MAX: u64 = 1 << 20;

/// Something damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub offset: u64,
    /// The tree whose entries are concerned.
    pub tree: Option<TreeName>,
    /// The entry concerned, or the first of those that may be.
    pub key: Option<Vec<u8>>,
    pub what: String,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub problems: Vec<Problem>,
    pub problem_count: u64,
    pub trees: u64,
    pub entries: u64,
    pub pages: u64,
    pub slots: u64,
    pub log_records: u64,
    pub bytes_read: u64,
    /// Space that the tables say is in use and no tree points to.
    pub orphan_bytes: u64,
    /// Entries of the tree that was asked for, with what the log changed in it.
    pub kept: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Told of bytes read so far and in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

struct Verification<'a, D: Directory> {
    directory: &'a D,
    pages: D::File,
    slabs: D::File,
    state: State,
    seen: Vec<bool>,
    /// Bytes of each chunk that trees point to.
    live: Vec<u64>,
    names: BTreeMap<u32, TreeName>,
    /// Found before the documents that need them: their tree's name comes first.
    dictionaries: BTreeMap<u32, Vec<u8>>,
    codec: Codec,
    kept_name: &'a TreeName,
    total_bytes: u64,
    progress: Progress<'a>,
    report: Report,
}

/// A page that a tree leads to.
struct Visit {
    page: PageId,
    tree: u32,
    /// Entries that its parent says it holds.
    count: Option<u64>,
    /// No key of it is smaller.
    least: Vec<u8>,
}

/// Verifies the store of a directory. Its entries of the tree `kept` come with the report.
///
/// # Errors
/// A file that cannot be read at all.
pub async fn verify<D: Directory>(
    directory: &D,
    kept: &TreeName,
    progress: Progress<'_>,
) -> Result<Report, StorageError> {
    let mut report = Report::default();
    if is_new(directory).await? {
        return Ok(report);
    }
    let Some(superblock) = verify_superblocks(directory, &mut report).await? else { return Ok(report) };
    let mut files = Vec::new();
    for name in ["pages", "slabs"] {
        match directory.open(name, OpenMode::Existing).await {
            Ok(file) => files.push(file),
            Err(DiskError::NotFound { file }) => report.add(&file, 0, "the file is missing".to_owned()),
            Err(error) => return Err(error.into()),
        }
    }
    let (Some(slabs), Some(pages)) = (files.pop(), files.pop()) else { return Ok(report) };
    let options = SlabOptions::default();
    let state = match recovery::load(&pages, &slabs, superblock, &options).await {
        Ok(state) => state,
        Err(StorageError::Corrupt { file, offset, what }) => {
            report.add(&file, offset, what);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let page_bytes: u64 = state.pool.frames.iter().map(|frame| u64::from(frame.address.blocks) * 4096).sum();
    let mut verification = Verification {
        directory,
        pages,
        slabs,
        seen: vec![false; state.pool.frames.len()],
        live: vec![0; state.chunks.list.len()],
        total_bytes: page_bytes + state.chunks.live_bytes,
        state,
        names: BTreeMap::new(),
        dictionaries: BTreeMap::new(),
        codec: Codec::new(options.compression_level),
        kept_name: kept,
        progress,
        report,
    };
    verification.verify_trees().await?;
    verification.verify_unseen().await?;
    verification.verify_log().await?;
    Ok(verification.report)
}

/// Whether no store was ever whole here: what a crash leaves of one that was being made.
async fn is_new<D: Directory>(directory: &D) -> Result<bool, DiskError> {
    match directory.open("pages", OpenMode::Existing).await {
        Ok(pages) if pages.length().await? > 0 => return Ok(false),
        Ok(_) | Err(DiskError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    match directory.open(SUPERBLOCKS_FILE, OpenMode::Existing).await {
        Ok(file) => Ok(file.read(0, 2 * BLOCK_BYTES).await?.iter().all(|&byte| byte == 0)),
        Err(DiskError::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

impl Report {
    fn add(&mut self, file: &str, offset: u64, what: String) {
        self.add_problem(Problem { file: file.to_owned(), offset, tree: None, key: None, what });
    }

    fn add_problem(&mut self, problem: Problem) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// The superblock that holds; both are looked at.
async fn verify_superblocks<D: Directory>(
    directory: &D,
    report: &mut Report,
) -> Result<Option<Superblock>, StorageError> {
    let file = match directory.open(SUPERBLOCKS_FILE, OpenMode::Existing).await {
        Ok(file) => file,
        Err(DiskError::NotFound { file }) => {
            report.add(&file, 0, "the file is missing".to_owned());
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let mut whole = Vec::new();
    let mut broken = Vec::new();
    for offset in [0, u64::from(BLOCK_BYTES)] {
        let block = file.read(offset, BLOCK_BYTES).await?;
        match Superblock::decode(&block, offset) {
            Ok(Some(superblock)) => whole.push(superblock),
            Ok(None) if block.iter().all(|&byte| byte == 0) => {}
            Ok(None) => {
                broken.push((
                    offset,
                    "the superblock is not whole: damaged, or torn by a power loss".to_owned(),
                ));
            }
            Err(error) => broken.push((offset, error.to_string())),
        }
    }
    // A version that no whole superblock confirms may be another program's.
    if whole.is_empty()
        && let [(_, what), ..] = &broken[..]
        && what.contains("format version")
    {
        return Err(StorageError::Corrupt { file: SUPERBLOCKS_FILE.into(), offset: 0, what: what.clone() });
    }
    let generations: Vec<u64> = whole.iter().map(|superblock| superblock.generation).collect();
    for (offset, what) in broken {
        report.add(SUPERBLOCKS_FILE, offset, what);
    }
    match generations[..] {
        [] => report.add(SUPERBLOCKS_FILE, 0, "no superblock is whole".to_owned()),
        [one] if one > 1 && report.problem_count == 0 => {
            report.add(SUPERBLOCKS_FILE, (one + 1) % 2 * 4096, "the other superblock is gone".to_owned());
        }
        [first, second] if first.abs_diff(second) != 1 => {
            let what = format!("the superblocks are of generations {first} and {second}: one was lost");
            report.add(SUPERBLOCKS_FILE, 0, what);
        }
        [_] | [_, _] | [..] => {}
    }
    Ok(whole.into_iter().max_by_key(|superblock| superblock.generation))
}

impl<D: Directory> Verification<'_, D> {
    async fn verify_trees(&mut self) -> Result<(), StorageError> {
        if self.state.pool.frames.is_empty() || self.state.pool.frames[0].address.blocks == 0 {
            return Ok(());
        }
        let mut roots = Vec::new();
        self.walk(CATALOG, CATALOG_ROOT, &mut roots).await?;
        for (name, number, root) in &roots {
            self.names.insert(*number, name.clone());
            self.report.trees += 1;
            if *root as usize >= self.state.pool.frames.len() {
                self.report.add("pages", 0, format!("tree {number} has no root"));
                continue;
            }
            self.walk(*number, *root, &mut Vec::new()).await?;
        }
        Ok(())
    }

    /// Reads every page of a tree; from the tree of trees come the roots.
    async fn walk(
        &mut self,
        tree: u32,
        root: PageId,
        roots: &mut Vec<(TreeName, u32, PageId)>,
    ) -> Result<(), StorageError> {
        let mut stack = vec![Visit { page: root, tree, count: None, least: Vec::new() }];
        while let Some(visit) = stack.pop() {
            let Some(page) = self.visit(&visit).await? else { continue };
            match page.kind() {
                PageKind::Inner => {
                    for index in (0..page.count()).rev() {
                        let child = page.child(index);
                        let least = if index == 0 { visit.least.clone() } else { page.key(index) };
                        stack.push(Visit { page: child.page, tree, count: Some(child.count), least });
                    }
                }
                PageKind::Leaf => {
                    self.verify_leaf(&page, tree).await?;
                    if tree == CATALOG {
                        roots.extend((0..page.count()).filter_map(|index| root_of(&page, index)));
                    }
                }
            }
        }
        Ok(())
    }

    /// The page, if it is whole and is what its parent says.
    async fn visit(&mut self, visit: &Visit) -> Result<Option<Page>, StorageError> {
        let wrong = |offset: u64, what: String| Problem {
            file: "pages".to_owned(),
            offset,
            tree: None,
            key: Some(visit.least.clone()).filter(|least| !least.is_empty()),
            what,
        };
        let address = match self.state.pool.frames.get(visit.page as usize) {
            Some(frame) if frame.address.blocks > 0 => frame.address,
            Some(_) | None => {
                let what = format!("page {} is pointed to, but was never written", visit.page);
                self.damaged(visit.tree, wrong(0, what));
                return Ok(None);
            }
        };
        let offset = u64::from(address.block) * 4096;
        if std::mem::replace(&mut self.seen[visit.page as usize], true) {
            self.damaged(visit.tree, wrong(offset, format!("page {} is pointed to twice", visit.page)));
            return Ok(None);
        }
        let bytes = self.pages.read(offset, u32::from(address.blocks) * 4096).await?;
        self.report.pages += 1;
        self.read(bytes.len() as u64);
        let page = match Page::open(&bytes, visit.page, address.block, address.sum) {
            Ok(page) => page,
            Err(what) => {
                self.damaged(visit.tree, wrong(offset, what));
                return Ok(None);
            }
        };
        let first = match page.kind() {
            PageKind::Leaf => 0,
            PageKind::Inner => 1,
        };
        let keys: Vec<Vec<u8>> = (first..page.count()).map(|index| page.key(index)).collect();
        let subtotal = page.subtotal();
        let what = if page.tree() != visit.tree {
            format!("page {} is of tree {}, want {}", visit.page, page.tree(), visit.tree)
        } else if visit.count.is_some_and(|count| count != subtotal) {
            format!("page {} counts {subtotal} entries, its parent {}", visit.page, visit.count.unwrap_or(0))
        } else if !keys.is_sorted_by(|a, b| a < b) || keys.first().is_some_and(|key| *key < visit.least) {
            format!("the keys of page {} are out of order", visit.page)
        } else {
            return Ok(Some(page));
        };
        self.damaged(visit.tree, wrong(offset, what));
        Ok(Some(page))
    }

    async fn verify_leaf(&mut self, page: &Page, tree: u32) -> Result<(), StorageError> {
        self.report.entries += page.count() as u64;
        let mut slots = Vec::new();
        for index in 0..page.count() {
            match Cell::decode(page.value(index)) {
                Some(Cell::Inline(value)) => self.keep(tree, page.key(index), Some(value)),
                Some(Cell::Unplaced { .. }) | None => {}
                Some(Cell::Placed(slotted)) => {
                    match self.state.slot_place(slotted.location, slotted.slot_bytes) {
                        Ok((offset, before, bytes)) => slots.push((offset, before, bytes, index, slotted)),
                        Err(what) => self.damaged_slot(page, index, tree, 0, what),
                    }
                }
            }
        }
        slots.sort_unstable_by_key(|slot| (slot.0, slot.1));
        let mut rest = &slots[..];
        while let Some(&(start, _, bytes, _, _)) = rest.first() {
            let mut end = start + u64::from(bytes);
            let mut count = 1;
            for (offset, _, bytes, _, _) in &rest[1..] {
                let slot_end = offset + u64::from(*bytes);
                if *offset > end + GAP_BYTES_MAX || slot_end.max(end) - start > READ_BYTES_MAX {
                    break;
                }
                end = end.max(slot_end);
                count += 1;
            }
            let read = self.slabs.read(start, (end - start) as u32).await?;
            for (offset, before, _, index, slotted) in &rest[..count] {
                let at = (offset - start) as usize + before;
                let slot = read.get(at..at + slotted.slot_bytes as usize).unwrap_or(&[]);
                match self.verify_slot(slot, *slotted, tree, &page.key(*index)) {
                    Ok(value) => self.keep(tree, page.key(*index), Some(&value)),
                    Err(what) => self.damaged_slot(page, *index, tree, offset + *before as u64, what),
                }
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    fn verify_slot(
        &mut self,
        bytes: &[u8],
        slotted: Slotted,
        tree: u32,
        key: &[u8],
    ) -> Result<Rc<[u8]>, String> {
        self.report.slots += 1;
        self.read(u64::from(slotted.slot_bytes));
        if let Some(live) = self.live.get_mut(slotted.location.chunk() as usize) {
            *live += u64::from(slotted.slot_bytes);
        }
        let place = self.state.bound_to(slotted.location);
        let slot = slot::slot_of(bytes, place, slotted.sum, tree, key)?;
        self.plain(&slot)
    }

    /// The value of a slot as it was put.
    fn plain(&mut self, slot: &slot::Slot<'_>) -> Result<Rc<[u8]>, String> {
        loop {
            match self.codec.plain(slot.how, slot.stored, slot.plain_bytes) {
                Ok(plain) => return Ok(plain),
                Err(Unready::Broken(what)) => return Err(what),
                Err(Unready::Dictionary(number)) => match self.dictionaries.get(&number) {
                    Some(bytes) => self.codec.add_reader(number, bytes)?,
                    None => {
                        return Err(format!(
                            "it was compressed with dictionary {number}, which is not there"
                        ));
                    }
                },
            }
        }
    }

    /// Keeps what is needed of an entry, if anything; without a value it is gone.
    fn keep(&mut self, tree: u32, key: Vec<u8>, value: Option<&[u8]>) {
        let name = self.names.get(&tree);
        if name.is_some_and(|name| &*name.0 == DICTIONARIES)
            && let (Some((_, number)), Some(value)) = (dictionary_of_key(&key), value)
        {
            self.dictionaries.insert(number, value.to_vec());
        }
        if name == Some(self.kept_name) {
            match value {
                Some(value) => drop(self.report.kept.insert(key, value.to_vec())),
                None => drop(self.report.kept.remove(&key)),
            }
        }
    }

    /// Pages that no tree led to are verified too; what of the tables no tree points to is counted, if nothing is damaged.
    async fn verify_unseen(&mut self) -> Result<(), StorageError> {
        let is_whole = self.report.problem_count == 0;
        for id in 0..self.seen.len() {
            let address = self.state.pool.frames[id].address;
            if self.seen[id] || address.blocks == 0 {
                continue;
            }
            let (offset, bytes) = (u64::from(address.block) * 4096, u32::from(address.blocks) * 4096);
            let read = self.pages.read(offset, bytes).await?;
            self.report.pages += 1;
            self.read(u64::from(bytes));
            if is_whole {
                self.report.orphan_bytes += u64::from(bytes);
            }
            if let Err(what) = Page::open(&read, id as PageId, address.block, address.sum) {
                self.report.add("pages", offset, what);
            }
        }
        if !is_whole {
            return Ok(());
        }
        for (id, chunk) in self.state.chunks.list.iter().enumerate() {
            if chunk.kind == ChunkKind::Free {
                continue;
            }
            let offset = u64::from(chunk.run.block) * 4096;
            if !self.names.contains_key(&chunk.tree) || self.live[id] == 0 {
                self.report.orphan_bytes += u64::from(chunk.run.blocks) * 4096;
            } else if self.live[id] != u64::from(chunk.live_bytes) {
                let (said, found) = (chunk.live_bytes, self.live[id]);
                let what = format!(
                    "the table says that {said} bytes of chunk {id} are live, the trees point to {found}"
                );
                self.report.add("slabs", offset, what);
            }
        }
        Ok(())
    }

    async fn verify_log(&mut self) -> Result<(), StorageError> {
        let directory = self.directory;
        let mut reader = LogReader::new(directory, self.state.superblock.redo);
        loop {
            let (mut extents, mut changes) = (Vec::new(), Vec::new());
            let take = |record: Record<'_>| match record {
                Record::Batches(batches) => {
                    for change in batches.into_iter().flat_map(|batch| batch.changes) {
                        match change {
                            Change::Put { tree, key, value } => {
                                changes.push((tree, key.to_vec(), Some(value.to_vec())));
                            }
                            Change::Delete { tree, key } => changes.push((tree, key.to_vec(), None)),
                            Change::Extent { tree, key, extent } => {
                                extents.push((tree, key.to_vec(), extent))
                            }
                        }
                    }
                    None
                }
                Record::Created { tree, name } => Some((tree, Some(TreeName(name.into())))),
                Record::Dropped { tree } => Some((tree, None)),
            };
            match reader.next(take).await {
                Ok(None) => break,
                Ok(Some(None)) => {}
                Ok(Some(Some((tree, Some(name))))) => drop(self.names.insert(tree, name)),
                Ok(Some(Some((tree, None)))) => drop(self.names.remove(&tree)),
                Err(error) => return self.log_damaged(error),
            }
            self.report.log_records += 1;
            for (tree, key, value) in changes {
                self.keep(tree, key, value.as_deref());
            }
            for (tree, key, extent) in extents {
                self.verify_extent(tree, key, extent).await?;
            }
        }
        match reader.damage().await {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => self.log_damaged(error),
        }
    }

    fn log_damaged(&mut self, error: StorageError) -> Result<(), StorageError> {
        match error {
            StorageError::Corrupt { file, offset, what } => {
                self.report.add(&file, offset, what);
                Ok(())
            }
            StorageError::Disk(DiskError::NotFound { file }) => {
                self.report.add(&file, 0, "the file is missing".to_owned());
                Ok(())
            }
            other => Err(other),
        }
    }

    /// A large value that the log names. What replaced it since may have its blocks by now only after a checkpoint.
    async fn verify_extent(&mut self, tree: u32, key: Vec<u8>, extent: Extent) -> Result<(), StorageError> {
        let offset = u64::from(extent.run.block) * 4096;
        let bytes = self.slabs.read(offset, extent.run.blocks * BLOCK_BYTES).await?;
        self.report.slots += 1;
        self.report.bytes_read += bytes.len() as u64;
        let slot = bytes.get(..extent.slot_bytes as usize).unwrap_or(&[]);
        let read = slot::slot_of(slot, slot::extent_place(extent.run), extent.sum, tree, &key);
        if let Err(what) = read.and_then(|slot| self.plain(&slot)) {
            let problem = Problem { file: "slabs".to_owned(), offset, tree: None, key: Some(key), what };
            self.damaged(tree, problem);
        }
        Ok(())
    }

    fn damaged_slot(&mut self, page: &Page, index: usize, tree: u32, offset: u64, what: String) {
        let problem =
            Problem { file: "slabs".to_owned(), offset, tree: None, key: Some(page.key(index)), what };
        self.damaged(tree, problem);
    }

    fn damaged(&mut self, tree: u32, problem: Problem) {
        let tree = self.names.get(&tree).cloned();
        self.report.add_problem(Problem { tree, ..problem });
    }

    fn read(&mut self, bytes: u64) {
        self.report.bytes_read += bytes;
        (self.progress)(self.report.bytes_read.min(self.total_bytes), self.total_bytes);
    }
}

/// Name, number and root of a tree from its entry in the tree of trees.
fn root_of(page: &Page, index: usize) -> Option<(TreeName, u32, PageId)> {
    let mut reader = crate::bytes::Reader(page.value(index).get(1..)?);
    Some((TreeName(page.key(index).into()), reader.u32()?, reader.u32()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::{BlockingDirectory, block_on};
    use crate::engine::{CommitInfo, StorageEngine};
    use crate::slab::SlabEngine;
    use crate::suite::{named, put};

    fn report_of(directory: &BlockingDirectory) -> Report {
        block_on(verify(directory, &named("kept"), &mut |_, _| {})).unwrap()
    }

    /// A store with pages, slots, an extent, and a log behind its checkpoint.
    fn made(name: &str) -> BlockingDirectory {
        let path = std::env::temp_dir().join(format!("photondb-verify-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let directory = BlockingDirectory::new(path).unwrap();
        block_on(async {
            let engine = SlabEngine::open(directory.clone(), SlabOptions::default()).await.unwrap();
            let docs = engine.create_tree(&named("docs")).await.unwrap();
            let kept = engine.create_tree(&named("kept")).await.unwrap();
            for number in 0..300_u32 {
                let value = vec![number as u8; if number == 7 { 100_000 } else { 1000 }];
                let edits =
                    [put(docs, number.to_be_bytes(), value), put(kept, number.to_be_bytes(), *b"old")];
                engine.commit(CommitInfo::default(), &edits).await.unwrap();
            }
            engine.checkpoint().await.unwrap();
            for _ in 0..3 {
                let lsn =
                    engine.commit(CommitInfo::default(), &[put(kept, *b"late", *b"new")]).await.unwrap();
                engine.flushed(lsn).await.unwrap();
            }
        });
        directory
    }

    #[test]
    fn a_whole_store_has_no_problems_and_gives_what_was_asked_for() {
        let directory = made("whole");
        let report = report_of(&directory);
        assert_eq!(report.problems, []);
        assert_eq!((report.trees, report.slots, report.orphan_bytes), (2, 300, 0), "{report:?}");
        assert_eq!(report.kept.len(), 301);
        assert_eq!(report.kept[&b"late"[..]], b"new");
        let again = report_of(&directory);
        assert_eq!(again.bytes_read, report.bytes_read, "verifying changes nothing");
        std::fs::remove_dir_all(directory.path()).unwrap();
    }

    #[test]
    fn a_flipped_byte_in_every_kind_of_file_is_named() {
        for file in ["superblocks", "pages", "slabs", "wal-0000000001"] {
            let directory = made(file);
            let path = directory.path().join(file);
            let whole = std::fs::read(&path).unwrap();
            let mut named_ones = 0;
            let blocks = whole.chunks(4096).enumerate();
            // The slots are few, since the documents are compressed.
            let step = if file == "slabs" { 1 } else { 5 };
            for (block, _) in blocks.filter(|(_, block)| block.iter().any(|&byte| byte != 0)).step_by(step) {
                let mut flipped = whole.clone();
                flipped[block * 4096 + 100] ^= 4;
                std::fs::write(&path, &flipped).unwrap();
                let report = report_of(&directory);
                // Blocks that nothing names any more may say anything.
                if let Some(problem) = report.problems.first() {
                    named_ones += 1;
                    assert_eq!(problem.file, file);
                    assert!(problem.offset <= block as u64 * 4096 + 100, "{problem:?}");
                    if file == "slabs" {
                        assert_eq!(problem.tree, Some(named("docs")), "{problem:?}");
                        assert_eq!(problem.key.as_ref().map(Vec::len), Some(4), "{problem:?}");
                    }
                }
            }
            assert!(named_ones > 0, "no flip in {file} is named");
            std::fs::write(&path, &whole).unwrap();
            std::fs::remove_file(&path).unwrap();
            let report = report_of(&directory);
            assert!(
                report.problems.iter().any(|problem| problem.file == file),
                "{file} is missing: {report:?}"
            );
            std::fs::remove_dir_all(directory.path()).unwrap();
        }
    }
}
