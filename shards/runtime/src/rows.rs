//! Gathers the rows of one step of a scan, after the work that travelled to them.
//!
//! Always: what is gathered stays within the step's bounds in rows and bytes, give or take one row's results.

use std::rc::Rc;

use photondb_proto::error::QueryError;
use photondb_proto::op::{Scan, ScanOrder, ScanRow};
use photondb_storage::engine::Value;

use crate::core::Core;
use crate::env::Env;

/// What became of a row that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    GoOn,
    /// The step has enough; the row was taken.
    Full,
    /// The scan needs no more rows at all.
    End,
}

pub struct Rows {
    rows: Vec<ScanRow>,
    bytes: usize,
    bytes_max: usize,
    rows_max: usize,
    has_keys: bool,
}

impl Rows {
    pub fn new<E: Env>(core: &Rc<Core<E>>, scan: &Scan) -> Result<Rows, QueryError> {
        let _ = core;
        let has_keys = match scan.order {
            ScanOrder::Any => false,
            ScanOrder::Ascending | ScanOrder::Descending => true,
        };
        Ok(Rows {
            rows: Vec::new(),
            bytes: 0,
            bytes_max: scan.bytes_max as usize,
            rows_max: scan.rows_max as usize,
            has_keys,
        })
    }

    pub fn take(&mut self, key: &[u8], value: &Value) -> Result<Taken, QueryError> {
        let key = if self.has_keys { key.to_vec() } else { Vec::new() };
        self.bytes += key.len() + value.len();
        self.rows.push(ScanRow { key, value: value.to_vec() });
        Ok(if self.rows.len() >= self.rows_max || self.bytes >= self.bytes_max { Taken::Full } else { Taken::GoOn })
    }

    /// The rows, and the partial result of a terminal.
    pub fn end(self) -> Result<(Vec<ScanRow>, Option<Vec<u8>>), QueryError> {
        Ok((self.rows, None))
    }
}
