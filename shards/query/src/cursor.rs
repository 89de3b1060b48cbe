//! Cursors: rows pulled from a [`Sequence`], one at a time, with the stages that did not travel done here.
//!
//! Always: a row's stages are done only when it is asked for; a limit that is reached closes everything before it. The
//! stages live apart from the source ([`Stages`]), so that [`crate::push`] drives the very same code.

use std::collections::VecDeque;

use photondb_proto::datum::{Array, Datum, document};
use photondb_proto::op::{TableRead, TableReply};

use crate::eval::{self, Now, Stop};
use crate::failure::{Failure, Outcome};
use crate::feed::FeedCursor;
use crate::fold::FoldCursor;
use crate::join::JoinCursor;
use crate::merge::UnionCursor;
use crate::run::{Run, wrong_reply};
use crate::scan::{self, ScanCursor, ValuesCursor};
use crate::stream::{Sequence, Source, Stage, sequence_of};
use crate::terms::Evaluation;
use crate::ties::TiesCursor;
use crate::value::{TableHandle, Value};

/// Keys read together by `get_all`.
const KEYS_TOGETHER: usize = 128;

/// Gives the rows of a sequence.
pub struct Cursor {
    source: SourceCursor,
    stages: Stages,
}

enum SourceCursor {
    Rows {
        array: Array,
        index: usize,
        built: bool,
        items: VecDeque<Datum>,
    },
    Range {
        next: i64,
        end: Option<i64>,
    },
    Scan(ScanCursor),
    IndexValues(ValuesCursor),
    Ties(Box<TiesCursor>),
    Keys {
        table: TableHandle,
        keys: std::rc::Rc<Vec<Vec<u8>>>,
        index: usize,
        rows: VecDeque<Datum>,
    },
    Concatenation {
        sequences: std::rc::Rc<Vec<std::rc::Rc<Sequence>>>,
        index: usize,
        current: Option<Box<Cursor>>,
    },
    Parallel {
        cursors: Vec<Cursor>,
        function: crate::function::Function,
    },
    OrderedUnion(Box<UnionCursor>),
    Join(Box<JoinCursor>),
    Fold(Box<FoldCursor>),
    Feed(FeedCursor),
}

impl Cursor {
    /// Opens a cursor. `wanted` is about how many rows will be pulled, when that is known to be few.
    pub fn open(run: &Run, sequence: &Sequence, wanted: Option<u64>) -> Outcome<Cursor> {
        let mut travelling = 0;
        let source = match &sequence.source {
            Source::Rows(array) => {
                SourceCursor::Rows { array: array.clone(), index: 0, built: false, items: VecDeque::new() }
            }
            Source::Range { start, end } => SourceCursor::Range { next: *start, end: *end },
            // What decides between equal rows are the rows themselves: nothing is done with them before.
            Source::Scan(scan) if let Some(keys) = &scan.further => SourceCursor::Ties(Box::new(
                TiesCursor::new(ScanCursor::new(scan, Vec::new(), wanted), keys.clone()),
            )),
            Source::Scan(scan) => {
                let (scan, left) = scan::open(run, scan, &sequence.stages, wanted)?;
                travelling = sequence.stages.len() - left.len();
                SourceCursor::Scan(scan)
            }
            Source::IndexValues(scan) => SourceCursor::IndexValues(ValuesCursor::open(run, scan, wanted)?),
            Source::Keys { table, keys } => SourceCursor::Keys {
                table: table.clone(),
                keys: keys.clone(),
                index: 0,
                rows: VecDeque::new(),
            },
            Source::Concatenation(sequences) => {
                SourceCursor::Concatenation { sequences: sequences.clone(), index: 0, current: None }
            }
            Source::Parallel { sequences, function } => SourceCursor::Parallel {
                cursors: sequences
                    .iter()
                    .map(|sequence| Cursor::open(run, sequence, wanted))
                    .collect::<Outcome<_>>()?,
                function: function.clone(),
            },
            Source::OrderedUnion(union) => {
                SourceCursor::OrderedUnion(Box::new(UnionCursor::open(run, union)?))
            }
            Source::Join(join) => SourceCursor::Join(Box::new(JoinCursor::open(run, join)?)),
            Source::Fold(fold) => SourceCursor::Fold(Box::new(FoldCursor::open(run, fold)?)),
            Source::Feed(branches) => SourceCursor::Feed(FeedCursor::new(branches)),
        };
        Ok(Cursor { source, stages: Stages::new(&sequence.stages[travelling..]) })
    }

    /// The next row. Rows at hand are given without waiting, and without the weight of a waiting future.
    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        match self.next_now(run) {
            Ok(row) => Ok(row),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Later) => boxed(self.next_later(run)).await,
        }
    }

    fn next_now(&mut self, run: &Run) -> Now<Option<Datum>> {
        loop {
            if self.stages.waiting.is_some() || !run.spend() {
                return Err(Stop::Later);
            }
            let (row, from) = match self.stages.expansions.last_mut() {
                Some(Expansion { stage, items: Items::Rows(rows) }) => match rows.pop_front() {
                    Some(row) => (row, *stage + 1),
                    None => {
                        self.stages.expansions.pop();
                        continue;
                    }
                },
                Some(Expansion { items: Items::Cursor(_), .. }) => return Err(Stop::Later),
                None if self.stages.closed => return Ok(None),
                None => match self.source.next_now() {
                    Some(Some(row)) => (row, 0),
                    Some(None) => return Ok(None),
                    None => return Err(Stop::Later),
                },
            };
            if let Some(row) = self.stages.pass_now(run, row, from)? {
                return Ok(Some(row));
            }
        }
    }

    async fn next_later(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        loop {
            run.tick().await;
            if let Some((stage, row)) = self.stages.waiting.take() {
                if let Some(row) = self.stages.pass(run, row, stage).await? {
                    return Ok(Some(row));
                }
                continue;
            }
            if let Some(expansion) = self.stages.expansions.last_mut() {
                let stage = expansion.stage;
                match expansion.items.next(run).await? {
                    Some(row) => {
                        if let Some(row) = self.stages.pass(run, row, stage + 1).await? {
                            return Ok(Some(row));
                        }
                    }
                    None => {
                        self.stages.expansions.pop();
                    }
                }
                continue;
            }
            if self.stages.is_closed() {
                return Ok(None);
            }
            let Some(row) = self.source.next(run).await? else { return Ok(None) };
            if let Some(row) = self.stages.pass(run, row, 0).await? {
                return Ok(Some(row));
            }
        }
    }

    /// No row will come any more, also where feeds are waited for.
    pub fn is_ended(&self) -> bool {
        self.stages.closed || matches!(&self.source, SourceCursor::Feed(feed) if feed.is_ended())
    }

    /// [`Cursor::next`] for cursors inside cursors.
    pub fn next_boxed<'a>(&'a mut self, run: &'a Run) -> Evaluation<'a, Option<Datum>> {
        Box::pin(self.next(run))
    }
}

impl SourceCursor {
    /// A row at hand, or the end; `None` when that takes waiting.
    fn next_now(&mut self) -> Option<Option<Datum>> {
        match self {
            SourceCursor::Rows { built: true, items, .. } => Some(items.pop_front()),
            SourceCursor::Range { next, end } => {
                if end.is_some_and(|end| *next >= end) {
                    return Some(None);
                }
                *next += 1;
                Some(Some(Datum::Number((*next - 1) as f64)))
            }
            SourceCursor::Scan(scan) => scan.at_hand().map(|row| Some(document::decode(row.value.into()))),
            SourceCursor::Keys { rows, .. } => rows.pop_front().map(Some),
            SourceCursor::Ties(ties) => ties.at_hand().map(Some),
            SourceCursor::Rows { built: false, .. }
            | SourceCursor::IndexValues(_)
            | SourceCursor::Concatenation { .. }
            | SourceCursor::Parallel { .. }
            | SourceCursor::OrderedUnion(_)
            | SourceCursor::Join(_)
            | SourceCursor::Fold(_)
            | SourceCursor::Feed(_) => None,
        }
    }

    async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        match self {
            SourceCursor::Rows { array, index, built, items } => {
                // Items of a view are found by walking; walk once.
                if !*built {
                    *items = array.iter().collect();
                    *built = true;
                }
                *index += 1;
                Ok(items.pop_front())
            }
            SourceCursor::Range { next, end } => {
                if end.is_some_and(|end| *next >= end) {
                    return Ok(None);
                }
                *next += 1;
                Ok(Some(Datum::Number((*next - 1) as f64)))
            }
            SourceCursor::Scan(scan) => {
                Ok(scan.next(run).await?.map(|row| document::decode(row.value.into())))
            }
            SourceCursor::IndexValues(values) => values.next(run).await,
            SourceCursor::Ties(ties) => boxed(ties.next(run)).await,
            SourceCursor::Keys { table, keys, index, rows } => loop {
                if let Some(row) = rows.pop_front() {
                    return Ok(Some(row));
                }
                if *index == keys.len() {
                    return Ok(None);
                }
                let end = keys.len().min(*index + KEYS_TOGETHER);
                let read = TableRead::GetMany { keys: keys[*index..end].to_vec() };
                *index = end;
                let TableReply::Rows(found) = run.read(table.info.id, read, table.mode).await? else {
                    return Err(wrong_reply());
                };
                rows.extend(found.into_iter().flatten().map(|bytes| document::decode(bytes.into())));
            },
            SourceCursor::Concatenation { sequences, index, current } => loop {
                if let Some(cursor) = current {
                    if let Some(row) = cursor.next_boxed(run).await? {
                        return Ok(Some(row));
                    }
                    // Feeds stand last: there may be more to come.
                    if sequences[*index - 1].has_feed() {
                        return Ok(None);
                    }
                    *current = None;
                }
                let Some(sequence) = sequences.get(*index) else { return Ok(None) };
                *index += 1;
                *current = Some(Box::new(Cursor::open(run, sequence, None)?));
            },
            SourceCursor::Parallel { cursors, function } => {
                let mut rows = Vec::with_capacity(cursors.len());
                for cursor in cursors {
                    match cursor.next_boxed(run).await? {
                        Some(row) => rows.push(row),
                        None => return Ok(None),
                    }
                }
                let row = match function.datum_now(run, &rows) {
                    Ok(datum) => datum,
                    Err(Stop::Failed(failure)) => return Err(failure),
                    Err(Stop::Later) => boxed(function.datum(run, &rows)).await?,
                };
                Ok(Some(row))
            }
            SourceCursor::OrderedUnion(union) => boxed(union.next(run)).await,
            SourceCursor::Join(join) => boxed(join.next(run)).await,
            SourceCursor::Fold(fold) => boxed(fold.next(run)).await,
            SourceCursor::Feed(feed) => boxed(feed.next(run)).await,
        }
    }
}

fn boxed<'a, T: 'a>(future: impl Future<Output = Outcome<T>> + 'a) -> Evaluation<'a, T> {
    Box::pin(future)
}

// ---------------------------------------------------------------- stages

/// Stages with their state.
pub struct Stages {
    stages: Vec<StageState>,
    /// Rows that CONCAT_MAP stages still have to give, the latest stage last.
    expansions: Vec<Expansion>,
    /// No row enters any more.
    closed: bool,
    /// A row whose stage has to wait, and that stage.
    waiting: Option<(usize, Datum)>,
}

struct StageState {
    stage: Stage,
    /// Rows seen by SKIP and LIMIT.
    seen: u64,
}

struct Expansion {
    stage: usize,
    items: Items,
}

enum Items {
    Rows(VecDeque<Datum>),
    Cursor(Box<Cursor>),
}

impl Items {
    async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        match self {
            Items::Rows(rows) => Ok(rows.pop_front()),
            Items::Cursor(cursor) => cursor.next_boxed(run).await,
        }
    }
}

/// What a stage made of a row.
enum Flow {
    Keep,
    Become(Datum),
    Drop,
    Expand(Value),
}

impl Stages {
    pub fn new(stages: &[Stage]) -> Stages {
        let closed = stages.iter().any(|stage| matches!(stage, Stage::Limit(0)));
        let stages = stages.iter().map(|stage| StageState { stage: stage.clone(), seen: 0 }).collect();
        Stages { stages, expansions: Vec::new(), closed, waiting: None }
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn count(&self) -> usize {
        self.stages.len()
    }

    /// [`Stages::pass`] without waiting. A row whose stage has to wait is kept for [`Stages::resume`].
    pub fn pass_now(&mut self, run: &Run, mut row: Datum, from: usize) -> Now<Option<Datum>> {
        for index in from..self.stages.len() {
            let flow = match self.stages[index].now(run, &row) {
                Ok(flow) => flow,
                Err(Stop::Failed(failure)) => return Err(Stop::Failed(failure)),
                Err(Stop::Later) => {
                    self.waiting = Some((index, row));
                    return Err(Stop::Later);
                }
            };
            match self.settle(run, index, flow)? {
                Some(kept) => row = kept.unwrap_or(row),
                None => return Ok(None),
            }
        }
        Ok(Some(row))
    }

    /// Does what a stage decided: `None` ends the row's way, `Some(None)` leaves the row as it is.
    fn settle(&mut self, run: &Run, index: usize, flow: Flow) -> Outcome<Option<Option<Datum>>> {
        let kept = match flow {
            Flow::Keep => None,
            Flow::Become(row) => Some(row),
            Flow::Drop => return Ok(None),
            Flow::Expand(value) => {
                let items = items_of(run, value, &self.stages[index].stage)?;
                self.expansions.push(Expansion { stage: index, items });
                return Ok(None);
            }
        };
        if self.stages[index].is_full() {
            self.expansions.retain(|expansion| expansion.stage > index);
            self.closed = true;
        }
        Ok(Some(kept))
    }

    /// Goes on with the row that [`Stages::pass_now`] kept.
    pub async fn resume(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        match self.waiting.take() {
            Some((index, row)) => self.pass(run, row, index).await,
            None => Ok(None),
        }
    }

    pub fn has_expansions(&self) -> bool {
        !self.expansions.is_empty()
    }

    /// Sends a row through the stages from `from` on. A row that expands gives its rows to [`Stages::next_expanded`].
    pub async fn pass(&mut self, run: &Run, mut row: Datum, from: usize) -> Outcome<Option<Datum>> {
        for index in from..self.stages.len() {
            let state = &mut self.stages[index];
            let flow = match state.now(run, &row) {
                Ok(flow) => flow,
                Err(Stop::Failed(failure)) => return Err(failure),
                Err(Stop::Later) => boxed(later(&state.stage, run, &row)).await?,
            };
            match self.settle(run, index, flow)? {
                Some(kept) => row = kept.unwrap_or(row),
                None => return Ok(None),
            }
        }
        Ok(Some(row))
    }

    /// The next row that expansions give, sent through the rest of the stages; for drivers without a source of their own.
    pub async fn next_expanded(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        while let Some(expansion) = self.expansions.last_mut() {
            let stage = expansion.stage;
            match expansion.items.next(run).await? {
                Some(row) => {
                    if let Some(row) = self.pass(run, row, stage + 1).await? {
                        return Ok(Some(row));
                    }
                }
                None => {
                    self.expansions.pop();
                }
            }
        }
        Ok(None)
    }
}

fn items_of(run: &Run, value: Value, stage: &Stage) -> Outcome<Items> {
    if let Value::Datum(Datum::Array(array)) = &value {
        return Ok(Items::Rows(array.iter().collect()));
    }
    let place = match stage {
        Stage::ConcatMap(function) => Some(function.place()),
        Stage::Map(_)
        | Stage::Filter(..)
        | Stage::Equal(_)
        | Stage::Row(_)
        | Stage::Zip(_)
        | Stage::Skip(_)
        | Stage::Limit(_) => None,
    };
    let sequence = sequence_of(&value).map_err(|failure| match place {
        Some(place) => failure.at(place),
        None => failure,
    })?;
    Ok(Items::Cursor(Box::new(Cursor::open(run, &sequence, None)?)))
}

impl StageState {
    fn is_full(&self) -> bool {
        matches!(self.stage, Stage::Limit(count) if self.seen >= count)
    }

    fn now(&mut self, run: &Run, row: &Datum) -> Now<Flow> {
        match &self.stage {
            Stage::Map(function) => function.datum_now(run, std::slice::from_ref(row)).map(Flow::Become),
            Stage::Filter(function, default) => {
                let result = function.datum_now(run, std::slice::from_ref(row));
                let accepted = match result {
                    Ok(datum) => function.accepts(&datum, row),
                    Err(Stop::Failed(failure)) => Err(failure),
                    Err(Stop::Later) => return Err(Stop::Later),
                };
                match accepted {
                    Ok(accepted) => Ok(kept(accepted)),
                    Err(failure) if failure.is_missing() => match default {
                        None => Ok(Flow::Drop),
                        Some(default) => match default.datum_now(run, &[]) {
                            Ok(datum) => Ok(kept(datum.is_truthy())),
                            Err(Stop::Failed(raised)) if raised.bare => Err(Stop::Failed(failure)),
                            Err(stop) => Err(stop),
                        },
                    },
                    Err(failure) => Err(Stop::Failed(failure)),
                }
            }
            Stage::ConcatMap(function) => match function.call_now(run, std::slice::from_ref(row))? {
                Value::Row(_) => Err(Stop::Later),
                value => Ok(Flow::Expand(value)),
            },
            Stage::Equal(wanted) => Ok(kept(wanted == row)),
            Stage::Row(term) => Ok(term.on_row(run, row)?.map_or(Flow::Drop, Flow::Become)),
            Stage::Zip(place) => {
                Ok(Flow::Become(crate::join::zip(row).map_err(|failure| failure.at(place))?))
            }
            Stage::Skip(count) => {
                self.seen += 1;
                Ok(if self.seen <= *count { Flow::Drop } else { Flow::Keep })
            }
            Stage::Limit(count) => {
                self.seen += 1;
                Ok(if self.seen > *count { Flow::Drop } else { Flow::Keep })
            }
        }
    }
}

fn kept(accepted: bool) -> Flow {
    if accepted { Flow::Keep } else { Flow::Drop }
}

/// The stages that call functions, in the waiting way.
async fn later(stage: &Stage, run: &Run, row: &Datum) -> Outcome<Flow> {
    let arguments = std::slice::from_ref(row);
    match stage {
        Stage::Map(function) => function.datum(run, arguments).await.map(Flow::Become),
        Stage::Filter(function, default) => {
            let result = function.datum(run, arguments).await;
            match result.and_then(|datum| function.accepts(&datum, row)) {
                Ok(accepted) => Ok(kept(accepted)),
                Err(failure) if failure.is_missing() => match default {
                    None => Ok(Flow::Drop),
                    Some(default) => match default.datum(run, &[]).await {
                        Ok(datum) => Ok(kept(datum.is_truthy())),
                        Err(raised) if raised.bare => Err(failure),
                        Err(raised) => Err(raised),
                    },
                },
                Err(failure) => Err(failure),
            }
        }
        Stage::ConcatMap(function) => {
            let value = function.call(run, arguments).await?;
            Ok(Flow::Expand(eval::loaded(run, value).await?))
        }
        Stage::Row(term) => Ok(term.on_row_later(run, row).await?.map_or(Flow::Drop, Flow::Become)),
        Stage::Equal(_) | Stage::Zip(_) | Stage::Skip(_) | Stage::Limit(_) => {
            Err(Failure::internal("a stage without functions never waits"))
        }
    }
}
