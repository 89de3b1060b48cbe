//! COUNT, SUM, AVG, MIN, MAX, REDUCE, DISTINCT: one value of many rows, or one per group.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::op::ScanOrder;
use photondb_proto::term::number;

use super::sequence::{never_now, sequence, short_array, with_options};
use super::slice::selected;
use super::table::{ordered_index_option, slice_at, table_place};
use super::{Arity, Groups, Invocation, TermDef};
use crate::cursor::Cursor;
use crate::eval::{Now, Stop};
use crate::failure::{Failure, Outcome};
use crate::fold::{self, Aggregated, Terminal, TerminalKind};
use crate::function::{Function, Meaning};
use crate::group::{self, Grouped};
use crate::run::Run;
use crate::stream::{ScanIndex, Sequence, Source, Stage, sequence_of};
use crate::value::{SelectedRow, Value};

pub static TERMS: &[TermDef] = &[
    sequence("COUNT", number::COUNT, Arity::between(1, 2), Groups::Whole, count_now, |run, invocation| {
        Box::pin(count(run, invocation))
    }),
    sequence("SUM", number::SUM, Arity::between(1, 2), Groups::Whole, sum_now, |run, invocation| {
        Box::pin(over_field(run, invocation, TerminalKind::Sum))
    }),
    sequence("AVG", number::AVG, Arity::between(1, 2), Groups::Whole, never_now, |run, invocation| {
        Box::pin(over_field(run, invocation, TerminalKind::Average))
    }),
    with_options(
        sequence("MIN", number::MIN, Arity::between(1, 2), Groups::Whole, never_now, |run, invocation| {
            Box::pin(best(run, invocation, TerminalKind::Min))
        }),
        &["index"],
    ),
    with_options(
        sequence("MAX", number::MAX, Arity::between(1, 2), Groups::Whole, never_now, |run, invocation| {
            Box::pin(best(run, invocation, TerminalKind::Max))
        }),
        &["index"],
    ),
    sequence("REDUCE", number::REDUCE, Arity::exactly(2), Groups::Whole, never_now, |run, invocation| {
        Box::pin(reduce(run, invocation))
    }),
    with_options(
        sequence(
            "DISTINCT",
            number::DISTINCT,
            Arity::exactly(1),
            Groups::Whole,
            distinct_now,
            |run, invocation| Box::pin(distinct(run, invocation)),
        ),
        &["index"],
    ),
];

/// Runs a terminal over the first argument: a sequence, or groups of rows.
async fn terminate(
    run: &Run,
    invocation: &Invocation,
    kind: TerminalKind,
    function: Option<Function>,
    filter: Option<Stage>,
) -> Outcome<Value> {
    let terminal = Terminal { kind, function, first: None, place: invocation.place().clone() };
    match &invocation.call.arguments[0].value {
        Value::Grouped(grouped) => match &**grouped {
            Grouped::Stream { sequence, group } => {
                let mut group = group.clone();
                group.stages.extend(filter);
                into_value(fold::aggregate(run, sequence, terminal, Some(group)).await?)
            }
            Grouped::Data(_) => group::each(run, invocation.clone()).await,
        },
        receiver => {
            let sequence = sequence_of(receiver)?;
            invocation.blame(0, sequence.check_finite())?;
            let filtered = filter.map(|stage| sequence.selecting(stage));
            into_value(fold::aggregate(run, filtered.as_ref().unwrap_or(&sequence), terminal, None).await?)
        }
    }
}

fn into_value(aggregated: Aggregated) -> Outcome<Value> {
    Ok(match aggregated {
        Aggregated::Single(datum) => Value::Datum(datum),
        Aggregated::Groups(groups) => Value::Grouped(Rc::new(Grouped::Data(groups))),
    })
}

/// Grouped data whose groups hold single values already: the term applies to each by itself.
fn is_grouped_data(invocation: &Invocation) -> bool {
    matches!(&invocation.call.arguments[0].value, Value::Grouped(grouped) if matches!(**grouped, Grouped::Data(_)))
}

// ---------------------------------------------------------------- count

fn count_now(_: &Run, invocation: &Invocation) -> Now<Value> {
    let count = match &invocation.call.arguments[0].value {
        Value::Datum(_) if invocation.count() > 1 => return Err(Stop::Later),
        Value::Datum(Datum::Array(array)) => array.len(),
        Value::Datum(Datum::String(text)) => text.chars().count(),
        Value::Datum(Datum::Binary(bytes)) => bytes.len(),
        Value::Datum(datum @ Datum::Object(object)) if datum.pseudotype().is_none() => object.len(),
        _ => return Err(Stop::Later),
    };
    Ok(Value::Datum(Datum::Number(count as f64)))
}

async fn count(run: &Run, invocation: Invocation) -> Outcome<Value> {
    if is_grouped_data(&invocation) {
        return group::each(run, invocation).await;
    }
    let filter = match invocation.call.arguments.get(1) {
        None => None,
        Some(argument) => Some(match &argument.value {
            Value::Function(function) => Stage::Filter(function.clone(), None),
            _ => Stage::Equal(invocation.datum(1)?),
        }),
    };
    terminate(run, &invocation, TerminalKind::Count, None, filter).await
}

// ---------------------------------------------------------------- sum, avg, min, max

fn field_function(invocation: &Invocation) -> Outcome<Option<Function>> {
    if invocation.count() < 2 {
        return Ok(None);
    }
    invocation.function(1, Meaning::Field).map(Some)
}

fn sum_now(_: &Run, invocation: &Invocation) -> Now<Value> {
    if invocation.count() > 1 {
        return Err(Stop::Later);
    }
    let mut sum = 0.0;
    for item in short_array(invocation, 0)?.iter() {
        match item {
            Datum::Number(number) => sum += number,
            _ => return Err(Stop::Later),
        }
    }
    Ok(Value::Datum(crate::call::finite(sum)?))
}

async fn over_field(run: &Run, invocation: Invocation, kind: TerminalKind) -> Outcome<Value> {
    if is_grouped_data(&invocation) {
        return group::each(run, invocation).await;
    }
    let function = field_function(&invocation)?;
    terminate(run, &invocation, kind, function, None).await
}

async fn best(run: &Run, invocation: Invocation, kind: TerminalKind) -> Outcome<Value> {
    if is_grouped_data(&invocation) {
        return group::each(run, invocation).await;
    }
    let name = if kind == TerminalKind::Min { "min" } else { "max" };
    let function = field_function(&invocation)?;
    if invocation.call.option("index").is_none() {
        return terminate(run, &invocation, kind, function, None).await;
    }
    if function.is_some() {
        return Err(Failure::logic(format!("Cannot provide both a function and an index to {name}.")));
    }
    let mut slice = slice_at(&invocation, 0)?;
    let Source::Scan(scan) = &mut slice.source else { return Err(Failure::internal("a slice is a scan")) };
    if let Some(index) = ordered_index_option(&invocation, &scan.table)? {
        scan.choose(index).map_err(|failure| failure.at(table_place(&invocation)))?;
    }
    scan.order = if kind == TerminalKind::Min { ScanOrder::Ascending } else { ScanOrder::Descending };
    let mut cursor = Cursor::open(run, &slice, Some(1))?;
    match cursor.next(run).await? {
        Some(row) => selected(&slice, row, true),
        None => {
            let missing = Failure::missing(format!("`{name}` found no entries in the specified index."));
            let Some(table) = slice.table.clone() else { return Err(missing) };
            Ok(Value::Row(Rc::new(SelectedRow {
                table,
                key: Vec::new(),
                key_datum: Datum::Null,
                document: OnceCell::new(),
                missing: Some(missing.at(&invocation.node.place)),
                first_of: Some(Rc::new(slice)),
            })))
        }
    }
}

// ---------------------------------------------------------------- reduce, distinct

async fn reduce(run: &Run, invocation: Invocation) -> Outcome<Value> {
    if is_grouped_data(&invocation) {
        return group::each(run, invocation).await;
    }
    let function = invocation.function(1, Meaning::Nothing)?;
    terminate(run, &invocation, TerminalKind::Reduce, Some(function), None).await
}

fn distinct_now(_: &Run, invocation: &Invocation) -> Now<Value> {
    if invocation.call.option("index").is_some() {
        return Err(Stop::Later);
    }
    let array = short_array(invocation, 0)?;
    let values: BTreeSet<Datum> = array.iter().collect();
    Ok(Value::Datum(Datum::array(values.into_iter().collect())))
}

async fn distinct(run: &Run, invocation: Invocation) -> Outcome<Value> {
    if is_grouped_data(&invocation) {
        return group::each(run, invocation).await;
    }
    if invocation.call.option("index").is_none() {
        return terminate(run, &invocation, TerminalKind::Distinct, None, None).await;
    }
    let Ok(mut slice) = slice_at(&invocation, 0) else {
        return Err(Failure::logic("Can only perform an indexed distinct on a TABLE."));
    };
    let Source::Scan(scan) = &mut slice.source else { return Err(Failure::internal("a slice is a scan")) };
    if let Some(index) = ordered_index_option(&invocation, &scan.table)? {
        scan.choose(index).map_err(|failure| failure.at(table_place(&invocation)))?;
    }
    if scan.order == ScanOrder::Any {
        scan.order = ScanOrder::Ascending;
    }
    if scan.index != ScanIndex::Primary {
        return Ok(Value::Sequence(Rc::new(Sequence::new(Source::IndexValues(scan.clone())))));
    }
    // Primary keys are distinct already: the keys in order.
    let key = Datum::string(&scan.table.info.primary_key);
    let keys = Function::of_datum(key, Meaning::Field, invocation.place().clone());
    let keys = slice.transforming(Stage::Map(keys));
    Ok(Value::Sequence(Rc::new(keys)))
}
