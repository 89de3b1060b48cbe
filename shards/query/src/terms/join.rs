//! INNER_JOIN, OUTER_JOIN, EQ_JOIN, ZIP.

use std::rc::Rc;

use photondb_proto::term::number;

use super::sequence::{finished, never_now, sequence, staged, with_options};
use super::table::{ordered_index_option, table_at};
use super::{Arity, Groups, Invocation, TermDef};
use crate::failure::{Failure, Outcome};
use crate::function::Meaning;
use crate::join::{Join, Lookup, Ordered};
use crate::run::Run;
use crate::stream::{self, ScanIndex, Sequence, Source, Stage};
use crate::value::Value;
use photondb_proto::datum::Datum;

pub static TERMS: &[TermDef] = &[
    sequence(
        "INNER_JOIN",
        number::INNER_JOIN,
        Arity::exactly(3),
        Groups::Each,
        never_now,
        |run, invocation| Box::pin(loops(run, invocation, false)),
    ),
    sequence(
        "OUTER_JOIN",
        number::OUTER_JOIN,
        Arity::exactly(3),
        Groups::Each,
        never_now,
        |run, invocation| Box::pin(loops(run, invocation, true)),
    ),
    with_options(
        sequence(
            "EQ_JOIN",
            number::EQ_JOIN,
            Arity::exactly(3),
            Groups::Each,
            never_now,
            |run, invocation| Box::pin(eq_join(run, invocation)),
        ),
        &["index", "ordered"],
    ),
    sequence("ZIP", number::ZIP, Arity::exactly(1), Groups::Whole, never_now, |run, invocation| {
        Box::pin(async move {
            let stage = Stage::Zip(invocation.place().clone());
            staged(run, &invocation, stage).await
        })
    }),
];

async fn loops(run: &Run, invocation: Invocation, outer: bool) -> Outcome<Value> {
    let (left, right) = (invocation.sequence(0)?, invocation.sequence(1)?);
    let function = invocation.function(2, Meaning::Nothing)?;
    let eager = left.is_eager() && right.is_eager();
    let joined = Sequence::new(Source::Join(Rc::new(Join::Loops { left, right, function, outer })));
    if eager {
        return Ok(Value::Datum(Datum::array(stream::gather_rows(run, &joined).await?)));
    }
    finished(run, joined).await
}

async fn eq_join(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let left = invocation.sequence(0)?;
    let function = invocation.function(1, Meaning::Field)?;
    let table = table_at(&invocation, 2)?;
    let index = ordered_index_option(&invocation, &table);
    // This term answers for its index itself.
    let index = index.map_err(|failure| Failure { place: None, ..failure })?.unwrap_or(ScanIndex::Primary);
    let ordered = match invocation.call.option_datum("ordered")? {
        Some(datum) if datum.is_truthy() => Ordered::Yes,
        Some(_) | None => Ordered::No,
    };
    let lookup = Lookup { table, index, function, ordered };
    let joined = Sequence::new(Source::Join(Rc::new(Join::Lookup { left, lookup })));
    finished(run, joined).await
}
