//! Gathers the rows of one step of a scan, after the work that travelled to them.
//!
//! Always: what is gathered stays within the step's bounds in rows and bytes, give or take one row's results.

use photondb_proto::error::QueryError;
use photondb_proto::op::{Scan, ScanOrder, ScanRow};
use photondb_query::push::{Flow, Pipeline};
use photondb_storage::engine::Value;

use crate::panics::caught;

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
    pipeline: Option<Pipeline>,
    rows: Vec<ScanRow>,
    bytes: usize,
    bytes_max: usize,
    rows_max: usize,
    has_keys: bool,
    taken: u64,
}

impl Rows {
    /// # Errors
    /// The pipeline's bytes are none.
    pub fn new(scan: &Scan) -> Result<Rows, QueryError> {
        let has_keys = match scan.order {
            ScanOrder::Any => false,
            ScanOrder::Keyed | ScanOrder::Ascending | ScanOrder::Descending => true,
        };
        let pipeline = if scan.pipeline.is_empty() { None } else { Some(Pipeline::decode(&scan.pipeline)?) };
        Ok(Rows {
            pipeline,
            rows: Vec::new(),
            bytes: 0,
            bytes_max: scan.bytes_max as usize,
            rows_max: scan.rows_max as usize,
            has_keys,
            taken: 0,
        })
    }

    /// Takes a row as often as it is to be given.
    ///
    /// # Errors
    /// The query's, from the work that travelled here.
    pub async fn take_copies(&mut self, key: &[u8], value: Value, copies: u32) -> Result<Taken, QueryError> {
        let mut is_full = false;
        for _ in 1..copies {
            match self.take(key, value.clone()).await? {
                Taken::GoOn => {}
                Taken::Full => is_full = true,
                Taken::End => return Ok(Taken::End),
            }
        }
        match self.take(key, value).await? {
            Taken::GoOn if is_full => Ok(Taken::Full),
            taken => Ok(taken),
        }
    }

    /// Rows that were offered so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// # Errors
    /// The query's, from the work that travelled here.
    pub async fn take(&mut self, key: &[u8], value: Value) -> Result<Taken, QueryError> {
        let key = if self.has_keys { key } else { &[] };
        self.taken += 1;
        let before = self.rows.len();
        let flow = match &mut self.pipeline {
            None => {
                self.rows.push(ScanRow { key: key.to_vec(), value: value.to_vec() });
                Flow::More
            }
            Some(pipeline) => caught(pipeline.feed(key, value, &mut self.rows)).await??,
        };
        self.bytes += self.rows[before..].iter().map(|row| row.key.len() + row.value.len()).sum::<usize>();
        let is_full = self.rows.len() >= self.rows_max || self.bytes >= self.bytes_max;
        Ok(match flow {
            Flow::Enough => Taken::End,
            Flow::More if is_full => Taken::Full,
            Flow::More => Taken::GoOn,
        })
    }

    /// The rows, and the partial result of a terminal.
    pub fn end(self) -> (Vec<ScanRow>, Option<Vec<u8>>) {
        (self.rows, self.pipeline.and_then(Pipeline::partial))
    }
}
