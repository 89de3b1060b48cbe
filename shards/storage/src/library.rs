//! A store as an ordinary library: keys and values in one directory, calls that block, no server.
//!
//! Always: [`SlabStorage::set`] and [`SlabStorage::delete`] return when the change is durable. It is the server's own store
//! over blocking files, with one tree in it, so a directory is open once at a time and on one thread.
//!
//! ```
//! # let directory = std::env::temp_dir().join(format!("photondb-library-example-{}", std::process::id()));
//! use photondb_storage::library::{SlabStorage, Write};
//!
//! let mut storage = SlabStorage::new(&directory, 16, 100_000)?;
//! storage.set(b"colour", b"blue")?;
//! assert_eq!(storage.get(b"colour")?.as_deref(), Some(&b"blue"[..]));
//! assert!(storage.delete(b"colour")?);
//! assert_eq!(storage.get(b"colour")?, None);
//! storage.write_batch(&[Write::Set(b"a", b"1"), Write::Set(b"b", b"2"), Write::Delete(b"c")])?;
//! let rows = storage.range(b"a".to_vec().., 10)?;
//! assert_eq!(rows.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [b"a", b"b"]);
//! println!("{:.0}% of reads came from the cache", storage.stats().cache_hit_rate() * 100.0);
//! # storage.close()?;
//! # std::fs::remove_dir_all(&directory).unwrap();
//! # Ok::<(), photondb_storage::engine::StorageError>(())
//! ```

use std::future::Future;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;

use crate::blocking::{BlockingDirectory, block_on, block_on_with};
use crate::engine::{
    CommitInfo, Direction, Edit, Range, StorageEngine, StorageError, StorageStats, TreeId, TreeName, Value,
};
use crate::event::both;
use crate::slab::{SlabEngine, SlabOptions};

/// The one tree of a library's store.
const TREE: &[u8] = b"library";
/// Values of a range are read at once up to so many bytes, since each read of a blocking disk is waited for alone: the more
/// that is asked for, the more one read gives.
const PORTION_BYTES_MIN: u64 = 8 << 20;
/// Or up to this part of the cache, which is so much that the store reads nothing ahead: it would do so while the caller waits.
const PORTION_PART: u64 = 16;

/// A store of keys and values.
pub struct SlabStorage {
    engine: Rc<SlabEngine<BlockingDirectory>>,
    /// The store's own work, run while a call waits; never ready.
    background: Pin<Box<dyn Future<Output = ()>>>,
    tree: TreeId,
    portion_bytes: usize,
}

/// One change of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    Set(&'a [u8], &'a [u8]),
    Delete(&'a [u8]),
}

/// Figures of a [`SlabStorage`] since it was opened.
#[derive(Clone, Copy, Debug)]
pub struct Stats(pub StorageStats);

impl Stats {
    /// The share of reads that the cache answered, from 0 to 1; 0 before the first read.
    pub fn cache_hit_rate(&self) -> f64 {
        let reads = self.0.cache_hits + self.0.cache_misses;
        if reads == 0 { 0.0 } else { self.0.cache_hits as f64 / reads as f64 }
    }
}

impl SlabStorage {
    /// Opens the store in the directory `path`, which is made if it is missing, with a cache of so many megabytes and entries.
    pub fn new(path: impl Into<PathBuf>, cache_mb: u64, cache_entries: u64) -> Result<Self, StorageError> {
        let directory = BlockingDirectory::new(path)?;
        let options = SlabOptions { cache_bytes: cache_mb << 20, cache_entries, ..SlabOptions::default() };
        let engine = Rc::new(block_on(SlabEngine::open(directory, options))?);
        let working = engine.clone();
        let background = Box::pin(async move {
            let training = async {
                // There is no other thread to make dictionaries on: a write now and then takes some tens of milliseconds more.
                while let Some(training) = working.training().await {
                    if let Err(error) = working.set_dictionary(training.train()).await {
                        tracing::warn!(%error, "a dictionary could not be kept");
                    }
                }
            };
            // Its error comes back from the calls: a store whose flush failed refuses what follows.
            if let (Err(error), ()) = both(working.work(), training).await {
                tracing::error!("the store's background work ended: {error}");
            }
            std::future::pending().await
        });
        let portion_bytes = (options.cache_bytes / PORTION_PART).max(PORTION_BYTES_MIN) as usize;
        let mut storage = Self { engine: engine.clone(), background, tree: TreeId(0), portion_bytes };
        storage.tree = storage.run(async { engine.create_tree(&TreeName(TREE.into())).await })?;
        Ok(storage)
    }

    /// Sets the value of a key, durably.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.write_batch(&[Write::Set(key, value)])
    }

    pub fn get(&mut self, key: &[u8]) -> Result<Option<Value>, StorageError> {
        let (engine, tree) = (self.engine.clone(), self.tree);
        self.run(async { engine.get(tree, key).await })
    }

    /// Deletes a key, durably; false when it was not there.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, StorageError> {
        if self.get(key)?.is_none() {
            return Ok(false);
        }
        self.write_batch(&[Write::Delete(key)])?;
        Ok(true)
    }

    /// Makes all changes or, if the process or the machine fails on the way, none. Durable when it returns.
    pub fn write_batch(&mut self, writes: &[Write<'_>]) -> Result<(), StorageError> {
        let (engine, tree) = (self.engine.clone(), self.tree);
        let edit = |write: &Write<'_>| match *write {
            Write::Set(key, value) => Edit::Put { tree, key: key.to_vec(), value: value.to_vec() },
            Write::Delete(key) => Edit::Delete { tree, key: key.to_vec() },
        };
        let edits: Vec<Edit> = writes.iter().map(edit).collect();
        self.run(async {
            let lsn = engine.commit(CommitInfo::default(), &edits).await?;
            engine.flushed(lsn).await
        })
    }

    /// The first entries of a range of keys in order, at most `rows_max`.
    pub fn range(
        &mut self,
        keys: impl RangeBounds<Vec<u8>>,
        rows_max: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, StorageError> {
        let (engine, tree, portion_bytes) = (self.engine.clone(), self.tree, self.portion_bytes);
        let mut rest = Range { start: keys.start_bound().cloned(), end: keys.end_bound().cloned() };
        let mut rows: Vec<(Vec<u8>, Value)> = Vec::new();
        self.run(async {
            loop {
                let wanted = rows_max - rows.len();
                let portion = engine.range(tree, &rest, Direction::Forward, wanted, portion_bytes).await?;
                rows.extend(portion.entries);
                match rows.last() {
                    Some((last, _)) if portion.more && rows.len() < rows_max => {
                        rest.start = Bound::Excluded(last.clone());
                    }
                    Some(_) | None => return Ok(rows),
                }
            }
        })
    }

    pub fn stats(&self) -> Stats {
        Stats(self.engine.stats())
    }

    /// Writes a last checkpoint, so that the next opening has nothing to recover. Without it nothing is lost either.
    pub fn close(mut self) -> Result<(), StorageError> {
        let engine = self.engine.clone();
        self.run(async { engine.close().await })
    }

    fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        block_on_with(self.background.as_mut(), future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_of_few_entries_reads_the_others_from_disk() {
        let path = std::env::temp_dir().join(format!("photondb-library-entries-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let mut storage = SlabStorage::new(&path, 8, 10).unwrap();
        for number in 0..100_u32 {
            storage.set(&number.to_be_bytes(), &[9; 3000]).unwrap();
        }
        storage.close().unwrap();
        let mut storage = SlabStorage::new(&path, 8, 10).unwrap();
        for _ in 0..3 {
            for number in 0..100_u32 {
                assert_eq!(storage.get(&number.to_be_bytes()).unwrap().as_deref(), Some(&[9; 3000][..]));
            }
        }
        assert!(storage.stats().cache_hit_rate() < 0.5, "{:?}", storage.stats());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_library_store_keeps_what_was_set_and_counts_its_cache() {
        let path = std::env::temp_dir().join(format!("photondb-library-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let mut storage = SlabStorage::new(&path, 8, 10_000).unwrap();
        assert_eq!(storage.stats().cache_hit_rate(), 0.0);
        for number in 0..300_u32 {
            storage.set(&number.to_be_bytes(), &vec![7; number as usize * 10]).unwrap();
        }
        assert!(storage.delete(&5_u32.to_be_bytes()).unwrap());
        assert!(!storage.delete(&5_u32.to_be_bytes()).unwrap());
        drop(storage);
        let mut storage = SlabStorage::new(&path, 8, 10_000).unwrap();
        for _ in 0..2 {
            for number in 0..300_u32 {
                let want = (number != 5).then(|| vec![7; number as usize * 10]);
                assert_eq!(storage.get(&number.to_be_bytes()).unwrap().as_deref(), want.as_deref());
            }
        }
        let rate = storage.stats().cache_hit_rate();
        assert!(rate > 0.4 && rate <= 1.0, "{rate}");
        let numbers = |rows: Vec<(Vec<u8>, Value)>| -> Vec<u32> {
            rows.into_iter().map(|(key, _)| u32::from_be_bytes(key.try_into().unwrap())).collect()
        };
        let key = |number: u32| number.to_be_bytes().to_vec();
        assert_eq!(numbers(storage.range(key(3)..=key(7), 100).unwrap()), [3, 4, 6, 7]);
        assert_eq!(numbers(storage.range(key(290).., 4).unwrap()), [290, 291, 292, 293]);
        assert_eq!(storage.range(.., 1000).unwrap().len(), 299);
        assert!(storage.range(.., 0).unwrap().is_empty());
        let batch = [Write::Delete(&[0, 0, 0, 3]), Write::Set(&[0, 0, 0, 5], b"new")];
        storage.write_batch(&batch).unwrap();
        assert_eq!(numbers(storage.range(key(3)..=key(7), 100).unwrap()), [4, 5, 6, 7]);
        storage.close().unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
}
