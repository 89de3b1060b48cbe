//! Secondary indexes as queries know them: the entries of a row, and the ranges of entries that a query asks for.
//!
//! Always: the entries of a row depend on nothing but the row and the index, so that what is removed with an old row is
//! what was added with it. A function that fails, or gives what cannot be a key, gives no entry. It gets a fixed amount of
//! fuel and never waits: one that uses it up gives no entry either. Work on large geometries pends now and then, so that whoever
//! polls it has others go first.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use photondb_proto::datum::{Datum, Slice, document, key};
use photondb_proto::error::QueryError;
use photondb_proto::limits;
use photondb_proto::op::{Key, KeyBound, KeyRange};

use crate::blob::StoredIndex;
use crate::call::Limits;
use crate::eval::Stop;
use crate::failure::{Failure, Outcome};
use crate::function::Function;
use crate::geo::pace::{Pace, at_once};
use crate::geo::question::{self, Question};
use crate::run::{Ops, Run};
use crate::terms::Evaluation;

/// Work that an index's function may do for one row: some milliseconds at most.
const ENTRY_FUEL: u32 = 50_000;
/// Memory that it may gather for one row.
const ENTRY_MEMORY_BYTES: usize = 64 << 20;

/// Makes the entries of rows in one index.
pub struct IndexWriter {
    function: Function,
    multi: bool,
    geo: bool,
    run: RefCell<Run>,
}

impl IndexWriter {
    /// # Errors
    /// The definition's bytes are none.
    pub fn new(definition: &[u8]) -> Result<IndexWriter, QueryError> {
        let StoredIndex { function, multi, geo } =
            StoredIndex::from_bytes(definition).map_err(Failure::into_query_error)?;
        Ok(IndexWriter { function, multi, geo, run: RefCell::new(fresh_run()) })
    }

    /// Keys of the row's entries, in order. `primary` is the row's key.
    pub async fn entries(&self, primary: &[u8], row: &Rc<[u8]>) -> Vec<Key> {
        self.entries_at(primary, row, &Pace::pending()).await
    }

    /// The same, unless they take long to make.
    pub fn entries_at_once(&self, primary: &[u8], row: &Rc<[u8]>) -> Option<Vec<Key>> {
        at_once(self.entries_at(primary, row, &Pace::brief()))
    }

    async fn entries_at(&self, primary: &[u8], row: &Rc<[u8]>, pace: &Pace<'_>) -> Vec<Key> {
        let Some(value) = self.value(row) else { return Vec::new() };
        let mut values: Vec<Key> = Vec::new();
        match (&value, self.multi) {
            (Datum::Array(items), true) => {
                for item in items.iter() {
                    self.add_keys(&item, &mut values, pace).await;
                }
            }
            (value, _) => self.add_keys(value, &mut values, pace).await,
        }
        values.sort();
        let mut entries: Vec<Key> = Vec::with_capacity(values.len());
        let mut repetition = 0;
        for (place, value) in values.iter().enumerate() {
            repetition = if place > 0 && values[place - 1] == *value { repetition + 1 } else { 0 };
            entries.push(key::entry(value, primary, repetition));
        }
        entries
    }

    /// What a row gives to a question of a geo index at one of its entries.
    pub async fn answers(&self, question: &Question, entry: &[u8], row: &Rc<[u8]>) -> Vec<Rc<[u8]>> {
        // An entry that is longer is for the same cell of another of the row's geometries.
        let is_first = |(cell, primary): &(&[u8], &[u8])| cell.len() + primary.len() == entry.len();
        let Some((cell, _)) = key::split_entry(entry).filter(is_first) else { return Vec::new() };
        let Some(value) = self.value(row) else { return Vec::new() };
        let pace = &Pace::pending();
        question.answers(&question::geometries(&value, self.multi, pace).await, cell, row, pace).await
    }

    /// Whether any geometry of the row has an answer to a question.
    pub async fn meets(&self, question: &Question, row: &Rc<[u8]>) -> bool {
        let Some(value) = self.value(row) else { return false };
        let pace = &Pace::pending();
        question.meets_any(&question::geometries(&value, self.multi, pace).await, row, pace).await
    }

    async fn add_keys(&self, value: &Datum, keys: &mut Vec<Key>, pace: &Pace<'_>) {
        pace.take(1).await;
        if self.geo {
            if let Some(shape) = question::geometry(value, pace).await {
                keys.extend(question::keys(&shape, pace).await);
            }
        } else if let Ok(key) = key::secondary(value) {
            keys.push(key);
        }
    }

    /// What the function gives for the row, if it gives anything.
    fn value(&self, row: &Rc<[u8]>) -> Option<Datum> {
        let row = document::decode(Slice::new(row.clone()));
        let mut run = self.run.borrow_mut();
        if run.memory_bytes() > 0 {
            *run = fresh_run();
        }
        run.refuel(ENTRY_FUEL);
        let arguments = std::slice::from_ref(&row);
        match self.function.datum_now(&run, arguments) {
            Ok(value) => return Some(value),
            Err(Stop::Failed(_)) => return None,
            Err(Stop::Later) => run.refuel(ENTRY_FUEL),
        }
        let mut later: Evaluation<'_, Datum> = Box::pin(self.function.datum(&run, arguments));
        match later.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(value) => value.ok(),
            Poll::Pending => None,
        }
    }
}

fn fresh_run() -> Run {
    let limits = Limits {
        array_elements_max: limits::ARRAY_ELEMENTS_DEFAULT,
        now_epoch_seconds: 0.0,
        value_bytes_max: ENTRY_MEMORY_BYTES,
    };
    Run::new(limits, ENTRY_MEMORY_BYTES, "".into(), Ops::Forbidden)
}

/// The entries of one value.
///
/// # Errors
/// What cannot be a key.
pub fn range_of_value(value: &Datum) -> Outcome<KeyRange> {
    Ok(range_of_key(&key::secondary_bound(value)?))
}

/// The entries of the value with this key.
pub fn range_of_key(key: &[u8]) -> KeyRange {
    KeyRange { start: KeyBound::Included(key.to_vec()), end: KeyBound::Excluded(key::behind_entries(key)) }
}

/// The entries of the values between two bounds.
///
/// # Errors
/// What cannot be a key.
pub fn range_between(left: &Datum, left_open: bool, right: &Datum, right_open: bool) -> Outcome<KeyRange> {
    let start = match left {
        Datum::MinVal => KeyBound::Unbounded,
        left => {
            let key = key::secondary_bound(left)?;
            KeyBound::Included(if left_open { key::behind_entries(&key) } else { key })
        }
    };
    let end = match right {
        Datum::MaxVal => KeyBound::Unbounded,
        right => {
            let key = key::secondary_bound(right)?;
            KeyBound::Excluded(if right_open { key } else { key::behind_entries(&key) })
        }
    };
    Ok(KeyRange { start, end })
}
