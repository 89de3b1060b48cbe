//! Grouped data: a value per group, or a stream whose rows are still to be grouped.
//!
//! Always: groups come in the order of their keys. A term given grouped data works on each group by itself ([`each`]);
//! stages over a grouped stream are remembered, so that they travel to the rows together with the terminal that ends them.

use std::rc::Rc;

use photondb_proto::datum::{Datum, Text};

use crate::call::Argument;
use crate::eval;
use crate::failure::Outcome;
use crate::fold::{self, Aggregated, GroupBy, Terminal, TerminalKind};
use crate::run::Run;
use crate::stream::{self, Sequence};
use crate::terms::Invocation;
use crate::value::Value;

/// What GROUP gives.
#[derive(Debug)]
pub enum Grouped {
    /// Rows to be grouped.
    Stream {
        sequence: Rc<Sequence>,
        group: GroupBy,
    },
    Data(Vec<(Datum, Datum)>),
}

impl Grouped {
    pub fn type_name(&self) -> &'static str {
        match self {
            Grouped::Stream { .. } => "GROUPED_STREAM",
            Grouped::Data(_) => "GROUPED_DATA",
        }
    }
}

/// The groups with their values; rows still to be grouped become arrays.
pub async fn data(run: &Run, grouped: &Grouped) -> Outcome<Vec<(Datum, Datum)>> {
    match grouped {
        Grouped::Data(groups) => Ok(groups.clone()),
        Grouped::Stream { sequence, group } => {
            let terminal = Terminal {
                kind: TerminalKind::Rows,
                function: None,
                first: None,
                place: group.place.clone(),
            };
            match fold::aggregate(run, sequence, terminal, Some(group.clone())).await? {
                Aggregated::Groups(groups) => Ok(groups),
                Aggregated::Single(rows) => Ok(vec![(Datum::Null, rows)]),
            }
        }
    }
}

/// A term whose first argument is grouped: once for each group.
pub async fn each(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let Some(Argument { value: Value::Grouped(grouped), .. }) = invocation.call.arguments.first() else {
        return eval::apply(run, invocation).await;
    };
    let mut results = Vec::new();
    for (key, value) in data(run, grouped).await? {
        run.tick().await;
        let mut call = invocation.call.clone();
        call.arguments[0].value = Value::Datum(value);
        let result = eval::apply(run, Invocation { call, node: invocation.node.clone() }).await?;
        results.push((key, into_datum(run, result).await?));
    }
    Ok(Value::Grouped(Rc::new(Grouped::Data(results))))
}

/// A value as a group may hold it: streams are gathered.
pub async fn into_datum(run: &Run, value: Value) -> Outcome<Datum> {
    match eval::loaded(run, value).await? {
        Value::Sequence(sequence) => stream::gather(run, &sequence).await,
        other => other.into_datum(),
    }
}

/// The pseudotype that carries grouped data to the client.
pub fn to_datum(groups: Vec<(Datum, Datum)>) -> Datum {
    let pairs = groups.into_iter().map(|(key, value)| Datum::array(vec![key, value])).collect();
    Datum::Object(photondb_proto::datum::Object::from_pairs(vec![
        (Text::new(photondb_proto::datum::pseudo::TYPE_KEY), Datum::string("GROUPED_DATA")),
        (Text::new("data"), Datum::array(pairs)),
    ]))
}
