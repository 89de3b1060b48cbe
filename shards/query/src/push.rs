//! Work that travels to the rows: stages and a terminal as bytes, and the pipeline that carries them out there.
//!
//! Pipeline bytes, made and read by this file alone:
//!
//! | field | bytes |
//! |---|---|
//! | `array_limit` | varint |
//! | `now` | 8 bytes, double, epoch seconds |
//! | stages | count (varint), then each: tag, payload |
//! | terminal | 0: none; 1: tag, whether it has a function, function, of FIRST its count and keys, place; then whether it is grouped, the group |
//!
//! Functions are [`Function::encode`]'s; data are encoded documents. A pipeline is made once for a step of a scan and fed row by row;
//! it never asks for anything, and yields like any future of this crate when its fuel is used up.

use std::rc::Rc;

use photondb_proto::datum::document::{put_bytes, put_varint};
use photondb_proto::datum::{Datum, Slice, Text, document};
use photondb_proto::error::{Frame, QueryError};
use photondb_proto::rows::{HasBound, RowBlock};
use photondb_proto::term::{Term, wire};

use crate::call::Limits;
use crate::cursor::Stages;
use crate::eval::{Now, Stop};
use crate::failure::{Failure, Outcome, Place};
use crate::fields::{Comparison, Paths, Relation, RowTerm, Work};
use crate::first::First;
use crate::fold::{Aggregation, GroupBy, Terminal, TerminalKind};
use crate::function::{Function, Meaning};
use crate::merge::SortKeys;
use crate::quick::{Passed, Quick};
use crate::run::{Ops, Run};
use crate::stream::Stage;
use crate::terms::string::has_bound;
use crate::terms::{Determinism, Evaluation};
use crate::value::Direction;

/// Memory a pipeline may gather for the totals of one step.
const STEP_MEMORY_BYTES: usize = 256 << 20;

/// Whether a scan needs more rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    More,
    Enough,
}

/// How many rows of a batch were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    All,
    /// So many, and there is enough.
    Some(usize),
    /// So many; the last of them waits for [`Pipeline::go_on`].
    Waits(usize),
}

/// Carries out, where the rows are, what travelled there.
pub struct Pipeline {
    run: Run,
    stages: Stages,
    aggregation: Option<Aggregation>,
    quick: Option<Quick>,
    /// The row under way when it has to wait.
    fed: Option<Fed>,
}

enum Fed {
    /// It has passed no stage yet, or may pass those again that it has.
    Row(Datum),
    /// It has passed all.
    Passed(Datum),
}

impl Pipeline {
    /// # Errors
    /// Bytes that are no pipeline.
    pub fn decode(bytes: &[u8]) -> Result<Pipeline, QueryError> {
        decode(bytes).map_err(Failure::into_query_error)
    }

    /// Takes a row; what comes of it is added to `out`. What needs no waiting, which is nearly all, is done without the weight of
    /// a waiting future.
    ///
    /// # Errors
    /// The query's.
    pub async fn feed(&mut self, key: &[u8], row: Rc<[u8]>, out: &mut RowBlock) -> Result<Flow, QueryError> {
        match self.take_now(key, row, 0, out) {
            Ok(flow) => Ok(flow),
            Err(Stop::Failed(failure)) => Err(failure.into_query_error()),
            Err(Stop::Later) => self.go_on(key, out).await,
        }
    }

    /// Goes on with the row that waits.
    ///
    /// # Errors
    /// The query's.
    pub async fn go_on(&mut self, key: &[u8], out: &mut RowBlock) -> Result<Flow, QueryError> {
        let later: Evaluation<'_, Flow> = Box::pin(self.take_later(key, out));
        later.await.map_err(Failure::into_query_error)
    }

    /// Whether [`Pipeline::see`] is worth its while.
    pub fn is_quick(&self) -> bool {
        self.quick.is_some()
    }

    /// Whether rows go into a result and none comes out.
    pub fn has_terminal(&self) -> bool {
        self.aggregation.is_some()
    }

    /// Takes rows that lie in memory, without keys, and says how many it took; the last may [wait](Seen::Waits). `rows_max` bounds
    /// what is in `out`.
    ///
    /// # Errors
    /// The query's.
    pub fn see(&mut self, rows: &[&[u8]], out: &mut RowBlock, rows_max: usize) -> Result<Seen, QueryError> {
        let Some(quick) = &self.quick else { return Ok(Seen::All) };
        quick.touch(rows);
        for (index, row) in rows.iter().enumerate() {
            match self.see_one(row, out) {
                Ok(()) if out.len() >= rows_max => return Ok(Seen::Some(index + 1)),
                Ok(()) => {}
                Err(Stop::Failed(failure)) => return Err(failure.into_query_error()),
                Err(Stop::Later) => return Ok(Seen::Waits(index + 1)),
            }
        }
        Ok(Seen::All)
    }

    fn see_one(&mut self, row: &[u8], out: &mut RowBlock) -> Now<()> {
        let Some(quick) = &mut self.quick else { return Ok(()) };
        match quick.take(&self.run, self.aggregation.as_mut(), row)? {
            Passed::Done => {}
            Passed::From(stages) if self.aggregation.is_none() && stages == self.stages.count() => {
                out.push(&[], row);
            }
            Passed::From(stages) => {
                self.take_now(&[], row.into(), stages, out)?;
            }
        }
        Ok(())
    }

    fn take_now(&mut self, key: &[u8], row: Rc<[u8]>, from: usize, out: &mut RowBlock) -> Now<Flow> {
        let Pipeline { run, stages, aggregation, fed, quick: _ } = self;
        let row = document::decode(Slice::new(row));
        if !run.spend() {
            *fed = Some(Fed::Row(row));
            return Err(Stop::Later);
        }
        if let Some(row) = stages.pass_now(run, row, from)? {
            match aggregation {
                Some(aggregation) => match aggregation.feed_now(run, &row) {
                    Err(Stop::Later) => {
                        *fed = Some(Fed::Passed(row));
                        return Err(Stop::Later);
                    }
                    other => other?,
                },
                None => out.push_value(key, &row).map_err(|HasBound(name)| has_bound(name))?,
            }
        }
        if stages.has_expansions() {
            return Err(Stop::Later);
        }
        Ok(if stages.is_closed() { Flow::Enough } else { Flow::More })
    }

    /// Goes on where [`Pipeline::take_now`] stopped.
    async fn take_later(&mut self, key: &[u8], out: &mut RowBlock) -> Outcome<Flow> {
        let Pipeline { run, stages, aggregation, fed, quick: _ } = self;
        run.tick().await;
        let mut next = match fed.take() {
            Some(Fed::Row(row)) => stages.pass(run, row, 0).await?,
            Some(Fed::Passed(row)) => Some(row),
            None => stages.resume(run).await?,
        };
        loop {
            if let Some(row) = next {
                match aggregation {
                    Some(aggregation) => aggregation.feed(run, key, row).await?,
                    None => out.push_value(key, &row).map_err(|HasBound(name)| has_bound(name))?,
                }
            }
            next = stages.next_expanded(run).await?;
            if next.is_none() {
                return Ok(if stages.is_closed() { Flow::Enough } else { Flow::More });
            }
        }
    }

    /// The terminal's partial result, when there is a terminal.
    pub fn partial(self) -> Option<Vec<u8>> {
        self.aggregation.map(|aggregation| document::to_bytes(&aggregation.partial()))
    }
}

// ---------------------------------------------------------------- tags

const MAP: u8 = 1;
const FILTER: u8 = 2;
const FILTER_WITH_DEFAULT: u8 = 3;
const CONCAT_MAP: u8 = 4;
const FIELD: u8 = 5;
const PLUCK: u8 = 6;
const WITHOUT: u8 = 7;
const HAS_FIELDS: u8 = 8;
const WITH_FIELDS: u8 = 9;
const MERGE: u8 = 10;
const ZIP: u8 = 11;
const EQUAL: u8 = 12;
const INTERSECTS: u8 = 13;
const INCLUDES: u8 = 14;

const TERMINALS: [TerminalKind; 9] = [
    TerminalKind::Count,
    TerminalKind::Sum,
    TerminalKind::Average,
    TerminalKind::Min,
    TerminalKind::Max,
    TerminalKind::Reduce,
    TerminalKind::Distinct,
    TerminalKind::Rows,
    TerminalKind::First,
];

// ---------------------------------------------------------------- encoding

/// The bytes of stages and a terminal, all of which [travel](Stage::travels). Nothing at all is no bytes.
pub fn encode(
    run: &Run,
    stages: &[Stage],
    terminal: Option<(&Terminal, Option<&GroupBy>)>,
) -> Outcome<Vec<u8>> {
    let mut out = Vec::new();
    if stages.is_empty() && terminal.is_none() {
        return Ok(out);
    }
    put_varint(u32::try_from(run.limits.array_elements_max).unwrap_or(u32::MAX), &mut out);
    // Bytes that do not depend on the time are the same for every query that asks the same.
    let mut functions = stages.iter().flat_map(Stage::functions);
    let is_timeless =
        terminal.is_none() && functions.all(|function| function.determinism() == Determinism::Always);
    let now = if is_timeless { 0.0 } else { run.limits.now_epoch_seconds };
    out.extend_from_slice(&now.to_le_bytes());
    put_stages(stages, &mut out)?;
    match terminal {
        None => out.push(0),
        Some((terminal, group)) => {
            out.push(1);
            put_terminal(terminal, &mut out)?;
            match group {
                None => out.push(0),
                Some(group) => {
                    out.push(1);
                    put_group(group, &mut out)?;
                }
            }
        }
    }
    Ok(out)
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    put_varint(u32::try_from(count).expect("counts of a query fit"), out);
}

fn put_datum(datum: &Datum, out: &mut Vec<u8>) {
    put_bytes(&document::to_bytes(datum), out);
}

/// Places travel as functions without a body.
fn put_place(place: &Place, out: &mut Vec<u8>) {
    let term = Term::Datum(Datum::Null);
    wire::put_function(&wire::Function { term, captured: Vec::new(), row: None, place: place.frames() }, out);
}

fn put_stages(stages: &[Stage], out: &mut Vec<u8>) -> Outcome<()> {
    put_count(stages.len(), out);
    stages.iter().try_for_each(|stage| put_stage(stage, out))
}

fn put_stage(stage: &Stage, out: &mut Vec<u8>) -> Outcome<()> {
    match stage {
        Stage::Map(function) => {
            out.push(MAP);
            function.encode(out)
        }
        Stage::Filter(function, None) => {
            out.push(FILTER);
            function.encode(out)
        }
        Stage::Filter(function, Some(default)) => {
            out.push(FILTER_WITH_DEFAULT);
            function.encode(out)?;
            default.encode(out)
        }
        Stage::ConcatMap(function) => {
            out.push(CONCAT_MAP);
            function.encode(out)
        }
        Stage::Equal(datum) => {
            out.push(EQUAL);
            put_datum(datum, out);
            Ok(())
        }
        Stage::Row(term) => put_row_term(term, out),
        Stage::Zip(place) => {
            out.push(ZIP);
            put_place(place, out);
            Ok(())
        }
        Stage::Skip(_) | Stage::Limit(_) => Err(Failure::internal("this stage does not travel")),
    }
}

fn put_row_term(term: &RowTerm, out: &mut Vec<u8>) -> Outcome<()> {
    let (tag, data): (u8, &[Datum]) = match &term.work {
        Work::Field(_) => (FIELD, &[]),
        Work::Pluck(paths) => (PLUCK, &paths.spelled),
        Work::Without(paths) => (WITHOUT, &paths.spelled),
        Work::HasFields(paths) => (HAS_FIELDS, &paths.spelled),
        Work::WithFields(paths) => (WITH_FIELDS, &paths.spelled),
        Work::Merge(_) => (MERGE, &[]),
        Work::Compare(comparison) => match comparison.relation {
            Relation::Intersects => (INTERSECTS, &[]),
            Relation::Includes => (INCLUDES, &[]),
        },
    };
    out.push(tag);
    put_bytes(term.name.as_bytes(), out);
    put_place(&term.place, out);
    match &term.work {
        Work::Field(key) => put_datum(&Datum::String(key.clone()), out),
        Work::Merge(functions) => {
            put_count(functions.len(), out);
            functions.iter().try_for_each(|function| function.encode(out))?;
        }
        Work::Compare(comparison) => put_datum(&comparison.argument, out),
        Work::Pluck(_) | Work::Without(_) | Work::HasFields(_) | Work::WithFields(_) => {
            put_count(data.len(), out);
            data.iter().for_each(|datum| put_datum(datum, out));
        }
    }
    Ok(())
}

fn put_terminal(terminal: &Terminal, out: &mut Vec<u8>) -> Outcome<()> {
    let tag = TERMINALS.iter().position(|kind| *kind == terminal.kind).expect("every terminal is listed");
    out.push(tag as u8);
    match &terminal.function {
        None => out.push(0),
        Some(function) => {
            out.push(1);
            function.encode(out)?;
        }
    }
    if let Some(First { count, keys }) = terminal.first.as_deref() {
        put_count(*count, out);
        put_count(keys.0.len(), out);
        for (function, direction) in &keys.0 {
            out.push(u8::from(*direction == Direction::Descending));
            function.encode(out)?;
        }
    }
    put_place(&terminal.place, out);
    Ok(())
}

fn put_group(group: &GroupBy, out: &mut Vec<u8>) -> Outcome<()> {
    out.push(u8::from(group.by_entry));
    out.push(u8::from(group.multi));
    put_place(&group.place, out);
    put_count(group.functions.len(), out);
    group.functions.iter().try_for_each(|function| function.encode(out))?;
    put_stages(&group.stages, out)
}

// ---------------------------------------------------------------- decoding

fn broken(error: wire::WireError) -> Failure {
    Failure::internal(error.to_string())
}

fn decode(bytes: &[u8]) -> Outcome<Pipeline> {
    let mut reader = wire::Reader::new(bytes);
    if bytes.is_empty() {
        let limits = Limits {
            array_elements_max: usize::MAX,
            now_epoch_seconds: 0.0,
            value_bytes_max: STEP_MEMORY_BYTES,
        };
        return Ok(pipeline(limits, &[], None));
    }
    let array_elements_max = reader.varint().map_err(broken)? as usize;
    let mut now = [0; 8];
    for byte in &mut now {
        *byte = reader.byte().map_err(broken)?;
    }
    let limits = Limits {
        array_elements_max,
        now_epoch_seconds: f64::from_le_bytes(now),
        value_bytes_max: STEP_MEMORY_BYTES,
    };
    let stages = stages(&mut reader)?;
    let mut aggregation = None;
    if flag(&mut reader)? {
        let terminal = terminal(&mut reader)?;
        let group = if flag(&mut reader)? { Some(group(&mut reader)?) } else { None };
        aggregation = Some(Aggregation::new(terminal, group));
    }
    if !reader.is_at_end() {
        return Err(Failure::internal("a pipeline has bytes behind its end"));
    }
    Ok(pipeline(limits, &stages, aggregation))
}

fn pipeline(limits: Limits, stages: &[Stage], aggregation: Option<Aggregation>) -> Pipeline {
    let run = Run::new(limits, STEP_MEMORY_BYTES, "".into(), Ops::Forbidden);
    let quick = Quick::of(&run, stages, aggregation.as_ref());
    Pipeline { run, stages: Stages::new(stages), aggregation, quick, fed: None }
}

fn flag(reader: &mut wire::Reader<'_>) -> Outcome<bool> {
    Ok(reader.byte().map_err(broken)? != 0)
}

fn place(reader: &mut wire::Reader<'_>) -> Outcome<Place> {
    let frames = reader.function().map_err(broken)?.place;
    Ok(frames.into_iter().fold(Place::root(), |place, frame: Frame| place.child(frame)))
}

fn functions(reader: &mut wire::Reader<'_>, meaning: Meaning) -> Outcome<Vec<Function>> {
    let count = reader.count().map_err(broken)?;
    (0..count).map(|_| Function::decode(reader, meaning)).collect()
}

fn stages(reader: &mut wire::Reader<'_>) -> Outcome<Vec<Stage>> {
    let count = reader.count().map_err(broken)?;
    (0..count).map(|_| stage(reader)).collect()
}

fn stage(reader: &mut wire::Reader<'_>) -> Outcome<Stage> {
    let tag = reader.byte().map_err(broken)?;
    Ok(match tag {
        MAP => Stage::Map(Function::decode(reader, Meaning::Field)?),
        FILTER => Stage::Filter(Function::decode(reader, Meaning::Constant)?, None),
        FILTER_WITH_DEFAULT => {
            let function = Function::decode(reader, Meaning::Constant)?;
            Stage::Filter(function, Some(Function::decode(reader, Meaning::Constant)?))
        }
        CONCAT_MAP => Stage::ConcatMap(Function::decode(reader, Meaning::Nothing)?),
        ZIP => Stage::Zip(place(reader)?),
        EQUAL => Stage::Equal(reader.datum().map_err(broken)?),
        FIELD | PLUCK | WITHOUT | HAS_FIELDS | WITH_FIELDS | MERGE | INTERSECTS | INCLUDES => {
            Stage::Row(Rc::new(row_term(tag, reader)?))
        }
        _ => return Err(Failure::internal("a pipeline has an unknown stage")),
    })
}

fn row_term(tag: u8, reader: &mut wire::Reader<'_>) -> Outcome<RowTerm> {
    let name = Text::new(reader.text().map_err(broken)?);
    let place = place(reader)?;
    let work = match tag {
        FIELD => match reader.datum().map_err(broken)? {
            Datum::String(key) => Work::Field(key),
            _ => return Err(Failure::internal("a field's name is text")),
        },
        INTERSECTS => Work::Compare(Comparison::intersects(reader.datum().map_err(broken)?)),
        INCLUDES => Work::Compare(Comparison::includes(reader.datum().map_err(broken)?)),
        MERGE => Work::Merge(functions(reader, Meaning::Constant)?),
        _ => {
            let count = reader.count().map_err(broken)?;
            let spelled = (0..count).map(|_| reader.datum().map_err(broken)).collect::<Outcome<_>>()?;
            let paths = Paths::new(spelled)?;
            match tag {
                PLUCK => Work::Pluck(paths),
                WITHOUT => Work::Without(paths),
                HAS_FIELDS => Work::HasFields(paths),
                _ => Work::WithFields(paths),
            }
        }
    };
    Ok(RowTerm { work, name, place })
}

fn terminal(reader: &mut wire::Reader<'_>) -> Outcome<Terminal> {
    let tag = reader.byte().map_err(broken)?;
    let kind = *TERMINALS
        .get(usize::from(tag))
        .ok_or_else(|| Failure::internal("a pipeline has an unknown terminal"))?;
    let function = if flag(reader)? { Some(Function::decode(reader, Meaning::Field)?) } else { None };
    let first = if kind == TerminalKind::First { Some(Rc::new(first(reader)?)) } else { None };
    Ok(Terminal { kind, function, first, place: place(reader)? })
}

fn first(reader: &mut wire::Reader<'_>) -> Outcome<First> {
    let count = reader.varint().map_err(broken)? as usize;
    let keys = (0..reader.count().map_err(broken)?).map(|_| {
        let direction = if flag(reader)? { Direction::Descending } else { Direction::Ascending };
        Ok((Function::decode(reader, Meaning::Field)?, direction))
    });
    Ok(First { count, keys: SortKeys(keys.collect::<Outcome<_>>()?) })
}

fn group(reader: &mut wire::Reader<'_>) -> Outcome<GroupBy> {
    let (by_entry, multi) = (flag(reader)?, flag(reader)?);
    let place = place(reader)?;
    let functions = functions(reader, Meaning::Field)?;
    Ok(GroupBy { functions, by_entry, multi, stages: stages(reader)?, place })
}
