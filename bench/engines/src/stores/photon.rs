//! PhotonDB's store as a library: direct I/O, zstd with dictionaries.
//!
//! Always: a store belongs to one thread, so several writers hand their rows to it.

use std::path::Path;

use photondb_storage::library::{SlabStorage, Write};

use super::{Failed, Store, in_portions, put_in_groups};
use crate::rows::{Row, Share};

struct Photon(SlabStorage);

pub fn open(directory: &Path, cache_bytes: u64) -> Result<Box<dyn Store>, Failed> {
    Ok(Box::new(Photon(SlabStorage::new(directory, cache_bytes >> 20, u64::MAX)?)))
}

impl Photon {
    fn write<'a>(&mut self, rows: impl Iterator<Item = &'a Row>) -> Result<(), Failed> {
        let writes: Vec<Write<'_>> = rows.map(|(key, value)| Write::Set(key, value)).collect();
        Ok(self.0.write_batch(&writes)?)
    }
}

impl Store for Photon {
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failed> {
        in_portions(rows, |portion| self.write(portion.iter()))
    }

    fn put(&mut self, rows: &[&Row]) -> Result<(), Failed> {
        self.write(rows.iter().copied())
    }

    fn put_side_by_side(&mut self, shares: Vec<Share<'_>>) -> Result<u64, Failed> {
        put_in_groups(self, shares)
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<usize>, Failed> {
        Ok(self.0.get(key)?.map(|value| value.to_vec().len()))
    }

    fn scan(&mut self, from: &[u8], rows: usize) -> Result<usize, Failed> {
        let found = self.0.range(from.to_vec().., rows)?;
        Ok(found.iter().map(|(_, value)| value.to_vec().len()).sum())
    }

    fn close(self: Box<Self>) -> Result<(), Failed> {
        Ok(self.0.close()?)
    }
}
