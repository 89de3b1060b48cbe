//! Gathers the rows of one step of a scan, after the work that travelled to them.
//!
//! Always: what is gathered stays within the step's bounds in rows and bytes, give or take one row's results.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use photondb_proto::error::QueryError;
use photondb_proto::op::{Scan, ScanOrder};
use photondb_proto::rows::RowBlock;
use photondb_query::push::{Flow, Pipeline, Seen};
use photondb_query::quick::BATCH_ROWS;
use photondb_storage::engine::Value;

use crate::env::Env;
use crate::panics::{caught_in_turns, caught_step};

/// What became of a row that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    GoOn,
    /// The step has enough; the row was taken.
    Full,
    /// The scan needs no more rows at all.
    End,
}

/// Waits until the core's other tasks have had their turn.
pub type Turns = Rc<dyn Fn() -> Pin<Box<dyn Future<Output = ()>>>>;

/// The turns of a world.
pub fn turns(env: &impl Env) -> Turns {
    let env = env.clone();
    Rc::new(move || {
        let env = env.clone();
        Box::pin(async move { env.next_turn().await })
    })
}

pub struct Rows {
    pipeline: Option<Pipeline>,
    rows: RowBlock,
    bytes_max: usize,
    rows_max: usize,
    has_keys: bool,
    taken: u64,
    /// What ended a visit before its rows did.
    stopped: Option<Stopped>,
    turns: Turns,
}

enum Stopped {
    Full,
    /// The last row that was taken waits.
    Waits,
    Failed(QueryError),
}

impl Rows {
    /// # Errors
    /// The pipeline's bytes are none.
    pub fn new(scan: &Scan, turns: Turns) -> Result<Rows, QueryError> {
        let has_keys = match scan.order {
            ScanOrder::Any => false,
            ScanOrder::Keyed | ScanOrder::Ascending | ScanOrder::Descending => true,
        };
        let pipeline = if scan.pipeline.is_empty() { None } else { Some(Pipeline::decode(&scan.pipeline)?) };
        Ok(Rows {
            pipeline,
            rows: RowBlock::new(scan.form),
            bytes_max: scan.bytes_max as usize,
            rows_max: scan.rows_max as usize,
            has_keys,
            taken: 0,
            stopped: None,
            turns,
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
        let flow = match &mut self.pipeline {
            None => {
                self.rows.push_in_turns(key, &value, async || (self.turns)().await).await;
                Flow::More
            }
            Some(pipeline) => {
                caught_in_turns(pipeline.feed(key, value, &mut self.rows), async || (self.turns)().await)
                    .await??
            }
        };
        Ok(self.measure(flow))
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.rows_max || self.rows.bytes() >= self.bytes_max
    }

    fn measure(&self, flow: Flow) -> Taken {
        match flow {
            Flow::Enough => Taken::End,
            Flow::More if self.is_full() => Taken::Full,
            Flow::More => Taken::GoOn,
        }
    }

    /// How many of the rows that are offered next will be taken at most; `None` when it depends on them.
    pub fn room(&self) -> Option<usize> {
        self.pipeline.is_none().then(|| self.rows_max.saturating_sub(self.rows.len()))
    }

    /// Whether rows may be [seen](Rows::see) where they lie.
    pub fn is_quick(&self) -> bool {
        !self.has_keys && self.pipeline.as_ref().is_some_and(Pipeline::is_quick)
    }

    /// Takes rows that lie in memory, and says how many. [`Rows::seen`] is to be asked then.
    pub fn see(&mut self, values: &[&[u8]]) -> usize {
        let Some(pipeline) = &mut self.pipeline else { return 0 };
        let mut taken = 0;
        for batch in values.chunks(BATCH_ROWS) {
            let seen = caught_step(|| pipeline.see(batch, &mut self.rows, self.rows_max));
            let seen = seen.unwrap_or_else(Err);
            let is_full = self.rows.bytes() >= self.bytes_max;
            let (count, stopped) = match seen {
                Ok(Seen::All) => (batch.len(), is_full.then_some(Stopped::Full)),
                Ok(Seen::Some(count)) => (count, Some(Stopped::Full)),
                Ok(Seen::Waits(count)) => (count, Some(Stopped::Waits)),
                Err(error) => (batch.len(), Some(Stopped::Failed(error))),
            };
            taken += count;
            if stopped.is_some() {
                self.stopped = stopped;
                break;
            }
        }
        self.taken += taken as u64;
        taken
    }

    /// What is to be done after rows were seen.
    ///
    /// # Errors
    /// The query's, from the work that travelled here.
    pub async fn seen(&mut self) -> Result<Taken, QueryError> {
        match (self.stopped.take(), &mut self.pipeline) {
            (Some(Stopped::Failed(error)), _) => Err(error),
            (Some(Stopped::Full), _) => Ok(Taken::Full),
            (Some(Stopped::Waits), Some(pipeline)) => {
                let work = pipeline.go_on(&[], &mut self.rows);
                let flow = caught_in_turns(work, async || (self.turns)().await).await??;
                Ok(self.measure(flow))
            }
            (Some(Stopped::Waits) | None, _) => Ok(Taken::GoOn),
        }
    }

    /// The rows, and the partial result of a terminal.
    pub fn end(self) -> (RowBlock, Option<Vec<u8>>) {
        (self.rows, self.pipeline.and_then(Pipeline::partial))
    }
}
