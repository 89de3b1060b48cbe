//! The dictionaries of a store: which table has which, and the documents that the next one is made of.
//!
//! Always: a dictionary is an entry of a tree of the store's own, so the log makes it durable as it does any entry, and the
//! checkpoint that first writes documents with it holds it too: it is used only from the freeze behind its commit on. It is
//! there twice, so that one damaged block does not cost a table. It goes with the last tree of its table. Trees belong to
//! one table by [`crate::slab::SlabOptions::table_of`].
//!
//! Documents are looked at as they are put. When a table has got [`FIRST_AFTER_BYTES`] of them, and again when it has
//! got 64 times as much, a sample is taken; making a dictionary of it is work for another thread, see
//! [`StorageEngine::training`]. So the first checkpoint of a table that is being loaded has a dictionary already: without one it would take
//! twice as long.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::compress::{Unready, number_dictionary};
use crate::disk::Directory;
use crate::engine::{CommitInfo, Direction, Edit, StorageEngine, StorageError, TreeId, TreeName, Value};
use crate::slab::slot::Slot;
use crate::slab::{Shared, SlabEngine};
use crate::train::{Dictionary, Training};

/// The tree of dictionaries. Key: table, number u32, copy u8 (big-endian). Value: the dictionary as zstd has it.
pub(crate) const DICTIONARIES: &[u8] = b"\0dictionaries";
/// Plain bytes of a table after which its first dictionary is made.
const FIRST_AFTER_BYTES: u64 = 256 << 10;
/// Each next one is made when the table has grown by two to this.
const NEXT_AFTER_SHIFT: u32 = 6;
const DICTIONARIES_PER_TABLE_MAX: u32 = 3;
/// Twice as much takes twice as long and gains 1% at most.
const SAMPLE_BYTES: usize = 256 << 10;
/// Larger documents compress well alone.
const SAMPLED_DOCUMENT_BYTES_MAX: usize = 8 << 10;
const COPIES: [u8; 2] = [0, 1];

#[derive(Default)]
struct Table {
    /// Those that documents may be written with, the newest last.
    numbers: Vec<u32>,
    /// Made since the last freeze.
    fresh: Vec<u32>,
    /// Attempts that gave none.
    failed: u32,
    /// Plain bytes that were put since the store was opened, and the live ones of before.
    written_bytes: u64,
}

impl Table {
    fn is_due(&self) -> bool {
        let had = (self.numbers.len() + self.fresh.len()) as u32 + self.failed;
        had < DICTIONARIES_PER_TABLE_MAX
            && self.written_bytes >= FIRST_AFTER_BYTES << (NEXT_AFTER_SHIFT * had)
    }
}

#[derive(Default)]
pub(crate) struct Dictionaries {
    tables: HashMap<Rc<[u8]>, Table>,
    tables_of: BTreeMap<u32, Rc<[u8]>>,
    last_number: u32,
    gathering: Option<Training>,
    /// A sample is with somebody who makes a dictionary of it.
    is_training: bool,
    /// Keys of dictionaries of tables that are gone.
    orphans: Vec<Vec<u8>>,
    /// The tree of dictionaries could not be read, so no number is surely free.
    is_closed: bool,
}

impl Dictionaries {
    /// The dictionary that a table's documents are written with now.
    pub fn usable(&self, table: &[u8]) -> Option<u32> {
        self.tables.get(table)?.numbers.last().copied()
    }

    /// What was made before a freeze may be used behind it.
    pub fn freeze(&mut self) {
        for table in self.tables.values_mut() {
            table.numbers.append(&mut table.fresh);
        }
    }

    /// A dictionary cannot be read: nothing more is written with it.
    pub fn give_up(&mut self, number: u32) {
        if let Some(table) = self.tables_of.get(&number).and_then(|table| self.tables.get_mut(table)) {
            table.numbers.retain(|known| *known != number);
            table.failed += 1;
        }
    }

    fn add(&mut self, table: &Rc<[u8]>, number: u32) -> &mut Table {
        self.last_number = self.last_number.max(number);
        self.tables_of.insert(number, Rc::clone(table));
        self.tables.entry(Rc::clone(table)).or_default()
    }

    /// Counts a document that is put and, if the table is due for a dictionary, keeps it. True when enough are kept.
    pub fn sample(&mut self, name: &Rc<[u8]>, value: &[u8]) -> bool {
        let table = match self.tables.get_mut(&**name) {
            Some(table) => table,
            None => self.tables.entry(Rc::clone(name)).or_default(),
        };
        table.written_bytes += value.len() as u64;
        if self.is_training || self.is_closed || value.len() > SAMPLED_DOCUMENT_BYTES_MAX || !table.is_due() {
            return false;
        }
        let gathering = self.gathering.get_or_insert_with(|| Training {
            table: (**name).into(),
            samples: Vec::new(),
            sample_bytes: Vec::new(),
        });
        if *gathering.table != **name || gathering.samples.len() >= SAMPLE_BYTES {
            return false;
        }
        gathering.samples.extend_from_slice(value);
        gathering.sample_bytes.push(value.len());
        gathering.samples.len() >= SAMPLE_BYTES
    }

    fn take_training(&mut self) -> Option<Training> {
        let is_full = self.gathering.as_ref().is_some_and(|sample| sample.samples.len() >= SAMPLE_BYTES);
        if !is_full {
            return None;
        }
        self.is_training = true;
        self.gathering.take()
    }

    /// Forgets the dictionaries of tables that are not to be kept, and gives their keys.
    fn forget(&mut self, is_kept: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        if self.gathering.as_ref().is_some_and(|sample| !is_kept(&sample.table)) {
            self.gathering = None;
        }
        let mut keys = Vec::new();
        self.tables_of.retain(|number, table| {
            if is_kept(table) {
                return true;
            }
            keys.extend(COPIES.map(|copy| key_of(table, *number, copy)));
            false
        });
        keys
    }
}

fn key_of(table: &[u8], number: u32, copy: u8) -> Vec<u8> {
    let mut key = table.to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key.push(copy);
    key
}

/// Table and number of a dictionary by its key.
pub(crate) fn dictionary_of_key(key: &[u8]) -> Option<(&[u8], u32)> {
    let (rest, _) = key.split_last_chunk::<1>()?;
    let (table, number) = rest.split_last_chunk::<4>()?;
    Some((table, u32::from_be_bytes(*number)))
}

impl<D: Directory> Shared<D> {
    /// The value in a slot, made plain.
    pub async fn plain(&self, slot: &Slot<'_>) -> Result<Value, String> {
        loop {
            let plain = {
                let codec = &mut self.state.borrow_mut().codec;
                codec.plain(slot.how, slot.stored, slot.plain_bytes)
            };
            match plain {
                Ok(plain) => return Ok(plain),
                Err(Unready::Broken(what)) => return Err(what),
                Err(Unready::Dictionary(number)) => {
                    let bytes = Box::pin(self.dictionary(number)).await?;
                    self.state.borrow_mut().codec.add_reader(number, &bytes)?;
                }
            }
        }
    }

    /// The bytes of a dictionary.
    async fn dictionary(&self, number: u32) -> Result<Value, String> {
        let (tree, table) = {
            let state = self.state.borrow();
            let tree = state.by_name.get(&TreeName(DICTIONARIES.into())).copied();
            (tree, state.dictionaries.tables_of.get(&number).cloned())
        };
        let (Some(tree), Some(table)) = (tree, table) else {
            return Err(format!("the store has no dictionary {number}"));
        };
        let mut failure = format!("dictionary {number} is gone");
        for copy in COPIES {
            match self.get(TreeId(tree), &key_of(&table, number, copy)).await {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {}
                Err(error) => failure = format!("dictionary {number}: {error}"),
            }
        }
        Err(failure)
    }

    /// The dictionary that a tree's values are to be written with, made ready.
    pub async fn writer_for(&self, table: Option<&[u8]>) -> Option<u32> {
        let number = {
            let state = &mut *self.state.borrow_mut();
            let number = state.dictionaries.usable(table?)?;
            if state.codec.has_writer(number) {
                return Some(number);
            }
            number
        };
        match self.dictionary(number).await {
            Ok(bytes) => {
                self.state.borrow_mut().codec.add_writer(number, &bytes);
                Some(number)
            }
            Err(error) => {
                tracing::error!(%error, "documents are written without their dictionary");
                self.state.borrow_mut().dictionaries.give_up(number);
                None
            }
        }
    }

    /// Learns which dictionaries the store has. One that cannot be read costs the documents that need it, not the store.
    pub async fn load_dictionaries(&self) {
        self.count_written();
        let tree = self.state.borrow().by_name.get(&TreeName(DICTIONARIES.into())).copied();
        let Some(tree) = tree else { return };
        let mut rest =
            Some(crate::engine::Range { start: std::ops::Bound::Unbounded, end: std::ops::Bound::Unbounded });
        while let Some(range) = rest {
            let before = range.start.clone();
            rest = match self.behind_damage(TreeId(tree), &range, Direction::Forward).await {
                Ok(rest) => rest,
                Err(error) => {
                    tracing::error!(%error, "the dictionaries cannot be read");
                    None
                }
            };
            let Some(range) = &rest else { break };
            match &range.start {
                std::ops::Bound::Excluded(key) => self.learn(key),
                // A damaged leaf was passed over.
                std::ops::Bound::Included(_) | std::ops::Bound::Unbounded => {
                    self.state.borrow_mut().dictionaries.is_closed = true;
                    if range.start == before {
                        break;
                    }
                }
            }
        }
        let state = &mut *self.state.borrow_mut();
        let tables = &state.tables;
        state.dictionaries.tables.retain(|table, _| tables.contains_key(table));
        state.dictionaries.orphans = state.dictionaries.forget(|table| tables.contains_key(table));
    }

    fn learn(&self, key: &[u8]) {
        let dictionaries = &mut self.state.borrow_mut().dictionaries;
        if let Some((table, number)) = dictionary_of_key(key) {
            let table = Rc::from(table);
            let known = &mut dictionaries.add(&table, number).numbers;
            if !known.contains(&number) {
                known.push(number);
                known.sort_unstable();
            }
        }
    }

    /// What tables hold already counts as written.
    fn count_written(&self) {
        let state = &mut *self.state.borrow_mut();
        for chunk in &state.chunks.list {
            let table = state.trees.get(&chunk.tree).and_then(|tree| tree.table.clone());
            if let Some(table) = table {
                let written = &mut state.dictionaries.tables.entry(table).or_default().written_bytes;
                *written += u64::from(chunk.live_bytes);
            }
        }
    }
}

impl<D: Directory> SlabEngine<D> {
    pub(crate) async fn wait_for_training(&self) -> Option<Training> {
        loop {
            let work = self.shared.trainable.listen();
            if self.shared.closing.get() {
                return None;
            }
            if let Some(training) = self.shared.state.borrow_mut().dictionaries.take_training() {
                return Some(training);
            }
            work.await;
        }
    }

    pub(crate) async fn add_dictionary(&self, dictionary: Dictionary) -> Result<(), StorageError> {
        let Dictionary { table, mut bytes } = dictionary;
        let table: Rc<[u8]> = Rc::from(&*table);
        let added = self.put_dictionary(&table, &mut bytes).await;
        let dictionaries = &mut self.shared.state.borrow_mut().dictionaries;
        dictionaries.is_training = false;
        let Some(known) = dictionaries.tables.get_mut(&table) else { return added.map(|_| ()) };
        match added {
            Ok(Some(number)) => {
                known.fresh.push(number);
                dictionaries.tables_of.insert(number, table);
                Ok(())
            }
            Ok(None) => {
                known.failed += 1;
                Ok(())
            }
            Err(error) => {
                known.failed += 1;
                Err(error)
            }
        }
    }

    async fn put_dictionary(&self, table: &[u8], bytes: &mut [u8]) -> Result<Option<u32>, StorageError> {
        if bytes.len() < 8 {
            return Ok(None);
        }
        let tree = self.make_tree(&TreeName(DICTIONARIES.into())).await?;
        let number = {
            let dictionaries = &mut self.shared.state.borrow_mut().dictionaries;
            dictionaries.last_number += 1;
            dictionaries.last_number
        };
        number_dictionary(bytes, number);
        let edits =
            COPIES.map(|copy| Edit::Put { tree, key: key_of(table, number, copy), value: bytes.to_vec() });
        self.commit(CommitInfo::default(), &edits).await?;
        Ok(Some(number))
    }

    /// Deletes the dictionaries of a table if it has no tree any more, and those that a crash left of others.
    pub(crate) async fn forget_dictionaries(&self, table: Option<Rc<[u8]>>) -> Result<(), StorageError> {
        let (tree, keys) = {
            let state = &mut *self.shared.state.borrow_mut();
            let Some(table) = table else { return Ok(()) };
            if state.tables.contains_key(&table) {
                return Ok(());
            }
            state.dictionaries.tables.remove(&table);
            let mut keys = state.dictionaries.forget(|known| *known != *table);
            keys.append(&mut state.dictionaries.orphans);
            let Some(tree) = state.by_name.get(&TreeName(DICTIONARIES.into())) else { return Ok(()) };
            (TreeId(*tree), keys)
        };
        if keys.is_empty() {
            return Ok(());
        }
        let edits: Vec<Edit> = keys.into_iter().map(|key| Edit::Delete { tree, key }).collect();
        self.commit(CommitInfo::default(), &edits).await.map(|_| ())
    }
}
