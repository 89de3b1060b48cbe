//! A store as an ordinary library: keys and values in one directory, calls that block, no server.
//!
//! Always: [`SlabStorage::set`] and [`SlabStorage::delete`] return when the change is durable. It is the server's own store
//! over blocking files, with one tree in it, so a directory is open once at a time and on one thread.
//!
//! ```
//! # let directory = std::env::temp_dir().join(format!("photondb-library-example-{}", std::process::id()));
//! use photondb_storage::library::SlabStorage;
//!
//! let mut storage = SlabStorage::new(&directory, 16, 100_000)?;
//! storage.set(b"colour", b"blue")?;
//! assert_eq!(storage.get(b"colour")?.as_deref(), Some(&b"blue"[..]));
//! assert!(storage.delete(b"colour")?);
//! assert_eq!(storage.get(b"colour")?, None);
//! println!("{:.0}% of reads came from the cache", storage.stats().cache_hit_rate() * 100.0);
//! # storage.close()?;
//! # std::fs::remove_dir_all(&directory).unwrap();
//! # Ok::<(), photondb_storage::engine::StorageError>(())
//! ```

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;

use crate::blocking::{BlockingDirectory, block_on, block_on_with};
use crate::engine::{CommitInfo, Edit, StorageEngine, StorageError, StorageStats, TreeId, TreeName, Value};
use crate::slab::{SlabEngine, SlabOptions};

/// The one tree of a library's store.
const TREE: &[u8] = b"library";

/// A store of keys and values.
pub struct SlabStorage {
    engine: Rc<SlabEngine<BlockingDirectory>>,
    /// The store's own work, run while a call waits; never ready.
    background: Pin<Box<dyn Future<Output = ()>>>,
    tree: TreeId,
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
            // Its error comes back from the calls: a store whose flush failed refuses what follows.
            if let Err(error) = working.background().await {
                tracing::error!("the store's background work ended: {error}");
            }
            std::future::pending().await
        });
        let mut storage = Self { engine: engine.clone(), background, tree: TreeId(0) };
        storage.tree = storage.run(async { engine.create_tree(&TreeName(TREE.into())).await })?;
        Ok(storage)
    }

    /// Sets the value of a key, durably.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.commit(Edit::Put { tree: self.tree, key: key.to_vec(), value: value.to_vec() })
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
        self.commit(Edit::Delete { tree: self.tree, key: key.to_vec() })?;
        Ok(true)
    }

    pub fn stats(&self) -> Stats {
        Stats(self.engine.stats())
    }

    /// Writes a last checkpoint, so that the next opening has nothing to recover. Without it nothing is lost either.
    pub fn close(mut self) -> Result<(), StorageError> {
        let engine = self.engine.clone();
        self.run(async { engine.close().await })
    }

    fn commit(&mut self, edit: Edit) -> Result<(), StorageError> {
        let engine = self.engine.clone();
        self.run(async {
            let lsn = engine.commit(CommitInfo::default(), &[edit]).await?;
            engine.flushed(lsn).await
        })
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
        storage.close().unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
}
