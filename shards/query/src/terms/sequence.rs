//! Sequences row by row: MAP, FILTER, CONCAT_MAP, UNION, RANGE, CONTAINS, IS_EMPTY, OFFSETS_OF, FOLD.
//!
//! On an array at hand these are done at once; on streams they become stages, done as rows are pulled or where the rows are.

use std::rc::Rc;

use photondb_proto::datum::{Array, Datum};
use photondb_proto::term::number;

use super::order::{check_no_args, sort_keys};
use super::{Arity, Determinism, Eval, Groups, Invocation, SequenceLater, SequenceNow, TermDef};
use crate::call::{check_array_size, integer};
use crate::cursor::Cursor;
use crate::eval::{Now, Stop};
use crate::failure::{Failure, Outcome};
use crate::fold::{self, FoldSource};
use crate::function::{Function, Meaning};
use crate::group::Grouped;
use crate::merge::OrderedUnion;
use crate::run::Run;
use crate::stream::{self, Sequence, Source, Stage, sequence_of};
use crate::value::Value;

/// A deterministic term over sequences.
pub const fn sequence(
    name: &'static str,
    number: u32,
    arity: Arity,
    groups: Groups,
    now: SequenceNow,
    later: SequenceLater,
) -> TermDef {
    let eval = Eval::Sequence { now, later, groups };
    TermDef { name, number, arity, options: &[], determinism: Determinism::Always, eval }
}

pub const fn with_options(mut def: TermDef, options: &'static [&'static str]) -> TermDef {
    def.options = options;
    def
}

/// For terms that have nothing to do at once.
pub fn never_now(_: &Run, _: &Invocation) -> Now<Value> {
    Err(Stop::Later)
}

/// Rows of an array that a term handles at once; longer ones are handled row by row, so that others have their turn.
const AT_ONCE: usize = 1000;

/// The array an argument is, when it is short enough to be handled at once.
pub fn short_array(invocation: &Invocation, index: usize) -> Now<Array> {
    match &invocation.call.arguments[index].value {
        Value::Datum(Datum::Array(array)) if array.len() <= AT_ONCE => Ok(array.clone()),
        _ => Err(Stop::Later),
    }
}

pub static TERMS: &[TermDef] = &[
    sequence("MAP", number::MAP, Arity::at_least(2), Groups::Whole, map_now, |run, invocation| {
        Box::pin(map(run, invocation))
    }),
    with_options(
        sequence(
            "FILTER",
            number::FILTER,
            Arity::exactly(2),
            Groups::Whole,
            filter_now,
            |run, invocation| Box::pin(filter(run, invocation)),
        ),
        &["default"],
    ),
    sequence(
        "CONCAT_MAP",
        number::CONCAT_MAP,
        Arity::exactly(2),
        Groups::Whole,
        never_now,
        |run, invocation| Box::pin(concat_map(run, invocation)),
    ),
    with_options(
        sequence("UNION", number::UNION, Arity::at_least(0), Groups::Each, never_now, |run, invocation| {
            Box::pin(union(run, invocation))
        }),
        &["interleave"],
    ),
    sequence("RANGE", number::RANGE, Arity::between(0, 2), Groups::Each, range, |_, _| {
        Box::pin(async { Err(Failure::internal("a range never waits")) })
    }),
    sequence(
        "CONTAINS",
        number::CONTAINS,
        Arity::at_least(1),
        Groups::Each,
        contains_now,
        |run, invocation| Box::pin(contains(run, invocation)),
    ),
    sequence(
        "IS_EMPTY",
        number::IS_EMPTY,
        Arity::exactly(1),
        Groups::Each,
        is_empty_now,
        |run, invocation| {
            Box::pin(async move {
                let sequence = invocation.sequence(0)?;
                let mut cursor = Cursor::open(run, &sequence, Some(1))?;
                Ok(Value::Datum(Datum::Bool(cursor.next(run).await?.is_none())))
            })
        },
    ),
    sequence(
        "OFFSETS_OF",
        number::OFFSETS_OF,
        Arity::exactly(2),
        Groups::Each,
        never_now,
        |run, invocation| Box::pin(offsets_of(run, invocation)),
    ),
    with_options(
        sequence("FOLD", number::FOLD, Arity::exactly(3), Groups::Each, never_now, |run, invocation| {
            Box::pin(fold_term(run, invocation))
        }),
        &["emit", "final_emit"],
    ),
];

/// Adds a stage to whatever the first argument is: an array (done at once), a stream, or grouped rows.
pub async fn staged(run: &Run, invocation: &Invocation, stage: Stage) -> Outcome<Value> {
    let selects = matches!(stage, Stage::Filter(..) | Stage::Equal(_) | Stage::Skip(_) | Stage::Limit(_));
    match &invocation.call.arguments[0].value {
        Value::Grouped(grouped) => staged_groups(run, grouped, stage).await,
        other => {
            let sequence = sequence_of(other)?;
            let staged = if selects { sequence.selecting(stage) } else { sequence.transforming(stage) };
            finished(run, staged).await
        }
    }
}

/// An array when the rows are at hand, else the recipe.
pub async fn finished(run: &Run, sequence: Sequence) -> Outcome<Value> {
    if !sequence.is_eager() {
        return Ok(Value::Sequence(Rc::new(sequence)));
    }
    let rows = stream::gather_rows(run, &sequence).await?;
    Ok(match sequence.table {
        Some(table) => Value::Sequence(Rc::new(Sequence::of_selected_rows(table, rows))),
        None => Value::Datum(Datum::array(rows)),
    })
}

async fn staged_groups(run: &Run, grouped: &Grouped, stage: Stage) -> Outcome<Value> {
    match grouped {
        Grouped::Stream { sequence, group } => {
            let mut group = group.clone();
            group.stages.push(stage);
            let sequence = sequence.clone();
            Ok(Value::Grouped(Rc::new(Grouped::Stream { sequence, group })))
        }
        Grouped::Data(groups) => {
            let mut results = Vec::with_capacity(groups.len());
            for (key, value) in groups {
                let sequence = sequence_of(&Value::Datum(value.clone()))?.transforming(stage.clone());
                results.push((key.clone(), stream::gather(run, &sequence).await?));
            }
            Ok(Value::Grouped(Rc::new(Grouped::Data(results))))
        }
    }
}

// ---------------------------------------------------------------- map, filter, concat_map

fn map_now(run: &Run, invocation: &Invocation) -> Now<Value> {
    if invocation.count() != 2 {
        return Err(Stop::Later);
    }
    let array = short_array(invocation, 0)?;
    let function = invocation.function(1, Meaning::Nothing)?;
    let mut rows = Vec::with_capacity(array.len());
    for row in array.iter() {
        if !run.spend() {
            return Err(Stop::Later);
        }
        rows.push(function.datum_now(run, &[row])?);
    }
    Ok(Value::Datum(Datum::array(rows)))
}

async fn map(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let sequences = invocation.count() - 1;
    if sequences == 1 {
        // The receiver is looked at first.
        if !matches!(invocation.call.arguments[0].value, Value::Grouped(_)) {
            invocation.sequence(0)?;
        }
        let function = invocation.function(1, Meaning::Nothing)?;
        return staged(run, &invocation, Stage::Map(function)).await;
    }
    let function = invocation.function(sequences, Meaning::Nothing)?;
    if let Some(arity) = function.arity()
        && arity != sequences
    {
        let plural = if arity == 1 { "argument" } else { "arguments" };
        return Err(Failure::logic(format!(
            "The function passed to `map` expects {arity} {plural}, but {sequences} sequences were found."
        )));
    }
    let list: Vec<Rc<Sequence>> =
        (0..sequences).map(|index| invocation.sequence(index)).collect::<Outcome<_>>()?;
    let eager = list.iter().all(|sequence| sequence.is_eager());
    let zipped = Sequence::new(Source::Parallel { sequences: Rc::new(list), function });
    if eager {
        return Ok(Value::Datum(stream::gather(run, &zipped).await?));
    }
    Ok(Value::Sequence(Rc::new(zipped)))
}

fn filter_default(invocation: &Invocation) -> Outcome<Option<Function>> {
    let Some(argument) = invocation.call.option("default") else { return Ok(None) };
    Function::from_value(&argument.value, Meaning::Constant, &argument.place).map(Some)
}

fn filter_now(run: &Run, invocation: &Invocation) -> Now<Value> {
    let array = short_array(invocation, 0)?;
    let function = invocation.function(1, Meaning::Constant)?;
    let default = filter_default(invocation)?;
    let mut kept = Vec::new();
    for row in array.iter() {
        if !run.spend() {
            return Err(Stop::Later);
        }
        let result = match function.datum_now(run, std::slice::from_ref(&row)) {
            Ok(datum) => function.accepts(&datum, &row),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Later) => return Err(Stop::Later),
        };
        match (result, &default) {
            (Ok(true), _) => kept.push(row),
            (Ok(false), _) => {}
            (Err(failure), None) if failure.is_missing() => {}
            (Err(failure), Some(_)) if failure.is_missing() => return Err(Stop::Later),
            (Err(failure), _) => return Err(Stop::Failed(failure)),
        }
    }
    Ok(Value::Datum(Datum::array(kept)))
}

async fn filter(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let function = invocation.function(1, Meaning::Constant)?;
    let default = filter_default(&invocation)?;
    staged(run, &invocation, Stage::Filter(function, default)).await
}

async fn concat_map(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let function = invocation.function(1, Meaning::Nothing)?;
    staged(run, &invocation, Stage::ConcatMap(function)).await
}

// ---------------------------------------------------------------- union, range

async fn union(run: &Run, invocation: Invocation) -> Outcome<Value> {
    if invocation.call.option("interleave").is_some() {
        check_no_args(&invocation)?;
    }
    let sequences: Vec<Rc<Sequence>> =
        (0..invocation.count()).map(|index| invocation.sequence(index)).collect::<Outcome<_>>()?;
    let eager = sequences.iter().all(|sequence| sequence.is_eager());
    let order = match invocation.call.option("interleave") {
        None => None,
        Some(argument) => match argument.value.as_datum() {
            Some(Datum::Bool(_)) => None,
            Some(_) | None => Some(sort_keys(&argument.value, &argument.place)?),
        },
    };
    let source = match order {
        None => united(sequences),
        Some(keys) => {
            if sequences.iter().any(|sequence| sequence.is_infinite()) {
                return Err(Failure::logic("Cannot use an infinite stream with an ordered `union`."));
            }
            Source::OrderedUnion(Rc::new(OrderedUnion { sequences, keys }))
        }
    };
    let united = Sequence::new(source);
    if eager {
        return Ok(Value::Datum(stream::gather(run, &united).await?));
    }
    Ok(Value::Sequence(Rc::new(united)))
}

/// One after another; feeds have no end and are followed together, behind all others.
fn united(sequences: Vec<Rc<Sequence>>) -> Source {
    let mut branches = Vec::new();
    let mut others = Vec::new();
    for sequence in sequences {
        match &sequence.source {
            Source::Feed(feeds) => branches.extend(feeds.iter().map(|feed| {
                let mut feed = feed.clone();
                feed.stages.extend_from_slice(&sequence.stages);
                feed
            })),
            _ => others.push(sequence),
        }
    }
    let feed = Source::Feed(Rc::new(branches));
    match (&feed, others.is_empty()) {
        (Source::Feed(branches), _) if branches.is_empty() => Source::Concatenation(Rc::new(others)),
        (_, true) => feed,
        (_, false) => {
            others.push(Rc::new(Sequence::new(feed)));
            Source::Concatenation(Rc::new(others))
        }
    }
}

fn range(_: &Run, invocation: &Invocation) -> Now<Value> {
    let bound = |index: usize| -> Outcome<i64> {
        let number = invocation.number(index)?;
        integer(number).map_err(|failure| failure.at(&invocation.call.arguments[index].place))
    };
    let (start, end) = match invocation.count() {
        0 => (0, None),
        1 => (0, Some(bound(0)?)),
        _ => (bound(0)?, Some(bound(1)?)),
    };
    Ok(Value::Sequence(Rc::new(Sequence::new(Source::Range { start, end }))))
}

// ---------------------------------------------------------------- searching

/// What CONTAINS still looks for.
struct Wanted {
    data: Vec<Datum>,
    functions: Vec<Function>,
}

impl Wanted {
    fn new(invocation: &Invocation) -> Outcome<Wanted> {
        let mut wanted = Wanted { data: Vec::new(), functions: Vec::new() };
        for index in 1..invocation.count() {
            match &invocation.call.arguments[index].value {
                Value::Function(function) => wanted.functions.push(function.clone()),
                _ => wanted.data.push(invocation.datum(index)?),
            }
        }
        Ok(wanted)
    }

    fn is_found(&self) -> bool {
        self.data.is_empty() && self.functions.is_empty()
    }

    /// Strikes off one datum that equals the row; false when there is none.
    fn strike_datum(&mut self, row: &Datum) -> bool {
        match self.data.iter().position(|datum| datum == row) {
            Some(found) => {
                self.data.swap_remove(found);
                true
            }
            None => false,
        }
    }
}

fn contains_now(run: &Run, invocation: &Invocation) -> Now<Value> {
    let array = short_array(invocation, 0)?;
    let mut wanted = Wanted::new(invocation)?;
    for row in array.iter() {
        if wanted.is_found() {
            break;
        }
        if wanted.strike_datum(&row) {
            continue;
        }
        for index in 0..wanted.functions.len() {
            if wanted.functions[index].datum_now(run, std::slice::from_ref(&row))?.is_truthy() {
                wanted.functions.swap_remove(index);
                break;
            }
        }
    }
    Ok(Value::Datum(Datum::Bool(wanted.is_found())))
}

async fn contains(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let sequence = invocation.sequence(0)?;
    let mut wanted = Wanted::new(&invocation)?;
    let mut cursor = Cursor::open(run, &sequence, None)?;
    while !wanted.is_found() {
        let Some(row) = cursor.next(run).await? else { break };
        if wanted.strike_datum(&row) {
            continue;
        }
        for index in 0..wanted.functions.len() {
            if wanted.functions[index].datum(run, std::slice::from_ref(&row)).await?.is_truthy() {
                wanted.functions.swap_remove(index);
                break;
            }
        }
    }
    Ok(Value::Datum(Datum::Bool(wanted.is_found())))
}

fn is_empty_now(_: &Run, invocation: &Invocation) -> Now<Value> {
    match &invocation.call.arguments[0].value {
        Value::Datum(Datum::Array(array)) => Ok(Value::Datum(Datum::Bool(array.is_empty()))),
        _ => Err(Stop::Later),
    }
}

async fn offsets_of(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let sequence = invocation.sequence(0)?;
    let wanted = Wanted::new(&invocation)?;
    let mut cursor = Cursor::open(run, &sequence, None)?;
    let mut offsets = Vec::new();
    let mut offset = 0.0;
    while let Some(row) = cursor.next(run).await? {
        let found = match wanted.functions.first() {
            Some(function) => function.datum(run, std::slice::from_ref(&row)).await?.is_truthy(),
            None => wanted.data.first() == Some(&row),
        };
        if found {
            offsets.push(Datum::Number(offset));
            check_array_size(offsets.len(), &run.limits)?;
        }
        offset += 1.0;
    }
    Ok(Value::Datum(Datum::array(offsets)))
}

// ---------------------------------------------------------------- fold

async fn fold_term(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let sequence = invocation.sequence(0)?;
    let base = invocation.datum(1)?;
    let function = invocation.function(2, Meaning::Nothing)?;
    if function.arity().is_some_and(|arity| arity != 2) {
        return Err(Failure::logic("The accumulator function passed to `fold` should expect 2 arguments"));
    }
    let option = |name: &str| -> Outcome<Option<Function>> {
        let Some(argument) = invocation.call.option(name) else { return Ok(None) };
        Function::from_value(&argument.value, Meaning::Nothing, &argument.place).map(Some)
    };
    match option("emit")? {
        None => {
            invocation.blame(0, sequence.check_finite())?;
            let mut value = fold::fold(run, &sequence, base, &function).await?;
            if let Some(last) = option("final_emit")? {
                value = last.datum(run, &[value]).await?;
            }
            Ok(Value::Datum(value))
        }
        Some(emit) => {
            let eager = sequence.is_eager();
            let source = FoldSource { sequence, base, function, emit, final_emit: option("final_emit")? };
            let folded = Sequence::new(Source::Fold(Rc::new(source)));
            if eager {
                return Ok(Value::Datum(stream::gather(run, &folded).await?));
            }
            Ok(Value::Sequence(Rc::new(folded)))
        }
    }
}
