//! redb: a copy-on-write B-tree, no compression, through the page cache. One write transaction at a time.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{Failed, Store, in_portions, on_threads};
use crate::rows::{Row, Share};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

struct Redb(Database);

pub fn open(directory: &Path, cache_bytes: u64) -> Result<Box<dyn Store>, Failed> {
    let mut builder = Database::builder();
    builder.set_cache_size(usize::try_from(cache_bytes)?);
    Ok(Box::new(Redb(builder.create(directory.join("redb"))?)))
}

impl Redb {
    fn write<'a>(&self, rows: impl Iterator<Item = &'a Row>, durability: Durability) -> Result<(), Failed> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in rows {
                table.insert(&key[..], &value[..])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Store for Redb {
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failed> {
        in_portions(rows, |portion| self.write(portion.iter(), Durability::None))?;
        self.write(std::iter::empty(), Durability::Immediate)
    }

    fn put(&mut self, rows: &[&Row]) -> Result<(), Failed> {
        self.write(rows.iter().copied(), Durability::Immediate)
    }

    fn put_side_by_side(&mut self, shares: Vec<Share<'_>>) -> Result<u64, Failed> {
        on_threads(shares, |row| self.write(std::iter::once(row), Durability::Immediate))
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<usize>, Failed> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| value.value().to_vec().len()))
    }

    fn scan(&mut self, from: &[u8], rows: usize) -> Result<usize, Failed> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let found = table.range(from..)?.take(rows);
        found.map(|row| Ok(row?.1.value().to_vec().len())).sum()
    }

    fn close(self: Box<Self>) -> Result<(), Failed> {
        Ok(())
    }
}
