//! RocksDB: a log-structured merge tree, Snappy, direct reads; with a Bloom filter of 10 bits a key, which most who run it set.
//!
//! Its own write buffer of 64 MiB stands beside the cache, and so do the indexes and filters of its tables. What was written
//! goes to tables before it is closed, so that it is not read from that buffer.

use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use super::{Failed, Store, in_portions, on_threads};
use crate::rows::{Row, Share};

struct Rocks {
    database: DB,
    synced: WriteOptions,
}

pub fn open(directory: &Path, cache_bytes: u64) -> Result<Box<dyn Store>, Failed> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(usize::try_from(cache_bytes)?)?);
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_use_direct_reads(true);
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    Ok(Box::new(Rocks { database: DB::open(&options, directory.join("rocksdb"))?, synced }))
}

fn batch<'a>(rows: impl Iterator<Item = &'a Row>) -> WriteBatch {
    let mut batch = WriteBatch::default();
    rows.for_each(|(key, value)| batch.put(key, value));
    batch
}

impl Store for Rocks {
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failed> {
        in_portions(rows, |portion| Ok(self.database.write(batch(portion.iter()))?))?;
        Ok(self.database.flush()?)
    }

    fn put(&mut self, rows: &[&Row]) -> Result<(), Failed> {
        Ok(self.database.write_opt(batch(rows.iter().copied()), &self.synced)?)
    }

    fn put_side_by_side(&mut self, shares: Vec<Share<'_>>) -> Result<u64, Failed> {
        on_threads(shares, |(key, value)| Ok(self.database.put_opt(key, value, &self.synced)?))
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<usize>, Failed> {
        Ok(self.database.get(key)?.map(|value| value.len()))
    }

    fn scan(&mut self, from: &[u8], rows: usize) -> Result<usize, Failed> {
        let mode = IteratorMode::From(from, Direction::Forward);
        self.database.iterator(mode).take(rows).map(|row| Ok(row?.1.len())).sum()
    }

    fn close(self: Box<Self>) -> Result<(), Failed> {
        Ok(self.database.flush()?)
    }
}
