//! Sequences as recipes: a source of rows and the stages each row goes through.
//!
//! Always: a recipe is immutable and cheap to extend; nothing is read before a [`Cursor`] is opened over it. A stage whose
//! function travels goes to the rows with the scan ([`crate::push`]); the rest is done here, row by row, as the consumer
//! pulls. So nothing is gathered unless a consumer gathers it, within `array_limit` and the query's memory budget.

use std::rc::Rc;

use photondb_proto::datum::{Array, Datum};
use photondb_proto::op::{IndexId, IndexInfo, Key, KeyBound, KeyRange, Scan, ScanOrder, ScanRange};
use photondb_proto::rows::RowForm;

use crate::call::check_array_size;
use crate::cursor::Cursor;
use crate::failure::{Failure, Outcome, Place};
use crate::feed::FeedBranch;
use crate::fields::RowTerm;
use crate::fold::FoldSource;
use crate::function::Function;
use crate::geo::question::Question;
use crate::join::Join;
use crate::merge::{OrderedUnion, SortKeys};
use crate::run::Run;
use crate::value::{TableHandle, Value};

/// A stream, a selection or a slice: how to get its rows.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub source: Source,
    pub stages: Vec<Stage>,
    /// The table whose rows these are, unchanged.
    pub table: Option<TableHandle>,
    pub kind: SequenceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceKind {
    /// A table between bounds, or ordered by an index: may still be bounded, ordered.
    Slice,
    /// Some rows of a table, unchanged: may be written to.
    Selection,
    Stream,
}

/// Where rows come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Rows at hand.
    Rows(Array),
    /// Integers from `start` until before `end`.
    Range {
        start: i64,
        end: Option<i64>,
    },
    Scan(TableScan),
    /// The values of a secondary index, each once, in order.
    IndexValues(TableScan),
    /// Rows by primary key, in that order.
    Keys {
        table: TableHandle,
        keys: Rc<Vec<Key>>,
    },
    /// One after another.
    Concatenation(Rc<Vec<Rc<Sequence>>>),
    /// The function of one row of each, until the shortest ends.
    Parallel {
        sequences: Rc<Vec<Rc<Sequence>>>,
        function: Function,
    },
    OrderedUnion(Rc<OrderedUnion>),
    Join(Rc<Join>),
    Fold(Rc<FoldSource>),
    /// Changes as they come; several feeds for a union of them.
    Feed(Rc<Vec<FeedBranch>>),
}

/// All rows of a table within ranges of keys, or within ranges of an index's entries.
#[derive(Clone, Debug)]
pub struct TableScan {
    pub table: TableHandle,
    pub index: ScanIndex,
    /// Ascending, none overlaps; those that cannot hold anything are left out.
    pub ranges: Rc<[ScanRange]>,
    pub order: ScanOrder,
    /// Decide between rows that the order leaves equal.
    pub further: Option<Rc<SortKeys>>,
    /// What BETWEEN was told, for INFO; at most one BETWEEN applies.
    pub bounds: Option<Rc<Bounds>>,
    /// What is asked of the geometries of a geo index.
    pub question: Option<Rc<Question>>,
}

/// What a scan walks along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanIndex {
    Primary,
    Secondary(Rc<IndexInfo>),
}

impl ScanIndex {
    /// `None`: the primary key.
    pub fn id(&self) -> Option<IndexId> {
        match self {
            ScanIndex::Primary => None,
            ScanIndex::Secondary(index) => Some(index.id),
        }
    }

    pub fn name<'a>(&'a self, table: &'a TableHandle) -> &'a str {
        match self {
            ScanIndex::Primary => &table.info.primary_key,
            ScanIndex::Secondary(index) => &index.name,
        }
    }
}

impl TableScan {
    pub fn new(table: TableHandle, index: ScanIndex) -> TableScan {
        let ranges = ranges_of([KeyRange::all()]);
        TableScan { table, index, ranges, order: ScanOrder::Any, further: None, bounds: None, question: None }
    }

    /// Walks along that index from now on.
    ///
    /// # Errors
    /// It is bounded along another.
    pub fn choose(&mut self, index: ScanIndex) -> Outcome<()> {
        if self.bounds.is_some() && self.index != index {
            return Err(Failure::logic(format!(
                "Cannot order by index `{}` after calling BETWEEN on index `{}`.",
                index.name(&self.table),
                self.index.name(&self.table)
            )));
        }
        self.index = index;
        Ok(())
    }

    /// The first step of it.
    pub fn step(&self, order: ScanOrder, pipeline: Vec<u8>, rows_max: u32, bytes_max: u32) -> Scan {
        Scan {
            index: self.index.id(),
            ranges: self.ranges.to_vec(),
            order,
            resume: None,
            pipeline,
            question: self.question.as_ref().map_or_else(Vec::new, |question| question.bytes().to_vec()),
            form: RowForm::Document,
            bytes_max,
            rows_max,
        }
    }
}

/// Ranges for a scan: sorted, equal ones put together, without those that are empty whatever is stored. Ranges that overlap
/// must be equal.
pub fn ranges_of(ranges: impl IntoIterator<Item = KeyRange>) -> Rc<[ScanRange]> {
    let mut ranges: Vec<KeyRange> = ranges.into_iter().filter(|range| !is_empty_range(range)).collect();
    ranges.sort_by(|left, right| start(left).cmp(&start(right)));
    let mut out: Vec<ScanRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.range == range => last.copies += 1,
            Some(_) | None => out.push(ScanRange { range, copies: 1 }),
        }
    }
    out.into()
}

fn start(range: &KeyRange) -> Option<&Key> {
    match &range.start {
        KeyBound::Unbounded => None,
        KeyBound::Included(key) | KeyBound::Excluded(key) => Some(key),
    }
}

/// Whether a range holds nothing whatever is stored.
fn is_empty_range(range: &KeyRange) -> bool {
    match (&range.start, &range.end) {
        (KeyBound::Included(start), KeyBound::Included(end)) => start > end,
        (KeyBound::Included(start) | KeyBound::Excluded(start), KeyBound::Excluded(end))
        | (KeyBound::Excluded(start), KeyBound::Included(end)) => start >= end,
        (KeyBound::Unbounded, _) | (_, KeyBound::Unbounded) => false,
    }
}

#[derive(Debug)]
pub struct Bounds {
    pub left: Datum,
    pub right: Datum,
    pub left_open: bool,
    pub right_open: bool,
}

/// What is done with each row on its way.
#[derive(Clone, Debug)]
pub enum Stage {
    Map(Function),
    /// A row on which the function finds something missing is dropped, or the second function decides.
    Filter(Function, Option<Function>),
    ConcatMap(Function),
    /// Rows equal to this.
    Equal(Datum),
    Row(Rc<RowTerm>),
    Zip(Place),
    Skip(u64),
    Limit(u64),
}

impl Stage {
    /// Whether it may be done where the rows are.
    pub fn travels(&self) -> bool {
        match self {
            Stage::Map(function) | Stage::ConcatMap(function) => function.travels(),
            Stage::Filter(function, default) => {
                function.travels() && default.as_ref().is_none_or(Function::travels)
            }
            Stage::Row(term) => term.travels(),
            Stage::Zip(_) | Stage::Equal(_) => true,
            Stage::Skip(_) | Stage::Limit(_) => false,
        }
    }

    /// The functions it calls.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        let (own, merged): (Vec<&Function>, &[Function]) = match self {
            Stage::Map(function) | Stage::ConcatMap(function) => (vec![function], &[]),
            Stage::Filter(function, default) => (std::iter::once(function).chain(default).collect(), &[]),
            Stage::Row(term) => (Vec::new(), term.functions()),
            Stage::Equal(_) | Stage::Zip(_) | Stage::Skip(_) | Stage::Limit(_) => (Vec::new(), &[]),
        };
        own.into_iter().chain(merged)
    }
}

impl Sequence {
    pub fn new(source: Source) -> Sequence {
        Sequence { source, stages: Vec::new(), table: None, kind: SequenceKind::Stream }
    }

    pub fn of_array(array: Array) -> Sequence {
        Sequence::new(Source::Rows(array))
    }

    pub fn of_table(table: TableHandle) -> Sequence {
        let scan = TableScan::new(table.clone(), ScanIndex::Primary);
        Sequence {
            source: Source::Scan(scan),
            stages: Vec::new(),
            table: Some(table),
            kind: SequenceKind::Selection,
        }
    }

    /// Rows of a table at hand: SELECTION<ARRAY>.
    pub fn of_selected_rows(table: TableHandle, rows: Vec<Datum>) -> Sequence {
        Sequence {
            source: Source::Rows(Array::new(rows)),
            stages: Vec::new(),
            table: Some(table),
            kind: SequenceKind::Selection,
        }
    }

    /// With a stage that leaves rows as they are: a selection stays one.
    pub fn selecting(&self, stage: Stage) -> Sequence {
        let mut sequence = self.clone();
        sequence.stages.push(stage);
        if sequence.kind == SequenceKind::Slice {
            sequence.kind = SequenceKind::Selection;
        }
        sequence
    }

    /// With a stage that changes rows.
    pub fn transforming(&self, stage: Stage) -> Sequence {
        let mut sequence = self.clone();
        sequence.stages.push(stage);
        sequence.table = None;
        sequence.kind = SequenceKind::Stream;
        sequence
    }

    /// Whether the rows are at hand, so that results are arrays and not streams.
    pub fn is_eager(&self) -> bool {
        matches!(self.source, Source::Rows(_))
    }

    pub fn is_infinite(&self) -> bool {
        if self.stages.iter().any(|stage| matches!(stage, Stage::Limit(_))) {
            return false;
        }
        match &self.source {
            Source::Range { end, .. } => end.is_none(),
            Source::Concatenation(sequences) => sequences.iter().any(|sequence| sequence.is_infinite()),
            Source::Parallel { sequences, .. } => sequences.iter().all(|sequence| sequence.is_infinite()),
            Source::OrderedUnion(union) => union.sequences.iter().any(|sequence| sequence.is_infinite()),
            Source::Join(join) => join.is_infinite(),
            Source::Fold(fold) => fold.sequence.is_infinite(),
            Source::Feed(_) => true,
            Source::Rows(_) | Source::Scan(_) | Source::IndexValues(_) | Source::Keys { .. } => false,
        }
    }

    /// Whether changes are among its rows.
    pub fn has_feed(&self) -> bool {
        match &self.source {
            Source::Feed(_) => true,
            Source::Concatenation(sequences) => sequences.iter().any(|sequence| sequence.has_feed()),
            Source::Parallel { sequences, .. } => sequences.iter().any(|sequence| sequence.has_feed()),
            Source::OrderedUnion(union) => union.sequences.iter().any(|sequence| sequence.has_feed()),
            Source::Join(join) => join.has_feed(),
            Source::Fold(fold) => fold.sequence.has_feed(),
            Source::Rows(_)
            | Source::Range { .. }
            | Source::Scan(_)
            | Source::IndexValues(_)
            | Source::Keys { .. } => false,
        }
    }

    /// Refuses to run to the end of what has none.
    pub fn check_finite(&self) -> Outcome<()> {
        if self.is_infinite() {
            if self.has_feed() {
                return Err(Failure::logic(
                    "Cannot call a terminal (`reduce`, `count`, etc.) on an infinite stream (such as a changefeed).",
                ));
            }
            return Err(Failure::logic(
                "Cannot use an infinite stream with an aggregation function (`reduce`, `count`, etc.) or coerce it to an \
                 array.",
            ));
        }
        Ok(())
    }
}

/// The sequence a value is.
///
/// # Errors
/// `Cannot convert X to SEQUENCE` for data that are none; type errors for other things.
pub fn sequence_of(value: &Value) -> Outcome<Rc<Sequence>> {
    match value {
        Value::Sequence(sequence) => Ok(sequence.clone()),
        Value::Table(table) => Ok(Rc::new(Sequence::of_table(table.clone()))),
        Value::Datum(Datum::Array(array)) => Ok(Rc::new(Sequence::of_array(array.clone()))),
        Value::Datum(datum) => Err(not_a_sequence(datum)),
        Value::Row(row) => match row.document.get() {
            Some(Datum::Array(array)) => Ok(Rc::new(Sequence::of_array(array.clone()))),
            Some(datum) => Err(not_a_sequence(datum)),
            None => Err(value.wrong_kind("SEQUENCE")),
        },
        Value::Database(_) | Value::Function(_) | Value::Grouped(_) | Value::Ordering(_) => {
            Err(value.wrong_kind("SEQUENCE"))
        }
    }
}

fn not_a_sequence(datum: &Datum) -> Failure {
    let text = format!("Cannot convert {} to SEQUENCE", datum.type_name());
    if datum.is_null() { Failure::missing(text) } else { Failure::logic(text) }
}

/// All rows as an array, within `array_limit` and the memory budget.
pub async fn gather(run: &Run, sequence: &Sequence) -> Outcome<Datum> {
    Ok(Datum::array(gather_rows(run, sequence).await?))
}

pub async fn gather_rows(run: &Run, sequence: &Sequence) -> Outcome<Vec<Datum>> {
    sequence.check_finite()?;
    if let (Source::Rows(array), []) = (&sequence.source, sequence.stages.as_slice()) {
        return Ok(array.clone().into_vec());
    }
    let mut rows = Vec::new();
    let mut charge = run.charge();
    let mut cursor = Cursor::open(run, sequence, None)?;
    while let Some(row) = cursor.next(run).await? {
        charge.add(row.approximate_bytes())?;
        rows.push(row);
        check_array_size(rows.len(), &run.limits)?;
    }
    Ok(rows)
}
