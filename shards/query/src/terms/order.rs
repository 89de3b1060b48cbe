//! ORDER_BY, ASC, DESC.
//!
//! By an index the rows are read in order. By anything else they are gathered and sorted, stably; rows that lack a key come
//! before all others, behind them when descending.

use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::op::ScanOrder;
use photondb_proto::term::number;

use super::sequence::with_options;
use super::table::{ordered_index_option, table_place};
use super::{Arity, Determinism, Eval, Invocation, TermDef};
use crate::call::Argument;
use crate::direct::Direct;
use crate::failure::{Failure, Outcome, Place};
use crate::first::First;
use crate::fold::{self, Aggregated, Terminal, TerminalKind};
use crate::function::{Function, Meaning};
use crate::group;
use crate::merge::SortKeys;
use crate::run::{Run, wrong_reply};
use crate::stream::{self, ScanIndex, Sequence, SequenceKind, Source};
use crate::value::{Direction, Ordering, Value};

const fn marker(name: &'static str, number: u32, eval: Eval) -> TermDef {
    TermDef { name, number, arity: Arity::exactly(1), options: &[], determinism: Determinism::Always, eval }
}

pub static TERMS: &[TermDef] = &[
    marker(
        "ASC",
        number::ASC,
        Eval::Strict(|_, invocation| Box::pin(async move { Ok(marked(&invocation, Direction::Ascending)) })),
    ),
    marker(
        "DESC",
        number::DESC,
        Eval::Strict(|_, invocation| Box::pin(async move { Ok(marked(&invocation, Direction::Descending)) })),
    ),
    with_options(
        TermDef {
            name: "ORDER_BY",
            number: number::ORDER_BY,
            arity: Arity::at_least(1),
            options: &[],
            determinism: Determinism::Always,
            eval: Eval::Strict(|run, invocation| Box::pin(order_by(run, invocation))),
        },
        &["index"],
    ),
];

fn marked(invocation: &Invocation, direction: Direction) -> Value {
    let Argument { value, place } = invocation.call.arguments[0].clone();
    Value::Ordering(Rc::new(Ordering { direction, value, place, next: None }))
}

/// One sort key: a field's name or a function, perhaps marked.
fn sort_key(value: &Value, place: &Place) -> Outcome<(Function, Direction)> {
    match value {
        Value::Ordering(ordering) => {
            let function = Function::from_value(&ordering.value, Meaning::Field, &ordering.place)?;
            Ok((function, ordering.direction))
        }
        other => Ok((Function::from_value(other, Meaning::Field, place)?, Direction::Ascending)),
    }
}

/// An array of orderings, which are not data; the checker puts it in the place of MAKE_ARRAY.
pub static ORDERINGS: TermDef = TermDef {
    name: "MAKE_ARRAY",
    number: number::MAKE_ARRAY,
    arity: Arity::at_least(0),
    options: &[],
    determinism: Determinism::Always,
    eval: Eval::Strict(|_, invocation| Box::pin(async move { Ok(orderings(&invocation)) })),
};

fn orderings(invocation: &Invocation) -> Value {
    let mut next = None;
    for Argument { value, place } in invocation.call.arguments.iter().rev() {
        let (direction, value, place) = match value {
            Value::Ordering(own) => (own.direction, own.value.clone(), own.place.clone()),
            other => (Direction::Ascending, other.clone(), place.clone()),
        };
        next = Some(Rc::new(Ordering { direction, value, place, next }));
    }
    next.map_or_else(|| Value::Datum(Datum::array(Vec::new())), Value::Ordering)
}

/// The sort keys of UNION's `interleave`: one, or an array of them.
pub fn sort_keys(value: &Value, place: &Place) -> Outcome<SortKeys> {
    if let Value::Ordering(first) = value {
        let all = std::iter::successors(Some(first), |ordering| ordering.next.as_ref());
        let keys = all.map(|ordering| {
            let function = Function::from_value(&ordering.value, Meaning::Field, &ordering.place)?;
            Ok((function, ordering.direction))
        });
        return Ok(SortKeys(keys.collect::<Outcome<_>>()?));
    }
    if let Some(Datum::Array(keys)) = value.as_datum() {
        let keys = keys.iter().map(|key| sort_key(&Value::Datum(key), place));
        return Ok(SortKeys(keys.collect::<Outcome<_>>()?));
    }
    Ok(SortKeys(vec![sort_key(value, place)?]))
}

/// Refuses `args()` where RethinkDB does.
pub fn check_no_args(invocation: &Invocation) -> Outcome<()> {
    if invocation.node.arguments.iter().any(|argument| argument.def.number == number::ARGS) {
        return Err(Failure::logic("r.args is not supported in an order_by or union command yet."));
    }
    Ok(())
}

async fn order_by(run: &Run, mut invocation: Invocation) -> Outcome<Value> {
    check_no_args(&invocation)?;
    if let Value::Grouped(_) = invocation.call.arguments[0].value {
        return group::each(run, invocation).await;
    }
    let receiver = invocation.call.arguments[0].value.clone();
    invocation.call.arguments[0].value = crate::eval::loaded(run, receiver).await?;
    let keys = (1..invocation.count())
        .map(|index| {
            let argument = &invocation.call.arguments[index];
            sort_key(&argument.value, &argument.place)
        })
        .collect::<Outcome<Vec<_>>>()?;
    let index = invocation.call.option("index").cloned();
    if index.is_none() && keys.is_empty() {
        return Err(Failure::logic("Must specify something to order by."));
    }
    if let Some(index) = index {
        return by_index(&invocation, &index, keys);
    }
    let sequence = invocation.sequence(0)?;
    invocation.blame(0, sequence.check_finite())?;
    let keys = SortKeys(keys);
    let rows = match invocation.node.direct {
        Direct::First(count) if count <= run.limits.array_elements_max => {
            let first = Some(Rc::new(First { count, keys }));
            let place = invocation.place().clone();
            let terminal = Terminal { kind: TerminalKind::First, function: None, first, place };
            match fold::aggregate(run, &sequence, terminal, None).await? {
                Aggregated::Single(Datum::Array(rows)) => rows.into_vec(),
                Aggregated::Single(_) | Aggregated::Groups(_) => return Err(wrong_reply()),
            }
        }
        _ => keys.sort(run, stream::gather_rows(run, &sequence).await?).await?,
    };
    Ok(match &sequence.table {
        Some(table) => Value::Sequence(Rc::new(Sequence::of_selected_rows(table.clone(), rows))),
        None => Value::Datum(Datum::array(rows)),
    })
}

/// In the order of an index; further keys decide between rows with equal values. Primary keys are unique: there they never do.
fn by_index(
    invocation: &Invocation,
    index: &Argument,
    further: Vec<(Function, Direction)>,
) -> Outcome<Value> {
    let mut slice = match &invocation.call.arguments[0].value {
        Value::Table(table) => Sequence::of_table(table.clone()),
        Value::Sequence(sequence) if sequence.kind == SequenceKind::Slice => (**sequence).clone(),
        _ => {
            return Err(Failure::logic(
                "Indexed order_by can only be performed on a TABLE or TABLE_SLICE. Make sure order_by comes before any \
                 transformations (such as map) or filters.",
            ));
        }
    };
    slice.kind = SequenceKind::Slice;
    let Source::Scan(scan) = &mut slice.source else { return Err(Failure::internal("a slice is a scan")) };
    let wanted = ordered_index_option(invocation, &scan.table)?.unwrap_or(ScanIndex::Primary);
    if scan.order != ScanOrder::Any {
        let failure = Failure::logic("Cannot perform multiple indexed ORDER_BYs on the same table.");
        return Err(failure.at(table_place(invocation)));
    }
    scan.choose(wanted).map_err(|failure| failure.at(table_place(invocation)))?;
    if scan.index != ScanIndex::Primary && !further.is_empty() {
        scan.further = Some(Rc::new(SortKeys(further)));
    }
    let descending =
        matches!(&index.value, Value::Ordering(ordering) if ordering.direction == Direction::Descending);
    scan.order = if descending { ScanOrder::Descending } else { ScanOrder::Ascending };
    Ok(Value::Sequence(Rc::new(slice)))
}
