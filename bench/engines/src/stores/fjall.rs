//! fjall: a log-structured merge tree, LZ4 from its third level on, through the page cache.
//!
//! Its own write buffer of 64 MiB stands beside the cache. What was loaded is written to tables before it is closed, so that it is
//! not read from that buffer.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Failed, Store, in_portions, on_threads};
use crate::rows::{Row, Share};

struct Fjall {
    database: Database,
    rows: Keyspace,
}

pub fn open(directory: &Path, cache_bytes: u64) -> Result<Box<dyn Store>, Failed> {
    let database = Database::builder(directory.join("fjall")).cache_size(cache_bytes).open()?;
    let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { database, rows }))
}

impl Fjall {
    fn write<'a>(&self, rows: impl Iterator<Item = &'a Row>, mode: PersistMode) -> Result<(), Failed> {
        let mut batch = self.database.batch().durability(Some(mode));
        for (key, value) in rows {
            batch.insert(&self.rows, &key[..], &value[..]);
        }
        Ok(batch.commit()?)
    }
}

impl Store for Fjall {
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failed> {
        in_portions(rows, |portion| self.write(portion.iter(), PersistMode::Buffer))?;
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn put(&mut self, rows: &[&Row]) -> Result<(), Failed> {
        self.write(rows.iter().copied(), PersistMode::SyncData)
    }

    fn put_side_by_side(&mut self, shares: Vec<Share<'_>>) -> Result<u64, Failed> {
        on_threads(shares, |row| self.write(std::iter::once(row), PersistMode::SyncData))
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<usize>, Failed> {
        Ok(self.rows.get(key)?.map(|value| value.to_vec().len()))
    }

    fn scan(&mut self, from: &[u8], rows: usize) -> Result<usize, Failed> {
        let found = self.rows.range(from.to_vec()..).take(rows);
        found.map(|row| Ok(row.into_inner()?.1.to_vec().len())).sum()
    }

    fn close(self: Box<Self>) -> Result<(), Failed> {
        Ok(self.rows.rotate_memtable_and_wait()?)
    }
}
