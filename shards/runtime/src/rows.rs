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

/// How far more than a step may give a sweep may go before it is given up.
const OVERFLOW: usize = 4;

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

/// What rows were there at some moment.
pub struct Mark {
    rows: usize,
    bytes: usize,
    taken: u64,
}

/// What became of rows that a sweep showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    GoOn,
    /// More came of them than a step should give.
    TooMuch,
    /// The scan needs no more rows at all.
    End,
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

    /// Lets the core's other tasks have their turn.
    pub async fn turn(&self) {
        (self.turns)().await;
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

    pub fn is_full(&self) -> bool {
        self.rows.len() >= self.rows_max || self.rows.bytes() >= self.bytes_max
    }

    fn measure(&self, flow: Flow) -> Taken {
        match flow {
            Flow::Enough => Taken::End,
            Flow::More if self.is_full() => Taken::Full,
            Flow::More => Taken::GoOn,
        }
    }

    /// Makes room for so many rows of so many bytes.
    pub fn expect(&mut self, rows: usize, bytes: usize) {
        if self.pipeline.is_none() {
            self.rows.expect(rows, bytes.min(self.bytes_max));
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

    /// How many rows a sweep may take beside those of `before`, which gave nothing like a step's bound; 0 if a sweep cannot be taken back
    /// should it give too much.
    pub fn sweep_rows(&self, before: usize) -> usize {
        match &self.pipeline {
            Some(pipeline) if !self.has_keys && pipeline.has_terminal() => usize::MAX,
            // Stages keep nothing of rows, so what they gave can be thrown away.
            Some(_) if !self.has_keys => before,
            Some(_) | None => 0,
        }
    }

    /// What [`Rows::take_back`] goes back to.
    pub fn mark(&self) -> Mark {
        Mark { rows: self.rows.len(), bytes: self.rows.bytes(), taken: self.taken }
    }

    /// Forgets rows that a pipeline without a terminal gave.
    pub fn take_back(&mut self, mark: &Mark) {
        self.rows.truncate(mark.rows);
        self.taken = mark.taken;
    }

    /// How full the step has become since, in parts of 256 of its bounds.
    pub fn filled(&self, mark: &Mark) -> usize {
        let part = |now: usize, before: usize, max: usize| (now - before) * 256 / max.max(1);
        part(self.rows.len(), mark.rows, self.rows_max).max(part(
            self.rows.bytes(),
            mark.bytes,
            self.bytes_max,
        ))
    }

    /// Takes rows that a sweep shows. It goes on when there is enough: where a sweep can end is not known before its end.
    ///
    /// # Errors
    /// The query's, from the work that travelled here.
    pub async fn swept(&mut self, values: &[&[u8]]) -> Result<Swept, QueryError> {
        let mut left = values;
        while let Some((first, behind)) = left.split_first() {
            let taken = if self.is_quick() {
                let count = self.see(left);
                left = &left[count..];
                self.seen().await?
            } else {
                left = behind;
                self.take(&[], Value::from(*first)).await?
            };
            match taken {
                Taken::GoOn => {}
                Taken::Full if self.rows.bytes() > OVERFLOW * self.bytes_max => return Ok(Swept::TooMuch),
                Taken::Full if self.rows.len() > OVERFLOW * self.rows_max => return Ok(Swept::TooMuch),
                Taken::Full => {}
                Taken::End => return Ok(Swept::End),
            }
        }
        Ok(Swept::GoOn)
    }

    /// The rows, and the partial result of a terminal.
    pub fn end(self) -> (RowBlock, Option<Vec<u8>>) {
        (self.rows, self.pipeline.and_then(Pipeline::partial))
    }
}
