//! `_debug_scratch`: a table in the memory of the catalog's owner, for trying out what system tables and their clients do.
//!
//! Always: bounded, and empty after a start.

use std::cell::RefCell;
use std::collections::BTreeMap;

use photondb_proto::error::QueryError;
use photondb_proto::op::{Document, Key};

use crate::catalog::failed;

/// Keys and documents together; each read copies all of them.
const BYTES_MAX: usize = 1 << 20;

/// The rows by key.
#[derive(Debug, Default)]
pub struct Scratch {
    rows: RefCell<BTreeMap<Key, Document>>,
}

impl Scratch {
    pub fn row(&self, key: &[u8]) -> Option<Document> {
        self.rows.borrow().get(key).cloned()
    }

    pub fn documents(&self) -> Vec<Document> {
        self.rows.borrow().values().cloned().collect()
    }

    /// Puts a row in the place of the one under its key, or nothing.
    ///
    /// # Errors
    /// The table is full.
    pub fn set(&self, key: &[u8], new: Option<Document>) -> Result<(), QueryError> {
        let mut rows = self.rows.borrow_mut();
        let Some(new) = new else {
            rows.remove(key);
            return Ok(());
        };
        let others = rows.iter().filter(|(other, _)| other.as_slice() != key);
        let bytes: usize = others.map(|(key, row)| key.len() + row.len()).sum();
        if bytes + key.len() + new.len() > BYTES_MAX {
            return Err(failed(format!(
                "The `rethinkdb._debug_scratch` table holds at most {BYTES_MAX} bytes."
            )));
        }
        rows.insert(key.to_vec(), new);
        Ok(())
    }
}
