//! The quick way of a pipeline: filters and totals made of [`crate::scalar`] functions, over rows where they lie in the cache.
//!
//! Always: totals are those of [`crate::fold`], in the same place and the same order, so that rows of both ways mix: one that cannot
//! go this way goes the long way, whole. A batch is touched before it is looked at: what a scan of documents waits for
//! is memory, and so it waits for many of them at once.

use std::collections::HashMap;
use std::hint::black_box;

use photondb_proto::datum::Datum;
use photondb_proto::datum::document::put_bytes;
use photondb_proto::datum::raw::{Raw, Scalar};

use crate::eval::{Now, Stop};
use crate::fold::{Aggregation, GroupBy, Terminal, TerminalKind};
use crate::run::Run;
use crate::scalar::{self, Code, Escape};
use crate::stream::Stage;

/// Numbers whose groups are found without looking them up.
const RECENT: usize = 64;
/// Rows that are touched together.
pub const BATCH_ROWS: usize = 64;

/// What of a pipeline goes the quick way.
pub struct Quick {
    filters: Vec<Code>,
    /// When nothing stands between the filters and the terminal.
    totals: Option<Totals>,
}

/// What became of a row.
pub enum Passed {
    /// It is dropped, or counted already.
    Done,
    /// It goes on behind so many stages.
    From(usize),
}

impl Quick {
    /// `None` when nothing would be gained.
    pub fn of(run: &Run, stages: &[Stage], aggregation: Option<&Aggregation>) -> Option<Quick> {
        let filter = |stage: &Stage| match stage {
            Stage::Filter(function, None) => scalar::compile_filter(run, function),
            Stage::Filter(_, Some(_))
            | Stage::Map(_)
            | Stage::ConcatMap(_)
            | Stage::Row(_)
            | Stage::Equal(_)
            | Stage::Zip(_)
            | Stage::Skip(_)
            | Stage::Limit(_) => None,
        };
        let filters: Vec<Code> = stages.iter().map_while(filter).collect();
        let totals = match aggregation {
            Some(aggregation) if filters.len() == stages.len() => Totals::of(run, aggregation),
            Some(_) | None => None,
        };
        (totals.is_some() || !filters.is_empty()).then_some(Quick { filters, totals })
    }

    /// Lets the memory answer for a batch of rows at once.
    pub fn touch(&self, rows: &[&[u8]]) {
        // Where a field lies is in the first line of its row.
        let first = |touched: u8, row: &&[u8]| touched ^ row.first().copied().unwrap_or_default();
        let (mut touched, mut last) = (rows.iter().fold(0, first), usize::MAX);
        let mut touch = |hint| {
            // Functions of one field are many.
            if std::mem::replace(&mut last, hint) == hint {
                return;
            }
            for row in rows {
                touched ^= Raw::new(row).touch(hint);
            }
        };
        for code in self.filters.iter().chain(self.totals.iter().flat_map(Totals::codes)) {
            code.row_hints(&mut touch);
        }
        black_box(touched);
    }

    /// Sends a row through the filters and adds it to the total.
    pub fn take(&mut self, run: &Run, aggregation: Option<&mut Aggregation>, row: &[u8]) -> Now<Passed> {
        let row = Raw::new(row);
        for filter in &self.filters {
            match filter.scalar(row) {
                Ok(scalar) if scalar::is_truthy(scalar) => {}
                Ok(_) | Err(Escape::Missing) => return Ok(Passed::Done),
                Err(Escape::Elsewhere) => return Ok(Passed::From(0)),
            }
        }
        let (Some(totals), Some(aggregation)) = (&mut self.totals, aggregation) else {
            return Ok(Passed::From(self.filters.len()));
        };
        match aggregation.add_quick(run, totals, row) {
            Err(Stop::Later) => Ok(Passed::From(self.filters.len())),
            other => other.map(|()| Passed::Done),
        }
    }
}

// ---------------------------------------------------------------- totals

/// How rows are counted.
pub struct Totals {
    /// What the terminal works on.
    subject: Option<Code>,
    /// What makes the key of a group.
    keys: Vec<Code>,
    /// Where the totals of groups stand, by the bytes of their keys.
    places: HashMap<Box<[u8]>, usize>,
    /// Some of them whose key is a number, by a part of its bits.
    recent: [Option<(u64, usize)>; RECENT],
    /// A key under way, and its bits when it is a number.
    key: Vec<u8>,
    number: Option<u64>,
}

impl Totals {
    fn of(run: &Run, aggregation: &Aggregation) -> Option<Totals> {
        let Terminal { kind, function, first, .. } = aggregation.terminal();
        let subject = match (kind, function) {
            (TerminalKind::Count, _) => None,
            (TerminalKind::First, _) => {
                let (key, _) = first.as_ref()?.keys.0.first()?;
                Some(scalar::compile(run, key)?)
            }
            (
                TerminalKind::Sum | TerminalKind::Average | TerminalKind::Min | TerminalKind::Max,
                Some(function),
            ) => Some(scalar::compile(run, function)?),
            (TerminalKind::Sum | TerminalKind::Average | TerminalKind::Min | TerminalKind::Max, None)
            | (TerminalKind::Reduce | TerminalKind::Distinct | TerminalKind::Rows, _) => return None,
        };
        let keys = match aggregation.group() {
            None => Vec::new(),
            Some(GroupBy { by_entry: false, multi: false, stages, functions, .. }) if stages.is_empty() => {
                functions.iter().map(|function| scalar::compile(run, function)).collect::<Option<_>>()?
            }
            Some(_) => return None,
        };
        let (places, recent) = (HashMap::new(), [None; RECENT]);
        Some(Totals { subject, keys, places, recent, key: Vec::new(), number: None })
    }

    fn codes(&self) -> impl Iterator<Item = &Code> {
        self.keys.iter().chain(&self.subject)
    }

    /// What a row adds; `None` when it does not count.
    pub fn subject<'a>(&'a self, row: Raw<'a>) -> Result<Option<Scalar<'a>>, Escape> {
        match &self.subject {
            None => Ok(Some(Scalar::Null)),
            Some(code) => match code.scalar(row) {
                Ok(scalar) => Ok(Some(scalar)),
                Err(Escape::Missing) => Ok(None),
                Err(Escape::Elsewhere) => Err(Escape::Elsewhere),
            },
        }
    }

    /// Whether rows are grouped.
    pub fn is_grouped(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Where the total of a row's group stands, if one does: the key is noted for [`Totals::remember`].
    pub fn find(&mut self, row: Raw<'_>) -> Result<Option<usize>, Escape> {
        self.number = None;
        self.key.clear();
        for code in &self.keys {
            let part = part(code, row)?;
            if let (Scalar::Number(number), [_]) = (part, self.keys.as_slice()) {
                let bits = (number + 0.0).to_bits();
                self.number = Some(bits);
                if let Some((known, place)) = self.recent[slot(bits)]
                    && known == bits
                {
                    return Ok(Some(place));
                }
            }
            match part {
                Scalar::Null => self.key.push(0),
                Scalar::Bool(value) => self.key.push(1 + u8::from(value)),
                Scalar::Number(number) => {
                    self.key.push(3);
                    // Of zeros there are two.
                    self.key.extend_from_slice(&(number + 0.0).to_bits().to_le_bytes());
                }
                Scalar::Text(text) => {
                    self.key.push(4);
                    put_bytes(text, &mut self.key);
                }
                // A time's zone is shown, though it does not count.
                Scalar::Time(_) | Scalar::Other => return Err(Escape::Elsewhere),
            }
        }
        let place = self.places.get(self.key.as_slice()).copied();
        if let (Some(place), Some(bits)) = (place, self.number) {
            self.recent[slot(bits)] = Some((bits, place));
        }
        Ok(place)
    }

    /// The group of a row that [`Totals::find`] has looked for.
    pub fn group(&self, row: Raw<'_>) -> Result<Datum, Escape> {
        let datum = |code: &Code| datum_of(part(code, row)?).ok_or(Escape::Elsewhere);
        match self.keys.as_slice() {
            [code] => datum(code),
            codes => Ok(Datum::array(codes.iter().map(datum).collect::<Result<_, _>>()?)),
        }
    }

    pub fn remember(&mut self, place: usize) {
        self.places.insert(self.key.as_slice().into(), place);
    }
}

fn slot(bits: u64) -> usize {
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize
}

/// A part of a group's key: what is missing is null.
fn part<'a>(code: &'a Code, row: Raw<'a>) -> Result<Scalar<'a>, Escape> {
    match code.scalar(row) {
        Err(Escape::Missing) => Ok(Scalar::Null),
        other => other,
    }
}

/// The datum that a scalar is.
pub fn datum_of(scalar: Scalar<'_>) -> Option<Datum> {
    match scalar {
        Scalar::Null => Some(Datum::Null),
        Scalar::Bool(value) => Some(Datum::Bool(value)),
        Scalar::Number(number) => Some(Datum::Number(number)),
        Scalar::Text(text) => Some(Datum::string(std::str::from_utf8(text).ok()?)),
        // A time's zone is shown, though it does not count.
        Scalar::Time(_) | Scalar::Other => None,
    }
}
