//! GROUP and UNGROUP.

use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::term::number;

use super::sequence::with_options;
use super::table::{ordered_index_option, slice_at, table_place};
use super::{Arity, Determinism, Eval, Invocation, TermDef, index};
use crate::failure::{Failure, Outcome};
use crate::fold::GroupBy;
use crate::function::{Function, Meaning};
use crate::group::{self, Grouped};
use crate::run::Run;
use crate::stream::{ScanIndex, Source};
use crate::value::Value;

pub static TERMS: &[TermDef] = &[
    with_options(
        TermDef {
            name: "GROUP",
            number: number::GROUP,
            arity: Arity::at_least(1),
            options: &[],
            determinism: Determinism::Always,
            eval: Eval::Strict(|run, invocation| Box::pin(group_by(run, invocation))),
        },
        &["index", "multi"],
    ),
    TermDef {
        name: "UNGROUP",
        number: number::UNGROUP,
        arity: Arity::exactly(1),
        options: &[],
        determinism: Determinism::Always,
        eval: Eval::Strict(|run, invocation| Box::pin(ungroup(run, invocation))),
    },
];

async fn group_by(run: &Run, mut invocation: Invocation) -> Outcome<Value> {
    if let Value::Grouped(_) = invocation.call.arguments[0].value {
        return Err(Failure::logic(
            "Cannot call `group` on the output of `group` (did you mean to `ungroup`?).",
        ));
    }
    let receiver = invocation.call.arguments[0].value.clone();
    invocation.call.arguments[0].value = crate::eval::loaded(run, receiver).await?;
    let mut functions = (1..invocation.count())
        .map(|index| invocation.function(index, Meaning::Field))
        .collect::<Outcome<Vec<Function>>>()?;
    let multi = match invocation.call.option("multi") {
        None => false,
        Some(argument) => argument.value.as_datum().is_some_and(Datum::is_truthy),
    };
    let mut sequence = invocation.sequence(0)?;
    let mut by_entry = false;
    if invocation.call.option("index").is_some() {
        let mut slice = slice_at(&invocation, 0)?;
        let Source::Scan(scan) = &mut slice.source else {
            return Err(Failure::internal("a slice is a scan"));
        };
        let index = ordered_index_option(&invocation, &scan.table)?.unwrap_or(ScanIndex::Primary);
        scan.choose(index.clone()).map_err(|failure| failure.at(table_place(&invocation)))?;
        match &index {
            ScanIndex::Primary => {
                let key = Datum::string(&scan.table.info.primary_key);
                functions.push(Function::of_datum(key, Meaning::Field, invocation.place().clone()));
            }
            // Which of its values led to a row only the entry knows.
            ScanIndex::Secondary(info) if info.multi => by_entry = true,
            ScanIndex::Secondary(info) => {
                functions.push(index::function(run, scan.table.info.id, &info.name).await?);
            }
        }
        sequence = Rc::new(slice);
    }
    if functions.is_empty() && !by_entry {
        return Err(Failure::logic("Cannot group by nothing."));
    }
    invocation.blame(0, sequence.check_finite())?;
    let group = GroupBy { functions, by_entry, multi, stages: Vec::new(), place: invocation.place().clone() };
    Ok(Value::Grouped(Rc::new(Grouped::Stream { sequence, group })))
}

async fn ungroup(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let Value::Grouped(grouped) = &invocation.call.arguments[0].value else {
        let failure = invocation.call.arguments[0].value.wrong_kind("GROUPED_DATA");
        return invocation.blame(0, Err(failure));
    };
    let rows = group::data(run, grouped)
        .await?
        .into_iter()
        .map(|(key, value)| Datum::object([("group", key), ("reduction", value)]));
    Ok(Value::Datum(invocation.call.array_result(rows.collect())?))
}
